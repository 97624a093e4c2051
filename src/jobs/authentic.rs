//! Whether a copy is the backup that the history names: its record, the sealed manifest beside it, and (by `copies`) all its
//! bytes are compared with each other before anybody reads one as content.
//!
//! What always holds: nothing is read from a copy on the word of the control plane alone, nor on that of the storage alone. Who can write into
//! one of them, or into both, can make a backup unusable; only who has the key that seals manifests can make one up.

use super::{catalog::Misfit, context::JobError};
use crate::{
    app::App,
    artifact::ArtifactName,
    clock::Timestamp,
    config::Unsealed,
    history::{self, Backup},
    manifest::{Head, Manifest},
    pipeline::{self, ManifestError, ManifestFile},
    storage::{self, ErrorKind, Locator, Storage},
    transform::seal::{KeyId, SealError},
};

/// How much of the manifest is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// What can be read without the key that decrypts.
    Head,
    /// Its body as well: what the backup holds.
    Whole,
}

/// Why a copy is not read.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not what was recorded: altered, cut, or another backup's.
    #[error("{message}")]
    Forged { code: &'static str, message: String },
    /// Nothing is known to be wrong, and nothing proves that it is right.
    #[error("{message}")]
    Unproved { code: &'static str, message: String, hint: &'static str },
    #[error("{0:#}")]
    Storage(storage::Error),
}

impl Refusal {
    /// A stable word for logs and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forged { code, .. } | Self::Unproved { code, .. } => code,
            Self::Storage(error) => error.kind.code(),
        }
    }
}

impl From<Refusal> for JobError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Storage(error) => error.into(),
            Refusal::Forged { code, message } => Self::fail(code, format!("{message} ({code})")),
            Refusal::Unproved { code, message, hint } => Self::fail(code, format!("{message} ({code}). {hint}")),
        }
    }
}

fn forged(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::Forged { code, message: message.into() }
}

/// Reads the manifest beside a copy, by its name or where the copy's row says, and compares seal, record and place. `None`: there is none, and
/// `seal.unsealed` says that this is no reason.
///
/// # Errors
/// See [`Refusal`]; [`Refusal::Unproved`] also where [`Compare::Whole`] needs a key that is not at hand.
pub async fn check(
    app: &App,
    backup: &Backup,
    storage: &dyn Storage,
    at: &Locator,
    compare: Compare,
) -> Result<Option<ManifestFile>, Refusal> {
    let record = backup.manifest();
    let keeper = storage::keeper(storage, at).await.map_err(Refusal::Storage)?;
    let storage = keeper.as_deref().unwrap_or(storage);
    let Some(file) = beside(app, backup, storage, at).await? else {
        if app.config.seal.unsealed == Unsealed::Always {
            return Ok(None);
        }
        let name = at.key().manifest();
        return Err(forged("manifest.missing", format!("the manifest {name} is not there")));
    };
    require_seal(app, &file, backup.created_at)?;
    fits(backup, at, &file.head).map_err(|difference| {
        forged("seal.mismatch", format!("the manifest beside it is not this backup's: {difference}"))
    })?;
    if let Some(record) = &record {
        same_record(app, record, &file, compare)?;
    }
    Ok(Some(file))
}

/// The manifest beside a copy: what has its name, or else what lies where the copy's row says. A prefix that was changed, an index that was lost,
/// and a group that has become another chat take the name away, and not the manifest. `None`: it is in neither place.
async fn beside(
    app: &App,
    backup: &Backup,
    storage: &dyn Storage,
    at: &Locator,
) -> Result<Option<ManifestFile>, Refusal> {
    let name = at.key().manifest();
    let (named_at, named) = match storage.find(&name).await {
        Ok(None) => (None, Ok(None)),
        Ok(Some(named_at)) => {
            let named = read(storage, &named_at).await;
            (Some(named_at), named)
        }
        Err(error) if error.kind.may_pass() => return Err(Refusal::Storage(error)),
        Err(error) => (None, Err(no_verdict(error, &name))),
    };
    if let Ok(Some(file)) = &named
        && file.head.backup_id == backup.backup_id()
    {
        return named;
    }
    let recorded = history::manifest_locator(&app.pool, backup.backup_id(), at).await.map_err(|error| {
        let context = format!("cannot ask the control plane where {name} was stored");
        Refusal::Storage(storage::Error::new(ErrorKind::Unavailable, context).with_source(error))
    })?;
    match recorded.filter(|recorded| *recorded.key() == name && Some(recorded) != named_at.as_ref()) {
        Some(recorded) => match read(storage, &recorded).await {
            Ok(None) => named,
            found => found,
        },
        None => named,
    }
}

/// Reads a manifest; `None` when it is not there.
async fn read(storage: &dyn Storage, at: &Locator) -> Result<Option<ManifestFile>, Refusal> {
    match pipeline::read_manifest_file(storage, at).await {
        Ok(file) => Ok(Some(file)),
        Err(ManifestError::Storage(error)) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(ManifestError::Storage(error)) if error.kind != ErrorKind::Corrupt => Err(Refusal::Storage(error)),
        Err(error) => Err(forged(error.code(), error.to_string())),
    }
}

/// Why a name was not looked up. An index that is lost or damaged says nothing of what it named.
fn no_verdict(error: storage::Error, name: &ArtifactName) -> Refusal {
    if error.kind != ErrorKind::Corrupt {
        return Refusal::Storage(error);
    }
    let hint = error.hint().map(str::to_owned);
    let told = storage::Error::new(ErrorKind::Unavailable, format!("cannot look for {name}")).with_source(error);
    Refusal::Storage(match hint {
        Some(hint) => told.with_hint(hint),
        None => told,
    })
}

