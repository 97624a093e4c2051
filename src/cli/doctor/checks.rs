//! The checks themselves. Each adds its findings and goes on where it can.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::fs::statvfs;
use sqlx::{Connection, PgConnection, PgPool};

use super::{Finding, Health};
use crate::{
    byte_size::ByteSize,
    catalog::{self, CatalogError, Project, ProjectScope},
    cli::{Failure, failure, open},
    clock::Clock,
    config::{Config, StorageConfig, Unsealed},
    db,
    ids::CONTROL_PLANE_PROJECT,
    jobs::queue,
    keyring::{self, KeyFiles},
    keys::{self, SecretsKey},
    postgres::{
        connect::ConnectInfo,
        inspect,
        rights::{self, RoleRights},
        tools::{ClientTool, Tools, display_version, is_fixed},
    },
    report,
    storage::{self, Ledger, ProbeDepth, ledger::InMemoryLedger},
    tenant::Scope,
};

/// Free space below which backups are in danger, and below which nothing works.
const LOW_DISK: ByteSize = ByteSize::gib(2);
const NO_DISK: ByteSize = ByteSize::mib(100);

/// Difference between this machine's clock and the database's, in seconds. Tokens and names of artifacts use this machine's.
const CLOCK_WARN: f64 = 5.0;
const CLOCK_FAIL: f64 = 60.0;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &str, status: Health, message: impl Into<String>, remedy: Option<&str>) {
        let finding =
            Finding { check: check.to_owned(), status, message: message.into(), remedy: remedy.map(str::to_owned) };
        self.0.push(finding);
    }

    pub(super) fn ok(&mut self, check: &str, message: impl Into<String>) {
        self.add(check, Health::Ok, message, None);
    }

    pub(super) fn warn(&mut self, check: &str, message: impl Into<String>, remedy: &str) {
        self.add(check, Health::Warn, message, Some(remedy));
    }

    pub(super) fn fail(&mut self, check: &str, message: impl Into<String>, remedy: &str) {
        self.add(check, Health::Fail, message, Some(remedy));
    }

    pub(super) fn into_vec(self) -> Vec<Finding> {
        self.0
    }
}

/// Space where keys, spool files and the embedded PostgreSQL live.
pub(super) fn data_dir(findings: &mut Findings, config: &Config) {
    let path = &config.data_dir;
    let check = "data directory";
    if !path.exists() {
        return findings.warn(check, format!("{} is not there yet", path.display()), "It is made at the first start.");
    }
    match statvfs(path) {
        Ok(stat) => {
            let free = ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize));
            let message = format!("{}, {free} free", path.display());
            if free < NO_DISK {
                findings.fail(check, message, "Free some space: restores need room for one artifact here.");
            } else if free < LOW_DISK {
                findings.warn(check, message, "Free some space: restores need room for one artifact here.");
            } else {
                findings.ok(check, message);
            }
        }
        Err(error) => findings.fail(check, format!("{}: {error}", path.display()), "Check that it can be read."),
    }
}

/// Key files, their modes, and whether the key fits what backups are encrypted to.
pub(super) fn keys(findings: &mut Findings, config: &Config) {
    let files = KeyFiles::of(config);
    if config.encryption.enabled {
        encryption_key(findings, config, &files.identity);
    } else {
        findings.warn("encryption", "off: whoever reads a storage reads the backups", "Set encryption.enabled = true.");
    }
    match &files.jwt_secret {
        // Its length was checked when the configuration was read.
        None => findings.ok("jwt secret", "configured"),
        Some(path) => {
            if key_file(findings, "jwt secret", path) {
                match keys::load_secret_file(path) {
                    Ok(_) => findings.ok("jwt secret", path.display().to_string()),
                    Err(error) => findings.fail(
                        "jwt secret",
                        error.to_string(),
                        "Delete it: another is made at the next start, and old tokens end.",
                    ),
                }
            }
        }
    }
    if key_file(findings, "seal key", &files.seal) {
        seal_key(findings, config, &files.seal);
    }
    if key_file(findings, "secrets key", &files.secrets) {
        match SecretsKey::load(&files.secrets) {
            Ok(_) => findings.ok("secrets key", files.secrets.display().to_string()),
            Err(error) => findings.fail(
                "secrets key",
                error.to_string(),
                "Put the right file back: it opens the URLs of projects' databases.",
            ),
        }
    }
}

