//! `holdfast download`: a stored artifact as a file.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use futures::TryStreamExt;
use serde_json::json;

use super::{
    Context, Exit, Failure, failure,
    open::{self, Opened},
    resolve,
};
use crate::{
    app::App,
    artifact::{Encoding, Encryption, Fingerprint},
    db,
    history::{self, Backup, BackupStatus, Copy, Event},
    jobs::authentic::{self, Compare, Refusal},
    keys,
    report::{self, StdoutClosed},
    storage::{self, Storage},
    transform::{self, Identities, digest::Fingerprinter},
};

/// Fetch a backup's stored bytes, checked against its SHA-256.
///
/// They are written beside the target and renamed when all of them are right. With --decrypt, the dump itself: decrypted,
/// decompressed and checked against its own SHA-256. To standard output (--output -) bytes are written as they come; exit code 6
/// then says that they were not right. Without --from a copy that cannot be read, or whose bytes are not right, is left for the next one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast download latest:acme
  holdfast download latest:acme --decrypt --output acme.sql
  holdfast download 0199ab12 --from offsite --output - | sha256sum")]
pub struct Args {
    /// An id, its unique beginning, or latest:PROJECT.
    backup: String,
    /// The file to write, or - for standard output [default: the artifact's own name, here].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The storage to fetch it from, and no other [default: the first with a good copy].
    #[arg(long, value_name = "STORAGE")]
    from: Option<String>,
    /// Decrypt and decompress it.
    #[arg(long)]
    decrypt: bool,
    /// The age key file for --decrypt [default: as configured].
    #[arg(long, value_name = "FILE", requires = "decrypt")]
    identity: Option<PathBuf>,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let app = &opened.app;
        let backup = resolve::backup(app, context, &args.backup).await?;
        let sources = Source::all(app, &backup, args.from.as_deref()).await?;
        let Some(first) = sources.first() else { anyhow::bail!("no copy was found") };
        let to_stdout = args.output.as_deref() == Some(Path::new("-"));
        let target = match (&args.output, to_stdout) {
            (_, true) => None,
            (Some(path), false) => Some(path.clone()),
            (None, false) => Some(PathBuf::from(first.file_name(args.decrypt)?)),
        };
        if let Some(path) = &target
            && path.exists()
            && !args.force
        {
            let message = format!("{} is there already", path.display());
            return Err(Failure::refused("file.exists", message).hint("Give --force to replace it, or another --output.").into());
        }
        let (source, written) = fetch(context, opened, &args, &sources, target.as_deref()).await?;
        audit(app, context, source, args.decrypt, written.is_ok()).await?;
        let bytes = written?.bytes;
        match &target {
            Some(path) if context.is_json() => report::print_json(&json!({
                "backup_id": backup.id, "file": path, "bytes": bytes, "storage": source.copy.storage, "decrypted": args.decrypt,
            })),
            Some(path) => report::print(&format!("{}\n", path.display())),
            None => Ok(()),
        }
    })
    .await
}

/// Fetches from the first copy whose bytes are right. What has been written to standard output cannot be taken back: there the first copy
/// is the only one.
async fn fetch<'a>(
    context: &Context,
    opened: &Opened,
    args: &Args,
    sources: &'a [Source],
    target: Option<&Path>,
) -> anyhow::Result<(&'a Source, anyhow::Result<Fingerprint>)> {
    let mut sources = sources.iter().peekable();
    while let Some(source) = sources.next() {
        let decoder = args.decrypt.then(|| Decoder::new(opened, source, args.identity.as_deref())).transpose()?;
        let has_more = sources.peek().is_some();
        let proved = source.prove(&opened.app).await;
        // What has been written to standard output is not taken back.
        let can_fall_back = (target.is_some() || decoder.is_some() || proved.is_err()) && has_more;
        let written = match (proved, target, decoder) {
            (Err(refusal), ..) => Err(refusal),
            (Ok(()), Some(path), decoder) => to_file(source, decoder, path).await,
            (Ok(()), None, Some(decoder)) => decoded_to_stdout(source, decoder).await,
            (Ok(()), None, None) => source.copy_to(Box::new(io::stdout())).await,
        };
        match &written {
            Err(error) if can_fall_back && is_of_the_copy(error) => {
                context.warn(&format!(
                    "left the copy in storage {:?}: {}",
                    source.copy.storage,
                    failure::text_of(error)
                ));
            }
            Ok(_) | Err(_) => return Ok((source, written)),
        }
    }
    anyhow::bail!("no copy was found")
}

