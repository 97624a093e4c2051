//! What of a project can be changed, and projects page by page.

use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{PgExecutor, PgPool};

use super::{FileSource, ManageError, Managed, Project, ProjectScope};
use crate::{byte_size::ByteSize, config::LEAST_RATE, ids::ProjectId, proof_record::ProofLevel, tenant::Scope};

/// What a project says about its backups in the place of the configuration. Kept in `settings`, where a platform may keep things of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectSettings {
    /// The storages that take its backups. Empty: those of the configuration's choice.
    pub storages: Vec<String>,
    /// How many days its backups are kept. None: as configured.
    pub retention_days: Option<u32>,
    /// How much is proved when its database is dumped. None: as configured.
    pub proof: Option<ProofLevel>,
    /// Largest rate of all uploads of its backups together, in bytes a second. None: as fast as the storages take them.
    pub max_rate: Option<ByteSize>,
}

impl ProjectSettings {
    /// What `settings` of a project say. What a platform has put there in another shape says nothing.
    pub fn of(settings: &Value) -> Self {
        let names = settings.get("storages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let rate = settings.get("max_rate").and_then(|rate| ByteSize::deserialize(rate).ok());
        let days = settings.get("retention_days").and_then(Value::as_u64).and_then(|days| u32::try_from(days).ok());
        Self {
            storages: names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
            retention_days: days.filter(|days| (1..=MAX_RETENTION_DAYS).contains(days)),
            proof: settings.get("proof").and_then(Value::as_str).and_then(|word| word.parse().ok()),
            max_rate: rate.filter(|rate| *rate >= LEAST_RATE),
        }
    }
}

/// Longest that a project's backups can be kept, in days, as in the configuration.
pub const MAX_RETENTION_DAYS: u32 = 36_500;

impl Project {
    /// What the project says about its backups.
    pub fn own_settings(&self) -> ProjectSettings {
        ProjectSettings::of(&self.settings)
    }
}

/// What is to be different. `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ProjectChanges {
    pub name: Option<String>,
    pub status: Option<String>,
    pub organization_id: Option<Option<String>>,
    pub scope: Option<ProjectScope>,
    /// The inner `None` is the control plane's own database.
    pub database_name: Option<Option<String>>,
    /// Empty: those of the configuration's choice.
    pub storages: Option<Vec<String>>,
    pub retention_days: Option<Option<u32>>,
    /// Where its files are; the inner `None`: it has none. Written by `jobs::request::put_files`.
    pub files: Option<Option<FileSource>>,
    /// The inner `None`: as configured.
    pub proof: Option<Option<ProofLevel>>,
    /// The inner `None`: as fast as the storages take its backups.
    pub max_rate: Option<Option<ByteSize>>,
}

/// Holds a project within reach until the transaction ends.
pub async fn lock_project(executor: impl PgExecutor<'_>, scope: &Scope, id: &str) -> Result<Project, ManageError> {
    sqlx::query_as!(
        Project,
        "SELECT id, name, slug, organization_id, status, backup_scope, schema_name, database_name, settings, files, created_at
         FROM control_plane.projects
         WHERE id = $1 AND ($2::text[] IS NULL OR id = ANY($2)) AND ($3::text IS NULL OR organization_id = $3) FOR UPDATE",
        id,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| ManageError::not_found(Managed::Project, id))
}