fn seal_key(findings: &mut Findings, config: &Config, path: &Path) {
    let check = "seal key";
    let seals = match keyring::load_seals(config, path) {
        Ok(seals) => seals,
        Err(error) => {
            return findings.fail(check, error.to_string(), "Put the right file back, or correct seal.accepted_keys.");
        }
    };
    let mut accepted = seals.accepted().map(|key| key.id().to_string());
    let signing = accepted.next().unwrap_or_default();
    let others: Vec<String> = accepted.collect();
    let others = if others.is_empty() { String::new() } else { format!("; also accepted: {}", others.join(", ")) };
    let message = format!("{}, key {signing}{others}", path.display());
    match (config.seal.unsealed, seals.since()) {
        (Unsealed::Always, _) => findings.warn(
            check,
            format!("{message}; backups without a seal are restored as well"),
            "Set seal.unsealed to \"older\" when what was made without one is gone.",
        ),
        (Unsealed::Older, Some(since)) => findings.ok(check, format!("{message}, since {}", report::instant(since))),
        (Unsealed::Older | Unsealed::Never, _) => findings.ok(check, message),
    }
}

/// Whether a key file is there to be looked at. Says so when it is not, and when others may read it.
fn key_file(findings: &mut Findings, check: &str, path: &Path) -> bool {
    if !path.exists() {
        findings.warn(
            check,
            format!("{} is not there", path.display()),
            "It is made at the first start, unless configured to be elsewhere.",
        );
        return false;
    }
    match keys::others_may_read(path) {
        Ok(false) => {}
        Ok(true) => {
            let remedy = format!("chmod 600 {}", path.display());
            findings.warn(check, format!("others than its owner may read {}", path.display()), &remedy);
        }
        Err(error) => findings.warn(check, format!("{}: {error}", path.display()), "Check its owner and mode."),
    }
    true
}

fn encryption_key(findings: &mut Findings, config: &Config, path: &Path) {
    let check = "encryption key";
    let recipients = match keys::parse_recipients(&config.encryption.recipients) {
        Ok(recipients) => recipients,
        Err(error) => return findings.fail(check, error, "Correct encryption.recipients."),
    };
    if !path.exists() && !recipients.is_empty() {
        return findings.warn(
            check,
            format!("backups are encrypted to {} recipients; the key is not on this machine", recipients.len()),
            "Restores and deeper verifications need it: set encryption.identity_file where they run.",
        );
    }
    if !key_file(findings, check, path) {
        return;
    }
    match keys::load_identities(path) {
        Err(error) => findings.fail(check, error.to_string(), "Put the right file back: no backup opens without it."),
        Ok(identities) => {
            let ours: BTreeSet<String> = identities.recipients().iter().map(ToString::to_string).collect();
            let matches = recipients.is_empty() || recipients.iter().any(|r| ours.contains(&r.to_string()));
            if matches {
                findings.ok(check, format!("{} opens what is encrypted now", path.display()));
            } else {
                findings.fail(
                    check,
                    format!("{} opens none of the configured recipients' backups", path.display()),
                    "Add its recipient to encryption.recipients, or name the right key file.",
                );
            }
        }
    }
}

/// Every storage of the configuration: opened, written to, read back.
pub(super) async fn storages(findings: &mut Findings, config: &Config) {
    for (name, storage) in &config.storages {
        probe(findings, name, storage).await;
    }
}

