//! Holdfast as a process of its own, so that what it uses can be told from what the bench uses: the bench runs itself again with
//! [`ARGUMENT`]. An order goes in, `ready` comes out when everything that a running service has done long before is done; a line
//! goes in, the work begins; its result comes out.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast::{
    artifact::{ArtifactName, Encoding, Fingerprint},
    byte_size::ByteSize,
    child,
    config::{ChatId, LocalStorageConfig, S3StorageConfig, Secret, StorageConfig, TelegramStorageConfig, ToolsConfig},
    ids::LeaseToken,
    manifest::DumpScope,
    pipeline::{self, BackupRun, Progress},
    postgres::{
        connect::ConnectInfo,
        inspect,
        tools::{ChildEnvironment, ClientTool, Tools},
    },
    proof_record::ProofLevel,
    source::pg_dump::{PgDump, PgDumpOptions},
    storage::{self, Ledger, Locator, Storage, ledger::InMemoryLedger},
    transform::{EncodeOptions, Identities},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    process::{Usage, Watched},
    s3_server,
};

pub const ARGUMENT: &str = "--holdfast-process";

#[derive(Serialize, Deserialize)]
pub struct Order {
    /// With its password; it goes through a pipe, not through the arguments.
    pub url: String,
    /// Root of the local storage, and where a restore spools.
    pub storage: PathBuf,
    pub place: Place,
    pub name: String,
    pub encoding: Encoding,
    /// An age identity.
    pub identity: String,
    pub what: What,
}

/// Where the artifact goes.
#[derive(Clone, Serialize, Deserialize)]
pub enum Place {
    Local,
    S3 { endpoint: String, parts_in_flight: usize },
    Telegram { base_url: String, token: String, chat_id: i64 },
}

/// Size of a part of an upload to S3, the default.
pub const S3_PART: ByteSize = ByteSize::mib(8);

#[derive(Serialize, Deserialize)]
pub enum What {
    BackUp { schema: String, proof: ProofLevel },
    Restore(Done),
}

/// What a backup came to, which a restore needs.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Done {
    pub content: Fingerprint,
    pub stored: Fingerprint,
}

/// Has the work done, by a process of its own: wall time, what that process used (its children's processor time apart), and the
/// result.
pub fn run(order: &Order) -> Result<(Duration, Usage, Done)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Watched::start(command)?;
    let mut stdin = process.child.stdin.take().context("no standard input")?;
    let mut lines = BufReader::new(process.child.stdout.take().context("no standard output")?).lines();
    writeln!(stdin, "{}", serde_json::to_string(order)?)?;
    let mut line = || lines.next().context("the process ended early")?.context("cannot read what the process says");
    ensure!(line()? == "ready", "the process says something unexpected");
    let before = process.so_far()?;
    let begun = Instant::now();
    writeln!(stdin, "go")?;
    let done = line()?;
    let wall = begun.elapsed();
    let mut usage = process.finish()?;
    // The tools were asked for their versions.
    usage.children_cpu = usage.children_cpu.saturating_sub(before.children_cpu);
    Ok((wall, usage, serde_json::from_str(&done)?))
}

/// The other side of [`run`].
pub async fn main() -> Result<()> {
    let mut lines = std::io::stdin().lines();
    let order: Order = serde_json::from_str(&lines.next().context("no order")??)?;
    let info: ConnectInfo = order.url.parse()?;
    let tools = Arc::new(Tools::discover(&ToolsConfig::default()).await);
    let storage = open(&order).await?;
    let identities = Identities::parse(&order.identity)?;
    println!("ready");
    lines.next().context("not told to begin")??;
    let name: ArtifactName = order.name.parse()?;
    let done = match order.what {
        What::BackUp { schema, proof } => {
            let source = source(info, tools, schema, &order.encoding, proof)?;
            back_up(source, order.encoding, &identities, storage, name).await?
        }
        What::Restore(done) => {
            restore(info, &tools, order.encoding, identities, &*storage, &order.storage, name, done).await?;
            done
        }
    };
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}