/// Whether another copy may do better.
fn is_of_the_copy(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<storage::Error>()
            || cause.downcast_ref::<Failure>().is_some_and(|failure| failure.exit == Exit::Damage)
    })
}

/// A copy that can be fetched.
struct Source {
    backup: Backup,
    copy: Copy,
    storage: Arc<dyn Storage>,
    /// Of the stored bytes, as recorded.
    expected: Fingerprint,
}

impl Source {
    /// The copies that may be fetched, in order, at least one: every good one, or the named storage's alone, good or not.
    async fn all(app: &App, backup: &Backup, from: Option<&str>) -> anyhow::Result<Vec<Self>> {
        let not_found = |message: String| Failure::new(Exit::NotFound, "copy.not_found", message);
        if backup.is(BackupStatus::Deleted) {
            return Err(Failure::refused("backup.deleted", format!("backup {} is being deleted", backup.id))
                .hint("Choose a backup that is completed.")
                .into());
        }
        let copies = history::copies(&app.pool, &[backup.id]).await?;
        let fits = |copy: &&Copy| match from {
            Some(name) => copy.storage == name && copy.locator.is_some(),
            None => copy.is_good() && app.storages.contains_key(&copy.storage),
        };
        let fitting: Vec<&Copy> = copies.iter().filter(fits).collect();
        if fitting.is_empty() {
            let names: Vec<String> = copies.iter().map(|copy| format!("{} ({})", copy.storage, copy.status)).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(not_found(format!("backup {} ({}) has no such copy to fetch", backup.id, backup.status))
                .hint(format!("Its copies: {there}."))
                .into());
        }
        let Some(sha256) = backup.sha256.as_deref().and_then(|digest| digest.parse().ok()) else {
            let message = format!("backup {} has no SHA-256 on record", backup.id);
            return Err(Failure::refused("backup.no_digest", message).into());
        };
        let expected = Fingerprint { bytes: backup.size.unsigned_abs(), sha256 };
        let source = |copy: &Copy| match app.storages.get(&copy.storage) {
            Some(storage) => Ok(Self { backup: backup.clone(), copy: copy.clone(), storage, expected }),
            None => Err(not_found(format!("storage {:?} is not configured here", copy.storage))
                .hint("Add it to the configuration, or fetch another copy with --from.")
                .into()),
        };
        fitting.into_iter().map(source).collect()
    }

    /// Fails unless record, sealed manifest and place agree.
    async fn prove(&self, app: &App) -> anyhow::Result<()> {
        let at = self.copy.locator().context("the copy's locator cannot be read")?;
        let checked = authentic::check(app, &self.backup, self.storage.as_ref(), &at, Compare::Head).await;
        let told = |message| format!("the copy in storage {:?} is not read: {message}", self.copy.storage);
        match checked {
            Ok(_) => Ok(()),
            Err(Refusal::Storage(error)) => Err(error.into()),
            Err(Refusal::Forged { code, message }) => Err(Failure::new(Exit::Damage, code, told(message)).into()),
            Err(Refusal::Unproved { code, message, hint }) => {
                Err(Failure::new(Exit::Damage, code, told(message)).hint(hint).into())
            }
        }
    }

    /// The artifact's own name; without the extensions of what is undone, if decoded.
    fn file_name(&self, decoded: bool) -> anyhow::Result<String> {
        let recorded = self.backup.file_name.as_deref().and_then(|name| Path::new(name).file_name()?.to_str());
        let name = recorded.map_or_else(|| format!("backup-{}", self.backup.id), str::to_owned);
        Ok(if decoded { self.backup.encoding()?.decoded_name(&name) } else { name })
    }

    /// Writes the stored bytes to `out`, and fails at the end unless they are those on record.
    async fn copy_to(&self, mut out: Box<dyn Write + Send>) -> anyhow::Result<Fingerprint> {
        let at = self.copy.locator().context("the copy's locator cannot be read")?;
        let mut stream = self.storage.open(&at, None).await?;
        let mut digest = Fingerprinter::default();
        while let Some(chunk) = stream.try_next().await? {
            (out, digest) = tokio::task::spawn_blocking(move || {
                digest.update(&chunk);
                out.write_all(&chunk).map(|()| (out, digest))
            })
            .await?
            .map_err(write_error)?;
        }
        tokio::task::spawn_blocking(move || out.flush()).await?.map_err(write_error)?;
        let found = digest.finish();
        if found == self.expected {
            return Ok(found);
        }
        let message = format!(
            "the copy in storage {:?} is not what was stored: {} bytes with SHA-256 {}, expected {} with {}",
            self.copy.storage, found.bytes, found.sha256, self.expected.bytes, self.expected.sha256
        );
        Err(Failure::new(Exit::Damage, "storage.corrupt", message)
            .hint(format!("Try another copy with --from, and run `holdfast verify {} --depth head`.", self.backup.id))
            .into())
    }
}

