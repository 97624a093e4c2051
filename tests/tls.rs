//! HTTPS with real clients: which versions are spoken, what a changed certificate does, and what a service does with SIGHUP.

use crate::{api, support};

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use api::TestApi;
use holdfast::{
    http::{Listener, Tls, serve},
    metrics::Page,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use reqwest::{Client, ClientBuilder, tls::Version};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

/// A certificate authority of a test's own, and the files of one certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root, directory: support::reachable_directory() }
    }

    fn cert_file(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// A fresh certificate for loopback: both files' contents, and the certificate itself.
    fn pair(&self) -> (String, String, CertificateDer<'static>) {
        self.pair_until(2090)
    }

    fn pair_until(&self, year: i32) -> (String, String, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 2);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem(), cert.der().clone())
    }

    /// Puts a fresh pair into the files.
    fn put(&self) -> CertificateDer<'static> {
        let (cert, key, der) = self.pair();
        replace(&self.key_file(), &key);
        replace(&self.cert_file(), &cert);
        der
    }

    fn client(&self) -> ClientBuilder {
        Client::builder()
            .tls_certs_only([reqwest::Certificate::from_der(&self.root).unwrap()])
            .timeout(Duration::from_secs(20))
    }

    /// The certificate that is shown, and the version that was agreed upon.
    async fn shown(
        &self,
        at: SocketAddr,
        versions: &[&'static SupportedProtocolVersion],
    ) -> (CertificateDer<'static>, ProtocolVersion) {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config =
            ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(at).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (_, connection) = stream.get_ref();
        (connection.peer_certificates().unwrap()[0].clone(), connection.protocol_version().unwrap())
    }

    async fn shows(&self, at: SocketAddr, wanted: &CertificateDer<'static>) {
        within("the new certificate is shown", async || self.shown(at, &[&TLS13]).await.0 == *wanted).await;
    }
}

/// As certificate managers do it: nobody sees half a file.
fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// Asks until it is so, for at most 30 seconds.
async fn within(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The API with a certificate, until the end of the test.
async fn served(authority: &Authority) -> (TestApi, SocketAddr) {
    let api = TestApi::new().await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let tls = Tls::open(&authority.cert_file(), &authority.key_file()).unwrap();
    tokio::spawn(serve(api.app.clone(), api.verifier(), Listener::new(tcp, Some(tls)), std::future::pending()));
    (api, at)
}

#[tokio::test]
async fn tls_1_3_and_1_2_are_spoken_and_nothing_older() {
    let authority = Authority::new();
    authority.put();
    let (api, at) = served(&authority).await;
    for (version, rustls, agreed) in
        [(Version::TLS_1_2, &TLS12, ProtocolVersion::TLSv1_2), (Version::TLS_1_3, &TLS13, ProtocolVersion::TLSv1_3)]
    {
        let client = authority.client().tls_version_min(version).tls_version_max(version).build().unwrap();
        let answer = client.get(format!("https://{at}/api/backup")).bearer_auth(api.acme()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{version:?}");
        assert_eq!(authority.shown(at, &[rustls]).await.1, agreed);
    }
    // A ClientHello of TLS 1.1 (RFC 4346 section 7.4.1.2), with one cipher suite of its time.
    let body = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0]].concat();
    let handshake = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, handshake.len() as u8][..], &handshake].concat();
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer.len()), (21, 7), "an alert and the end: {answer:?}");
    assert_eq!(answer[5], 2, "a fatal one");
    // A client that does not know the authority does not trust us.
    let stranger = Client::builder().build().unwrap().get(format!("https://{at}/healthz")).send().await;
    assert!(stranger.unwrap_err().is_connect());
}

#[tokio::test]
async fn one_who_speaks_plain_http_is_told_so_and_nothing_is_served() {
    let authority = Authority::new();
    authority.put();
    let (_api, at) = served(&authority).await;
    let answer = Client::new().get(format!("http://{at}/healthz")).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.text().await.unwrap(), "this address speaks https, not http\n");
}

