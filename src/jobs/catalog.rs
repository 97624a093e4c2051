//! The catalogue from the manifests: what a storage holds is written into the control plane again, where it is missing. For a control plane
//! that was lost ([`Rebuild`]), and for backups whose record could not be written ([`sweep`]). Functions and not jobs: a lost control plane
//! has no queue.
//!
//! What always holds: a row that is there is never overwritten; a backup that was deleted on purpose does not come back; what a storage says
//! is checked against where it lies, and what does not fit is named and left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use serde::Serialize;

use super::{
    authentic::{self, TakeUp},
    context::JobError,
    request::{self, RequestError},
};
use crate::{
    app::App,
    catalog::{self, CatalogError, NewProject, ProjectScope},
    clock::Timestamp,
    db,
    history::{self, BackupStatus, Event, FoundCopy, HistoryError, Recorded},
    ids::{BackupId, CONTROL_PLANE_PROJECT, ProjectId},
    manifest::{DumpScope, Head, Manifest},
    pipeline::{self, ManifestError},
    storage::{self, ErrorKind, Locator, Storage},
    tenant::{Caller, Scope},
    transform::{
        DecodeError,
        seal::{KeyId, SealError},
    },
};

/// Which backups are taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// Also those of projects that the control plane does not know: they are made.
    Everything,
    /// Only those of known projects.
    KnownProjects,
}

/// What one storage came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rebuilt {
    pub storage: String,
    /// Manifests that were found.
    pub manifests: u64,
    /// Projects that were made.
    pub projects: Vec<String>,
    /// Backups that were written down.
    pub backups: u64,
    /// Copies that were written down, those of new backups included.
    pub copies: u64,
    /// Manifests whose backup and copy were known.
    pub known: u64,
    /// Manifests of backups that were deleted on purpose, or are being deleted: left alone.
    pub deleted: u64,
    /// Backups that had been written down without the key, and now have what only the key tells.
    pub filled_in: u64,
    /// Backups without what only the key tells: they cannot be restored until the storage is read again with it.
    pub without_key: u64,
    /// Backups that were written down although their manifest has no seal.
    pub unsealed: u64,
    /// What was left out, and copies that are not as recorded.
    pub problems: Vec<Problem>,
}

/// Something about one manifest that a person should look at.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The manifest's name; empty when the storage could not be listed.
    pub manifest: String,
    /// A stable word such as `manifest.misplaced`.
    pub code: &'static str,
    pub message: String,
}

/// Why a manifest was not taken up.
pub(super) enum Skip {
    /// It does not fit; the next one is looked at.
    Refused(Misfit),
    /// The storage did not tell.
    Storage(storage::Error),
    /// The control plane does not answer: there is no point in going on.
    Lost(RequestError),
}

impl From<sqlx::Error> for Skip {
    fn from(error: sqlx::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl From<HistoryError> for Skip {
    fn from(error: HistoryError) -> Self {
        Self::Lost(error.into())
    }
}

impl From<CatalogError> for Skip {
    fn from(error: CatalogError) -> Self {
        Self::Lost(error.into())
    }
}

impl From<storage::Error> for Skip {
    fn from(error: storage::Error) -> Self {
        Self::Storage(error)
    }
}

impl From<Misfit> for Skip {
    fn from(misfit: Misfit) -> Self {
        Self::Refused(misfit)
    }
}

impl From<Skip> for JobError {
    fn from(skip: Skip) -> Self {
        match skip {
            Skip::Refused(Misfit { code, message }) => Self::fail(code, message),
            Skip::Storage(error) => error.into(),
            Skip::Lost(RequestError::Database(error)) => error.into(),
            Skip::Lost(error) => Self::fail(error.code(), error),
        }
    }
}

fn refused(code: &'static str, message: impl ToString) -> Skip {
    misfit(code, message).into()
}

fn misfit(code: &'static str, message: impl ToString) -> Misfit {
    Misfit { code, message: message.to_string() }
}

/// One manifest and what lies beside it.
pub(super) struct Found {
    pub manifest_at: Locator,
    pub head: Head,
    /// `None`: the key is not at hand.
    pub manifest: Option<Manifest>,
    /// Who sealed it.
    pub seal: Result<KeyId, SealError>,
    pub artifact: Option<Locator>,
    /// What is wrong with the artifact.
    pub fault: Option<String>,
}

/// What does not fit, by a stable word and in words.
#[derive(Debug)]
pub(super) struct Misfit {
    pub code: &'static str,
    pub message: String,
}

/// The newest backup that has told what a project is.
struct Told {
    at: Timestamp,
    scope: Option<ProjectScope>,
}

/// Writes the catalogue from the manifests of one storage after another. Several storages with the same backups come to one row with several
/// copies. A second run changes nothing.
pub struct Rebuild<'a> {
    app: &'a App,
    caller: &'a Caller,
    adopt: Adopt,
    take_up: TakeUp,
    dry_run: bool,
    /// Projects that this run has made, or would make.
    made: BTreeMap<ProjectId, Told>,
    /// Backups that a dry run would have written by now.
    would_be_known: BTreeSet<BackupId>,
}

impl<'a> Rebuild<'a> {
    /// With `dry_run` everything is looked at and nothing is written.
    pub fn new(app: &'a App, caller: &'a Caller, adopt: Adopt, dry_run: bool) -> Self {
        let (made, would_be_known) = (BTreeMap::new(), BTreeSet::new());
        Self { app, caller, adopt, take_up: TakeUp::Sealed, dry_run, made, would_be_known }
    }

