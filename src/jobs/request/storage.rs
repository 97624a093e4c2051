//! A backup of a project's files, as it is asked for; and where those files are, as an operator says.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::{
    Asked, Common, RequestError,
    export::{asked_compression, encryption},
    record,
};
use crate::{
    app::App,
    artifact::{Compression, Encoding, Format},
    catalog::{self, DirectorySource, FileSource, ManageError, PrefixSource, Project},
    config::StorageConfig,
    db,
    ids::ProjectId,
    source::files::beneath::{Place, PlaceError},
    tenant::{Caller, Permission, Role},
};

/// Where the artifacts of a storage begin, below its own prefix.
const ARTIFACTS: &str = "backups";

/// A backup of a project's files, as it is asked for. What is left out comes from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportStorage {
    #[serde(default)]
    pub project_id: String,
    pub compression: Option<Compression>,
    /// The older way to say it: `true` is gzip, `false` none. Not together with `compression`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
    /// Names of storages; empty is every storage of the configuration's choice.
    #[serde(default)]
    pub storages: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub notify_email: Option<String>,
    pub caption: Option<String>,
}

impl From<&ExportStorage> for Asked {
    fn from(request: &ExportStorage) -> Self {
        Self::Storage(request.clone())
    }
}

impl ExportStorage {
    pub(super) fn common(&self) -> Common<'_> {
        Common {
            project_id: &self.project_id,
            storages: &self.storages,
            expires_at: self.expires_at,
            notify_email: self.notify_email.as_deref(),
            caption: self.caption.as_deref(),
        }
    }

    /// A tar archive, compressed as asked for.
    pub(super) fn encoding(&self, app: &App) -> Result<Encoding, RequestError> {
        let asked = asked_compression(self.compress, self.compression)?;
        let compression = asked.unwrap_or(app.config.backup.compression);
        Ok(Encoding { format: Some(Format::Tar), compression, encryption: encryption(app) })
    }
}

/// Where the files of a project are; a conflict when nobody has said it.
pub(super) async fn require_files(app: &App, project: &Project) -> Result<FileSource, RequestError> {
    catalog::files(&app.pool, &project.id).await?.ok_or_else(|| {
        RequestError::conflict(
            "project.no_files",
            format!("project {:?} has no files that are backed up", project.id),
            "An operator says where they are: holdfast project files PROJECT --directory DIR.",
        )
    })
}

/// Says where a project's files are, or that it has none. For operators alone; writes the audit event.
///
/// # Errors
/// There is no such project; the place cannot be used, is Holdfast's own, or another project's.
pub async fn set_files(
    app: &App,
    caller: &Caller,
    project_id: &str,
    files: Option<&FileSource>,
) -> Result<Project, RequestError> {
    super::require(caller, Permission::Write)?;
    let project = catalog::project(&app.pool, &caller.scope(), project_id).await?;
    if caller.role != Role::Operator {
        return Err(RequestError::Invalid {
            code: "project.files_operator",
            message: "where a project's files are is said by operators".to_owned(),
            hint: Some("Ask the operator of this installation.".to_owned()),
        });
    }
    if let Some(files) = files {
        find_files(app, files).await?;
    }
    let mut transaction = db::begin(&app.pool).await?;
    put_files(&mut transaction, app, &project, files).await?;
    let detail = serde_json::json!({ "files": files });
    record(&mut transaction, caller, None, &project.id, "project_files_set", detail).await?;
    transaction.commit().await?;
    Ok(project)
}

/// Looks whether a project's files may be there, and whether they are: before [`put_files`], which has no time for it.
///
/// # Errors
/// `project.files` with the reason.
pub async fn find_files(app: &App, files: &FileSource) -> Result<(), RequestError> {
    check(app, files).await?;
    look(app, files).await
}

