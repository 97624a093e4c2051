//! Rows that are written again from what a storage holds: the manifest is the record. A row that is there is never overwritten.

use sqlx::{PgConnection, PgExecutor};

use super::HistoryError;
use crate::{
    artifact::Format,
    history::CopyStatus,
    ids::BackupId,
    manifest::{Body, Head},
    storage::Locator,
};

/// What the control plane says of a backup whose manifest was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub project_id: String,
    pub status: String,
    /// Of the stored bytes.
    pub sha256: Option<String>,
    /// Whether the body of the manifest, which a restore needs, is in the row.
    pub has_manifest: bool,
}

/// The row of a backup, held until the transaction ends. `None`: it has none, and none is being deleted either.
pub async fn recorded(connection: &mut PgConnection, id: BackupId) -> Result<Option<Recorded>, HistoryError> {
    Ok(sqlx::query_as!(
        Recorded,
        r#"SELECT project_id, status, sha256, manifest IS NOT NULL AS "has_manifest!" FROM control_plane.backups WHERE id = $1
           FOR UPDATE"#,
        id.0
    )
    .fetch_optional(connection)
    .await?)
}

/// Writes the row of a backup as its manifest's head tells it: `completed`, or `damaged` when its artifact is not as recorded. What the body
/// tells comes by [`fill_in`].
pub async fn adopt(
    connection: &mut PgConnection,
    head: &Head,
    storage: &str,
    is_good: bool,
    message: &str,
) -> Result<(), HistoryError> {
    sqlx::query!(
        "INSERT INTO control_plane.backups (id, project_id, type, status, file_id, file_name, format, compression, encryption, size, sha256,
             storage, created_at, expires_at, message, is_partial)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        head.backup_id.0,
        head.project_id.as_str(),
        head.backup_type.as_str(),
        if is_good { "completed" } else { "damaged" },
        head.key.as_str(),
        head.key.file_name(),
        head.encoding.format.map(Format::as_str),
        head.encoding.compression.as_str(),
        head.encoding.encryption.as_str(),
        head.stored.bytes as i64,
        head.stored.sha256.to_string(),
        storage,
        head.created_at,
        head.expires_at,
        message,
        head.is_partial,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds what the manifest's body tells to a row that does not have it yet.
pub async fn fill_in(executor: impl PgExecutor<'_>, head: &Head, body: &Body) -> Result<(), HistoryError> {
    let manifest = serde_json::json!({ "head": head, "body": body });
    let database = body.database();
    sqlx::query!(
        "UPDATE control_plane.backups
         SET manifest = $2, content_size = $3, content_sha256 = $4, table_count = $5, row_count = $6, pg_version = $7,
             is_partial = is_partial OR $8
         WHERE id = $1 AND manifest IS NULL",
        head.backup_id.0,
        manifest,
        body.content.bytes as i64,
        body.content.sha256.to_string(),
        database.map(|content| content.table_count as i64),
        body.row_count().map(|rows| rows as i64),
        body.server_version().map(|version| format!("{}.{}", version / 10_000, version % 10_000)),
        // The body cannot be changed without the key.
        head.is_partial || database.is_some_and(|content| content.partial.is_some()),
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// A copy as it was found in a storage.
#[derive(Clone, Debug)]
pub struct FoundCopy<'a> {
    pub storage: &'a str,
    pub artifact: Option<&'a Locator>,
    pub manifest: &'a Locator,
    /// What is wrong with it. `None`: it has as many bytes as were recorded.
    pub fault: Option<&'a str>,
}

/// Writes a copy's row unless there is one; says whether it did. A damaged backup that gets a good copy is a good backup again.
pub async fn add_copy(
    connection: &mut PgConnection,
    id: BackupId,
    found: &FoundCopy<'_>,
) -> Result<bool, HistoryError> {
    let json = |locator: &Locator| serde_json::to_value(locator).map_err(|e| sqlx::Error::Encode(e.into()));
    let status = if found.fault.is_some() { CopyStatus::Damaged } else { CopyStatus::Good };
    let added = sqlx::query!(
        "INSERT INTO control_plane.backup_copies (backup_id, storage, status, locator, manifest_locator, message, checked_at)
         VALUES ($1, $2, $3, $4, $5, $6, now()) ON CONFLICT (backup_id, storage) DO NOTHING",
        id.0,
        found.storage,
        status.as_str(),
        found.artifact.map(json).transpose()?,
        json(found.manifest)?,
        found.fault,
    )
    .execute(&mut *connection)
    .await?
    .rows_affected()
        == 1;
    if added && found.fault.is_none() {
        sqlx::query!(
            "UPDATE control_plane.backups SET status = 'completed' WHERE id = $1 AND status = 'damaged'",
            id.0
        )
        .execute(connection)
        .await?;
    }
    Ok(added)
}

/// Asks for as many good copies of a backup that was written down again as it has copies on record, at most `most`, and never for fewer than
/// before. What a job asked for when it took the backup stays.
pub async fn require_found_copies(executor: impl PgExecutor<'_>, id: BackupId, most: i32) -> Result<(), HistoryError> {
    sqlx::query!(
        "UPDATE control_plane.backups b
         SET required_copies = greatest(b.required_copies, least($2, (SELECT count(*)::int FROM control_plane.backup_copies c
                                                                       WHERE c.backup_id = b.id)))
         WHERE b.id = $1 AND b.job_id IS NULL",
        id.0,
        most,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// What a storage holds, as the control plane knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub storage: String,
    pub good_copies: i64,
    /// Their stored bytes.
    pub good_bytes: i64,
    /// Copies that are not good: failed, damaged, pending or being deleted.
    pub other_copies: i64,
}

/// What every storage holds that some copy names, also one that is no longer configured. For operators.
pub async fn holdings(executor: impl PgExecutor<'_>) -> Result<Vec<Holding>, HistoryError> {
    Ok(sqlx::query_as!(
        Holding,
        r#"SELECT c.storage, count(*) FILTER (WHERE c.status = 'good') AS "good_copies!",
                  coalesce(sum(b.size) FILTER (WHERE c.status = 'good'), 0)::bigint AS "good_bytes!",
                  count(*) FILTER (WHERE c.status <> 'good') AS "other_copies!"
           FROM control_plane.backup_copies c JOIN control_plane.backups b ON b.id = c.backup_id
           GROUP BY c.storage ORDER BY c.storage"#
    )
    .fetch_all(executor)
    .await?)
}