    /// Whether manifests without a seal are taken up as well. A seal that is broken, or of a key that is not accepted, never is.
    #[must_use]
    pub fn taking(mut self, take_up: TakeUp) -> Self {
        self.take_up = take_up;
        self
    }

    /// Takes up what one storage holds.
    ///
    /// # Errors
    /// There is no such storage, or the control plane does not answer. What is wrong with a single manifest is in the report.
    pub async fn storage(&mut self, name: &str) -> Result<Rebuilt, RequestError> {
        let storage = request::storage(self.app, name)?;
        let mut done = Rebuilt { storage: name.to_owned(), ..Rebuilt::default() };
        let mut manifests = storage.manifests();
        while let Some(at) = manifests.next().await {
            let (manifest, outcome) = match at {
                Ok(at) => {
                    done.manifests += 1;
                    (at.key().to_string(), self.take_up(storage.as_ref(), at, &mut done).await)
                }
                Err(error) => (String::new(), Err(error.into())),
            };
            match outcome {
                Ok(()) => {}
                Err(Skip::Refused(Misfit { code, message })) => {
                    done.problems.push(Problem { manifest, code, message });
                }
                Err(Skip::Storage(error)) => {
                    let (code, message) = (error.kind.code(), error.to_string());
                    done.problems.push(Problem { manifest, code, message });
                }
                Err(Skip::Lost(error)) => return Err(error),
            }
        }
        Ok(done)
    }

    async fn take_up(&mut self, storage: &dyn Storage, at: Locator, done: &mut Rebuilt) -> Result<(), Skip> {
        let found = look_at(self.app, storage, at).await?;
        let id = found.head.backup_id;
        let mut transaction = db::begin(&self.app.pool).await?;
        let row = history::recorded(&mut transaction, id).await?;
        let is_deleted = match &row {
            Some(row) => row.status == BackupStatus::Deleted.as_str(),
            // Looked at after the row: a deletion holds it until its tombstone is there.
            None => history::is_buried(&mut *transaction, id).await?,
        };
        if is_deleted {
            done.deleted += 1;
            transaction.rollback().await?;
            return Ok(());
        }
        let is_recorded = row.as_ref().is_some_and(|row| row.has_manifest);
        if !(is_recorded
            && found.seal == Err(SealError::Missing)
            && authentic::may_be_unsealed(self.app, found.head.created_at))
        {
            authentic::may_be_taken_up(&found.seal, self.take_up)?;
        }
        match &row {
            Some(row) => fits(row, &found.head)?,
            None => self.add_backup(&mut transaction, &found, done).await?,
        }
        match &found.manifest {
            Some(manifest) if !is_recorded => {
                history::fill_in(&mut *transaction, &manifest.head, &manifest.body).await?;
                done.filled_in += u64::from(row.is_some());
            }
            None if !is_recorded => done.without_key += 1,
            Some(_) | None => {}
        }
        let copy = FoundCopy {
            storage: &done.storage,
            artifact: found.artifact.as_ref(),
            manifest: &found.manifest_at,
            fault: found.fault.as_deref(),
        };
        if history::add_copy(&mut transaction, id, &copy).await? {
            done.copies += 1;
            require_found(self.app, &mut transaction, id).await?;
            if let Some(fault) = found.fault {
                let manifest = found.manifest_at.key().to_string();
                done.problems.push(Problem { manifest, code: "backup.damaged", message: fault });
            }
        } else {
            done.known += 1;
        }
        if self.dry_run {
            transaction.rollback().await?
        } else {
            transaction.commit().await?
        }
        Ok(())
    }