/// Writes down where a project's files are, in the caller's transaction. The caller's rights, and the audit event, are the caller's business.
///
/// # Errors
/// Jobs have the project in hand, or a restore can be undone; the place is a storage's, or another project's.
pub async fn put_files(
    connection: &mut PgConnection,
    app: &App,
    project: &Project,
    files: Option<&FileSource>,
) -> Result<(), RequestError> {
    catalog::one_source_at_a_time(&mut *connection).await.map_err(of_catalog)?;
    if catalog::files(&mut *connection, &project.id).await?.as_ref() != files {
        refuse_held(connection, project).await?;
    }
    if let Some(files) = files {
        // Again: a storage may have come since.
        refuse_own(app, &mut *connection, files).await?;
        let taken = catalog::all_files(&mut *connection).await?;
        if let Some((other, place)) = taken.iter().find(|(id, place)| *id != project.id && place.overlaps(files)) {
            return Err(RequestError::conflict(
                "project.files_taken",
                format!("{files} overlaps {place}, which is project {other:?}'s"),
                "Files belong to one project: a restore of one would replace the other's.",
            ));
        }
    }
    Ok(catalog::set_files(&mut *connection, &project.id, files).await?)
}

/// While jobs have the files in hand, or an undo would put a directory back, they stay where they are.
async fn refuse_held(connection: &mut PgConnection, project: &Project) -> Result<(), RequestError> {
    let Ok(id) = project.id.parse::<ProjectId>() else { return Ok(()) };
    match catalog::project_hold(connection, &id).await.map_err(of_catalog)? {
        (0, 0) => Ok(()),
        (jobs, kept) => Err(RequestError::conflict(
            "project.files_held",
            format!("project {:?} is in use: {jobs} jobs have it in hand, {kept} restores can be undone", project.id),
            "Wait until its jobs have ended and the windows for an undo have passed.",
        )),
    }
}

fn of_catalog(error: ManageError) -> RequestError {
    match error {
        ManageError::Database(error) => error.into(),
        other => RequestError::invalid("project.files", other.to_string()),
    }
}

/// Looks whether files may be where someone says. Whether they are there is not asked.
///
/// # Errors
/// `project.files` with the reason.
pub(in crate::jobs) async fn check(app: &App, files: &FileSource) -> Result<(), RequestError> {
    if let Some(fault) = files.fault() {
        return Err(unusable(format!("{files} cannot be used: {fault}")));
    }
    app.storages.refresh().await?;
    refuse_own(app, &app.pool, files).await
}

/// Refuses what Holdfast keeps itself, by the storages that the control plane holds now.
async fn refuse_own(app: &App, executor: impl PgExecutor<'_>, files: &FileSource) -> Result<(), RequestError> {
    let storages = all_storages(app, executor).await?;
    match files {
        FileSource::Prefix(source) => refuse_own_prefix(app, source, &storages),
        FileSource::Directory(DirectorySource { directory }) => {
            let roots = storages.iter().filter_map(|(_, config)| local_root(config));
            let own = std::iter::once(app.config.data_dir.clone()).chain(roots).collect::<Vec<_>>();
            let directory = PathBuf::from(directory);
            blocking(move || refuse_own_directory(&directory, &own)).await
        }
    }
}

/// The storages of the configuration, and those of the control plane that can be opened with the keys at hand.
async fn all_storages(app: &App, executor: impl PgExecutor<'_>) -> Result<Vec<(String, StorageConfig)>, RequestError> {
    let mut all: Vec<_> = app.config.storages.iter().map(|(name, config)| (name.clone(), config.clone())).collect();
    for row in catalog::storages(executor).await? {
        let settings = row.open(&app.keys.secrets).ok();
        all.extend(settings.and_then(|settings| settings.parse().ok()).map(|config| (row.name.clone(), config)));
    }
    Ok(all)
}

