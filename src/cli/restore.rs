//! `holdfast restore`: puts a backup back in place of what is there now.

use serde_json::{Value, json};

use super::{Context, Exit, Failure, backup::queued, open, resolve, wait};
use crate::{
    app::App,
    artifact::BackupType,
    catalog::{self, FileSource, Project, ProjectScope},
    history::{self, Backup, BackupStatus},
    jobs::{
        queue::Job,
        request::{self, RestoreRequest},
    },
    proof_record::is_not_compared,
    report::{self, fields, instant, instant_and_age},
};

/// Restore a backup in place of what the project has now.
///
/// Without --confirm nothing is done: it says what would be replaced and ends with 2. The restore is all or nothing. The schema or
/// directory that it replaces is kept for `restore.undo_hours`; until then `holdfast undo JOB` gives it back. A whole-database project is restored
/// into a new database. Exit code 4 when it failed (everything is as before), 6 when counts differ from those at the dump.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast restore latest:acme                      says what would be replaced
  holdfast restore latest:acme --confirm --wait
  holdfast restore 0199ab12 --confirm --wait --json
  holdfast restore latest:warehouse --target-database warehouse_check --confirm --wait
  holdfast restore latest:acme --target-schema acme_copy --confirm --wait
  holdfast restore latest:acme --target-server staging --target-database acme --create-database --confirm --wait
  holdfast restore latest:acme --table orders --table order_items --confirm --wait")]
pub struct Args {
    /// An id, its unique beginning, or latest:PROJECT.
    backup: String,
    /// Really do it.
    #[arg(long)]
    confirm: bool,
    /// Another database; for a whole-database project the name of the new one [default: one is made].
    #[arg(long, value_name = "NAME")]
    target_database: Option<String>,
    /// Make the database that --target-database names.
    #[arg(long, requires = "target_database")]
    create_database: bool,
    /// To the server of this database, which the control plane knows by name [default: the project's own].
    #[arg(long, value_name = "NAME")]
    target_server: Option<String>,
    /// A copy under this name; nothing is replaced.
    #[arg(long, value_name = "NAME")]
    target_schema: Option<String>,
    /// Only this table, into the new schema hf_tables_…, out of a backup in the format custom or tar. May be repeated.
    #[arg(long = "table", value_name = "NAME")]
    tables: Vec<String>,
    /// Replace the schema even when objects outside it (foreign keys, views, publications) refer to it.
    #[arg(long)]
    allow_detached_references: bool,
    /// Wait until it has ended.
    #[arg(long)]
    wait: bool,
    /// Called again with the same key, the same request is not made twice.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let backup = resolve::backup(app, context, &args.backup).await?;
        let request = RestoreRequest {
            backup_id: backup.backup_id(),
            target_database: args.target_database,
            target_server: args.target_server,
            target_schema: args.target_schema,
            create_database: args.create_database,
            tables: args.tables,
            allow_detached_references: args.allow_detached_references,
        };
        if !args.confirm {
            return dry_run(app, context, &backup, &request).await;
        }
        let job = request::restore(app, &context.caller, &request, args.idempotency_key.as_deref()).await?;
        if !args.wait {
            return queued(app, context, &job).await;
        }
        let job = wait::until_final(app, context, job.job_id()).await?;
        outcome(app, context, &job).await
    })
    .await
}

/// Says what would be replaced, and refuses.
async fn dry_run(app: &App, context: &Context, backup: &Backup, request: &RestoreRequest) -> anyhow::Result<()> {
    let project = catalog::project(&app.pool, &context.caller.scope(), &backup.project_id).await?;
    let is_of_files = backup.r#type == BackupType::Storage.as_str();
    let replaced = if is_of_files { replaced_files(app, &project).await? } else { replaced(&project, request) };
    let files = backup.manifest().and_then(|manifest| Some(manifest.body.files()?.file_count));
    let now = app.clock.now();
    if context.is_json() {
        report::print_json(&json!({
            "dry_run": true,
            "backup_id": backup.id,
            "project_id": backup.project_id,
            "status": backup.status,
            "would_replace": replaced,
            "created_at": backup.created_at,
            "table_count": backup.table_count,
            "row_count": backup.row_count,
            "file_count": files,
        }))?;
    } else {
        report::print(&fields(&[
            ("backup", Some(backup.id.to_string())),
            ("status", Some(backup.status.clone())),
            ("taken", Some(instant_and_age(backup.created_at, now))),
            ("tables", backup.table_count.map(|n| n.to_string())),
            ("rows", backup.row_count.map(|n| n.to_string())),
            ("files", files.map(|n| n.to_string())),
            ("project", Some(format!("{} ({})", project.id, project.name))),
            ("would replace", Some(replaced.clone())),
            ("undo", if is_of_files { Some(kept_note(app)) } else { undo_note(app, &project, request) }),
        ]))?;
    }
    if !backup.is(BackupStatus::Completed) {
        return Err(Failure::refused(
            "backup.not_completed",
            format!("backup {} is {}, not completed: it cannot be restored", backup.id, backup.status),
        )
        .hint("Choose a backup that is completed: `holdfast list --status completed`.")
        .into());
    }
    Err(Failure::refused("restore.not_confirmed", format!("nothing was done: a restore would replace {replaced}"))
        .hint("Give --confirm to restore.")
        .into())
}

