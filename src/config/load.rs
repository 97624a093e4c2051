//! Reads the file and the environment into a [`Config`], and says in one line what is wrong with them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Config, LocalStorageConfig, SECTIONS, Secret, StorageConfig, well_known, well_known_telegram::telegram};
use crate::{
    artifact::Format,
    ids::{CONTROL_PLANE_PROJECT, ProjectId},
    postgres::connect::SslMode,
};

/// The file that is looked for in the working directory.
const HERE: &str = "holdfast.toml";

/// Why the configuration cannot be used. Never repeats a secret, nor anything that may be one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration: {0}")]
    Invalid(String),
    #[error("cannot read {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    /// Found in the working directory, which may be anybody's.
    #[error(
        "{path} is not read, because {why}: make it yours alone (chown, chmod go-w), or name it with --config or \
         HOLDFAST_CONFIG if you trust it"
    )]
    Untrusted { path: PathBuf, why: &'static str },
}

/// The data directory when none is configured: `/var/lib/holdfast` for root, else `$XDG_DATA_HOME/holdfast` or
/// `~/.local/share/holdfast`.
pub fn default_data_dir(environment: &BTreeMap<String, String>) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/holdfast");
    }
    let non_empty = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    match (non_empty("XDG_DATA_HOME"), non_empty("HOME")) {
        (Some(data), _) => Path::new(data).join("holdfast"),
        (None, Some(home)) => Path::new(home).join(".local/share/holdfast"),
        (None, None) => PathBuf::from("holdfast-data"),
    }
}

/// Reads `file`, or `holdfast.toml` here or in `/etc/holdfast` when it exists, then lets the environment override it.
/// `environment` is a parameter so that tests need not change the process's own.
pub fn load(file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let is_named = file.is_some();
    let file = file
        .map(Path::to_path_buf)
        .or_else(|| [HERE, "/etc/holdfast/holdfast.toml"].map(PathBuf::from).into_iter().find(|path| path.is_file()));
    let invalid = |error: config::ConfigError| ConfigError::Invalid(describe(&error, file.as_deref()));
    let mut builder = config::Config::builder();
    if let Some(path) = &file {
        let text = if is_named { read(path)? } else { read_ours(path)? };
        builder = builder.add_source(config::File::from_str(&text, config::FileFormat::Toml));
    }
    if let Some(dir) = environment.get("HOLDFAST_DATA_DIR") {
        builder = builder.set_override("data_dir", dir.as_str()).map_err(invalid)?;
    }
    for field in SECTIONS.iter().flat_map(|(_, _, fields)| fields.iter()) {
        let by_rule = field.variable();
        let given = std::iter::once(by_rule.as_str())
            .chain(field.variables.iter().copied())
            .find_map(|name| environment.get(name));
        let Some(value) = given else { continue };
        let key = format!("{}.{}", field.section, field.name);
        builder = if field.is_list {
            let items: Vec<String> =
                value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
            builder.set_override(key, items).map_err(invalid)?
        } else {
            builder.set_override(key, value.as_str()).map_err(invalid)?
        };
    }
    let mut config: Config = builder.build().map_err(invalid)?.try_deserialize().map_err(invalid)?;
    if config.data_dir.as_os_str().is_empty() {
        config.data_dir = default_data_dir(environment);
    }
    config.data_dir = std::path::absolute(&config.data_dir)
        .map_err(|source| ConfigError::File { path: config.data_dir.clone(), source })?;
    if config.database.url.is_none() && config.database.url_file.is_none() {
        config.database.url = url_from_pieces(environment)?;
    }
    read_secret_file(&mut config.database.url, config.database.url_file.as_deref(), "database.url")?;
    read_secret_file(&mut config.auth.jwt_secret, config.auth.jwt_secret_file.as_deref(), "auth.jwt_secret")?;
    read_secret_file(&mut config.metrics.token, config.metrics.token_file.as_deref(), "metrics.token")?;
    read_secret_file(&mut config.smtp.password, config.smtp.password_file.as_deref(), "smtp.password")?;
    for (name, storage) in &mut config.storages {
        read_storage_secrets(name, storage)?;
    }
    if config.storages.is_empty() {
        let root = config.data_dir.join("storage");
        config.storages.insert("local".to_owned(), StorageConfig::Local(LocalStorageConfig::new(root)));
    }
    well_known::s3(&mut config.storages, environment)?;
    telegram(&mut config.storages, environment)?;
    config.auth.secure_cookies |= config.listen.tls.files().is_some();
    check(&config)?;
    Ok(config)
}

