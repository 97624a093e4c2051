//! What an artifact is made of and what it is called: format, compression, encryption, digests and the storage key.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    clock::Timestamp,
    ids::{BackupId, ProjectId},
};

/// A closed set of words: one text for `Display`, `FromStr`, JSON and the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        // Not derived: the derive does not see a word through a macro's literal, and would document the variants' names.
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($word),+]))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::artifact::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::artifact::UnknownWord {
                        what: $what,
                        given: text.chars().take(60).collect(),
                        known: &[$($word),+],
                    }),
                }
            }
        }
    };
}
pub(crate) use words;

/// A word that is not in its set.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} {given:?}: use one of {}", known.join(", "))]
pub struct UnknownWord {
    pub what: &'static str,
    pub given: String,
    pub known: &'static [&'static str],
}

words! {
    /// What a backup holds.
    BackupType, "backup type" {
        /// A project's schema or whole database, by `pg_dump`.
        Database = "database",
        /// A project's files.
        Storage = "storage",
        /// A project's rows of `project_logs`.
        Logs = "logs",
    }
}

words! {
    /// The form of the content. `sql`, `tar` and `custom` are `pg_dump`'s, `json` and `text` are those of log lines.
    Format, "format" {
        /// Plain SQL text, for `psql`.
        Sql = "sql",
        /// A tar archive, for `pg_restore`.
        Tar = "tar",
        /// PostgreSQL's custom archive, for `pg_restore`; compressed by `pg_dump` itself.
        Custom = "custom",
        /// Log lines as JSON, one object a line.
        Json = "json",
        /// Log lines as text, fields separated by tabs.
        Text = "text",
    }
}

words! {
    /// The formats of a database alone: what a request for one may say.
    DumpFormat, "format" {
        Sql = "sql",
        Tar = "tar",
        Custom = "custom",
    }
}

impl From<DumpFormat> for Format {
    fn from(format: DumpFormat) -> Self {
        match format {
            DumpFormat::Sql => Self::Sql,
            DumpFormat::Tar => Self::Tar,
            DumpFormat::Custom => Self::Custom,
        }
    }
}

impl Format {
    /// Those in which a database is dumped.
    pub const DUMPS: &'static [Self] = &[Self::Sql, Self::Tar, Self::Custom];
}

words! {
    /// How the dump is compressed on its way to storage.
    Compression, "compression" {
        None = "none",
        /// For `gunzip`.
        Gzip = "gzip",
        /// For `zstd -d`; the quickest here.
        Zstd = "zstd",
    }
}

words! {
    /// How the artifact is encrypted.
    Encryption, "encryption" {
        None = "none",
        /// The age v1 format, for `age -d -i KEY`.
        Age = "age",
    }
}

/// Everything that decides how the content's bytes become the stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Encoding {
    /// `None`: not a dump, but a file as another program handed it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    pub compression: Compression,
    pub encryption: Encryption,
}

impl Encoding {
    /// The file's extension: `sql`, `sql.gz`, `tar.zst.age`, `dump.age`, `jsonl.gz`, … A file that is no dump has its own before it: `age`.
    pub fn extension(&self) -> String {
        let format = self.format.map(|format| match format {
            Format::Sql => "sql",
            Format::Tar => "tar",
            Format::Custom => "dump",
            Format::Json => "jsonl",
            Format::Text => "txt",
        });
        let compression = match self.compression {
            Compression::None => None,
            Compression::Gzip => Some("gz"),
            Compression::Zstd => Some("zst"),
        };
        let encryption = match self.encryption {
            Encryption::None => None,
            Encryption::Age => Some("age"),
        };
        [format, compression, encryption].into_iter().flatten().collect::<Vec<_>>().join(".")
    }

    /// What an artifact of this name is called when it is decoded: without the extensions of what is undone.
    pub fn decoded_name(&self, name: &str) -> String {
        let plain = Self { compression: Compression::None, encryption: Encryption::None, ..*self };
        match name.strip_suffix(&format!(".{}", self.extension())) {
            None => format!("{name}.plain"),
            // No dump, but a file that has its own extension.
            Some(stem) if plain.extension().is_empty() => stem.to_owned(),
            Some(stem) => format!("{stem}.{}", plain.extension()),
        }
    }
}

/// The final storage key of an artifact: `/`-separated components, none of them empty, `.` or `..`, no control
/// characters. Fixed when the job is enqueued, so that a job that runs twice writes to one place.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct ArtifactName(String);

/// Why a text is not an [`ArtifactName`].
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error(
    "storage key {0:?} is not valid: components must not be empty, '.' or '..' or hold control characters, '\\' or ':'; at most 1024 bytes"
)]
pub struct InvalidArtifactName(String);

impl ArtifactName {
    /// `backups/{project_id}/backup-{YYYY-MM-DD-HHMMSS}-{short id}.{ext}`, in UTC.
    pub fn of_backup(project: &ProjectId, backup: BackupId, created: Timestamp, encoding: &Encoding) -> Self {
        let time = created.format("%Y-%m-%d-%H%M%S");
        Self(format!("backups/{project}/backup-{time}-{}.{}", backup.short(), encoding.extension()))
    }