#[tokio::test]
async fn a_new_certificate_is_taken_into_use_while_requests_run_and_none_of_them_fails() {
    let authority = Authority::new();
    let first = authority.put();
    let (api, at) = served(&authority).await;
    assert_eq!(authority.shown(at, &[&TLS13]).await.0, first);
    let url = format!("https://{at}/healthz");
    let keeps_its_connection = authority.client().build().unwrap();
    let ask = async |client: &Client| client.get(&url).send().await.unwrap().bytes().await.unwrap();
    ask(&keeps_its_connection).await;
    // An event stream is open all the while.
    let job = api.job("acme", "export_backup", "in_progress").await;
    let stream = authority.client().build().unwrap().get(format!("https://{at}/api/jobs/{job}/events"));
    let mut stream = stream.bearer_auth(api.acme()).send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());

    let done = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let (client, url) = (authority.client().pool_max_idle_per_host(0).build().unwrap(), url.clone());
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let mut answered = 0;
                while !done.load(Ordering::SeqCst) {
                    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..2 {
        let next = authority.put();
        authority.shows(at, &next).await;
    }
    done.store(true, Ordering::SeqCst);
    for task in busy {
        assert!(task.await.unwrap() > 0);
    }
    ask(&keeps_its_connection).await;
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed', finished_at = now()")
        .execute(api.pool())
        .await
        .unwrap();
    while stream.chunk().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_bad_pair_is_refused_and_the_one_from_before_stays_until_a_good_one_comes() {
    let authority = Authority::new();
    let good = authority.put();
    let (_api, at) = served(&authority).await;
    let refused = || {
        let page = Page::of_this_process().into_text();
        let line = page.lines().find_map(|line| line.strip_prefix("holdfast_tls_reloads_total{outcome=\"refused\"} "));
        line.map_or(0, |count| count.parse::<u32>().unwrap())
    };
    // Another's key, no key, and no file at all.
    let (_, stranger, _) = authority.pair();
    for content in [Some(stranger.as_str()), Some("canary"), None] {
        let before = refused();
        match content {
            Some(content) => replace(&authority.key_file(), content),
            None => std::fs::remove_file(authority.key_file()).unwrap(),
        }
        within("the pair is refused", async || refused() > before).await;
        assert_eq!(authority.shown(at, &[&TLS13]).await.0, good);
    }
    let next = authority.put();
    authority.shows(at, &next).await;
    // The second of January 2090.
    let page = Page::of_this_process().into_text();
    assert!(page.contains("\nholdfast_tls_certificate_not_after_timestamp_seconds 3786998400\n"), "{page}");
}

#[test]
fn a_start_with_files_that_cannot_be_used_names_the_file_and_repeats_nothing_of_a_key() {
    let authority = Authority::new();
    let (cert, key) = (authority.cert_file(), authority.key_file());
    let said = || {
        let Err(error) = Tls::open(&cert, &key) else { panic!("it was taken") };
        error.to_string()
    };
    assert!(said().starts_with(&format!("cannot read {}: No such file", cert.display())), "{}", said());
    authority.put();
    let (_, stranger, _) = authority.pair();
    replace(&key, &stranger);
    assert!(said().contains("is not the one of the certificate"), "{}", said());
    for broken in ["", "-----BEGIN PRIVATE canary", "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"]
    {
        replace(&key, broken);
        assert!(said().contains(key.to_str().unwrap()) && !said().contains("canary"), "{}", said());
    }
    authority.put();
    replace(&cert, "no certificate");
    assert_eq!(said(), format!("{} holds no certificate in PEM form (BEGIN CERTIFICATE)", cert.display()));

    // The program itself.
    let run = |cert: &str, key: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .arg("serve")
            .env_clear()
            .env("HOLDFAST_DATA_DIR", authority.directory.path())
            .env("HOLDFAST_LISTEN_TLS_CERT_FILE", cert)
            .envs((!key.is_empty()).then_some(("HOLDFAST_LISTEN_TLS_KEY_FILE", key)))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run("/nowhere/cert.pem", "/nowhere/key.pem");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot read /nowhere/cert.pem: No such file or directory"), "{said}");
    let (code, said) = run("/nowhere/cert.pem", "");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("listen.tls.cert_file is set, but listen.tls.key_file is not"), "{said}");
}

