//! The keys of one installation: found where the configuration says, else made at the first start below the data directory.
//!
//! | file | what for |
//! |---|---|
//! | `age.key` | the identity that opens backups; its recipient encrypts them |
//! | `jwt.secret` | signs the API's tokens |
//! | `secrets.key` | seals what the control plane keeps secret |
//! | `seal.key` | seals manifests. Made out of `secrets.key`, so that every machine that has that one makes the same |

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::ExposeSecret;

use crate::{
    clock::Clock,
    config::{Config, Secret},
    keys::{self, KeyError, SecretsKey},
    postgres::{connect::ConnectInfo, embedded},
    transform::{
        Identities,
        seal::{InvalidSealKey, PublicKey, SealKey, Seals},
    },
};

const JWT_SECRET: &str = "jwt.secret";

/// Why an installation's keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot make the data directory {}: {source}", path.display())]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("encryption.recipients: {0}")]
    Recipients(String),
    #[error("seal.accepted_keys: {0}")]
    AcceptedKeys(String),
}

/// Where the keys of this configuration are.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    pub identity: PathBuf,
    /// `None`: the secret itself is configured.
    pub jwt_secret: Option<PathBuf>,
    pub secrets: PathBuf,
    pub seal: PathBuf,
}

impl KeyFiles {
    pub fn of(config: &Config) -> Self {
        let below = |name: &str| config.data_dir.join(name);
        Self {
            identity: config.encryption.identity_file.clone().unwrap_or_else(|| below("age.key")),
            jwt_secret: if config.auth.jwt_secret.is_some() { None } else { Some(below(JWT_SECRET)) },
            secrets: config.secrets.key_file.clone().unwrap_or_else(|| below("secrets.key")),
            seal: config.seal.key_file.clone().unwrap_or_else(|| below("seal.key")),
        }
    }
}

/// The keys at hand.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// Open backups. None where only public keys are configured: enough to take backups.
    pub identities: Identities,
    /// Backups are encrypted to these. Empty when encryption is off.
    pub recipients: Vec<age::x25519::Recipient>,
    pub jwt_secret: Secret,
    pub secrets: SecretsKey,
    /// Prove who wrote a manifest.
    pub seals: Seals,
}

impl Keyring {
    /// Loads the keys and makes those that are missing and not configured to be elsewhere.
    ///
    /// # Errors
    /// A key file that the configuration names is missing, or a key is not valid.
    pub fn open(config: &Config, clock: &Clock) -> Result<Self, KeyringError> {
        make_data_dir(&config.data_dir)?;
        let files = KeyFiles::of(config);
        let (identities, recipients) = Self::encryption(config, &files, clock)?;
        let is_new = config.secrets.key_file.is_none() && !files.secrets.exists();
        if config.secrets.key_file.is_none() {
            make_missing(&files.secrets, keys::generate_secret_file)?;
        }
        let secrets = SecretsKey::load(&files.secrets)?;
        if config.seal.key_file.is_none() {
            let seed = || secrets.derive("seal of manifests");
            make_missing(&files.seal, |path| keys::generate_seal_file(path, seed(), clock, is_new).map(|_| ()))?;
        }
        let seals = load_seals(config, &files.seal)?;
        Ok(Self { identities, recipients, jwt_secret: jwt_secret(config)?, secrets, seals })
    }

    /// Seals a database's URL for `control_plane.databases`; it opens under the same name only.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn seal_database(&self, name: &str, info: &ConnectInfo) -> Result<String, KeyError> {
        self.secrets.seal(&info.to_url(), &database_context(name))
    }

    /// Opens what [`seal_database`](Self::seal_database) gave.
    ///
    /// # Errors
    /// It was sealed with another key, or for another name.
    pub fn open_database(&self, name: &str, sealed: &str) -> Result<ConnectInfo, KeyError> {
        open_database_with(&self.secrets, name, sealed)
    }

    fn encryption(
        config: &Config,
        files: &KeyFiles,
        clock: &Clock,
    ) -> Result<(Identities, Vec<age::x25519::Recipient>), KeyringError> {
        let configured = keys::parse_recipients(&config.encryption.recipients).map_err(KeyringError::Recipients)?;
        let is_ours = config.encryption.identity_file.is_none();
        if config.encryption.enabled && configured.is_empty() && is_ours {
            make_missing(&files.identity, |path| keys::generate_identity_file(path, clock).map(|_| ()))?;
        }
        // Without encryption, or with recipients alone, there may be no identity on this machine.
        let identities = if !is_ours || files.identity.exists() {
            keys::load_identities(&files.identity)?
        } else {
            Identities::none()
        };
        let recipients = match (config.encryption.enabled, configured.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => identities.recipients(),
            (true, false) => configured,
        };
        Ok((identities, recipients))
    }
}

