//! Asking for a restore: in place, into another database, under another name, or of single tables.

use serde::{Deserialize, Serialize};

use super::{RequestError, asked_before, enqueue_for, new_job, require, require_manifest, storage, to_json};
use crate::{
    app::App,
    artifact::{BackupType, Format},
    catalog::{self, Project, ProjectScope},
    history::{self, Backup, BackupStatus},
    ids::{BackupId, CONTROL_PLANE_PROJECT},
    jobs::{
        JobType,
        queue::{Job, NewJob},
    },
    tenant::{Caller, Permission, Role},
};

/// What the job of a restore carries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestorePayload {
    pub request: RestoreRequest,
    pub backup_id: BackupId,
}

/// A restore as it is asked for. Without any target it is in place; of a whole-database project, into a new database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    pub backup_id: BackupId,
    /// Another database. Of a whole-database project a new one; left out, a name is made.
    pub target_database: Option<String>,
    /// The name of a database in the control plane: its server is restored to instead of the project's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_server: Option<String>,
    /// The name that the schema gets there: a copy, which replaces nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_schema: Option<String>,
    /// Make `target_database`, which must not be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create_database: bool,
    /// Only these tables, into a schema of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Replace the schema even when objects outside it go on referring to what is replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_detached_references: bool,
}

impl RestoreRequest {
    /// To where the backup was taken.
    pub fn in_place(backup_id: BackupId) -> Self {
        Self {
            backup_id,
            target_database: None,
            target_server: None,
            target_schema: None,
            create_database: false,
            tables: Vec::new(),
            allow_detached_references: false,
        }
    }
}

/// Asks for a restore of a good backup.
pub async fn restore(
    app: &App,
    caller: &Caller,
    request: &RestoreRequest,
    idempotency_key: Option<&str>,
) -> Result<Job, RequestError> {
    require(caller, Permission::Write)?;
    if let Some(job) = asked_before(app, caller, idempotency_key, JobType::RestoreBackup, request).await? {
        return Ok(job);
    }
    let backup = restorable(app, caller, request.backup_id).await?;
    let project = catalog::project(&app.pool, &caller.scope(), &backup.project_id).await?;
    project.require_settled()?;
    if backup.r#type == BackupType::Storage.as_str() {
        storage::require_files(app, &project).await?;
        let in_place = RestoreRequest {
            allow_detached_references: request.allow_detached_references,
            ..RestoreRequest::in_place(request.backup_id)
        };
        if *request != in_place {
            return Err(bad_target("files are restored to where the project has them, and nowhere else"));
        }
    } else {
        check_target(app, caller, &project, &backup, request).await?;
    }
    let payload = RestorePayload { request: request.clone(), backup_id: request.backup_id };
    let new = new_job(app, caller, JobType::RestoreBackup, &backup.project_id, to_json(&payload)?, idempotency_key);
    enqueue_for(app, caller, new, Some(request.backup_id), &backup.project_id, "restore_requested").await
}

fn bad_target(message: impl Into<String>) -> RequestError {
    RequestError::invalid("request.target", message)
}

/// Refuses a target that cannot be meant, and one that is another tenant's for all that the caller can know.
async fn check_target(
    app: &App,
    caller: &Caller,
    project: &Project,
    backup: &Backup,
    request: &RestoreRequest,
) -> Result<(), RequestError> {
    let is_whole = project.scope() == ProjectScope::WholeDatabase;
    if is_whole && (request.target_schema.is_some() || !request.tables.is_empty()) {
        return Err(bad_target("a whole-database project is restored whole, into a new database"));
    }
    if request.create_database && request.target_database.is_none() {
        return Err(bad_target("target.create makes the database that target.database names"));
    }
    // Whatever is beside the project's own data may be another tenant's.
    let leaves_home = request.target_server.is_some()
        || request.target_schema.is_some()
        || (request.target_database.is_some() && !is_whole);
    if leaves_home && caller.role != Role::Operator {
        return Err(RequestError::Invalid {
            code: "restore.target_operator",
            message: "another server, database or schema is restored to by operators".to_owned(),
            hint: Some("Restore in place, or single tables beside it.".to_owned()),
        });
    }
    if let Some(server) = &request.target_server {
        catalog::database_url(&app.pool, server)
            .await
            .map_err(|_| bad_target(format!("target.server: there is no database {server:?}")))?;
    }
    if let Some(schema) = &request.target_schema {
        if let Some(fault) = catalog::schema_name_fault(schema) {
            return Err(bad_target(format!("target.schema: {fault}")));
        }
        let database = request.target_server.as_deref().or(project.database_name.as_deref());
        if request.target_database.is_none()
            && let Some(owner) = catalog::schema_is_taken(&app.pool, database, schema).await?
        {
            return Err(bad_target(format!("target.schema: {schema:?} is project {owner:?}'s")));
        }
    }
    check_tables(backup, request)
}

