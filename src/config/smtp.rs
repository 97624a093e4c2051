//! `[smtp]`: the server that takes our mail.

use std::{net::IpAddr, path::PathBuf};

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use super::Secret;

super::section! {
    /// The mail server that takes notices by e-mail. Without `host` none is sent.
    SmtpConfig, "smtp" {
        /// Its name, or its address. Default: none, and no mail.
        host: Option<String> = None;
        /// Default: 587 for `starttls`, 465 for `implicit`, 25 for `none`.
        port: Option<u16> = None;
        /// `starttls`: the connection begins in the clear and nothing is sent before it is encrypted; a server without STARTTLS is refused.
        /// `implicit`: TLS from the first byte. `none`: in the clear. Default: `starttls`.
        tls: SmtpTls = SmtpTls::StartTls;
        /// A PEM file of certificates that sign the server's, beside those that the system trusts.
        ca_file: Option<PathBuf> = None;
        /// Default: no authentication.
        username: Option<String> = None;
        /// Sent over TLS, or to this machine alone.
        password: Option<Secret> = None;
        /// A file that holds the password.
        password_file: Option<PathBuf> = None;
        /// Who mail is from: `backups@example.com`, or `Holdfast <backups@example.com>`. Needed with `host`.
        from: Option<String> = None;
    }
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    StartTls,
    Implicit,
    None,
}

impl SmtpConfig {
    /// The port in use.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            SmtpTls::StartTls => 587,
            SmtpTls::Implicit => 465,
            SmtpTls::None => 25,
        })
    }

    /// What no type can say, in one line that repeats no secret.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(host) = &self.host else { return Ok(()) };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '@') {
            return Err("smtp.host is not a name or an address: give it alone, and the port in smtp.port".to_owned());
        }
        match &self.from {
            None => return Err("smtp.host is set, but smtp.from is not: say whom mail is from".to_owned()),
            Some(from) if from.parse::<Mailbox>().is_err() => {
                return Err(format!("smtp.from: {from:?} is neither an e-mail address nor a name with one in <>"));
            }
            Some(_) => {}
        }
        match (&self.username, &self.password) {
            (Some(_), None) => return Err("smtp.username is set, but smtp.password is not: set both".to_owned()),
            (None, Some(_)) => return Err("smtp.password is set, but smtp.username is not: set both".to_owned()),
            (Some(_), Some(_)) if self.tls == SmtpTls::None && !self.is_this_machine() => {
                return Err(
                    "smtp.password would travel in the clear: set smtp.tls = \"starttls\" or \"implicit\"".to_owned()
                );
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        Ok(())
    }

    fn is_this_machine(&self) -> bool {
        let host = self.host.as_deref().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}
