//! Notices by e-mail: text and HTML, over SMTP.
//!
//! The commands are given one by one rather than through the library's transport, because what a refusal means depends on which of them was
//! refused: a password that is wrong today may be right tomorrow, a recipient that does not exist will not.

use std::{fmt, fs, time::Duration};

use lettre::{
    Address, Message as Mail,
    message::{
        Mailbox, MultiPart,
        header::{Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail as MailFrom, Rcpt},
        extension::{ClientId, Extension, MailParameter},
    },
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Letter, SendError, SetUpError, Trouble, message::Message, text::one_line};
use crate::config::{Secret, SmtpConfig, SmtpTls};

/// What the server may still say after it has taken a message: nobody waits for it.
const FAREWELL: Duration = Duration::from_millis(500);

/// Longest words of a server that are kept.
const MAX_WORDS: usize = 300;

/// Sends to one mail server.
pub(super) struct Mailer {
    host: String,
    port: u16,
    tls: Protection,
    login: Option<(String, Secret)>,
    from: Mailbox,
    timeout: Duration,
}

enum Protection {
    StartTls(TlsParameters),
    Implicit(TlsParameters),
    None,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailer({}:{})", self.host, self.port)
    }
}

impl Mailer {
    /// `None`: no server is configured.
    pub fn new(config: &SmtpConfig, timeout: Duration) -> Result<Option<Self>, SetUpError> {
        let (Some(host), Some(from)) = (&config.host, &config.from) else { return Ok(None) };
        let host = host.trim_matches(['[', ']']).to_owned();
        let from = from.parse().map_err(|error| SetUpError(format!("smtp.from: {error}")))?;
        let parameters = || -> Result<TlsParameters, SetUpError> {
            let mut builder = TlsParameters::builder(host.clone());
            if let Some(path) = &config.ca_file {
                let failed = |error: &dyn fmt::Display| SetUpError(format!("smtp.ca_file {}: {error}", path.display()));
                let pem = fs::read(path).map_err(|error| failed(&error))?;
                builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| failed(&error))?);
            }
            builder.build_rustls().map_err(|error| SetUpError(format!("smtp: cannot set up TLS: {error}")))
        };
        let tls = match config.tls {
            SmtpTls::StartTls => Protection::StartTls(parameters()?),
            SmtpTls::Implicit => Protection::Implicit(parameters()?),
            SmtpTls::None => Protection::None,
        };
        let login = config.username.clone().zip(config.password.clone());
        Ok(Some(Self { port: config.port(), host, tls, login, from, timeout }))
    }

    /// Sends one message to one address.
    pub async fn send(&self, to: &str, letter: &Letter<'_>, message: &Message) -> Result<(), SendError> {
        let address: Address = to.parse().map_err(|_| SendError::never("this is not an e-mail address"))?;
        let mail = self.compose(address.clone(), letter, message)?;
        let deadline = Instant::now() + self.timeout;
        let mut connection = timeout_at(deadline, self.connect()).await.map_err(|_| self.timed_out(Trouble::Way))??;
        // A server may ask the recipient's own before it answers: one that hangs is no reason to put off other people's mail.
        timeout_at(deadline, self.hand_over(&mut connection, address, &mail))
            .await
            .map_err(|_| self.timed_out(Trouble::One))??;
        // It has the message: whatever happens now changes nothing.
        let _ = timeout(FAREWELL, connection.quit()).await;
        Ok(())
    }

    /// Connects, logs in and leaves.
    pub async fn look(&self) -> Result<String, SendError> {
        let mut connection =
            timeout(self.timeout, self.connect()).await.map_err(|_| self.timed_out(Trouble::Way))??;
        let how = match (&self.tls, &self.login) {
            (Protection::None, _) => "in the clear",
            (_, Some(_)) => "encrypted, logged in",
            (_, None) => "encrypted",
        };
        let _ = timeout(FAREWELL, connection.quit()).await;
        Ok(format!("{}:{} answers, {how}", self.host, self.port))
    }

    /// The message as it is sent: all ASCII, with lines of a bearable length.
    fn compose(&self, to: Address, letter: &Letter<'_>, message: &Message) -> Result<Vec<u8>, SendError> {
        let mail = Mail::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(message.subject.clone())
            .date(letter.at.into())
            .message_id(Some(format!("<{}@{}>", letter.id, self.from.email.domain())))
            .header(AutoSubmitted)
            .header(Event(letter.word()))
            .multipart(MultiPart::alternative_plain_html(message.text(), message.html()))
            .map_err(|error| SendError::never(format!("the message cannot be written: {error}")))?;
        Ok(mail.formatted())
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let way = |what: &str, error: SmtpError| SendError::later(Trouble::Way, self.said(what, &error));
        let hello = ClientId::default();
        let implicit = match &self.tls {
            Protection::Implicit(parameters) => Some(parameters.clone()),
            Protection::StartTls(_) | Protection::None => None,
        };
        let at = (self.host.as_str(), self.port);
        let mut connection = AsyncSmtpConnection::connect_tokio1(at, Some(self.timeout), &hello, implicit, None)
            .await
            .map_err(|error| {
                way("cannot be reached", error)
                    .hint("Check smtp.host, smtp.port and smtp.tls, and that the server runs.")
            })?;
        if let Protection::StartTls(parameters) = &self.tls {
            connection.starttls(parameters.clone(), &hello).await.map_err(|error| {
                way("does not encrypt by STARTTLS", error)
                    .hint("Set smtp.tls = \"implicit\" for a server that speaks TLS from the first byte, and smtp.ca_file for a certificate of your own.")
            })?;
        }
        if let Some((user, password)) = &self.login {
            // What the server is asked to check.
            let credentials = Credentials::new(user.clone(), password.expose().to_owned());
            connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await.map_err(|error| {
                way("does not take user and password", error).hint("Check smtp.username and smtp.password_file.")
            })?;
        }
        Ok(connection)
    }

    /// From the sender's name to the server's word that it has the message.
    async fn hand_over(&self, connection: &mut AsyncSmtpConnection, to: Address, mail: &[u8]) -> Result<(), SendError> {
        let mut options = Vec::new();
        if !to.to_string().is_ascii() {
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                return Err(SendError::never("the mail server takes addresses of ASCII characters only"));
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        connection.command(MailFrom::new(Some(self.from.email.clone()), options)).await.map_err(|error| {
            SendError::later(Trouble::Way, self.said("does not take our sender", &error)).hint("Check smtp.from.")
        })?;
        let judge = |what: &str, error: SmtpError| match error.is_permanent() {
            true => SendError::never(self.said(what, &error)),
            false => SendError::later(Trouble::One, self.said(what, &error)),
        };
        connection
            .command(Rcpt::new(to, Vec::new()))
            .await
            .map_err(|error| judge("does not take the recipient", error).hint("Check the address."))?;
        connection.command(Data).await.map_err(|error| judge("does not take the message", error))?;
        connection.message(mail).await.map_err(|error| judge("does not take the message", error))?;
        Ok(())
    }

    fn timed_out(&self, what: Trouble) -> SendError {
        let message = format!(
            "the mail server {}:{} was too slow: no end within {} s",
            self.host,
            self.port,
            self.timeout.as_secs()
        );
        SendError::later(what, message)
    }

    /// The server's words, on one line and without the password, which a server may repeat.
    fn said(&self, what: &str, error: &SmtpError) -> String {
        let mut words = format!("the mail server {}:{} {what}: {error}", self.host, self.port);
        if let Some((_, password)) = &self.login {
            words = words.replace(password.expose(), "(password)"); // taken out
        }
        one_line(&words, MAX_WORDS)
    }
}

/// Nobody wants an answer of an absent person to it. Source: RFC 3834 section 5.
#[derive(Clone, Debug)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// What it is about, for whoever sorts mail.
#[derive(Clone, Debug)]
struct Event(&'static str);

impl Header for Event {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Holdfast-Event")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Err("it is only written".into())
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.to_owned())
    }
}
