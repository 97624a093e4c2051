//! The manifest: a small self-describing document stored beside every copy. From manifests alone the catalogue can be
//! rebuilt, and with `docs/recovery.md` and the artifact a person can restore without Holdfast.
//!
//! The head is readable by anyone who reads the storage; the body, which tells about the tenant's tables and roles, is
//! encrypted like the artifact.

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactName, BackupType, Encoding, Fingerprint, Sha256Digest},
    clock::Timestamp,
    ids::{BackupId, ProjectId},
    proof_record::{NOTHING_RECORDED, Proof, ProofLevel, ROWS_NOT_COUNTED},
};

/// The version this code writes. Readers accept every version up to it.
pub const VERSION: u32 = 1;

/// A manifest with its body in the clear: as kept in `backups.manifest` and as used by a restore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub head: Head,
    pub body: Body,
}

/// What anyone who can read the storage may know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Version of this document.
    pub manifest_version: u32,
    /// The program that wrote it, for people.
    pub written_by: String,
    pub backup_id: BackupId,
    pub project_id: ProjectId,
    #[serde(rename = "type")]
    pub backup_type: BackupType,
    pub key: ArtifactName,
    #[serde(flatten)]
    pub encoding: Encoding,
    /// Size and SHA-256 of the artifact as stored.
    pub stored: Fingerprint,
    /// The artifact's parts in order; their concatenation is the artifact.
    pub parts: Vec<Part>,
    pub created_at: Timestamp,
    /// `None`: kept until deleted.
    pub expires_at: Option<Timestamp>,
    /// Whether it holds only a part of its project, and is never restored in place. The body says which part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
}

/// One upload unit of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    #[serde(flatten)]
    pub fingerprint: Fingerprint,
}

/// What is told to holders of the key only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// Size and SHA-256 of the dump before compression and encryption.
    pub content: Fingerprint,
    /// What it holds, under the name of its kind.
    #[serde(flatten)]
    pub holds: Content,
}

impl Body {
    /// What a `database` backup holds; `None` for every other kind.
    pub fn database(&self) -> Option<&DatabaseContent> {
        match &self.holds {
            Content::Database(content) => Some(content),
            Content::Logs(_) | Content::File(_) | Content::Files(_) => None,
        }
    }

    /// What a `storage` backup holds; `None` for every other kind.
    pub fn files(&self) -> Option<&FilesContent> {
        match &self.holds {
            Content::Files(content) => Some(content),
            Content::Database(_) | Content::Logs(_) | Content::File(_) => None,
        }
    }

    /// Rows, for what consists of rows.
    pub fn row_count(&self) -> Option<u64> {
        match &self.holds {
            Content::Database(content) => content.counted_rows(),
            Content::Logs(content) => Some(content.row_count),
            Content::File(_) | Content::Files(_) => None,
        }
    }

    /// `server_version_num` of the server that it was read from.
    pub fn server_version(&self) -> Option<u32> {
        match &self.holds {
            Content::Database(content) => Some(content.server_version),
            Content::Logs(content) => Some(content.server_version),
            Content::File(_) | Content::Files(_) => None,
        }
    }
}

/// What a backup holds. JSON has one member, named like the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "there is one of it for each backup that is read")]
pub enum Content {
    /// What was dumped, as counted in the snapshot that the dump used.
    Database(DatabaseContent),
    /// Lines of a project's log.
    Logs(LogsContent),
    /// A file that another program handed over as it was.
    File(FileContent),
    /// A project's files, as a tar archive.
    Files(FilesContent),
}