/// Changes a project that was reached in this transaction.
pub async fn change_project(
    executor: impl PgExecutor<'_>,
    project: &Project,
    changes: &ProjectChanges,
) -> Result<Project, ManageError> {
    let (scope, schema) = match &changes.scope {
        None => (None, None),
        Some(ProjectScope::Schema(schema)) => (Some("schema"), Some(schema.as_str())),
        Some(ProjectScope::WholeDatabase) => (Some("database"), None),
    };
    let mut settings = project.settings.clone();
    let is_set = changes.storages.is_some()
        || changes.retention_days.is_some()
        || changes.proof.is_some()
        || changes.max_rate.is_some();
    if !settings.is_object() && is_set {
        settings = json!({});
    }
    if let Some(object) = settings.as_object_mut() {
        match &changes.storages {
            Some(names) if names.is_empty() => drop(object.remove("storages")),
            Some(names) => drop(object.insert("storages".to_owned(), json!(names))),
            None => {}
        }
        match changes.retention_days {
            Some(None) => drop(object.remove("retention_days")),
            Some(Some(days)) => drop(object.insert("retention_days".to_owned(), json!(days))),
            None => {}
        }
        match changes.proof {
            Some(None) => drop(object.remove("proof")),
            Some(Some(level)) => drop(object.insert("proof".to_owned(), json!(level))),
            None => {}
        }
        match changes.max_rate {
            Some(None) => drop(object.remove("max_rate")),
            Some(Some(rate)) => drop(object.insert("max_rate".to_owned(), json!(rate.exact()))),
            None => {}
        }
    }
    Ok(sqlx::query_as!(
        Project,
        "UPDATE control_plane.projects SET name = coalesce($2, name), status = coalesce($3, status),
             organization_id = CASE WHEN $4 THEN $5 ELSE organization_id END,
             backup_scope = coalesce($6, backup_scope), schema_name = CASE WHEN $6::text IS NULL THEN schema_name ELSE $7 END,
             database_name = CASE WHEN $8 THEN $9 ELSE database_name END, settings = $10, updated_at = now()
         WHERE id = $1
         RETURNING id, name, slug, organization_id, status, backup_scope, schema_name, database_name, settings, files, created_at",
        project.id,
        changes.name,
        changes.status,
        changes.organization_id.is_some(),
        changes.organization_id.clone().flatten(),
        scope,
        schema,
        changes.database_name.is_some(),
        changes.database_name.clone().flatten(),
        settings,
    )
    .fetch_one(executor)
    .await?)
}

/// Until the transaction ends nobody else chooses what a project backs up: of two who want the same schema, one finds it taken.
pub async fn one_source_at_a_time(executor: impl PgExecutor<'_>) -> Result<(), ManageError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('holdfast project sources', 0))::text AS locked")
        .fetch_one(executor)
        .await?;
    Ok(())
}

/// What stands in the way of moving a project to another schema or database: jobs that have it in hand, and restores that have replaced
/// schemas which an undo would put back, or have not been put right yet.
pub async fn project_hold(executor: impl PgExecutor<'_>, id: &ProjectId) -> Result<(i64, i64), ManageError> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM control_plane.jobs
                 WHERE project_id = $1 AND status IN ('pending', 'in_progress')) AS "jobs!",
                (SELECT count(*) FROM control_plane.restores WHERE project_id = $1
                   AND (kept_schema IS NOT NULL OR state = 'running')) AS "kept!""#,
        id.as_str(),
    )
    .fetch_one(executor)
    .await?;
    Ok((row.jobs, row.kept))
}

/// Which projects are wanted.
#[derive(Clone, Debug, Default)]
pub struct ProjectFilter {
    pub status: Option<String>,
    pub organization_id: Option<String>,
    pub database_name: Option<String>,
    /// The id of the last one of the page before.
    pub after: Option<String>,
}

/// Projects within reach, by id.
pub async fn project_page(
    pool: &PgPool,
    scope: &Scope,
    filter: &ProjectFilter,
    limit: i64,
) -> Result<Vec<Project>, ManageError> {
    Ok(sqlx::query_as!(
        Project,
        "SELECT id, name, slug, organization_id, status, backup_scope, schema_name, database_name, settings, files, created_at
         FROM control_plane.projects
         WHERE ($1::text[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR organization_id = $2)
           AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR organization_id = $4)
           AND ($5::text IS NULL OR database_name = $5) AND ($6::text IS NULL OR id > $6)
         ORDER BY id LIMIT $7",
        scope.project_ids(),
        scope.organization_id(),
        filter.status,
        filter.organization_id,
        filter.database_name,
        filter.after,
        limit,
    )
    .fetch_all(pool)
    .await?)
}
