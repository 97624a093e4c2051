use super::Secret;

super::section! {
    /// Traces for OpenTelemetry: a span for each request, job and stage of a job. Only programs built with `--features otel` have it.
    TelemetryConfig, "telemetry" {
        /// The collector, by OTLP over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is added. Default: no traces.
        ["OTEL_EXPORTER_OTLP_ENDPOINT"]
        otlp_endpoint: Option<url::Url> = None;
        /// Headers for the collector, such as its key: `name=value`, separated by commas, values percent-encoded.
        ["OTEL_EXPORTER_OTLP_HEADERS"]
        otlp_headers: Option<Secret> = None;
        /// What the traces call this program. Default: `holdfast`.
        ["OTEL_SERVICE_NAME"]
        service_name: String = "holdfast".to_owned();
    }
}

impl TelemetryConfig {
    /// What no type can say, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(endpoint) = &self.otlp_endpoint else { return Ok(()) };
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err("telemetry.otlp_endpoint is no http or https address".to_owned());
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err("telemetry.otlp_endpoint holds a password: put it into telemetry.otlp_headers".to_owned());
        }
        Ok(())
    }
}