    /// `backups/backup-{YYYY-MM-DD-HHMMSS}.{ext}`, in UTC: of the default project. It does not carry the backup's id, so another backup may
    /// have it.
    pub fn plain(created: Timestamp, encoding: &Encoding) -> Self {
        Self(format!("backups/backup-{}.{}", created.format("%Y-%m-%d-%H%M%S"), encoding.extension()))
    }

    /// The same name with the backup's id before its extension.
    #[must_use]
    pub fn with_id(&self, backup: BackupId, encoding: &Encoding) -> Self {
        let end = format!(".{}", encoding.extension());
        match self.0.strip_suffix(&end) {
            Some(stem) => Self(format!("{stem}-{}{end}", backup.short())),
            None => Self(format!("{}-{}", self.0, backup.short())),
        }
    }

    /// Whether the name carries this backup's id, so that no other backup can have it.
    pub fn is_only_of(&self, backup: BackupId) -> bool {
        self.file_name().contains(&backup.short())
    }

    /// The key of the manifest that lies beside this artifact.
    pub fn manifest(&self) -> Self {
        Self(format!("{}{MANIFEST_SUFFIX}", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// What a manifest's key ends with.
pub const MANIFEST_SUFFIX: &str = ".manifest.json";

impl FromStr for ArtifactName {
    type Err = InvalidArtifactName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let component_is_safe = |c: &str| {
            !c.is_empty()
                && c != "."
                && c != ".."
                && c.len() <= 255
                && !c.contains(['\\', ':'])
                && !c.chars().any(char::is_control)
        };
        if text.len() <= 1024 && text.split('/').all(component_is_safe) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidArtifactName(text.chars().take(120).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for ArtifactName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256, written as 64 lower-case hexadecimal digits, as `sha256sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("not a SHA-256: expected 64 hexadecimal digits")]
pub struct InvalidSha256;

impl FromStr for Sha256Digest {
    type Err = InvalidSha256;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0u8; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(InvalidSha256);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidSha256)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidSha256)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Size and SHA-256 of a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fingerprint {
    pub bytes: u64,
    pub sha256: Sha256Digest,
}

impl Fingerprint {
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: Sha256Digest::of(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_name_every_transform_in_order() {
        let encoding = |format, compression, encryption| Encoding { format, compression, encryption }.extension();
        assert_eq!(encoding(Some(Format::Sql), Compression::Gzip, Encryption::None), "sql.gz");
        assert_eq!(encoding(Some(Format::Tar), Compression::Zstd, Encryption::Age), "tar.zst.age");
        assert_eq!(encoding(Some(Format::Custom), Compression::None, Encryption::Age), "dump.age");
        assert_eq!(encoding(Some(Format::Json), Compression::Gzip, Encryption::None), "jsonl.gz");
        assert_eq!(encoding(Some(Format::Text), Compression::Zstd, Encryption::Age), "txt.zst.age");
        assert_eq!(encoding(None, Compression::None, Encryption::Age), "age");
        assert_eq!(encoding(None, Compression::None, Encryption::None), "");
    }

    #[test]
    fn keys_that_leave_their_directory_are_refused() {
        for bad in ["", "/a", "a//b", "a/../b", "..", "a/.", "a\nb", "a\\b", "c:d", &"x".repeat(300)] {
            assert!(bad.parse::<ArtifactName>().is_err(), "{bad:?}");
        }
        assert!("backups/acme/backup-2026-11-21-020000-0123456789ab.sql.gz".parse::<ArtifactName>().is_ok());
    }

    #[test]
    fn a_plain_name_gets_the_id_before_its_extension() {
        let encoding =
            Encoding { format: Some(Format::Sql), compression: Compression::Gzip, encryption: Encryption::Age };
        let id = "0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa".parse().unwrap();
        let plain = ArtifactName::plain("2026-11-21T02:00:00Z".parse().unwrap(), &encoding);
        assert_eq!(plain.as_str(), "backups/backup-2026-11-21-020000.sql.gz.age");
        assert!(!plain.is_only_of(id));
        let own = plain.with_id(id, &encoding);
        assert_eq!(own.as_str(), "backups/backup-2026-11-21-020000-2a52b6f0e7aa.sql.gz.age");
        assert!(own.is_only_of(id));
    }

    #[test]
    fn digests_are_written_as_sha256sum_writes_them() {
        let digest = Sha256Digest::of(b"abc");
        assert_eq!(digest.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().parse::<Sha256Digest>().unwrap(), digest);
        assert!("ab".parse::<Sha256Digest>().is_err());
    }

    #[test]
    fn words_round_trip_and_unknown_ones_name_the_known() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse::<Format>().unwrap(), *format);
        }
        assert_eq!(
            "zip".parse::<Format>().unwrap_err().to_string(),
            "unknown format \"zip\": use one of sql, tar, custom, json, text"
        );
    }
}