/// The program with the authority's files, a log file beside them, and nothing else of this process's environment.
fn program(authority: &Authority, database: &str, argument: &str) -> Command {
    let dir = authority.directory.path();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command
        .args([argument, "--json"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOLDFAST_DATA_DIR", dir.join("data"))
        .env("DATABASE_URL", database)
        .env("HOLDFAST_LISTEN", "127.0.0.1:0")
        .env("HOLDFAST_LISTEN_TLS_CERT_FILE", authority.cert_file())
        .env("HOLDFAST_LISTEN_TLS_KEY_FILE", authority.key_file())
        .env("HOLDFAST_LOG_FILE", dir.join("log"))
        .env("HOLDFAST_LOG_FORMAT", "json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[tokio::test]
async fn doctor_looks_at_the_certificate_the_log_and_the_metrics_address() {
    let authority = Authority::new();
    authority.put();
    let database = support::fresh_database("tls").await.to_url().expose_secret().to_owned();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken_at = taken.local_addr().unwrap().to_string();
    let look = |log: &Path, metrics: &str| -> Vec<(String, String, String)> {
        let output = program(&authority, &database, "doctor")
            .env("HOLDFAST_LOG_FILE", log)
            .env("HOLDFAST_METRICS_LISTEN", metrics)
            .output()
            .unwrap();
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |finding: &Value, member: &str| finding[member].as_str().unwrap_or_default().to_owned();
        let findings = findings.as_array().unwrap().iter();
        findings.map(|f| (text(f, "check"), text(f, "status"), text(f, "message"))).collect()
    };
    let of = |findings: &[(String, String, String)], check: &str| -> (String, String) {
        let found = findings.iter().find(|(name, _, _)| name == check);
        found
            .map(|(_, status, message)| (status.clone(), message.clone()))
            .unwrap_or_else(|| panic!("{check}: {findings:?}"))
    };
    let (log, cert) = (authority.directory.path().join("log"), authority.cert_file());
    let good = look(&log, "127.0.0.1:0");
    let said = format!("{} and its key fit together; it ends at 2090-01-02T00:00:00Z", cert.display());
    assert_eq!(of(&good, "TLS"), ("ok".to_owned(), said));
    assert_eq!(of(&good, "log file"), ("ok".to_owned(), log.display().to_string()));
    assert_eq!(of(&good, "metrics").0, "ok");

    let (_, stranger, _) = authority.pair();
    replace(&authority.key_file(), &stranger);
    let bad = look(Path::new("/proc/canary/log"), &taken_at);
    let (status, message) = of(&bad, "TLS");
    assert!(status == "fail" && message.contains("is not the one of the certificate"), "{message}");
    let (status, message) = of(&bad, "log file");
    assert!(status == "fail" && message.starts_with("cannot open /proc/canary/log: No such file"), "{message}");
    let (status, message) = of(&bad, "metrics");
    assert!(status == "fail" && message.starts_with(&format!("cannot listen on {taken_at}")), "{message}");

    let (ended, key, _) = authority.pair_until(2020);
    replace(&authority.key_file(), &key);
    replace(&authority.cert_file(), &ended);
    let (status, message) = of(&look(&log, "127.0.0.1:0"), "TLS");
    assert_eq!((status.as_str(), message), ("fail", format!("{} ended at 2020-01-02T00:00:00Z", cert.display())));
    authority.put();
    std::fs::set_permissions(authority.key_file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (status, message) = of(&look(&log, "127.0.0.1:0"), "TLS");
    assert!(status == "warn" && message.contains("everybody on this machine may read"), "{message}");
}

/// A process that is ended whatever becomes of the test.
struct Service(std::process::Child);

impl Service {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_service_keeps_its_cookies_to_tls_and_at_sighup_takes_a_fresh_log_and_certificate() {
    let authority = Authority::new();
    authority.put();
    let database = support::fresh_database("tls").await.to_url().expose_secret().to_owned();
    let dir = authority.directory.path();
    let command = |argument: &str| program(&authority, &database, argument);
    assert!(command("migrate").status().unwrap().success());
    let mut service = Service(command("serve").spawn().unwrap());
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let url = told["listening"].as_str().unwrap();
    let at: SocketAddr = url.strip_prefix("https://").unwrap().parse().unwrap();

    let client = authority.client().build().unwrap();
    let operator = json!({ "token": told["setup"]["token"], "name": "olga", "password": "a password that is long" });
    let made = client.post(format!("{url}/auth/setup")).json(&operator).send().await.unwrap();
    assert!(made.status().is_success(), "{}", made.text().await.unwrap());
    let login = json!({ "name": "olga", "password": "a password that is long", "cookie": true });
    let answer = client.post(format!("{url}/auth/login")).json(&login).send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("__Host-holdfast_session=") && cookie.contains("; Secure"), "{cookie}");

    std::fs::rename(dir.join("log"), dir.join("log.1")).unwrap();
    let next = authority.put();
    service.signal(rustix::process::Signal::HUP);
    authority.shows(at, &next).await;
    let fresh = async || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    within("the log goes on in a fresh file", async || fresh().await.contains("the log goes on")).await;
    let asked = client.get(format!("{url}/healthz")).header("x-request-id", "after-the-rotation").send().await.unwrap();
    assert_eq!(asked.headers()["x-request-id"], "after-the-rotation");
    within("the request is in the fresh file", async || fresh().await.contains("after-the-rotation")).await;
    let log = fresh().await;
    let line = log.lines().find(|line| line.contains("after-the-rotation")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["span"]["path"], &line["fields"]["status"]), (&json!("/healthz"), &json!(200)));
    assert!(!std::fs::read_to_string(dir.join("log.1")).unwrap().contains("after-the-rotation"));

    service.signal(rustix::process::Signal::TERM);
    assert!(service.0.wait().unwrap().success());
}
