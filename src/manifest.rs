//! The manifest: a small self-describing document stored beside every copy. From manifests alone the catalogue can be
//! rebuilt, and with `docs/recovery.md` and the artifact a person can restore without Holdfast.
//!
//! The head is readable by anyone who reads the storage; the body, which tells about the tenant's tables and roles, is
//! encrypted like the artifact.

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactName, BackupType, Encoding, Fingerprint},
    clock::Timestamp,
    ids::{BackupId, ProjectId},
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
            Content::File(_) => None,
        }
    }
}

/// What a backup holds. JSON has one member, named like the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// What was dumped, as counted in the snapshot that the dump used.
    Database(DatabaseContent),
    /// A file that another program handed over as it was.
    File(FileContent),
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
    /// `server_version_num` of the server, such as 150020.
    pub server_version: u32,
    /// `server_version_num` of the `pg_dump` that wrote it.
    pub tool_version: u32,
    /// Ordinary and partitioned tables.
    pub table_count: u64,
    /// Sum of the rows of all tables.
    pub row_count: u64,
    pub tables: Vec<TableRows>,
    pub sequences: Vec<SequenceValue>,
    /// Owners and grants of every object, so that an in-place restore can give them back.
    pub ownership: Vec<ObjectOwnership>,
    /// What the dump needs from outside itself.
    pub requirements: Requirements,
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
