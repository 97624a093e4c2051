//! Reading the audit trail: everything that was done or refused, newest first, within a caller's reach.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::HistoryError;
use crate::{db, tenant::Scope};

/// One entry of the audit trail.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    pub id: i64,
    pub at: DateTime<Utc>,
    /// What was done or asked for: `requested`, `restored`, `downloaded`, `logged_in`, `user_added`, …; `refused` for calls that have no
    /// word of their own, and `refusals` for many that were counted together.
    pub event: String,
    /// Who: a token's subject, `user:…`, `key:…`, `cli:…`, `system:…`, or `nobody`.
    pub actor: String,
    pub address: Option<String>,
    /// `ok`, `refused` or `failed`.
    pub outcome: String,
    pub project_id: Option<String>,
    /// For what is about no project: whose organisation.
    pub organization_id: Option<String>,
    pub backup_id: Option<Uuid>,
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// Its place in the chain. `null` for a moment, until it is linked.
    pub sequence: Option<i64>,
    /// Its digest in the chain, in hexadecimal digits.
    pub digest: Option<String>,
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    pub project_id: Option<String>,
    pub backup_id: Option<Uuid>,
    pub actor: Option<String>,
    pub event: Option<String>,
    pub outcome: Option<String>,
    /// At this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Before this time.
    pub until: Option<DateTime<Utc>>,
    /// Entries that come after this one in the list.
    pub before: Option<(DateTime<Utc>, i64)>,
    pub limit: i64,
}

/// The entries within reach, newest first: of projects, and, for organisations, also of their people. A row that a deletion has moved into
/// its entry is told without the manifest, which can be large.
pub async fn audit_entries(
    pool: &PgPool,
    scope: &Scope,
    filter: &AuditFilter,
) -> Result<Vec<AuditEntry>, HistoryError> {
    // Asked for first, so that each filter is answered from an index of its own.
    let project_ids = match scope.organization_id() {
        Some(organization) => Some(
            sqlx::query_scalar!("SELECT id FROM control_plane.projects WHERE organization_id = $1", organization)
                .fetch_all(pool)
                .await?,
        ),
        None => scope.project_ids().map(<[String]>::to_vec),
    };
    let (before_at, before_id) = filter.before.unzip();
    let mut transaction = db::begin(pool).await?;
    // Planned for these filters, each time: a plan for any filter would read the whole trail for a rare one.
    sqlx::query!("SET LOCAL plan_cache_mode = force_custom_plan").execute(&mut *transaction).await?;
    let mut entries = sqlx::query_as!(
        AuditEntry,
        r#"SELECT id, at, event, actor, address, outcome, project_id, organization_id, backup_id,
                detail #- '{backup,manifest}' AS "detail!", sequence, encode(digest, 'hex') AS digest
           FROM control_plane.backup_history
           WHERE ($1::text[] IS NULL OR project_id = ANY($1) OR (project_id IS NULL AND organization_id = $2))
             AND ($3::text IS NULL OR project_id = $3)
             AND ($4::uuid IS NULL OR backup_id = $4)
             AND ($5::text IS NULL OR actor = $5)
             AND ($6::text IS NULL OR event = $6)
             AND ($7::text IS NULL OR outcome = $7)
             AND ($8::timestamptz IS NULL OR at >= $8)
             AND ($9::timestamptz IS NULL OR at < $9)
             AND ($10::timestamptz IS NULL OR (at, id) < ($10, $11))
           ORDER BY at DESC, id DESC LIMIT $12"#,
        project_ids.as_deref(),
        scope.organization_id(),
        filter.project_id,
        filter.backup_id,
        filter.actor,
        filter.event,
        filter.outcome,
        filter.since,
        filter.until,
        before_at,
        before_id,
        filter.limit,
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    if let (Some(_), Some(own)) = (scope.organization_id(), &project_ids) {
        entries.iter_mut().for_each(|entry| keep_own(&mut entry.detail, own));
    }
    Ok(entries)
}

/// Leaves out projects of others: a user of the organisation, and a key of such a user, may reach more than it.
fn keep_own(detail: &mut serde_json::Value, own: &[String]) {
    if let Some(serde_json::Value::Array(named)) = detail.get_mut("project_ids") {
        named.retain(|id| id.as_str().is_some_and(|id| own.iter().any(|project| project == id)));
    }
}