/// The project whose files lie where a storage is to keep backups, or around or below it, with the place.
pub(crate) async fn files_in_the_way(
    executor: impl PgExecutor<'_>,
    name: &str,
    config: &StorageConfig,
) -> Result<Option<(String, FileSource)>, RequestError> {
    let (name, config) = (name.to_owned(), config.clone());
    let taken = catalog::all_files(executor).await?;
    let found = tokio::task::spawn_blocking(move || {
        taken.into_iter().find(|(_, files)| match files {
            FileSource::Directory(source) => local_root(&config)
                .is_some_and(|root| refuse_own_directory(Path::new(&source.directory), &[root]).is_err()),
            FileSource::Prefix(source) => own_prefix(&name, &config, source).is_some(),
        })
    });
    found.await.map_err(|_| unusable("the directories of projects cannot be looked at".to_owned()))
}

/// Looks whether the files are there.
async fn look(app: &App, files: &FileSource) -> Result<(), RequestError> {
    match files {
        FileSource::Prefix(PrefixSource { storage, prefix }) => {
            let objects = super::destinations::storage(app, storage)?.objects();
            let objects = objects.ok_or_else(|| unusable(format!("storage {storage:?} is no bucket")))?;
            objects.list(&format!("{prefix}/")).await.map_err(|error| unusable(format!("{error:#}")))?;
            Ok(())
        }
        FileSource::Directory(DirectorySource { directory }) => {
            let (directory, roots) = (PathBuf::from(directory), app.config.files.roots.clone());
            let opened = move || Place::find(&directory, &roots).and_then(|place| place.open().map(drop));
            blocking(move || opened().map_err(|error| of_place(&error))).await
        }
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), RequestError> + Send + 'static) -> Result<(), RequestError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(unusable("the directory cannot be looked at".to_owned())))
}

fn unusable(message: String) -> RequestError {
    RequestError::invalid("project.files", message)
}

/// Where a storage keeps backups in a directory: no tenant's.
fn local_root(config: &StorageConfig) -> Option<PathBuf> {
    match config {
        StorageConfig::Local(local) => Some(local.root.clone()),
        StorageConfig::S3(_) | StorageConfig::Telegram(_) => None,
    }
}

fn refuse_own_directory(directory: &Path, own: &[PathBuf]) -> Result<(), RequestError> {
    // By the names that the links on the way lead to.
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let here = real(directory);
    for own in own {
        let own = real(own);
        if here.starts_with(&own) || own.starts_with(&here) {
            let message =
                format!("directory {} cannot be used: Holdfast keeps its own files there", directory.display());
            return Err(unusable(message));
        }
    }
    Ok(())
}

fn of_place(error: &PlaceError) -> RequestError {
    let hint = match error {
        PlaceError::Outside(_) => "Choose one below them, or ask whoever runs this installation to extend files.roots.",
        PlaceError::Open { .. } => "It must be there, and no symbolic link.",
    };
    RequestError::Invalid { code: "project.files", message: error.to_string(), hint: Some(hint.to_owned()) }
}

fn refuse_own_prefix(
    app: &App,
    source: &PrefixSource,
    storages: &[(String, StorageConfig)],
) -> Result<(), RequestError> {
    let PrefixSource { storage: name, prefix } = source;
    if super::destinations::storage(app, name)?.objects().is_none() {
        return Err(unusable(format!("storage {name:?} is no bucket: a prefix is one of a storage of type s3")));
    }
    for (other, config) in storages {
        if let Some(own) = own_prefix(other, config, source) {
            return Err(unusable(format!(
                "prefix {prefix:?} cannot be used: storage {other:?} keeps backups below {own:?}"
            )));
        }
    }
    Ok(())
}

/// Where a storage keeps backups in a bucket, when that overlaps a project's files. Two storages may be two names of one bucket, so which
/// one it is counts for nothing.
fn own_prefix(name: &str, config: &StorageConfig, source: &PrefixSource) -> Option<String> {
    let StorageConfig::S3(config) = config else { return None };
    let own = if config.prefix.is_empty() { ARTIFACTS.to_owned() } else { config.prefix.clone() };
    let backups = FileSource::Prefix(PrefixSource { storage: name.to_owned(), prefix: own.clone() });
    FileSource::Prefix(source.clone()).overlaps(&backups).then_some(own)
}