/// The same, with the one key that it needs.
///
/// # Errors
/// It was sealed with another key, or for another name.
pub fn open_database_with(key: &SecretsKey, name: &str, sealed: &str) -> Result<ConnectInfo, KeyError> {
    let url = key.open(sealed, &database_context(name))?;
    // Read at once, and only to connect.
    url.expose_secret().parse().map_err(|_| KeyError::CannotOpen)
}

fn database_context(name: &str) -> String {
    format!("database {name}")
}

/// Whom backups are encrypted to, for a program that only sends: as configured, else to the identity that is there. No key is made, because a
/// second installation of one control plane would make another one than the first.
///
/// # Errors
/// A key file cannot be read, or a key is not valid.
pub fn recipients(config: &Config) -> Result<Vec<age::x25519::Recipient>, KeyringError> {
    let configured = keys::parse_recipients(&config.encryption.recipients).map_err(KeyringError::Recipients)?;
    let identity = KeyFiles::of(config).identity;
    match (config.encryption.enabled, configured.is_empty()) {
        (false, _) => Ok(Vec::new()),
        (true, false) => Ok(configured),
        (true, true) if config.encryption.identity_file.is_none() && !identity.exists() => Ok(Vec::new()),
        (true, true) => Ok(keys::load_identities(&identity)?.recipients()),
    }
}

/// The key that seals manifests, for a program that only sends: `None` where this machine has none. None is made, for the same reason.
///
/// # Errors
/// The key file cannot be read.
pub fn seal_key(config: &Config) -> Result<Option<Arc<SealKey>>, KeyringError> {
    let path = KeyFiles::of(config).seal;
    if config.seal.key_file.is_none() && !path.exists() {
        return Ok(None);
    }
    Ok(keys::load_seals(&path)?.shared_key())
}

/// The key file's keys and those that the configuration accepts beside them.
///
/// # Errors
/// The file cannot be read, or a configured key is none.
pub fn load_seals(config: &Config, path: &Path) -> Result<Seals, KeyringError> {
    let accepted: Result<Vec<PublicKey>, InvalidSealKey> =
        config.seal.accepted_keys.iter().map(|text| text.parse()).collect();
    let accepted = accepted.map_err(|error| KeyringError::AcceptedKeys(error.to_string()))?;
    Ok(keys::load_seals(path)?.accepting(accepted))
}

/// The secret that signs tokens: as configured, else the data directory's own, made when missing.
///
/// # Errors
/// The file cannot be made or read.
pub fn jwt_secret(config: &Config) -> Result<Secret, KeyringError> {
    if let Some(secret) = &config.auth.jwt_secret {
        return Ok(secret.clone());
    }
    let path = config.data_dir.join(JWT_SECRET);
    make_data_dir(&config.data_dir)?;
    make_missing(&path, keys::generate_secret_file)?;
    // Kept as a secret again.
    Ok(Secret::new(keys::load_secret_file(&path)?.expose_secret()))
}

/// Makes the data directory, as [`embedded::make_data_dir`] says.
///
/// # Errors
/// It cannot be made.
pub fn make_data_dir(path: &Path) -> Result<(), KeyringError> {
    embedded::make_data_dir(path).map_err(|source| KeyringError::DataDir { path: path.to_path_buf(), source })
}

