//! How to reach a database: parsed once from a URL, then given to our own connections and, by environment and password
//! file, to the client tools. The password has no `Display`.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use url::Url;

/// Longest time to reach a server and be let in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a database is and who connects.
#[derive(Clone)]
pub struct ConnectInfo {
    /// A host name, an address, or the directory of a Unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<SecretString>,
    pub database: String,
    /// libpq's `sslmode`.
    pub ssl_mode: SslMode,
    /// libpq's `sslrootcert`.
    pub ssl_root_cert: Option<PathBuf>,
}

crate::artifact::words! {
    /// libpq's `sslmode`.
    SslMode, "sslmode" {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

/// Why a text is not a database URL. Never repeats the URL: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    #[error("the database URL cannot be read ({0}): expected postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE")]
    Syntax(url::ParseError),
    #[error("the database URL begins with {0:?}: expected postgres:// or postgresql://")]
    Scheme(String),
    #[error("the database URL names no {0}: expected postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE")]
    Missing(&'static str),
    #[error(
        "the database URL has the parameter {0:?}, which is not supported: use host, port, user, password, dbname, sslmode, sslrootcert"
    )]
    Parameter(String),
    #[error("the database URL's {0} is not valid")]
    Value(&'static str),
}

impl FromStr for ConnectInfo {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(InvalidUrl::Syntax)?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(InvalidUrl::Scheme(url.scheme().chars().take(20).collect()));
        }
        let decode = |text: &str, what| percent_decode(text).ok_or(InvalidUrl::Value(what));
        let mut host = url.host_str().map(|h| decode(h, "host")).transpose()?.filter(|h| !h.is_empty());
        let mut port = url.port();
        let mut user = Some(decode(url.username(), "user")?).filter(|u| !u.is_empty());
        let mut password = url.password().map(|p| decode(p, "password")).transpose()?;
        let mut database = Some(decode(url.path().trim_start_matches('/'), "database")?).filter(|d| !d.is_empty());
        let (mut ssl_mode, mut ssl_root_cert) = (SslMode::Prefer, None);
        for (key, value) in url.query_pairs() {
            let value = value.into_owned();
            match key.as_ref() {
                "host" => host = Some(value),
                "port" => port = Some(value.parse().map_err(|_| InvalidUrl::Value("port"))?),
                "user" => user = Some(value),
                "password" => password = Some(value),
                "dbname" => database = Some(value),
                "sslmode" => ssl_mode = value.parse().map_err(|_| InvalidUrl::Value("sslmode"))?,
                "sslrootcert" => ssl_root_cert = Some(PathBuf::from(value)),
                // Ours is set by us; a caller's own is harmless and common.
                "application_name" => {}
                other => return Err(InvalidUrl::Parameter(other.chars().take(40).collect())),
            }
        }
        let info = Self {
            host: host.ok_or(InvalidUrl::Missing("host"))?,
            port: port.unwrap_or(5432),
            user: user.ok_or(InvalidUrl::Missing("user"))?,
            password: password.map(SecretString::from),
            database: database.ok_or(InvalidUrl::Missing("database"))?,
            ssl_mode,
            ssl_root_cert,
        };
        // A line break would add a line to a password file; a NUL cannot be passed on at all.
        let password = info.password.as_ref().map(ExposeSecret::expose_secret).unwrap_or_default();
        for (what, value) in
            [("host", info.host.as_str()), ("user", &info.user), ("password", password), ("database", &info.database)]
        {
            if value.contains(['\0', '\n', '\r']) {
                return Err(InvalidUrl::Value(what));
            }
        }
        Ok(info)
    }
}

impl ConnectInfo {
    /// The same server, another database.
    #[must_use]
    pub fn with_database(&self, database: impl Into<String>) -> Self {
        Self { database: database.into(), ..self.clone() }
    }

    /// The same database, another role.
    #[must_use]
    pub fn with_user(&self, user: impl Into<String>, password: SecretString) -> Self {
        Self { user: user.into(), password: Some(password), ..self.clone() }
    }