fn write_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        StdoutClosed.into()
    } else {
        anyhow::Error::new(error).context("cannot write")
    }
}

/// What turns stored bytes into the dump.
struct Decoder {
    encoding: Encoding,
    identities: Identities,
    /// Of the dump, as recorded.
    expected: Option<Fingerprint>,
}

impl Decoder {
    fn new(opened: &Opened, source: &Source, identity: Option<&Path>) -> anyhow::Result<Self> {
        let encoding = source.backup.encoding()?;
        let identities = match identity {
            Some(path) => keys::load_identities(path).map_err(super::key::refusal)?,
            None => opened.app.keys.identities.clone(),
        };
        if encoding.encryption == Encryption::Age && identities.is_empty() {
            return Err(Failure::refused("key.unavailable", "there is no key here that could decrypt it")
                .hint("Give the key file with --identity FILE.")
                .into());
        }
        let digest = source.backup.content_sha256.as_deref().and_then(|digest| digest.parse().ok());
        let expected = source
            .backup
            .content_size
            .zip(digest)
            .map(|(bytes, sha256)| Fingerprint { bytes: bytes.unsigned_abs(), sha256 });
        Ok(Self { encoding, identities, expected })
    }

    /// Reads stored bytes that were checked, writes the dump, and fails unless it is the one on record.
    fn decode(self, stored: Box<dyn Read + Send>, mut out: impl Write) -> anyhow::Result<Fingerprint> {
        let damaged = |message: String| Failure::new(Exit::Damage, "artifact.damaged", message);
        let mut reader = transform::decode(&self.encoding, &self.identities, stored).map_err(|error| {
            Failure::refused(error.code(), format!("cannot decode it: {error}"))
                .hint("Is the key in --identity, or the configured one, the one it was encrypted to?")
        })?;
        let mut digest = Fingerprinter::default();
        let mut buffer = vec![0u8; 256 << 10];
        loop {
            let read = reader.read(&mut buffer).map_err(|error| damaged(format!("cannot decode it: {error}")))?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            out.write_all(&buffer[..read]).map_err(write_error)?;
        }
        out.flush().map_err(write_error)?;
        let found = digest.finish();
        match self.expected {
            Some(expected) if found != expected => Err(damaged(format!(
                "the dump is not the one that was taken: SHA-256 {}, expected {}",
                found.sha256, expected.sha256
            ))
            .into()),
            Some(_) | None => Ok(found),
        }
    }
}

/// Through a temporary file in the target's directory, renamed when everything was right.
async fn to_file(source: &Source, decoder: Option<Decoder>, path: &Path) -> anyhow::Result<Fingerprint> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let make = || {
        tempfile::NamedTempFile::with_prefix_in(".holdfast-download-", directory)
            .with_context(|| format!("cannot write into {}", directory.display()))
    };
    let stored = make()?;
    let mut written = source.copy_to(Box::new(stored.reopen()?)).await?;
    let mut file = stored;
    if let Some(decoder) = decoder {
        let (decoded, input) = (make()?, file.reopen()?);
        let out = decoded.reopen()?;
        written = tokio::task::spawn_blocking(move || decoder.decode(Box::new(input), out)).await??;
        file = decoded;
    }
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("cannot rename the download to {}", path.display()))?;
    Ok(written)
}

/// The stored bytes are checked in a temporary file before anything of them is decoded.
async fn decoded_to_stdout(source: &Source, decoder: Decoder) -> anyhow::Result<Fingerprint> {
    let stored = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    source.copy_to(Box::new(stored.reopen()?)).await?;
    let input = stored.reopen()?;
    tokio::task::spawn_blocking(move || decoder.decode(Box::new(input), io::stdout())).await?
}

/// Every download is an audit event, also one that failed.
async fn audit(app: &App, context: &Context, source: &Source, decrypted: bool, is_ok: bool) -> anyhow::Result<()> {
    let mut transaction = db::begin(&app.pool).await?;
    let event = Event {
        backup_id: Some(source.backup.backup_id()),
        project_id: &source.backup.project_id,
        event: "downloaded",
        caller: &context.caller,
        outcome: if is_ok { "ok" } else { "failed" },
        detail: json!({ "storage": source.copy.storage, "decrypted": decrypted }),
    };
    history::record(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(())
}
