//! Opens the source of a backup: one arm for each type.

use std::{sync::Arc, time::Duration};

use super::{
    context::{JobContext, JobError},
    request::{self, Asked, Decided, Export, ExportLogs},
};
use crate::{
    app::App,
    artifact::Format,
    catalog::{self, FileSource, Project},
    ids::CONTROL_PLANE_PROJECT,
    manifest::DumpScope,
    source::{
        Source,
        files::{Files, Origin},
        pg_dump::{PgDump, PgDumpOptions, TableChoice},
        project_logs::{LogFormat, ProjectLogs, ProjectLogsOptions},
    },
};

/// Where the control plane's tables are.
const CONTROL_PLANE_SCHEMA: &str = "control_plane";

/// The source of what was asked for; it has not begun yet.
pub async fn open(
    context: &JobContext,
    project: &Project,
    request: &Asked,
    decided: &Decided,
) -> Result<Box<dyn Source>, JobError> {
    match request {
        Asked::Database(request) => database(context, project, request, decided).await,
        Asked::Logs(request) => logs(context, project, request, decided),
        Asked::Storage(_) => files(context, project).await,
    }
}

/// Log lines are in the control plane, wherever the project's own database is.
fn logs(
    context: &JobContext,
    project: &Project,
    request: &ExportLogs,
    decided: &Decided,
) -> Result<Box<dyn Source>, JobError> {
    let format = match decided.encoding.format {
        Some(Format::Json) => LogFormat::Json,
        Some(Format::Text) => LogFormat::Text,
        Some(Format::Sql | Format::Tar | Format::Custom) | None => {
            return Err(JobError::fail("job.payload", "the job names no format of log lines"));
        }
    };
    let range = request.date_range.unwrap_or_default();
    Ok(Box::new(ProjectLogs::new(ProjectLogsOptions {
        connect: context.app.control.clone(),
        project_id: project.id.clone(),
        format,
        from: range.from(),
        until: range.until(),
    })))
}

async fn database(
    context: &JobContext,
    project: &Project,
    request: &Export,
    decided: &Decided,
) -> Result<Box<dyn Source>, JobError> {
    let app = &context.app;
    let format =
        decided.encoding.format.ok_or_else(|| JobError::fail("job.payload", "the job names no format of a dump"))?;
    let (connect, scope, secret) = if project.is_control_plane() {
        let scope = DumpScope::Schema { schema: CONTROL_PLANE_SCHEMA.to_owned() };
        (app.control.clone(), scope, catalog::secret_tables(&app.pool).await?)
    } else {
        let connect = app.project_database(project).await?;
        let scope = project.dump_scope(&connect.database);
        (connect, scope, Vec::new())
    };
    let is_control_plane =
        |scope: &DumpScope| matches!(scope, DumpScope::Schema { schema } if schema == CONTROL_PLANE_SCHEMA);
    if is_control_plane(&scope) && !project.is_control_plane() {
        let message =
            format!("schema {CONTROL_PLANE_SCHEMA} is no tenant's: it is backed up by project {CONTROL_PLANE_PROJECT}");
        return Err(JobError::fail("project.schema", message));
    }
    let options = PgDumpOptions {
        scope,
        connect,
        format,
        compress_level: None,
        lock_wait: Duration::from_secs(app.config.backup.lock_wait_seconds),
        tool: None,
        exclude_schemas: Vec::new(),
    };
    let choice = TableChoice {
        tables: request.tables.clone(),
        exclude_tables: request.exclude_tables.clone(),
        exclude_table_data: request.exclude_table_data.clone(),
    };
    let secret = secret.into_iter().map(|table| (CONTROL_PLANE_SCHEMA.to_owned(), table)).collect();
    let proof = request.proof.or(project.own_settings().proof).unwrap_or(app.config.backup.proof);
    let source = PgDump::new(Arc::clone(&app.tools), options).choosing(choice).without_rows_of(secret).proving(proof);
    Ok(Box::new(source))
}

async fn files(context: &JobContext, project: &Project) -> Result<Box<dyn Source>, JobError> {
    let scratch = context.app.config.data_dir.join("spool");
    Ok(Box::new(Files::new(origin(&context.app, project).await?, scratch)))
}

/// Where a project's files are now, looked at again: whoever wrote the row may have been somebody else.
pub(super) async fn origin(app: &App, project: &Project) -> Result<Origin, JobError> {
    let files = catalog::files(&app.pool, &project.id).await?.ok_or_else(|| {
        let message = format!("project {:?} has no files that are backed up", project.id);
        JobError::fail("project.no_files", message)
    })?;
    request::check_files(app, &files).await.map_err(|error| JobError::fail(error.code(), error))?;
    match files {
        FileSource::Directory(source) => {
            Ok(Origin::Directory { directory: source.directory.into(), roots: app.config.files.roots.clone() })
        }
        FileSource::Prefix(source) => {
            let objects = app.storages.get(&source.storage).and_then(|storage| storage.objects());
            let objects = objects.ok_or_else(|| {
                JobError::fail("storage.unknown", format!("storage {:?} is no longer a bucket", source.storage))
            })?;
            Ok(Origin::Prefix { objects, prefix: source.prefix })
        }
    }
}