/// What a `storage` backup holds. Each file's SHA-256 is in the archive's last member, `.holdfast.sha256`, so that the manifest stays small
/// however many files there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilesContent {
    pub kind: FilesKind,
    /// The root's own counted, in a backup of a directory.
    pub directories: u64,
    pub file_count: u64,
    pub link_count: u64,
    /// Of all files, holes in sparse ones counted.
    pub total_bytes: u64,
    /// Of all files, without holes: what a restore needs on disk.
    pub data_bytes: u64,
    /// SHA-256 over one record for each member, in the archive's order: kind, mode, time, size, SHA-256, name, a link's target.
    pub tree_sha256: Sha256Digest,
    /// Files that were written to while they were read: in the archive as they were read.
    pub changed_while_read: NamedFiles,
    /// Files that went between being listed and being read: not in the archive.
    pub vanished: NamedFiles,
    /// Sockets, pipes and devices, and what cannot be a file's name: not in the archive.
    pub left_out: NamedFiles,
    /// Files with more than one name: in the archive once for each.
    pub hard_linked: NamedFiles,
}

/// Where a backup's files were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesKind {
    Directory,
    /// Below a prefix in a bucket: files have neither permissions nor times of their own.
    Prefix,
}

/// How many files, and the names of the first of them; what is no text in a name is escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFiles {
    pub count: u64,
    pub first: Vec<String>,
}

impl NamedFiles {
    /// Names kept of each kind, so that a manifest stays small.
    const MOST: usize = 100;

    pub fn add(&mut self, name: String) {
        self.count += 1;
        if self.first.len() < Self::MOST {
            self.first.push(name);
        }
    }
}

impl FilesContent {
    /// What a person should know about this backup, if anything.
    pub fn remark(&self) -> Option<String> {
        let told = [
            (&self.changed_while_read, "changed while being read"),
            (&self.vanished, "vanished before being read"),
            (&self.left_out, "left out, being no files"),
        ];
        let told: Vec<String> = told
            .iter()
            .filter_map(|(named, what)| {
                let first = named.first.first()?;
                let more = if named.count > 1 { ", …" } else { "" };
                Some(format!("{} {what} ({first}{more})", named.count))
            })
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// What a `logs` backup holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogsContent {
    /// Rows of `project_logs`, each of which is a line.
    pub row_count: u64,
    /// What was asked for: rows of this instant and later. `None`: from the first one on.
    pub from: Option<Timestamp>,
    /// What was asked for: rows before this instant. `None`: to the last one.
    pub until: Option<Timestamp>,
    /// The first and the last row's `created_at`; `None` without rows.
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    /// `server_version_num` of the server, such as 150020.
    pub server_version: u32,
}

/// A file as it was handed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileContent {
    /// What the program that handed it over calls it.
    pub file_name: String,
}

/// What a `database` backup holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseContent {
    pub scope: DumpScope,
    /// `None`: everything in the scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
    /// `server_version_num` of the server, such as 150020.
    pub server_version: u32,
    /// `server_version_num` of the `pg_dump` that wrote it.
    pub tool_version: u32,
    /// Ordinary and partitioned tables whose definition is in the dump.
    pub table_count: u64,
    /// Sum of the rows of all tables; 0 when they were not counted.
    pub row_count: u64,
    /// The tables whose rows are in the dump. Empty when they were not counted.
    pub tables: Vec<TableRows>,
    /// The sequences that are in the dump.
    pub sequences: Vec<SequenceValue>,
    /// Owners and grants of every object, so that an in-place restore can give them back. Empty for a partial backup, which gets none.
    pub ownership: Vec<ObjectOwnership>,
    /// What the dump needs from outside itself. For a partial backup what its whole scope needs; the tables that were left out, and the
    /// types and functions that only a whole backup holds, are not told here.
    pub requirements: Requirements,
    /// Digests and definitions from the dump's snapshot. `None`: written before there were proofs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

impl DatabaseContent {
    /// How many rows there were; `None` when they were not counted.
    pub fn counted_rows(&self) -> Option<u64> {
        let is_counted = self.proof.as_ref().is_none_or(|proof| proof.level != ProofLevel::Off);
        is_counted.then_some(self.row_count)
    }