/// Those that the control plane holds.
async fn held_storages(findings: &mut Findings, config: &Config, pool: &PgPool) -> anyhow::Result<()> {
    let rows = catalog::storages(pool).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let key = SecretsKey::load(&KeyFiles::of(config).secrets)?;
    for row in rows {
        let check = format!("storage {}", row.name);
        if config.storages.contains_key(&row.name) {
            findings.warn(
                &check,
                "the control plane holds one of the same name, which is not used",
                "`holdfast storage remove` takes away the one that is not used.",
            );
            continue;
        }
        match row.open(&key).map_err(|error| error.to_string()).and_then(|s| s.parse().map_err(|e| e.to_string())) {
            Ok(storage) => probe(findings, &row.name, &storage).await,
            Err(why) => findings.fail(&check, why, "Put the right secrets key back, or add the storage again."),
        }
    }
    Ok(())
}

async fn probe(findings: &mut Findings, name: &str, storage: &StorageConfig) {
    let ledger: Arc<dyn Ledger> = Arc::new(InMemoryLedger::default());
    let check = format!("storage {name}");
    let probed = async { storage::open(name, storage, &ledger).await?.probe(ProbeDepth::Quick).await };
    match probed.await {
        Ok(probe) => {
            let free = probe.free.map(|free| format!(", {free} free")).unwrap_or_default();
            let message = format!("writes, reads back and deletes{free}");
            match probe.free {
                Some(free) if free < LOW_DISK => {
                    findings.warn(&check, message, "Free some space, or let backups expire sooner.")
                }
                Some(_) | None => findings.ok(&check, message),
            }
        }
        Err(error) => findings.fail(&check, error.to_string(), "Check that it is reached and that we may write there."),
    }
}

/// The control plane and everything that can be seen only with it.
pub(super) async fn control_plane(findings: &mut Findings, config: &Config, tools: &Tools) {
    let check = "control plane";
    let configured = match open::configured(config) {
        Ok(configured) => configured,
        Err(error) => return findings.fail(check, failure::text_of(&error), "Correct DATABASE_URL."),
    };
    let (cluster, control) = match configured {
        Some(control) => (None, control),
        None => match open::start_embedded(config, tools).await {
            Ok(cluster) => {
                let control = cluster.connect_info(open::EMBEDDED_DATABASE);
                (Some(cluster), control)
            }
            Err(error) => {
                programs(findings, config, tools, None);
                let failure = Failure::of(&error);
                let remedy = failure.hint.as_deref().unwrap_or("Set DATABASE_URL.");
                return findings.fail(check, failure.message, remedy);
            }
        },
    };
    match open::server_version(&control).await {
        Err(failure) => {
            programs(findings, config, tools, None);
            findings.fail(check, failure.message, "Check DATABASE_URL and that the server accepts connections.");
        }
        Ok(version) => {
            let kind = if cluster.is_some() { "embedded PostgreSQL" } else { "PostgreSQL" };
            findings.ok(check, format!("{control}, {kind} {}", display_version(version)));
            programs(findings, config, tools, Some(version));
            if let Err(error) = inside(findings, config, tools, &control, cluster.is_some()).await {
                findings.fail(
                    check,
                    format!("cannot read it: {}", failure::text_of(&error)),
                    "Check the rights of its role.",
                );
            }
        }
    }
    if let Some(cluster) = cluster
        && let Err(error) = cluster.close().await
    {
        findings.warn(
            check,
            format!("the embedded PostgreSQL did not stop: {error}"),
            "Look into its log below the data directory.",
        );
    }
}

