//! Configuration: one TOML file, then environment variables. One struct per section, in its own file; `docs/config.md` is
//! generated from them.
//!
//! Every setting `section.field` can be given as `HOLDFAST_SECTION_FIELD`. A secret `x` can also come from a file named by
//! `x_file`. A few settings have older, well-known names as well.

mod auth;
mod backup;
mod database;
mod docs;
mod encryption;
mod files;
mod limits;
mod listen;
mod load;
mod log;
mod metrics;
mod notify;
mod outgoing;
mod restore;
mod retention;
mod schedules;
mod seal;
mod secret;
mod secrets;
mod smtp;
mod storage;
mod storage_s3;
mod storage_telegram;
mod telemetry;
mod tools;
mod trials;
mod well_known;
mod well_known_telegram;
mod worker;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::{
    auth::{AuthConfig, ClaimsConfig, TokenAlgorithm},
    backup::BackupConfig,
    database::DatabaseConfig,
    docs::markdown,
    encryption::EncryptionConfig,
    files::FilesConfig,
    limits::LimitsConfig,
    listen::{ListenConfig, TlsConfig},
    load::{ConfigError, default_data_dir, load, settings_from_text},
    log::{LogConfig, LogFormat},
    metrics::MetricsConfig,
    notify::NotifyConfig,
    outgoing::{IpRange, OutgoingConfig},
    restore::RestoreConfig,
    retention::RetentionConfig,
    schedules::SchedulesConfig,
    seal::{SealConfig, Unsealed},
    secret::Secret,
    secrets::SecretsConfig,
    smtp::{SmtpConfig, SmtpTls},
    storage::{LEAST_RATE, LocalStorageConfig, StorageConfig, is_storage_name},
    storage_s3::{S3Checksum, S3StorageConfig},
    storage_telegram::{ChatId, TelegramProfile, TelegramStorageConfig},
    telemetry::TelemetryConfig,
    tools::ToolsConfig,
    trials::TrialsConfig,
    worker::WorkerConfig,
};

/// One setting, as the documentation and the environment know it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub section: &'static str,
    pub name: &'static str,
    /// Meaning, unit and default, as written beside the field.
    pub doc: &'static str,
    /// Variables beside `HOLDFAST_SECTION_FIELD` that set it, most specific first.
    pub variables: &'static [&'static str],
    /// Whether the variable holds a comma-separated list.
    pub is_list: bool,
}

impl Field {
    /// The variable that sets it by rule.
    pub(crate) fn variable(&self) -> String {
        format!("HOLDFAST_{}_{}", self.section, self.name).replace('.', "_").to_uppercase()
    }
}

/// Declares one section: its struct, its defaults, and the table that the environment and `docs/config.md` use.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident, $section:literal {
            $(
                $(#[doc = $doc:literal])+
                $([$($variable:literal),+])?
                $field:ident : $type:ty = $default:expr;
            )+
        }
        // Tables of their own inside the section, which no variable sets as a whole.
        $(with { $( $(#[doc = $inner_doc:literal])+ $inner:ident : $inner_type:ty; )+ })?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            $($( $(#[doc = $inner_doc])+ pub $inner: $inner_type, )+)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ $($($inner: Default::default(),)+)? }
            }
        }

        impl $name {
            /// What the section is for.
            pub const ABOUT: &'static str = concat!($($about, "\n"),+);
            /// Its settings, in order.
            pub const FIELDS: &'static [$crate::config::Field] = &[
                $($crate::config::Field {
                    section: $section,
                    name: stringify!($field),
                    doc: concat!($($doc, "\n"),+),
                    variables: &[$($($variable),+)?],
                    is_list: $crate::config::is_list(stringify!($type)),
                },)+
            ];
        }
    };
}
pub(crate) use section;

/// Whether a field's type, as written, is a list.
pub(crate) const fn is_list(type_name: &str) -> bool {
    let bytes = type_name.as_bytes();
    bytes.len() > 3 && bytes[0] == b'V' && bytes[1] == b'e' && bytes[2] == b'c'
}

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where keys, the embedded PostgreSQL and the default storage live. `HOLDFAST_DATA_DIR`.
    pub data_dir: PathBuf,
    pub listen: ListenConfig,
    pub limits: LimitsConfig,
    pub database: DatabaseConfig,
    pub auth: AuthConfig,
    pub backup: BackupConfig,
    pub schedules: SchedulesConfig,
    pub retention: RetentionConfig,
    pub restore: RestoreConfig,
    pub trials: TrialsConfig,
    pub encryption: EncryptionConfig,
    pub seal: SealConfig,
    pub files: FilesConfig,
    pub worker: WorkerConfig,
    pub tools: ToolsConfig,
    pub secrets: SecretsConfig,
    pub outgoing: OutgoingConfig,
    pub notify: NotifyConfig,
    pub smtp: SmtpConfig,
    pub log: LogConfig,
    pub metrics: MetricsConfig,
    pub telemetry: TelemetryConfig,
    /// Storages by name. Without any, one local storage named `local` below the data directory.
    pub storages: BTreeMap<String, StorageConfig>,
}

/// Every section with its heading, in the order of the documentation.
pub(crate) const SECTIONS: &[(&str, &str, &[Field])] = &[
    ("listen", ListenConfig::ABOUT, ListenConfig::FIELDS),
    ("listen.tls", TlsConfig::ABOUT, TlsConfig::FIELDS),
    ("limits", LimitsConfig::ABOUT, LimitsConfig::FIELDS),
    ("database", DatabaseConfig::ABOUT, DatabaseConfig::FIELDS),
    ("auth", AuthConfig::ABOUT, AuthConfig::FIELDS),
    ("auth.claims", ClaimsConfig::ABOUT, ClaimsConfig::FIELDS),
    ("backup", BackupConfig::ABOUT, BackupConfig::FIELDS),
    ("schedules", SchedulesConfig::ABOUT, SchedulesConfig::FIELDS),
    ("retention", RetentionConfig::ABOUT, RetentionConfig::FIELDS),
    ("restore", RestoreConfig::ABOUT, RestoreConfig::FIELDS),
    ("trials", TrialsConfig::ABOUT, TrialsConfig::FIELDS),
    ("encryption", EncryptionConfig::ABOUT, EncryptionConfig::FIELDS),
    ("seal", SealConfig::ABOUT, SealConfig::FIELDS),
    ("files", FilesConfig::ABOUT, FilesConfig::FIELDS),
    ("worker", WorkerConfig::ABOUT, WorkerConfig::FIELDS),
    ("tools", ToolsConfig::ABOUT, ToolsConfig::FIELDS),
    ("secrets", SecretsConfig::ABOUT, SecretsConfig::FIELDS),
    ("outgoing", OutgoingConfig::ABOUT, OutgoingConfig::FIELDS),
    ("notify", NotifyConfig::ABOUT, NotifyConfig::FIELDS),
    ("smtp", SmtpConfig::ABOUT, SmtpConfig::FIELDS),
    ("log", LogConfig::ABOUT, LogConfig::FIELDS),
    ("metrics", MetricsConfig::ABOUT, MetricsConfig::FIELDS),
    ("telemetry", TelemetryConfig::ABOUT, TelemetryConfig::FIELDS),
];
