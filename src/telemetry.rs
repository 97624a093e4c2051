//! Traces for OpenTelemetry, by OTLP over HTTP: a span for each request, job and stage of a job. In programs built with the feature `otel`.

use tracing_subscriber::{Layer, Registry};

use crate::config::{ConfigError, TelemetryConfig};

/// What sends spans, as one more layer of the log. `None` when no collector is configured.
pub type TraceLayer = Option<Box<dyn Layer<Registry> + Send + Sync>>;

/// Whether this program can send traces at all.
pub const IS_BUILT_IN: bool = cfg!(feature = "otel");

/// Prepares to send spans to the configured collector.
///
/// # Errors
/// A collector is configured, and this program was built without the feature `otel`.
#[cfg(not(feature = "otel"))]
pub fn layer(config: &TelemetryConfig) -> Result<TraceLayer, ConfigError> {
    match config.otlp_endpoint {
        None => Ok(None),
        Some(_) => Err(ConfigError::Invalid(
            "telemetry.otlp_endpoint (OTEL_EXPORTER_OTLP_ENDPOINT) is set, but this program was built without OpenTelemetry: \
             build it with `--features otel`, or unset it"
                .to_owned(),
        )),
    }
}

/// Sends what has not been sent yet.
#[cfg(not(feature = "otel"))]
pub async fn finish() {}

#[cfg(feature = "otel")]
pub use self::export::{finish, layer};

#[cfg(feature = "otel")]
mod export {
    use std::{collections::HashMap, sync::OnceLock, time::Duration};

    use async_trait::async_trait;
    use bytes::Bytes;
    use opentelemetry::{KeyValue, trace::TracerProvider as _};
    use opentelemetry_http::{HttpClient, HttpError, Request, Response};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
    use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
    use tracing_subscriber::{Layer as _, filter::Targets};

    use super::{ConfigError, TelemetryConfig, TraceLayer};

    /// Longest wait for the collector.
    const WITHIN: Duration = Duration::from_secs(10);

    static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

    /// Prepares to send spans to the configured collector. Within a runtime.
    ///
    /// # Errors
    /// The collector's address or headers cannot be used.
    pub fn layer(config: &TelemetryConfig) -> Result<TraceLayer, ConfigError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let unusable = |error: &dyn std::fmt::Display| {
            ConfigError::Invalid(format!("telemetry.otlp_endpoint cannot be used: {error}"))
        };
        let client = reqwest::Client::builder().timeout(WITHIN).build().map_err(|error| unusable(&error))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')))
            .with_headers(headers(config)?)
            .with_timeout(WITHIN)
            .with_http_client(Client { client, runtime: tokio::runtime::Handle::current() })
            .build()
            .map_err(|error| unusable(&error))?;
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("holdfast");
        let _ = PROVIDER.set(provider); // a second start changes nothing, as with the log
        // Our own spans alone: those of libraries would repeat addresses and queries.
        let ours = Targets::new().with_target("holdfast", tracing::Level::INFO);
        Ok(Some(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours).boxed()))
    }

    /// Sends what has not been sent yet, and ends.
    pub async fn finish() {
        let ended = tokio::task::spawn_blocking(|| PROVIDER.get().map(SdkTracerProvider::shutdown)).await;
        if let Ok(Some(Err(error))) = ended {
            tracing::warn!("the last traces could not be sent: {error}");
        }
    }

    /// `name=value` pairs, separated by commas, values percent-encoded (OpenTelemetry specification, OTLP exporter).
    fn headers(config: &TelemetryConfig) -> Result<HashMap<String, String>, ConfigError> {
        let Some(given) = &config.otlp_headers else { return Ok(HashMap::new()) };
        // Goes into the headers that it is for; the error never repeats it.
        let pairs = given.expose().split(',').map(str::trim).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=')?;
                let value = url::form_urlencoded::parse(format!("v={}", value.trim().replace('+', "%2B")).as_bytes())
                    .next()
                    .map(|(_, value)| value.into_owned())?;
                Some((name.trim().to_owned(), value))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| ConfigError::Invalid("telemetry.otlp_headers is no list of name=value".to_owned()))
    }

    /// Our HTTP client for the SDK, whose threads know no runtime.
    #[derive(Debug)]
    struct Client {
        client: reqwest::Client,
        runtime: tokio::runtime::Handle,
    }

    #[async_trait]
    impl HttpClient for Client {
        async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
            let client = self.client.clone();
            let sent = self.runtime.spawn(async move {
                let answer = client.execute(request.try_into()?).await?.error_for_status()?;
                let mut response = Response::builder().status(answer.status());
                if let Some(headers) = response.headers_mut() {
                    headers.clone_from(answer.headers());
                }
                Ok::<_, HttpError>(response.body(answer.bytes().await?)?)
            });
            sent.await?
        }
    }
}

#[cfg(all(test, not(feature = "otel")))]
mod tests {
    use super::*;

    #[test]
    fn a_collector_without_the_feature_is_refused_in_words() {
        assert!(layer(&TelemetryConfig::default()).unwrap().is_none());
        let config = TelemetryConfig {
            otlp_endpoint: Some("http://127.0.0.1:4318".parse().unwrap()),
            ..TelemetryConfig::default()
        };
        let Err(error) = layer(&config) else { panic!("it was taken") };
        assert!(error.to_string().contains("--features otel"), "{error}");
    }
}