/// The client programs, and whether they fit a server.
fn programs(findings: &mut Findings, config: &Config, tools: &Tools, server: Option<u32>) {
    if config.restore.allow_vulnerable_clients {
        findings.warn(
            "vulnerable clients",
            "allowed for restores: a crafted backup can run code on this machine (CVE-2026-116314)",
            "Set restore.allow_vulnerable_clients = false, with psql and pg_restore 15.20, 16.16, 17.12, 18.7 or newer.",
        );
    }
    for (name, tool) in tools.clients() {
        let check = format!("{name} {}", display_version(tool.version));
        let message = tool.path.display().to_string();
        match (name, is_fixed(tool.version)) {
            (ClientTool::PgDump, _) | (_, true) => findings.ok(&check, message),
            (ClientTool::PgRestore | ClientTool::Psql, false) => findings.warn(
                &check,
                format!("{message}: not fit for restores (CVE-2026-116314)"),
                &format!("Upgrade the package postgresql-client-{}.", tool.version / 10_000),
            ),
        }
    }
    let Some(version) = server else {
        if tools.clients().next().is_none() {
            findings.fail(
                "programs",
                "no pg_dump, pg_restore or psql was found",
                "Install the package postgresql-client.",
            );
        }
        return;
    };
    fit(findings, config, tools, "control plane's server", version);
}

/// Whether there is a client for backups and one for restores of a server.
fn fit(findings: &mut Findings, config: &Config, tools: &Tools, whose: &str, version: u32) {
    let allow = config.restore.allow_vulnerable_clients;
    let needed = [
        ("backups", tools.client(ClientTool::PgDump, version)),
        ("restores", tools.restore_client(ClientTool::Psql, version, allow)),
        ("restores", tools.restore_client(ClientTool::PgRestore, version, allow)),
    ];
    for (what, result) in needed {
        if let Err(error) = result {
            findings.fail(
                &format!("programs for {what}"),
                format!("{whose}, version {}: {error}", display_version(version)),
                "Install the package named, or add its directory to tools.directories.",
            );
        }
    }
}

async fn inside(
    findings: &mut Findings,
    config: &Config,
    tools: &Tools,
    control: &ConnectInfo,
    is_embedded: bool,
) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(&control.options()).await?;
    clock(findings, &mut connection).await?;
    connection.close().await?;
    let pool = db::connect(control, &config.database).await?;
    let outcome = inside_pool(findings, config, tools, control, is_embedded, &pool).await;
    pool.close().await;
    outcome
}

async fn clock(findings: &mut Findings, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let before = Clock::System.now();
    let theirs = rights::server_time(connection).await?;
    let ours = before + (Clock::System.now() - before) / 2;
    let difference = (theirs - ours).num_milliseconds() as f64 / 1000.0;
    let message = format!("{difference:+.3} seconds between the control plane and this machine");
    let remedy = "Let both machines keep time by NTP.";
    if difference.abs() >= CLOCK_FAIL {
        findings.fail("clock", message, remedy);
    } else if difference.abs() >= CLOCK_WARN {
        findings.warn("clock", message, remedy);
    } else {
        findings.ok("clock", message);
    }
    Ok(())
}