/// Fails unless an accepted key has sealed the manifest, or none is needed for a backup of this time. Nor is it for a file that another program
/// has sent, perhaps without a key: it is handed out as it is, and never restored.
fn require_seal(app: &App, file: &ManifestFile, created_at: Timestamp) -> Result<(), Refusal> {
    let error = match file.sealed_by(&app.keys.seals) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let hint = match &error {
        // Its bytes are these and no others: as good as a seal.
        SealError::Missing if app.config.seal.unsealed_manifests.contains(&file.sha256()) => return Ok(()),
        SealError::Broken => return Err(forged(error.code(), error.to_string())),
        SealError::UnknownKey(_) if app.config.seal.unsealed == Unsealed::Always => return Ok(()),
        SealError::UnknownKey(_) => {
            "Put the installation's seal.key back, or add its public half to seal.accepted_keys if you trust who sealed it."
        }
        SealError::Missing if may_be_unsealed(app, created_at) => return Ok(()),
        SealError::Missing if file.head.encoding.format.is_none() && app.config.seal.unsealed != Unsealed::Never => {
            return Ok(());
        }
        SealError::Missing => {
            "If you trust the storage all the same, add that SHA-256 to seal.unsealed_manifests, or set seal.unsealed to \"always\"."
        }
    };
    let message = match &error {
        SealError::Missing => format!("{error}; its SHA-256 is {}", file.sha256()),
        other => other.to_string(),
    };
    Err(Refusal::Unproved { code: error.code(), message, hint })
}

/// Whether a backup of this time, which the history knows, is read without a seal.
pub(super) fn may_be_unsealed(app: &App, created_at: Timestamp) -> bool {
    match app.config.seal.unsealed {
        Unsealed::Always => true,
        Unsealed::Never => false,
        Unsealed::Older => app.keys.seals.since().is_some_and(|since| created_at < since),
    }
}

/// The rule for what only a storage tells: a broken seal or a strange key's is never taken, and one that is missing where that was asked for.
pub(super) fn may_be_taken_up(seal: &Result<KeyId, SealError>, take_up: TakeUp) -> Result<(), Misfit> {
    let (error, remedy) = match (seal, take_up) {
        (Ok(_), _) | (Err(SealError::Missing), TakeUp::AlsoUnsealed) => return Ok(()),
        (Err(error @ SealError::Missing), TakeUp::Sealed) => {
            (error, ", and nothing proves what it says: --allow-unsealed takes it nevertheless")
        }
        (Err(error @ SealError::UnknownKey(_)), _) => {
            (error, ": put seal.key back, or add the public key to seal.accepted_keys if you trust who sealed it")
        }
        (Err(error @ SealError::Broken), _) => (error, ""),
    };
    Err(Misfit { code: error.code(), message: format!("{error}{remedy}") })
}

/// Which manifests are written into the history, where nothing but a storage tells of the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeUp {
    #[default]
    Sealed,
    AlsoUnsealed,
}

impl TakeUp {
    /// For a flag that was given or not.
    pub fn unsealed_if(allowed: bool) -> Self {
        if allowed { Self::AlsoUnsealed } else { Self::Sealed }
    }
}

/// Compares the record's row with the head, and the head with where it lies. Says what differs first.
fn fits(backup: &Backup, at: &Locator, head: &Head) -> Result<(), String> {
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
    let same = |what: &str, recorded: &str, sealed: &str| {
        if recorded == sealed {
            return Ok(());
        }
        let shown = |text: &str| text.chars().take(120).collect::<String>();
        Err(format!("the {what} is {:?} on record and {:?} in the manifest", shown(recorded), shown(sealed)))
    };
    same("backup", &backup.id.to_string(), &head.backup_id.to_string())?;
    same("project", &backup.project_id, head.project_id.as_str())?;
    same("type", &backup.r#type, head.backup_type.as_str())?;
    same("key", at.key().as_str(), head.key.as_str())?;
    same("size", &backup.size.to_string(), &head.stored.bytes.to_string())?;
    let sealed = head.stored.sha256.to_string();
    same("SHA-256", backup.sha256.as_deref().unwrap_or(&sealed), &sealed)?;
    let format = head.encoding.format.map_or("none", crate::artifact::Format::as_str);
    same("format", &word(&backup.format), format)?;
    same("compression", &word(&backup.compression), head.encoding.compression.as_str())?;
    same("encryption", &word(&backup.encryption), head.encoding.encryption.as_str())?;
    // The database keeps microseconds.
    if (backup.created_at - head.created_at).abs() > chrono::Duration::milliseconds(1) {
        same("time", &backup.created_at.to_rfc3339(), &head.created_at.to_rfc3339())?;
    }
    // A row may know more: older heads do not say it, their bodies do.
    if head.is_partial && !backup.is_partial {
        return Err("it is whole on record and partial in the manifest".to_owned());
    }
    Ok(())
}

/// Compares the manifest in the record with the sealed one.
fn same_record(app: &App, record: &Manifest, file: &ManifestFile, compare: Compare) -> Result<(), Refusal> {
    let differs = |what: &str| {
        forged("seal.mismatch", format!("the {what} of the manifest on record is not that of the one that was stored"))
    };
    if record.head != file.head {
        return Err(differs("head"));
    }
    if compare == Compare::Head {
        return Ok(());
    }
    let opened = file.clone().open(&app.keys.identities).map_err(|error| match error.code() {
        code @ ("key.unavailable" | "key.mismatch") => Refusal::Unproved {
            code,
            message: error.to_string(),
            hint: "Put the age key where encryption.identity_file says.",
        },
        code => forged(code, error.to_string()),
    })?;
    if record.body == opened.body { Ok(()) } else { Err(differs("body")) }
}