    /// Whether the URL carried a password: such a URL is refused as a command-line argument.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The URL with its password: for storing encrypted, never for showing.
    pub fn to_url(&self) -> SecretString {
        let mut url = Url::parse("postgres://localhost").unwrap_or_else(|_| unreachable!("a constant URL parses"));
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("host", &self.host).append_pair("port", &self.port.to_string());
            pairs.append_pair("user", &self.user).append_pair("dbname", &self.database);
            if let Some(password) = &self.password {
                pairs.append_pair("password", password.expose_secret());
            }
            pairs.append_pair("sslmode", self.ssl_mode.as_str());
            if let Some(cert) = &self.ssl_root_cert {
                pairs.append_pair("sslrootcert", &cert.to_string_lossy());
            }
        }
        SecretString::from(String::from(url))
    }

    /// Options for our own connections.
    pub fn options(&self) -> PgConnectOptions {
        // `new_without_pgpass`: what an administrator's environment holds is not this project's.
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .username(&self.user)
            .database(&self.database)
            .application_name("holdfast")
            .ssl_mode(match self.ssl_mode {
                SslMode::Disable => PgSslMode::Disable,
                SslMode::Allow => PgSslMode::Allow,
                SslMode::Prefer => PgSslMode::Prefer,
                SslMode::Require => PgSslMode::Require,
                SslMode::VerifyCa => PgSslMode::VerifyCa,
                SslMode::VerifyFull => PgSslMode::VerifyFull,
            })
            .log_statements(tracing::log::LevelFilter::Trace)
            // Some statements hold passwords, and some are slow on a good day (DROP DATABASE).
            .log_slow_statements(tracing::log::LevelFilter::Off, std::time::Duration::ZERO);
        options = if self.host.starts_with('/') { options.socket(&self.host) } else { options.host(&self.host) };
        if let Some(password) = &self.password {
            options = options.password(password.expose_secret());
        }
        if let Some(cert) = &self.ssl_root_cert {
            options = options.ssl_root_cert(cert);
        }
        options
    }

    /// A connection for work on a tenant's database: nothing is resolved by `search_path`, row-level security raises an error
    /// instead of hiding rows, and no timeout of the role or database ends a long snapshot. Nothing is compiled: for our questions to the
    /// catalogs that takes longer than the answers.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self.options();
        let connecting = PgConnection::connect_with(&options);
        // A server that takes the connection and says nothing would hold its caller for ever.
        let mut connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| {
            sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer in time"))
        })??;
        connection
            .execute(
                "SET search_path = ''; SET row_security = off; SET jit = off; SET statement_timeout = 0; SET lock_timeout = 0; \
                 SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning; \
                 SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
                 WHERE name IN ('idle_session_timeout', 'transaction_timeout')",
            )
            .await?;
        Ok(connection)
    }
}

/// Decodes `%xx`; `None` for what is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |b: u8| (b as char).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = tail;
            }
            (byte, tail) => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// The URL without its password.
impl fmt::Display for ConnectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

impl fmt::Debug for ConnectInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectInfo({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_in_both_spellings() {
        let plain: ConnectInfo = "postgres://us%40er:p%2Fw@db.example:6432/app?sslmode=require".parse().unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.user.as_str(), plain.database.as_str()),
            ("db.example", 6432, "us@er", "app")
        );
        assert_eq!(plain.ssl_mode, SslMode::Require);
        assert_eq!(plain.password.as_ref().unwrap().expose_secret(), "p/w");
        let socket: ConnectInfo = "postgresql:///app?host=/run/postgresql&user=me".parse().unwrap();
        assert_eq!((socket.host.as_str(), socket.port), ("/run/postgresql", 5432));
        let again: ConnectInfo = plain.to_url().expose_secret().parse().unwrap();
        assert_eq!(again.to_string(), plain.to_string());
        assert_eq!(again.password.unwrap().expose_secret(), "p/w");
    }

    #[test]
    fn neither_errors_nor_debug_show_the_password() {
        let info: ConnectInfo = "postgres://u:hunter2@h/d".parse().unwrap();
        assert!(!format!("{info} {info:?}").contains("hunter2"));
        for bad in [
            "postgres://u:hunter2@h/",
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@h:99999/d",
            "postgres://u:hunter2@h/d?x=hunter2",
            "postgres://u:hunter2%0a@h/d",
        ] {
            let error = bad.parse::<ConnectInfo>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
