//! A mail server that we did not write, aiosmtpd, and certificates for it.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use holdfast::config::{Config, Secret, SmtpTls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support;

pub const USER: &str = "holdfast";
pub const PASSWORD: &str = "canary correct horse";

/// An authority, and a certificate of it for `localhost` and `127.0.0.1`.
pub struct Certificates(TempDir);

impl Certificates {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&authority_key).unwrap();
        let authority = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let write = |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
        write("ca.pem", root.pem());
        write("cert.pem", certificate.pem());
        write("key.pem", key.serialize_pem());
        Self(directory)
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

/// How a server is started.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub tls: SmtpTls,
    pub port: u16,
    /// So many messages are taken and never answered.
    pub hold: u32,
    pub has_users: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { tls: SmtpTls::StartTls, port: 0, hold: 0, has_users: true }
    }
}

/// A running server. It ends with this.
pub struct SmtpServer {
    child: Child,
    pub port: u16,
    messages: UnboundedReceiver<Value>,
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SmtpServer {
    pub async fn start(certificates: &Certificates, wanted: Wanted) -> Self {
        let mut asked = json!({
            "port": wanted.port, "tls": wanted.tls, "hold": wanted.hold, "cert": certificates.path("cert.pem"), "key": certificates.path("key.pem"),
        });
        if wanted.has_users {
            asked["user"] = json!(USER);
            asked["password"] = json!(PASSWORD);
        }
        let (sender, mut messages) = unbounded_channel();
        let mut child = tokio::task::spawn_blocking(move || spawn(&asked)).await.unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
            }
        });
        let ready =
            tokio::time::timeout(Duration::from_secs(30), messages.recv()).await.expect("it starts").expect("it runs");
        let port = u16::try_from(ready["port"].as_u64().unwrap()).unwrap();
        Self { child, port, messages }
    }

    /// The next message, or one that is there already.
    pub async fn message(&mut self) -> Value {
        tokio::time::timeout(Duration::from_secs(20), self.messages.recv())
            .await
            .expect("a message in time")
            .expect("a server")
    }

    /// Those that have come and were not looked at.
    pub fn further(&mut self) -> usize {
        std::iter::from_fn(|| self.messages.try_recv().ok()).count()
    }
}

fn spawn(asked: &Value) -> Child {
    let requirements = support::checkout().join("scripts/aiosmtpd-requirements.txt");
    let made = Command::new(support::checkout().join("scripts/python-venv")).arg(requirements).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let python = Path::new(String::from_utf8(made.stdout).unwrap().trim()).join("bin/python");
    Command::new(python)
        .arg(support::checkout().join("tests/notify/smtp_server.py"))
        .env("ASKED", asked.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Lets a configuration use the server.
pub fn configure(config: &mut Config, certificates: &Certificates, wanted: Wanted, port: u16) {
    config.smtp.host = Some("127.0.0.1".to_owned());
    config.smtp.port = Some(port);
    config.smtp.tls = wanted.tls;
    config.smtp.ca_file = Some(certificates.path("ca.pem"));
    config.smtp.from = Some("Holdfast <backups@example.com>".to_owned());
    if wanted.has_users {
        config.smtp.username = Some(USER.to_owned());
        config.smtp.password = Some(Secret::new(PASSWORD));
    }
    config.notify.timeout_seconds = 5;
}

/// The value of a message's header.
pub fn header<'a>(message: &'a Value, name: &str) -> &'a str {
    let mut found = message["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == name);
    let value = found.next().unwrap_or_else(|| panic!("no {name} in {message}"))[1].as_str().unwrap();
    assert!(found.next().is_none(), "two {name} in {message}");
    value
}
