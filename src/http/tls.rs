//! The API's certificate: loaded at the start, and again when its files change or at SIGHUP.
//!
//! What always holds: a pair that cannot be used is never taken into use; what was good before stays. Connections that are open keep what
//! they were made with. No word of a key file is repeated in an error.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{certificate_end::not_after, stalled::Unstalled};
use crate::{artifact::Sha256Digest, clock::Timestamp, metrics};

/// How often the files are looked at. They are small, and a look costs less than a request.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sent to those who speak HTTP where TLS is expected.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 36\r\n\r\n\
    this address speaks https, not http\n";

/// Why a certificate or key cannot be used. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate in PEM form (BEGIN CERTIFICATE)", .0.display())]
    NoCertificate(PathBuf),
    #[error("{} holds no private key in PEM form (BEGIN PRIVATE KEY)", .0.display())]
    NoKey(PathBuf),
    #[error("the key in {} is not the one of the certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("cannot use {} with {}: {source}", cert.display(), key.display())]
    Unusable { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

/// What takes TLS connections.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

/// The pair in use.
#[derive(Debug)]
struct Certificate {
    cert_file: PathBuf,
    key_file: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Pair>,
}

#[derive(Clone, Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    /// Of both files, so that a change is seen without keeping the key's text.
    content: Sha256Digest,
    ends: Option<Timestamp>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

impl Tls {
    /// Loads certificate and key.
    ///
    /// # Errors
    /// A file cannot be read or used, or the two do not fit together.
    pub fn open(cert_file: &Path, key_file: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pair = load(cert_file, key_file, &provider)?;
        if others_may_read(key_file) {
            tracing::warn!(file = %key_file.display(), "everybody on this machine may read the TLS key: chmod o= it");
        }
        let (cert_file, key_file) = (cert_file.to_path_buf(), key_file.to_path_buf());
        let unusable = |source| TlsError::Unusable { cert: cert_file.clone(), key: key_file.clone(), source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(unusable)?;
        let certificate = Arc::new(Certificate {
            cert_file: cert_file.clone(),
            key_file: key_file.clone(),
            provider,
            current: RwLock::new(pair),
        });
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::clone(&certificate) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// When the certificate in use ends.
    pub fn ends(&self) -> Option<Timestamp> {
        self.certificate.current.read().unwrap_or_else(PoisonError::into_inner).ends
    }

    /// Shakes hands. One who speaks plain HTTP is told so.
    pub(super) async fn accept(&self, mut stream: Unstalled<TcpStream>) -> io::Result<TlsStream<Unstalled<TcpStream>>> {
        let mut first = [0];
        // A handshake begins with the byte 22 (RFC 8446 section 5.1), an HTTP method with a letter.
        if stream.get_ref().peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
            // Left unread, it would make the system drop our answer with the connection.
            let _ = stream.read(&mut [0; 8192]).await?;
            stream.write_all(PLAIN_HTTP).await?;
            stream.shutdown().await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP where TLS is expected"));
        }
        self.acceptor.accept(stream).await
    }

    fn tell_end(&self) {
        if let Some(ends) = self.ends() {
            metrics::tls_certificate_ends(ends.timestamp() as f64);
        }
    }

    /// Looks at the files, and at once at SIGHUP, until `stop`.
    pub(super) async fn watch(self, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut told = None;
        self.tell_end();
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hung_up => told = None,
                () = stop.cancelled() => return,
            }
            let certificate = Arc::clone(&self.certificate);
            let Ok(looked) = tokio::task::spawn_blocking(move || certificate.look()).await else { continue };
            match looked {
                Ok(Look::Same) => told = None,
                Ok(Look::Changed) => {
                    told = None;
                    metrics::tls_reload(true);
                    self.tell_end();
                    tracing::info!(file = %self.certificate.cert_file.display(), "Tls: a new certificate is in use");
                }
                // Once for each state of the files.
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        metrics::tls_reload(false);
                        tracing::warn!("Tls: the certificate from before stays in use: {error}");
                        told = Some(error);
                    }
                }
            }
        }
    }
}

enum Look {
    Same,
    Changed,
}

impl Certificate {
    fn look(&self) -> Result<Look, TlsError> {
        let pair = load(&self.cert_file, &self.key_file, &self.provider)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.content == pair.content {
            return Ok(Look::Same);
        }
        *current = pair;
        Ok(Look::Changed)
    }
}

fn load(cert_file: &Path, key_file: &Path, provider: &CryptoProvider) -> Result<Pair, TlsError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_path_buf(), source });
    let (cert, key) = (read(cert_file)?, read(key_file)?);
    let content = Sha256Digest::of(&[cert.as_slice(), key.as_slice()].concat());
    // The errors of the PEM reader repeat lines of the file.
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|chain: &Vec<_>| !chain.is_empty())
        .ok_or_else(|| TlsError::NoCertificate(cert_file.to_path_buf()))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| TlsError::NoKey(key_file.to_path_buf()))?;
    let (cert, key_path) = (cert_file.to_path_buf(), key_file.to_path_buf());
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert, key: key_path },
        source => TlsError::Unusable { cert, key: key_path, source },
    })?;
    let ends = key.cert.first().and_then(|certificate| not_after(certificate));
    Ok(Pair { key: Arc::new(key), content, ends })
}

/// Whether everybody may. A group may: that is how several services share one certificate.
pub fn others_may_read(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.mode() & 0o007 != 0)
}