    /// What is to be said wherever a restore of it is compared.
    pub fn not_compared(&self) -> Option<String> {
        let off = self.proof.as_ref().filter(|proof| proof.level == ProofLevel::Off)?;
        Some(if off.definition.is_empty() { NOTHING_RECORDED } else { ROWS_NOT_COUNTED }.to_owned())
    }

    /// What a person should know before relying on the dump.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.requirements.warnings();
        let is_whole = self.partial.is_none();
        if is_whole && self.proof.as_ref().is_some_and(|proof| proof.definition_sha256.is_none()) {
            warnings.push("its definitions are too many to be recorded: a restore will not compare them".to_owned());
        }
        warnings
    }
}

/// What a partial backup holds of its scope. Names are as the catalog had them; a partitioned table's partitions are listed with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// These relations with their indexes, constraints, triggers and own sequences, and nothing else: no schema, types or functions.
    /// `None`: everything but what follows.
    pub tables: Option<Vec<TableName>>,
    pub exclude_tables: Vec<TableName>,
    /// Defined, but without their rows.
    pub exclude_table_data: Vec<TableName>,
}

/// A table, view or foreign table by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

/// What was dumped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DumpScope {
    Schema { schema: String },
    Database { database: String },
}

/// Rows of one table; a partitioned table's rows are counted at its partitions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableRows {
    pub schema: String,
    pub table: String,
    pub rows: u64,
}

/// Where a sequence stood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceValue {
    pub schema: String,
    pub sequence: String,
    pub last_value: i64,
    pub is_called: bool,
}

/// Who owns an object and who may do what with it. `kind` and `identity` are as `pg_identify_object` names them with an
/// empty `search_path`; they are looked up in the restored catalog, never pasted into a statement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectOwnership {
    pub kind: String,
    pub identity: String,
    pub owner: String,
    /// `None`: no grants were ever made or revoked, so the server's defaults apply.
    pub grants: Option<Vec<Grant>>,
    /// For what runs code: a digest of that code, so that a restore notices when it was replaced while the dump was loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// One privilege of one role on an object or on one of its columns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// The column, for a privilege on a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// `None` is `PUBLIC`.
    pub grantee: Option<String>,
    pub grantor: String,
    /// As `aclexplode` names it: `SELECT`, `USAGE`, …
    pub privilege: String,
    pub grantable: bool,
}

/// What a schema's dump needs from outside itself to be restored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requirements {
    /// Extensions whose objects it uses: name, version, schema.
    pub extensions: Vec<ExtensionRequirement>,
    /// Roles that own, are granted, or appear in policies.
    pub roles: Vec<String>,
    /// Objects in other schemas that it refers to.
    pub objects: Vec<OutsideObject>,
    /// What the dump cannot bring back by a restricted role, named for people (event triggers, publications, …).
    pub not_restorable: Vec<String>,
}

impl Requirements {
    /// What a person should know before relying on the dump: what it cannot be restored without, and what it does not bring back.
    pub fn warnings(&self) -> Vec<String> {
        let listed = |what: &str, names: Vec<String>| {
            let more = if names.len() > MOST_NAMED {
                format!(" and {} more", names.len() - MOST_NAMED)
            } else {
                String::new()
            };
            let first = names.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            (!names.is_empty()).then(|| format!("{what}: {first}{more}"))
        };
        let outside = self.objects.iter().map(|object| format!("{} {}", object.kind, object.identity)).collect();
        [
            listed("the schema cannot be restored alone, it refers to", outside),
            listed("a restore does not bring back, or only by a superuser", self.not_restorable.clone()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Names in one warning; the rest are counted.
const MOST_NAMED: usize = 10;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExtensionRequirement {
    pub name: String,
    pub version: String,
    pub schema: String,
}

/// An object outside the dumped schema that something inside depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OutsideObject {
    pub kind: String,
    pub identity: String,
    pub schema: String,
    /// The object's own name, for relations.
    pub name: Option<String>,
}