fn check_tables(backup: &Backup, request: &RestoreRequest) -> Result<(), RequestError> {
    if request.tables.is_empty() {
        return Ok(());
    }
    if request.target_schema.is_some() || request.create_database {
        return Err(bad_target("single tables come into a schema of their own in a database that is there"));
    }
    let can_pick = [Format::Custom, Format::Tar].iter().any(|format| backup.format.as_deref() == Some(format.as_str()));
    if !can_pick {
        return Err(RequestError::Invalid {
            code: "request.target",
            message: format!("target.tables: backup {} is one text, of which no part is restored", backup.id),
            hint: Some(
                "Restore it under another name with target.schema, or take backups in the format custom.".to_owned(),
            ),
        });
    }
    let manifest = backup.manifest();
    // Where rows were not counted tables are not listed: one that is missing is told by the restore then.
    let held = manifest.as_ref().and_then(|manifest| manifest.body.database());
    let held = held.filter(|content| content.counted_rows().is_some());
    let missing = held.and_then(|content| {
        request.tables.iter().find(|name| !content.tables.iter().any(|table| table.table == **name))
    });
    match missing {
        None => Ok(()),
        Some(table) => Err(RequestError::Invalid {
            code: "request.target",
            message: format!("target.tables: the backup has no rows of a table {table:?}"),
            hint: Some("A partitioned table's rows are in its partitions: name those.".to_owned()),
        }),
    }
}

/// Refuses a restore, just put into the queue in this transaction, while another restore of the project waits or runs, and while what it
/// would replace is being backed up. Between requests that come together the lock of [`limits`](super::limits) decides.
pub(super) async fn refuse_in_between(
    connection: &mut sqlx::PgConnection,
    new: &NewJob,
    backup: Option<BackupId>,
) -> Result<(), RequestError> {
    let Some(project_id) = new.project_id.as_deref() else { return Ok(()) };
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('holdfast jobs of ' || $1::text, 0))::text AS locked",
        project_id,
    )
    .fetch_one(&mut *connection)
    .await?;
    let other = sqlx::query!(
        "SELECT id, type, status FROM control_plane.jobs
         WHERE project_id = $1 AND id <> $2
           AND (type IN ('restore_backup', 'undo_restore') AND status IN ('pending', 'in_progress')
                OR status = 'in_progress' AND type = CASE (SELECT b.type FROM control_plane.backups b WHERE b.id = $3)
                       WHEN 'storage' THEN 'export_storage' ELSE 'export_backup' END)
         ORDER BY created_at LIMIT 1",
        project_id,
        new.id.0,
        backup.map(|id| id.0),
    )
    .fetch_optional(connection)
    .await?;
    let Some(other) = other else { return Ok(()) };
    if other.r#type == JobType::ExportBackup.as_str() || other.r#type == JobType::ExportStorage.as_str() {
        return Err(RequestError::conflict(
            "restore.during_backup",
            format!("project {project_id} is being backed up by job {}", other.id),
            "Wait until that job has ended, or cancel it.",
        ));
    }
    Err(RequestError::conflict(
        "restore.in_progress",
        format!("job {} ({}) of project {project_id} is {}", other.id, other.r#type, other.status),
        "Wait until that job has ended, or cancel it.",
    ))
}

/// A completed `database` or `storage` backup within reach.
async fn restorable(app: &App, caller: &Caller, id: BackupId) -> Result<Backup, RequestError> {
    let backup = history::get(&app.pool, &caller.scope(), id).await?;
    if backup.project_id == CONTROL_PLANE_PROJECT {
        return Err(RequestError::conflict(
            "restore.control_plane",
            "the control plane is never restored over itself",
            "Load it into an empty database of a new installation: docs/recovery.md tells how.",
        ));
    }
    let is_restorable = [BackupType::Database, BackupType::Storage].iter().any(|t| backup.r#type == t.as_str());
    if !is_restorable {
        return Err(RequestError::conflict(
            "backup.not_restorable",
            format!("backup {id} holds {}, which is for download", backup.r#type),
            "Download it instead.",
        ));
    }
    if !backup.is(BackupStatus::Completed) {
        return Err(RequestError::conflict(
            "backup.not_completed",
            format!("backup {id} is {}, not completed", backup.status),
            "Choose a backup that is completed.",
        ));
    }
    if backup.is_partial {
        return Err(RequestError::conflict(
            "backup.partial",
            format!("backup {id} holds only some of the project's tables"),
            "A partial backup is never restored in place: download it.",
        ));
    }
    if backup.format.is_none() {
        return Err(RequestError::conflict(
            "backup.not_restorable",
            format!("backup {id} is a file of another program, and not a dump that Holdfast has taken"),
            "Download it instead.",
        ));
    }
    require_manifest(&backup)?;
    Ok(backup)
}