/// Reads the settings of one thing as somebody has written them: TOML, or a JSON object.
///
/// # Errors
/// Says where it is not valid, without repeating anything of it.
pub fn settings_from_text(text: &str) -> Result<serde_json::Value, ConfigError> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| {
            ConfigError::Invalid(format!("not valid JSON: look at line {}, column {}", error.line(), error.column()))
        });
    }
    let source = config::File::from_str(text, config::FileFormat::Toml);
    let built = config::Config::builder().add_source(source).build().and_then(config::Config::try_deserialize);
    built.map_err(|error| ConfigError::Invalid(describe(&error, None).trim().to_owned()))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_path_buf(), source })
}

/// Reads a file that nobody named, if nobody but root and us can have written it: it says which programs are run.
fn read_ours(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::File { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    let refuse = |why| Err(ConfigError::Untrusted { path: path.to_path_buf(), why });
    if data.uid() != 0 && data.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if data.mode() & 0o022 != 0 {
        return refuse("others than its owner may write to it");
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// What is wrong and where, without what stands there, which may be a secret.
fn describe(error: &config::ConfigError, file: Option<&Path>) -> String {
    use config::ConfigError as E;
    match error {
        E::FileParse { cause, .. } => {
            // The first line has the place; the lines after it repeat the source.
            let text = cause.to_string();
            let place = text.lines().next().and_then(|line| line.strip_prefix("TOML parse error at "));
            let name = file.map(|path| path.display().to_string()).unwrap_or_default();
            format!("{name} is not valid TOML: look at {}", place.unwrap_or("its syntax"))
        }
        E::Type { expected, key, .. } => match key {
            Some(key) => format!("{key} has a value of the wrong type: expected {expected}"),
            None => format!("a value has the wrong type: expected {expected}"),
        },
        E::At { error, key, .. } => match key {
            Some(key) => format!("{} for key `{key}`", describe(error, file)),
            None => describe(error, file),
        },
        other => {
            let text = other.to_string();
            match text.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected ")) {
                Some((_, expected)) => format!("a value has the wrong type: expected {expected}"),
                None => text,
            }
        }
    }
}

/// `DATABASE_HOST`, `DATABASE_PORT`, `DATABASE_NAME`, `DATABASE_USER`, `DATABASE_PASSWORD`: a URL in pieces.
fn url_from_pieces(environment: &BTreeMap<String, String>) -> Result<Option<Secret>, ConfigError> {
    let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let Some(host) = get("DATABASE_HOST") else { return Ok(None) };
    let missing = |name: &str| {
        ConfigError::Invalid(format!("DATABASE_HOST is set, but {name} is not: set both, or DATABASE_URL"))
    };
    let port = get("DATABASE_PORT").unwrap_or_else(|| "5432".to_owned());
    let info = crate::postgres::connect::ConnectInfo {
        host,
        port: port
            .parse()
            .map_err(|_| ConfigError::Invalid("DATABASE_PORT is not a port: use 1 to 65535".to_owned()))?,
        user: get("DATABASE_USER").ok_or_else(|| missing("DATABASE_USER"))?,
        password: get("DATABASE_PASSWORD").map(Into::into),
        database: get("DATABASE_NAME").ok_or_else(|| missing("DATABASE_NAME"))?,
        ssl_mode: SslMode::Prefer,
        ssl_root_cert: None,
    };
    use secrecy::ExposeSecret;
    Ok(Some(Secret::new(info.to_url().expose_secret())))
}

/// Takes a secret from its file. Both the value and the file is a mistake that must not pass silently.
fn read_secret_file(value: &mut Option<Secret>, file: Option<&Path>, name: &str) -> Result<(), ConfigError> {
    let Some(path) = file else { return Ok(()) };
    if value.is_some() {
        return Err(ConfigError::Invalid(format!("both {name} and {name}_file are set: keep one")));
    }
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_path_buf(), source })?;
    *value = Some(Secret::new(text.trim_end_matches(['\n', '\r'])));
    Ok(())
}