async fn open(order: &Order) -> Result<Arc<dyn Storage>> {
    let ledger: Arc<dyn Ledger> = Arc::new(InMemoryLedger::default());
    let config = match &order.place {
        Place::Local => StorageConfig::Local(LocalStorageConfig::new(order.storage.clone())),
        Place::S3 { endpoint, parts_in_flight } => StorageConfig::S3(Box::new(S3StorageConfig {
            part_size: S3_PART,
            parts_in_flight: *parts_in_flight,
            ..s3_server::config_at(endpoint)
        })),
        Place::Telegram { base_url, token, chat_id } => StorageConfig::Telegram(Box::new(TelegramStorageConfig {
            base_url: base_url.clone(),
            messages_per_minute: 0,
            ..TelegramStorageConfig::new(Secret::new(token), ChatId::Number(*chat_id))
        })),
    };
    Ok(storage::open("bench", &config, &ledger).await?)
}

fn source(
    connect: ConnectInfo,
    tools: Arc<Tools>,
    schema: String,
    encoding: &Encoding,
    proof: ProofLevel,
) -> Result<PgDump> {
    let options = PgDumpOptions {
        connect,
        scope: DumpScope::Schema { schema },
        format: encoding.format.context("no dump without a format")?,
        compress_level: None,
        lock_wait: Duration::from_secs(10),
        tool: None,
        exclude_schemas: Vec::new(),
    };
    Ok(PgDump::new(tools, options).proving(proof))
}

/// As the job `export_backup` does it, without its rows in the control plane.
async fn back_up(
    source: PgDump,
    encoding: Encoding,
    identities: &Identities,
    storage: Arc<dyn Storage>,
    name: ArtifactName,
) -> Result<Done> {
    let stored = pipeline::back_up(BackupRun {
        source: Box::new(source),
        encode: EncodeOptions {
            encoding,
            zstd_level: 1,
            gzip_level: 6,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            recipients: identities.recipients(),
        },
        storages: vec![("local".to_owned(), storage)],
        name,
        attempt: LeaseToken::generate(),
        caption: None,
        max_size: ByteSize(u64::MAX),
        timeout: Duration::from_secs(24 * 3600),
        verify_read_back: false,
        progress: watch::channel(Progress::default()).0,
        cancel: CancellationToken::new(),
    })
    .await?;
    Ok(Done { content: stored.content, stored: stored.stored })
}

/// The bytes' way of a restore: all stored bytes compared first, then decrypted, decompressed and compared on their way to `psql`.
#[allow(clippy::too_many_arguments)]
async fn restore(
    connect: ConnectInfo,
    tools: &Tools,
    encoding: Encoding,
    identities: Identities,
    storage: &dyn Storage,
    spool: &Path,
    name: ArtifactName,
    done: Done,
) -> Result<()> {
    let version = inspect::server_version(&mut connect.connect().await?).await?;
    let psql = tools.restore_client(ClientTool::Psql, version, true)?;
    let at = Locator::Local { key: name };
    let cancel = CancellationToken::new();
    let spooled = pipeline::spool(storage, &at, done.stored, &spool.join("spool"), &|_| (), &cancel).await?;
    let environment = ChildEnvironment::new(&connect, &[])?;
    let arguments = ["--no-psqlrc", "--no-password", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"];
    let mut psql = environment.apply(child::Command::new(psql.path).args(arguments).stdin_pipe()).spawn().await?;
    let mut stdin = psql.stdin.take().context("no standard input")?;
    let mut content = pipeline::content(&spooled, &encoding, &identities, done.content)?;
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match std::io::Read::read(&mut content, &mut buffer)? {
                0 => return anyhow::Ok(()),
                read => stdin.write_all(&buffer[..read])?,
            }
        }
    })
    .await??;
    let exit = psql.wait().await?;
    ensure!(exit.status.success(), "psql failed: {}", exit.stderr);
    Ok(())
}

/// An order's URL.
pub fn url(info: &ConnectInfo) -> String {
    info.to_url().expose_secret().to_owned()
}