/// Another process may make the key at the same moment: then that one is used.
fn make_missing(path: &Path, make: impl Fn(&Path) -> Result<(), KeyError>) -> Result<(), KeyError> {
    if path.exists() {
        return Ok(());
    }
    match make(path) {
        Err(KeyError::Exists(_)) => Ok(()),
        Ok(()) => {
            tracing::info!(file = %path.display(), "made a key: keep a copy of it in a safe place");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(dir: &Path) -> Config {
        Config { data_dir: dir.join("data"), ..Config::default() }
    }

    #[test]
    fn the_first_start_makes_every_key_and_the_second_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let first = Keyring::open(&config, &Clock::System).unwrap();
        let second = Keyring::open(&config, &Clock::System).unwrap();
        assert_eq!(first.jwt_secret.expose(), second.jwt_secret.expose());
        assert_eq!(first.recipients, second.recipients);
        assert_eq!(first.recipients.len(), 1);
        assert_eq!(first.seals.key().unwrap().public(), second.seals.key().unwrap().public());
        for name in ["age.key", "jwt.secret", "secrets.key", "seal.key"] {
            let mode = std::fs::metadata(config.data_dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn processes_that_start_together_use_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let together = std::sync::Barrier::new(8);
        let opened: Vec<Keyring> = std::thread::scope(|scope| {
            let open = || {
                together.wait();
                Keyring::open(&config, &Clock::System).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let sealed = opened[0].secrets.seal(&"x".into(), "here").unwrap();
        for keys in &opened {
            assert_eq!(keys.jwt_secret.expose(), opened[0].jwt_secret.expose());
            assert_eq!(keys.recipients, opened[0].recipients);
            assert!(keys.secrets.open(&sealed, "here").is_ok());
            assert_eq!(keys.seals.key().unwrap().public(), opened[0].seals.key().unwrap().public());
        }
    }

    #[test]
    fn machines_with_the_same_secrets_key_seal_alike_and_accept_what_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let machine = |name: &str| Config { data_dir: dir.path().join(name), ..Config::default() };
        let one = Keyring::open(&machine("one"), &Clock::System).unwrap();
        std::fs::create_dir(dir.path().join("two")).unwrap();
        std::fs::copy(dir.path().join("one/secrets.key"), dir.path().join("two/secrets.key")).unwrap();
        let two = Keyring::open(&machine("two"), &Clock::System).unwrap();
        assert_eq!(one.seals.key().unwrap().public(), two.seals.key().unwrap().public());

        let mut config = machine("three");
        config.seal.accepted_keys = vec![one.seals.key().unwrap().public().to_string()];
        let three = Keyring::open(&config, &Clock::System).unwrap();
        assert_ne!(three.seals.key().unwrap().public(), one.seals.key().unwrap().public());
        assert_eq!(three.seals.accepted().nth(1), one.seals.accepted().next());
        assert_eq!(seal_key(&config).unwrap().unwrap().public(), three.seals.key().unwrap().public());
        assert!(seal_key(&machine("four")).unwrap().is_none() && !dir.path().join("four").exists());
        config.seal.accepted_keys = vec!["canary".into()];
        let error = Keyring::open(&config, &Clock::System).unwrap_err().to_string();
        assert!(error.starts_with("seal.accepted_keys") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn a_configured_key_file_that_is_missing_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.encryption.identity_file = Some(dir.path().join("elsewhere.key"));
        assert!(Keyring::open(&config, &Clock::System).unwrap_err().to_string().contains("elsewhere.key"));
        assert!(!dir.path().join("elsewhere.key").exists());
    }

    #[test]
    fn recipients_alone_are_enough_to_take_backups() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let recipient = age::x25519::Identity::generate().to_public();
        config.encryption.recipients = vec![recipient.to_string()];
        let keyring = Keyring::open(&config, &Clock::System).unwrap();
        assert!(keyring.identities.is_empty() && !config.data_dir.join("age.key").exists());
        assert_eq!(keyring.recipients, [recipient]);
    }

    #[test]
    fn a_database_url_opens_under_its_own_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open(&config(dir.path()), &Clock::System).unwrap();
        let info: ConnectInfo = "postgres://u:hunter2@h/d".parse().unwrap();
        let sealed = keyring.seal_database("h:5432/d", &info).unwrap();
        let opened = keyring.open_database("h:5432/d", &sealed).unwrap();
        assert_eq!(opened.password.unwrap().expose_secret(), "hunter2");
        assert!(keyring.open_database("other", &sealed).is_err());
    }
}