/// Takes a storage's secrets from their files.
fn read_storage_secrets(name: &str, storage: &mut StorageConfig) -> Result<(), ConfigError> {
    match storage {
        StorageConfig::Local(_) => Ok(()),
        StorageConfig::S3(s3) => {
            for (value, file, field) in [
                (&mut s3.access_key, &s3.access_key_file, "access_key"),
                (&mut s3.secret_key, &s3.secret_key_file, "secret_key"),
                (&mut s3.session_token, &s3.session_token_file, "session_token"),
            ] {
                read_secret_file(value, file.as_deref(), &format!("storages.{name}.{field}"))?;
            }
            Ok(())
        }
        StorageConfig::Telegram(telegram) => {
            let file = telegram.bot_token_file.clone();
            read_secret_file(&mut telegram.bot_token, file.as_deref(), &format!("storages.{name}.bot_token"))
        }
    }
}

/// What no type can say.
fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |message: String| Err(ConfigError::Invalid(message));
    if let Some(secret) = &config.auth.jwt_secret {
        let length = secret.expose().len(); // only its length is used
        if length < 32 {
            return refuse(format!(
                "auth.jwt_secret has {length} bytes: use 32 or more, for instance from `openssl rand -hex 32`"
            ));
        }
    }
    config.auth.check().map_err(ConfigError::Invalid)?;
    config.listen.trusted_networks().map_err(ConfigError::Invalid)?;
    config.listen.tls.check().map_err(ConfigError::Invalid)?;
    config.metrics.check().map_err(ConfigError::Invalid)?;
    config.telemetry.check().map_err(ConfigError::Invalid)?;
    config.schedules.check().map_err(ConfigError::Invalid)?;
    config.retention.check().map_err(ConfigError::Invalid)?;
    config.notify.check().map_err(ConfigError::Invalid)?;
    config.smtp.check().map_err(ConfigError::Invalid)?;
    if let Some(url) = &config.database.url {
        url.expose() // parsed, and the error never repeats it
            .parse::<crate::postgres::connect::ConnectInfo>()
            .map_err(|error| ConfigError::Invalid(format!("database.url: {error}")))?;
    }
    if !Format::DUMPS.contains(&config.backup.format) {
        let known = Format::DUMPS.iter().map(|format| format.as_str()).collect::<Vec<_>>().join(", ");
        return refuse(format!("backup.format: {} is no format of a dump: use one of {known}", config.backup.format));
    }
    let default_project = &config.backup.default_project;
    if default_project == CONTROL_PLANE_PROJECT {
        return refuse(format!("backup.default_project: {CONTROL_PLANE_PROJECT} is the control plane itself"));
    }
    if !default_project.is_empty() {
        default_project
            .parse::<ProjectId>()
            .map_err(|error| ConfigError::Invalid(format!("backup.default_project: {error}")))?;
    }
    for (name, value, low, high) in [
        ("backup.timeout_seconds", config.backup.timeout_seconds as i64, 1, 7 * 86_400),
        ("backup.copy_timeout_seconds", config.backup.copy_timeout_seconds as i64, 1, 30 * 86_400),
        ("restore.timeout_seconds", config.restore.timeout_seconds as i64, 1, 7 * 86_400),
        ("backup.retention_days", i64::from(config.backup.retention_days), 1, 36_500),
        ("backup.zstd_level", i64::from(config.backup.zstd_level), 1, 19),
        ("backup.gzip_level", i64::from(config.backup.gzip_level), 1, 9),
        ("restore.undo_hours", i64::from(config.restore.undo_hours), 1, 8_760),
        ("worker.concurrency", config.worker.concurrency as i64, 1, 256),
        ("worker.lease_seconds", config.worker.lease_seconds as i64, 2, 86_400),
        ("worker.poll_seconds", config.worker.poll_seconds as i64, 1, 3_600),
        ("worker.max_attempts", i64::from(config.worker.max_attempts), 1, 100),
        ("worker.backoff_seconds", config.worker.backoff_seconds as i64, 1, 86_400),
        ("database.max_connections", i64::from(config.database.max_connections), 2, 1_000),
    ] {
        if !(low..=high).contains(&value) {
            return refuse(format!("{name} is {value}: use {low} to {high}"));
        }
    }
    for name in config.storages.keys() {
        if !super::is_storage_name(name) {
            return refuse(format!("storage name {name:?} is not valid: use 1 to 63 letters, digits, '-' or '_'"));
        }
    }
    for (name, storage) in &config.storages {
        match storage {
            StorageConfig::Local(local) => {
                local.check().map_err(|why| ConfigError::Invalid(format!("storages.{name}: {why}")))?;
            }
            StorageConfig::S3(s3) => {
                s3.check().map_err(|why| ConfigError::Invalid(format!("storages.{name}: {why}")))?;
            }
            StorageConfig::Telegram(telegram) => {
                telegram.check().map_err(|why| ConfigError::Invalid(format!("storages.{name}: {why}")))?;
            }
        }
    }
    for name in &config.backup.storages {
        if !config.storages.contains_key(name) {
            return refuse(format!("backup.storages names {name:?}, but there is no [storages.{name}]"));
        }
    }
    for recipient in config.encryption.recipients.iter().map(|text| text.trim()) {
        if recipient.parse::<age::x25519::Recipient>().is_err() {
            // Somebody may have put the secret key there.
            let shown: String = recipient.chars().take(70).collect();
            let shown = if shown.starts_with("age1") { shown.as_str() } else { "this text" };
            return refuse(format!("encryption.recipients: {shown} is not an age recipient: expected age1…"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn load_text(text: &str, pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(Some(file.path()), &environment(pairs))
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = load_text(
            "data_dir = '/srv/hf'\n[listen]\naddress = '127.0.0.1:4000'\n[backup]\nmax_size = '2 GiB'\nretention_days = 7\n",
            &[("HOLDFAST_LISTEN", "127.0.0.1:5000"), ("HOLDFAST_BACKUP_RETENTION_DAYS", "14"), ("HOLDFAST_BACKUP_COMPRESSION", "zstd")],
        )
        .unwrap();
        assert_eq!(config.listen.address.port(), 5000);
        assert_eq!(config.backup.max_size.0, 2 << 30);
        assert_eq!(config.backup.retention_days, 14);
        assert_eq!(config.backup.compression, crate::artifact::Compression::Zstd);
        assert!(matches!(&config.storages["local"], StorageConfig::Local(l) if l.root == Path::new("/srv/hf/storage")));
    }

    #[test]
    fn claims_have_variables_and_a_platforms_words_keep_their_case() {
        let config = load_text(
            "[auth]\nalgorithms = ['RS256', 'EdDSA']\njwks_url = 'https://x/jwks'\n[auth.roles]\nBackup-Admin = 'operator'\n\"a.b\" = 'org_admin'\n",
            &[("HOLDFAST_AUTH_CLAIMS_ROLE", "realm_access.roles"), ("HOLDFAST_AUTH_ALGORITHMS", "ES256, EdDSA")],
        )
        .unwrap();
        assert_eq!(config.auth.claims.role, "realm_access.roles");
        assert_eq!(config.auth.algorithms, [super::super::TokenAlgorithm::ES256, super::super::TokenAlgorithm::EdDSA]);
        let roles: Vec<(&str, &str)> = config.auth.roles.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(roles, [("Backup-Admin", "operator"), ("a.b", "org_admin")]);
    }

    #[test]
    fn a_database_can_be_given_in_pieces() {
        let config = load_text(
            "",
            &[
                ("DATABASE_HOST", "db"),
                ("DATABASE_NAME", "app"),
                ("DATABASE_USER", "u"),
                ("DATABASE_PASSWORD", "p@ss/w"),
            ],
        )
        .unwrap();
        let info: crate::postgres::connect::ConnectInfo = config.database.url.unwrap().expose().parse().unwrap();
        assert_eq!(info.to_string(), "postgres://u@db:5432/app");
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not_repeated() {
        for (text, pairs, expected) in [
            ("[backup]\nretention = 3\n", &[][..], "retention"),
            ("[backup]\nretention_days = 0\n", &[][..], "backup.retention_days is 0"),
            ("", &[("HOLDFAST_JWT_SECRET", "short-secret")][..], "auth.jwt_secret has 12 bytes"),
            ("", &[("DATABASE_URL", "mysql://u:canary@h/d")][..], "database.url: the database URL begins with"),
            ("[backup]\nstorages = ['nowhere']\n", &[][..], "no [storages.nowhere]"),
            ("[encryption]\nrecipients = ['age1nonsense']\n", &[][..], "age1nonsense is not an age recipient"),
            ("[encryption]\nrecipients = ['AGE-SECRET-KEY-1canary']\n", &[][..], "this text is not an age recipient"),
            ("[auth]\njwt_secret = 'canary\n", &[][..], "is not valid TOML: look at line 2, column"),
            ("[auth]\njwt_secret = canary\n", &[][..], "is not valid TOML: look at line 2, column"),
            ("[auth]\njwt_secret = 'a'\njwt_secret = 'canary'\n", &[][..], "look at line 3, column"),
            ("auth = 'canary'\n", &[][..], "wrong type"),
            ("[worker]\nconcurrency = 'canary'\n", &[][..], "wrong type"),
            ("[database]\nurl = ['canary']\n", &[][..], "wrong type"),
            ("[storages.x]\ntype = 'tape'\n", &[][..], "tape"),
            ("[schedules]\nzone = 'Mars/Olympus'\n", &[][..], "schedules.zone: there is no time zone"),
            ("[schedules]\nschedule_default = '0 2 30 2 *'\n", &[][..], "schedules.schedule_default: cron expression"),
            ("[schedules]\njitter_minutes = 2000\n", &[][..], "schedules.jitter_minutes is 2000"),
            ("[retention]\nminimum_good = 0\n", &[][..], "retention.minimum_good is 0"),
            ("[retention]\nkeep_last = 0\n", &[][..], "retention.keep_last is 0"),
            ("[auth]\nalgorithms = ['none']\n", &[][..], "none"),
            ("[auth]\nalgorithms = []\n", &[][..], "auth.algorithms is empty"),
            ("[auth]\nalgorithms = ['RS256']\n", &[][..], "needs a public key"),
            ("[auth]\npublic_key_file = '/x'\n", &[][..], "has none that uses it"),
        ] {
            let error = load_text(text, pairs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("canary") && error.lines().count() == 1, "{error}");
            assert!(!error.contains("short-secret"), "{error}");
        }
    }

    #[test]
    fn a_file_that_nobody_named_is_read_only_when_nobody_else_can_have_written_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |mode| std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        for (mode, is_read) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            set(mode);
            assert_eq!(read_ours(file.path()).is_ok(), is_read, "{mode:o}");
        }
        assert!(read_ours(file.path()).unwrap_err().to_string().contains("others than its owner may write"));
        if rustix::process::geteuid().is_root() {
            set(0o644);
            std::os::unix::fs::chown(file.path(), Some(65_534), None).unwrap();
            let error = read_ours(file.path()).unwrap_err().to_string();
            assert!(error.contains("belongs to another user") && error.lines().count() == 1, "{error}");
            // Whoever names it has looked at it.
            assert!(load(Some(file.path()), &BTreeMap::new()).is_ok());
        }
    }

    #[test]
    fn a_secret_can_come_from_a_file_but_not_twice() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), format!("{}\n", "k".repeat(40))).unwrap();
        let path = secret.path().to_str().unwrap();
        let config = load_text("", &[("HOLDFAST_JWT_SECRET_FILE", path)]).unwrap();
        assert_eq!(config.auth.jwt_secret.unwrap().expose(), "k".repeat(40));
        let error =
            load_text("", &[("HOLDFAST_JWT_SECRET_FILE", path), ("HOLDFAST_JWT_SECRET", &"x".repeat(32))]).unwrap_err();
        assert!(error.to_string().contains("keep one"));
    }
}