    async fn add_backup(
        &mut self,
        transaction: &mut sqlx::PgConnection,
        found: &Found,
        done: &mut Rebuilt,
    ) -> Result<(), Skip> {
        let head = &found.head;
        self.see_to_project(transaction, found, done).await?;
        let seal = found.seal.as_ref().map(KeyId::to_string).ok();
        let doubt = if seal.is_none() { ", which has no seal" } else { "" };
        let message = format!("written down again from its manifest in storage {}{doubt}", done.storage);
        history::adopt(transaction, head, &done.storage, found.fault.is_none(), &message).await?;
        let detail = serde_json::json!({
            "storage": done.storage, "key": head.key, "good": found.fault.is_none(), "sealed_by": seal,
        });
        let (project_id, caller) = (head.project_id.as_str(), self.caller);
        let event =
            Event { backup_id: Some(head.backup_id), project_id, event: "adopted", caller, outcome: "ok", detail };
        history::record(transaction, &event).await?;
        if !self.dry_run || self.would_be_known.insert(head.backup_id) {
            done.backups += 1;
            done.unsealed += u64::from(seal.is_none());
        }
        Ok(())
    }

    /// The project's row: made when missing, and kept to what its newest backup says while this run goes on.
    async fn see_to_project(
        &mut self,
        transaction: &mut sqlx::PgConnection,
        found: &Found,
        done: &mut Rebuilt,
    ) -> Result<(), Skip> {
        let (id, at) = (&found.head.project_id, found.head.created_at);
        if id.as_str() == CONTROL_PLANE_PROJECT {
            if !self.dry_run {
                catalog::ensure_control_plane(&self.app.pool).await?;
            }
            return Ok(());
        }
        let told = found.manifest.as_ref().and_then(|m| m.body.database()).map(|content| match &content.scope {
            DumpScope::Schema { schema } => ProjectScope::Schema(schema.clone()),
            DumpScope::Database { .. } => ProjectScope::WholeDatabase,
        });
        match catalog::project(&mut *transaction, &everything(), id.as_str()).await {
            Ok(_) => {
                let Some(scope) = told else { return Ok(()) };
                let Some(made) = self.made.get(id).filter(|made| made.scope.is_none() || at > made.at) else {
                    return Ok(());
                };
                if made.scope.as_ref() != Some(&scope) {
                    self.check_scope(id, &scope).await?;
                    catalog::set_scope(&mut *transaction, id, &scope).await?;
                }
                self.made.insert(id.clone(), Told { at, scope: Some(scope) });
                return Ok(());
            }
            Err(CatalogError::NoSuchProject(_)) if self.adopt == Adopt::Everything => {}
            Err(error @ CatalogError::NoSuchProject(_)) => return Err(refused("project.not_found", error)),
            Err(error) => return Err(error.into()),
        }
        // Without the key, what a project is called here unless something else was said.
        let scope = told.clone().unwrap_or_else(|| ProjectScope::Schema(format!("tenant_{id}")));
        self.check_scope(id, &scope).await?;
        let new = NewProject {
            id: id.clone(),
            name: id.to_string(),
            slug: None,
            organization_id: None,
            scope,
            database_name: None,
        };
        catalog::add_project(&mut *transaction, &new).await?;
        if self.made.insert(id.clone(), Told { at, scope: told }).is_none() {
            done.projects.push(id.to_string());
        }
        Ok(())
    }