fn replaced(project: &Project, request: &RestoreRequest) -> String {
    let database = project.database_name.as_ref().map(|name| format!(" of database {name}")).unwrap_or_default();
    let place = [("database", &request.target_database), ("server", &request.target_server)]
        .iter()
        .filter_map(|(what, name)| Some(format!(" of {what} {:?}", name.as_ref()?)))
        .collect::<String>();
    match (project.scope(), &request.target_database) {
        (ProjectScope::WholeDatabase, Some(target)) => format!("nothing: it goes into the new database {target:?}"),
        (ProjectScope::WholeDatabase, None) => "nothing: it goes into a new database".to_owned(),
        (ProjectScope::Schema(_), _) if !request.tables.is_empty() => {
            format!("nothing: {} go into a new schema hf_tables_…{place}", request.tables.join(", "))
        }
        (ProjectScope::Schema(schema), _) if is_copy(request) => {
            format!(
                "nothing: it goes into the new schema {:?}{place}",
                request.target_schema.as_ref().unwrap_or(&schema)
            )
        }
        (ProjectScope::Schema(schema), _) => format!("schema {schema:?}{database} and everything in it"),
    }
}

/// Whether it goes elsewhere, and replaces nothing.
fn is_copy(request: &RestoreRequest) -> bool {
    !request.tables.is_empty()
        || request.target_schema.is_some()
        || request.target_database.is_some()
        || request.target_server.is_some()
}

async fn replaced_files(app: &App, project: &Project) -> anyhow::Result<String> {
    Ok(match catalog::files(&app.pool, &project.id).await? {
        Some(files @ FileSource::Directory(_)) => format!("{files} and everything in it"),
        Some(files @ FileSource::Prefix(_)) => {
            format!("nothing: it goes beside {files}, and the project is pointed there")
        }
        None => "nothing: the project has no files".to_owned(),
    })
}

fn undo_note(app: &App, project: &Project, request: &RestoreRequest) -> Option<String> {
    (project.scope() != ProjectScope::WholeDatabase && !is_copy(request)).then(|| kept_note(app))
}

fn kept_note(app: &App) -> String {
    format!("what is replaced is kept for {} hours", app.config.restore.undo_hours)
}

/// Shows how a restore (or an undo) ended, and fails when it did not end well.
pub(super) async fn outcome(app: &App, context: &Context, job: &Job) -> anyhow::Result<()> {
    let row = history::restore_of_job(&app.pool, job.job_id()).await?;
    let differences = differences(job, row.as_ref().map(|row| &row.differences));
    let undo_until = row.as_ref().filter(|row| row.kept_schema.is_some()).and_then(|row| row.undo_until);
    let outcome = row.as_ref().and_then(|row| row.outcome.clone());
    if context.is_json() {
        report::print_json(&json!({
            "job_id": job.id,
            "type": job.r#type,
            "status": job.status,
            "project_id": job.project_id,
            "backup_id": row.as_ref().map(|row| row.backup_id),
            "outcome": outcome,
            "differences": differences,
            "kept_schema": row.as_ref().and_then(|row| row.kept_schema.clone()),
            "undo_until": undo_until,
            "result": job.result,
            "error_message": job.error_message,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
        }))?;
    } else {
        let took = job
            .started_at
            .zip(job.finished_at)
            .map(|(from, to)| format!("{:.1} seconds", (to - from).num_milliseconds() as f64 / 1000.0));
        report::print(&fields(&[
            ("job", Some(job.id.to_string())),
            ("status", Some(job.status.clone())),
            ("outcome", outcome),
            ("schema", of_result(job, "schema").and_then(Value::as_str).map(str::to_owned)),
            ("database", of_result(job, "database").and_then(Value::as_str).map(str::to_owned)),
            ("server", of_result(job, "server").and_then(Value::as_str).map(str::to_owned)),
            ("way", of_result(job, "way").and_then(Value::as_str).map(str::to_owned)),
            ("prefix", job.result.as_ref().and_then(|r| r.pointer("/files/prefix")?.as_str().map(str::to_owned))),
            ("took", took),
            ("undo", undo_until.map(|until| format!("holdfast undo {}   (until {})", job.id, instant(until)))),
        ]))?;
    }
    for warning in of_result(job, "warnings").and_then(Value::as_array).into_iter().flatten() {
        context.warn(&report::one_line(warning.as_str().unwrap_or_default()));
    }
    if let Some(failure) = wait::failure(job) {
        return Err(failure.into());
    }
    if differences.is_empty() || nothing_compared(context, &differences) {
        return Ok(());
    }
    let named: Vec<String> =
        differences.iter().take(10).map(|d| d.as_str().map_or_else(|| d.to_string(), str::to_owned)).collect();
    let more = if differences.len() > 10 { format!(" and {} more", differences.len() - 10) } else { String::new() };
    Err(Failure::new(
        Exit::Damage,
        "restore.differences",
        format!("completed with {} differences: {}{more}", differences.len(), named.join("; ")),
    )
    .hint("What was restored is in place; look whether the differences matter, or undo.")
    .into())
}

/// One value of the job's result, unless it is null.
pub(super) fn of_result<'a>(job: &'a Job, name: &str) -> Option<&'a Value> {
    job.result.as_ref()?.get(name).filter(|value| !value.is_null())
}

/// Whether nothing is known to differ, because nothing was recorded of rows.
pub(super) fn is_nothing_known(differences: &[Value]) -> bool {
    let lines: Vec<&str> = differences.iter().filter_map(Value::as_str).collect();
    is_not_compared(&lines)
}

/// Warns of that.
pub(super) fn nothing_compared(context: &Context, differences: &[Value]) -> bool {
    let is_all = is_nothing_known(differences);
    if let (true, Some(line)) = (is_all, differences.first().and_then(Value::as_str)) {
        context.warn(line);
    }
    is_all
}

/// What differed, from the restore's row or the job's result.
pub(super) fn differences(job: &Job, of_restore: Option<&Value>) -> Vec<Value> {
    let lists = [of_restore, of_result(job, "differences")].into_iter().flatten().filter_map(Value::as_array);
    lists.into_iter().find(|list| !list.is_empty()).cloned().unwrap_or_default()
}