async fn inside_pool(
    findings: &mut Findings,
    config: &Config,
    tools: &Tools,
    control: &ConnectInfo,
    is_embedded: bool,
    pool: &PgPool,
) -> anyhow::Result<()> {
    match db::pending(pool).await? {
        0 => findings.ok("migrations", "none missing"),
        // Whatever opens it for work migrates it.
        missing if is_embedded => {
            findings.warn("migrations", format!("{missing} missing"), "The next start applies them.");
            return Ok(());
        }
        missing => {
            findings.fail("migrations", format!("{missing} missing"), "Run `holdfast migrate`.");
            return Ok(());
        }
    }
    let fresh = Duration::from_secs(config.worker.lease_seconds.max(10));
    if queue::has_live_worker(pool, fresh).await? {
        findings.ok("workers", "at least one is alive");
    } else {
        findings.warn(
            "workers",
            "none is alive",
            "Start `holdfast serve` or `holdfast worker`; with --wait commands do their own work.",
        );
    }
    held_storages(findings, config, pool).await?;
    match catalog::database_url(pool, CONTROL_PLANE_PROJECT).await {
        Ok(_) => findings.warn(
            &format!("database {CONTROL_PLANE_PROJECT}"),
            "registered under the name of Holdfast's own database: no trial and no restore can be asked to go there",
            "Add it with `holdfast database add` under another name, move its projects there, and remove this one.",
        ),
        Err(CatalogError::NoSuchDatabase(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let projects = catalog::projects(pool, &Scope::everything("doctor looks at every project")).await?;
    if projects.is_empty() {
        findings.warn(
            "projects",
            "there are none",
            "Enrol tenants with `holdfast project add` or `holdfast project discover --add`.",
        );
    }
    let mut by_database: BTreeMap<Option<String>, Vec<Project>> = BTreeMap::new();
    for project in projects.into_iter().filter(Project::is_active) {
        by_database.entry(project.database_name.clone()).or_default().push(project);
    }
    for (name, projects) in by_database {
        let info = match &name {
            None => Ok(control.clone()),
            Some(name) => sealed_database(config, pool, name).await,
        };
        let check = format!("database {}", name.as_deref().unwrap_or("of the control plane"));
        let looked = match info {
            Ok(info) => database(findings, config, tools, &check, &info, &projects).await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            let remedy =
                "Check its URL and that the server accepts connections; add it again with --database-url-file.";
            findings.fail(&check, failure::text_of(&error), remedy);
        }
    }
    Ok(())
}

async fn sealed_database(config: &Config, pool: &PgPool, name: &str) -> anyhow::Result<ConnectInfo> {
    let key = SecretsKey::load(&KeyFiles::of(config).secrets)?;
    let sealed = catalog::database_url(pool, name).await?;
    Ok(crate::keyring::open_database_with(&key, name, &sealed)?)
}

/// One database with its projects: does our role see everything, and are the schemas there?
async fn database(
    findings: &mut Findings,
    config: &Config,
    tools: &Tools,
    check: &str,
    info: &ConnectInfo,
    projects: &[Project],
) -> anyhow::Result<()> {
    let mut connection = info.connect().await?;
    fit(findings, config, tools, check, inspect::server_version(&mut connection).await?);
    let rights = rights::role_rights(&mut connection).await?;
    roles(findings, check, &rights);
    for project in projects {
        let check = format!("project {}", project.id);
        match project.scope() {
            ProjectScope::WholeDatabase => findings.ok(&check, format!("whole database {}", info.database)),
            ProjectScope::Schema(schema) => match inspect::schema_oid(&mut connection, &schema).await? {
                Some(_) => {
                    findings.ok(&check, format!("schema {schema}"));
                    let strangers = rights::strange_owners(&mut connection, &schema).await?;
                    owners(findings, &check, &rights.role, &strangers);
                }
                None => findings.fail(
                    &check,
                    format!("schema {schema:?} does not exist in {info}"),
                    "Its backups fail: set the project's status to something other than ACTIVE, or correct its schema.",
                ),
            },
        }
    }
    connection.close().await?;
    Ok(())
}

fn roles(findings: &mut Findings, check: &str, rights: &RoleRights) {
    let role = &rights.role;
    if rights.sees_everything() {
        findings.ok(check, format!("role {role} sees every table and row"));
    } else {
        let missing = if rights.reads_all_data { "BYPASSRLS" } else { "pg_read_all_data and BYPASSRLS" };
        findings.fail(
            check,
            format!("role {role} may not see everything: it lacks {missing}"),
            "`holdfast grants --dump-role ROLE` prints the SQL.",
        );
    }
    let missing = rights.missing_for_restores();
    if !missing.is_empty() {
        findings.warn(
            check,
            format!("role {role} cannot restore everything: it lacks {}", missing.join(" and ")),
            "`holdfast grants --restore-role ROLE` prints the SQL.",
        );
    }
}

/// Whether the role can rename a tenant's schema and give everything in it back.
fn owners(findings: &mut Findings, check: &str, role: &str, strangers: &[String]) {
    if !strangers.is_empty() {
        findings.warn(
            check,
            format!("role {role} cannot restore it: it is no member of its owners {}", strangers.join(", ")),
            "Run the SQL of `holdfast grants --restore-role ROLE` again: owners are new, or are superusers.",
        );
    }
}