    /// A storage must not talk a restore into replacing what is another's.
    async fn check_scope(&self, id: &ProjectId, scope: &ProjectScope) -> Result<(), Skip> {
        let ProjectScope::Schema(schema) = scope else { return Ok(()) };
        if let Some(why) = catalog::schema_name_fault(schema) {
            let shown: String = schema.chars().take(80).collect();
            return Err(refused("project.schema", format!("it says that project {id} is schema {shown:?}: {why}")));
        }
        match catalog::schema_is_taken(&self.app.pool, None, schema).await? {
            Some(other) if other != id.as_str() => Err(refused(
                "project.schema_taken",
                format!("it says that project {id} is schema {schema:?}, which is backed up by project {other:?}"),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn everything() -> Scope {
    Scope::everything("the catalogue is rebuilt by whoever runs the program, for all projects")
}

/// Reads a manifest and looks whether its artifact is there, with as many bytes as were recorded.
pub(super) async fn look_at(app: &App, storage: &dyn Storage, at: Locator) -> Result<Found, Skip> {
    let unread = |error: ManifestError| match error {
        ManifestError::Storage(error) => Skip::Storage(error),
        other => refused(other.code(), other),
    };
    let file = pipeline::read_manifest_file(storage, &at).await.map_err(unread)?;
    let (head, seal) = (file.head.clone(), file.sealed_by(&app.keys.seals));
    if let Err(error @ SealError::Broken) = &seal {
        return Err(refused(error.code(), error));
    }
    if head.key.manifest() != *at.key() {
        // Else a manifest could be laid under another backup's name, and stand for it.
        return Err(refused("manifest.misplaced", format!("it says that it belongs to {}", head.key)));
    }
    let manifest = match file.open(&app.keys.identities) {
        Ok(manifest) => Some(manifest),
        Err(ManifestError::Decode(DecodeError::KeyUnavailable | DecodeError::KeyMismatch)) => None,
        Err(error) => return Err(unread(error)),
    };
    let artifact = storage.find(&head.key).await?;
    let fault = match &artifact {
        None => Some("the artifact is not there".to_owned()),
        Some(artifact) => match storage.stat(artifact).await {
            Ok(stat) if stat.bytes == head.stored.bytes => None,
            Ok(stat) => Some(format!("{} bytes are stored, {} were recorded", stat.bytes, head.stored.bytes)),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        },
    };
    Ok(Found { manifest_at: at, head, manifest, seal, artifact, fault })
}

/// Asks for as many good copies as have been found, at most as many as the configuration asks for: where backups go now says nothing of where
/// one that was written down again had copies.
pub(super) async fn require_found(
    app: &App,
    connection: &mut sqlx::PgConnection,
    id: BackupId,
) -> Result<(), HistoryError> {
    let most = app.config.backup.required_copies.map_or(i32::MAX, |most| i32::try_from(most.get()).unwrap_or(i32::MAX));
    history::require_found_copies(connection, id, most).await
}

/// Whether the row that is there is of the same backup, and of one that was stored.
pub(super) fn fits(row: &Recorded, head: &Head) -> Result<(), Misfit> {
    if row.project_id != head.project_id.as_str() {
        return Err(misfit(
            "catalog.conflict",
            format!("the control plane has backup {} of another project", head.backup_id),
        ));
    }
    let stored = [BackupStatus::Completed, BackupStatus::Damaged, BackupStatus::Expired];
    if !stored.iter().any(|status| row.status == status.as_str()) {
        let message = format!("the control plane says that backup {} is {}", head.backup_id, row.status);
        return Err(misfit("catalog.not_completed", message));
    }
    if row.sha256.as_ref().is_some_and(|recorded| *recorded != head.stored.sha256.to_string()) {
        let message = format!("the control plane has backup {} with another SHA-256", head.backup_id);
        return Err(misfit("catalog.conflict", message));
    }
    Ok(())
}

/// What a sweep of one storage came to.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    /// Temporary leftovers that were removed. `None` in a dry run: a storage does not list them.
    pub removed: Option<u64>,
    #[serde(flatten)]
    pub adopted: Rebuilt,
}

/// Puts a storage in order: removes what attempts that died have left under temporary names, last written more than `older_than` ago, and
/// takes up backups of known projects whose record is missing. Artifacts without a manifest are not looked for: a storage lists its
/// manifests alone, and the next attempt at the same backup removes them.
///
/// # Errors
/// There is no such storage, it refuses to be swept, or the control plane does not answer.
pub async fn sweep(
    app: &App,
    caller: &Caller,
    name: &str,
    older_than: Duration,
    dry_run: bool,
) -> Result<Swept, SweepError> {
    let storage = request::storage(app, name)?;
    let removed = if dry_run {
        None
    } else {
        let before = SystemTime::from(app.clock.now()).checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        Some(storage.sweep_temporary(before).await?)
    };
    let adopted = Rebuild::new(app, caller, Adopt::KnownProjects, dry_run).storage(name).await?;
    Ok(Swept { removed, adopted })
}

/// Why a storage could not be swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("cannot sweep the storage")]
    Request(#[from] RequestError),
    #[error("cannot sweep the storage")]
    Storage(#[from] storage::Error),
}
