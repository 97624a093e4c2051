//! `holdfast demo`: does the whole job on the sample platform, through the HTTP API, and shows it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    client::{Client, Job},
    compare::{self, Picture},
    sample::{self, SampleTenant, TENANTS},
    screen::{JobView, Screen, bytes, count, seconds},
    stage,
};
use crate::{
    app::App,
    auth::jwt::{self, Claims, Verifier},
    http, jobs,
    postgres::connect::ConnectInfo,
    report,
    tenant::{Permission, Role},
};

/// How long the token of the demonstration is good for.
const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);

/// How the demonstration is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// End after the last step, instead of serving until `stop`.
    pub exit: bool,
}

/// Gives the demonstration on an opened `app`, whose control plane is one to play with. API and worker run in this process until the
/// end, or until `stop`.
///
/// # Errors
/// The first step that fails, with its reason.
pub async fn run(mut app: App, options: DemoOptions, stop: CancellationToken) -> anyhow::Result<()> {
    report::print(&format!("Holdfast, demonstrated. Everything is kept in {}\n", app.config.data_dir.display()))?;
    let mut screen = Screen::default();
    screen.step("Start an API, a worker and a PostgreSQL")?;
    let platform = stage::prepare(&app).await?;
    let mut c = platform.connect().await.context("cannot reach the sample platform")?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut c).await?;
    screen.line(&format!("PostgreSQL {version}: a private cluster, reached at {}", platform.host))?;
    if let Some(warning) = stage::adapt(&mut app, &mut c).await? {
        screen.line(&format!("Note: {warning}."))?;
        screen.line("For this sample alone, restores are allowed all the same. Update PostgreSQL's packages soon.")?;
    }
    let (listener, note) = listen(app.config.listen.address).await?;
    let url = format!("http://{}", reachable(listener.local_addr()?));
    screen.line(&format!("API and worker: {url}{note}"))?;

    let verifier = Verifier::new(&app.keys.jwt_secret, &app.config.auth, app.clock.clone())?;
    let services = stop.child_token();
    let mut api = tokio::spawn(http::serve(app.clone(), verifier, listener, services.clone().cancelled_owned()));
    let mut worker = tokio::spawn(jobs::worker::run(app.clone(), services.clone()));
    let mut outcome = tokio::select! {
        shown = show(&app, &mut screen, &mut c, &platform, &url) => shown.and_then(|shown| last_words(&app, &platform, &url, &shown, options)),
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted: run it again, it puts right what is half done")),
        ended = &mut api => Err(anyhow::anyhow!("the API stopped: {ended:?}")),
        ended = &mut worker => Err(anyhow::anyhow!("the worker stopped: {ended:?}")),
    };
    if outcome.is_ok() && !options.exit {
        outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = &mut api => Err(anyhow::anyhow!("the API stopped: {ended:?}")),
            ended = &mut worker => Err(anyhow::anyhow!("the worker stopped: {ended:?}")),
        };
    }
    services.cancel();
    // One that has ended has told its reason above.
    if !api.is_finished() {
        _ = api.await;
    }
    if !worker.is_finished() {
        _ = worker.await;
    }
    _ = c.close().await;
    outcome
}

/// The configured address, or a free port of it when that one is taken.
async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, String)> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok((listener, String::new())),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind((address.ip(), 0)).await.context("cannot find a free port")?;
            Ok((listener, format!(" ({address} is taken)")))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// An address that a client can use: not "all of them".
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

/// What the last lines name.
struct Shown {
    backup_id: String,
    restore_job: String,
    artifact: String,
}

/// The steps.
async fn show(
    app: &App,
    screen: &mut Screen,
    c: &mut PgConnection,
    platform: &ConnectInfo,
    url: &str,
) -> anyhow::Result<Shown> {
    let client = Client::new(url.to_owned(), token(app)?)?;
    settle(screen, &client).await?;

    screen.step("Three tenants, each a schema of one database")?;
    let tenants = sample::create(c).await.context("cannot make the sample platform")?;
    let before = pictures(c, &tenants).await?;
    for (tenant, picture) in tenants.iter().zip(&before) {
        let (rows, tables, objects) = (count(picture.rows() as u64), picture.table_count(), picture.object_count());
        screen.line(&format!("{:<16} {rows:>7} rows in {tables} tables, {objects} objects", tenant.schema))?;
    }
    screen.line(&format!("They are projects acme, globex and initech, in database {}.", platform.database))?;
    let acme = tenants[0];

    screen.step("Back acme up: POST /api/backup/export")?;
    let request = json!({ "project_id": acme.project, "caption": "taken by the demonstration" });
    let (job, took) = work(&client, "/api/backup/export", &request).await?;
    let backup_id = text(&job.result.unwrap_or_default(), "backup_id")?;
    let backup = client.get(&format!("/api/backup/{backup_id}")).await?;
    ensure!(backup["status"] == "completed", "the backup is {}, not completed", backup["status"]);
    screen.line(&format!(
        "Done in {}: {} tables, {} rows; {} of SQL became {} ({}, {}).",
        seconds(took),
        number(&backup, "table_count"),
        count(number(&backup, "row_count")),
        bytes(number(&backup, "content_size")),
        bytes(number(&backup, "size")),
        backup["compression"].as_str().unwrap_or("not compressed"),
        backup["encryption"].as_str().unwrap_or("not encrypted"),
    ))?;
    let file = text(&backup, "file_name")?;
    screen.line(&file)?;
    screen.line(&format!("sha256 {}", backup["sha256"].as_str().unwrap_or_default()))?;

    screen.step("Verify the backup: POST /api/backup/{id}/verify")?;
    let path = format!("/api/backup/{backup_id}/verify");
    screen.line("Read every byte back, decrypt, decompress, compare the digests:")?;
    let (job, took) = work(&client, &path, &json!({ "depth": "read" })).await?;
    verified(&job)?;
    screen.line(&format!("Size and digests agree, stored and unpacked ({}).", seconds(took)))?;
    screen.line("Restore it into a scratch database, and count:")?;
    let (job, _) = work(&client, &path, &json!({ "depth": "restore" })).await?;
    verified(&job)?;
    let measured = job.result.as_ref().and_then(|r| r["restore_seconds"].as_f64()).unwrap_or_default();
    screen.line(&format!("Every count agrees. Measured time to recover: {measured:.1} s."))?;

    screen.step("A bad afternoon at acme")?;
    sample::ruin(c, acme.schema).await.context("cannot ruin the sample")?;
    for statement in sample::ruin_statements() {
        screen.line(&format!("  {statement}"))?;
    }
    let ruined = compare::snapshot(c, acme.schema).await?;
    let damage = compare::diff(&before[0], &ruined);
    ensure!(!damage.is_empty(), "the sample was ruined, and the comparison sees nothing");
    screen.line(&format!("{} differences from what it was:", damage.len()))?;
    screen.list('✗', &damage)?;

    screen.step("Restore acme: POST /api/backup/restore")?;
    let (job, took) = work(&client, "/api/backup/restore", &json!({ "backup_id": backup_id, "confirm": true })).await?;
    let restore_job = job.id.clone();
    let result = job.result.unwrap_or_default();
    let differences: Vec<String> = serde_json::from_value(result["differences"].clone()).unwrap_or_default();
    ensure!(differences.is_empty(), "the restore ended with differences: {}", differences.join("; "));
    let until = result["undo_until"].as_str().and_then(|at| at.parse().ok()).map(report::instant);
    let kept = until.map(|until| format!(" What was there is kept for an undo until {until}.")).unwrap_or_default();
    screen.line(&format!("Done in {}.{kept}", seconds(took)))?;

    screen.step("Compare everything with what it was")?;
    let after = pictures(c, &tenants).await?;
    let mut failed = Vec::new();
    for ((tenant, before), after) in tenants.iter().zip(&before).zip(&after) {
        let differences = compare::diff(before, after);
        let word = if *tenant == acme { "as it was" } else { "not touched" };
        if differences.is_empty() {
            let (rows, grants) = (count(after.rows() as u64), after.grants.len());
            let objects = after.object_count();
            screen.line(&format!("✓ {:<8} {word}: {rows} rows, {objects} objects, {grants} grants", tenant.project))?;
        } else {
            screen.line(&format!("✗ {:<8} {} differences:", tenant.project, differences.len()))?;
            screen.list('✗', &differences)?;
            failed.push(tenant.project);
        }
    }
    ensure!(failed.is_empty(), "not as it was before: {}", failed.join(", "));
    Ok(Shown { backup_id, restore_job, artifact: artifact(app, &backup) })
}

/// A token such as a platform would give to the people of these projects.
fn token(app: &App) -> anyhow::Result<String> {
    let claims = Claims {
        subject: "demonstration".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: TENANTS.iter().map(|tenant| tenant.project.parse()).collect::<Result<_, _>>()?,
        organization_id: None,
        role: Role::Member,
    };
    Ok(jwt::issue(&app.keys.jwt_secret, &app.config.auth, &claims, app.clock.now(), TOKEN_LIFE)?)
}

/// Ends what an earlier run left when it was killed: its job is cancelled, and a restore put back, once its lease has run out.
async fn settle(screen: &Screen, client: &Client) -> anyhow::Result<()> {
    for tenant in TENANTS {
        for job in client.unfinished(tenant.project).await? {
            screen
                .line(&format!("An earlier run left a job ({} of {}): ending it first.", job.r#type, tenant.project))?;
            // It may end by itself meanwhile: then there is nothing to cancel.
            _ = client.post(&format!("/api/jobs/{}/cancel", job.id), &json!({})).await;
            let mut view = JobView::new();
            client.follow(&job.id, |event| view.show(event)).await?;
            view.finish();
        }
    }
    Ok(())
}

async fn pictures(c: &mut PgConnection, tenants: &[SampleTenant]) -> anyhow::Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for tenant in tenants {
        let picture = compare::snapshot(c, tenant.schema).await;
        pictures.push(picture.with_context(|| format!("cannot look at {}", tenant.schema))?);
    }
    Ok(pictures)
}

/// Asks for a job, shows it until it has ended, and gives it when it has completed.
async fn work(client: &Client, path: &str, request: &Value) -> anyhow::Result<(Job, Duration)> {
    let mut view = JobView::new();
    let accepted = client.post(path, request).await?;
    let job = client.follow(&text(&accepted, "job_id")?, |event| view.show(event)).await;
    let took = view.finish();
    let job = job?;
    if job.status != "completed" {
        bail!("job {} {}: {}", job.id, job.status, job.error_message.as_deref().unwrap_or("no reason was given"));
    }
    Ok((job, took))
}

fn verified(job: &Job) -> anyhow::Result<()> {
    let result = job.result.clone().unwrap_or_default();
    ensure!(result["outcome"] == "verified", "the verification did not succeed: {result}");
    Ok(())
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    Ok(value[name].as_str().with_context(|| format!("the answer has no {name}"))?.to_owned())
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

/// Where the artifact is, as far as that is a file here.
fn artifact(app: &App, backup: &Value) -> String {
    use crate::config::StorageConfig;
    let key = backup["file_id"].as_str().unwrap_or_default();
    let name = backup["copies"][0]["storage"].as_str().or(backup["storage"].as_str()).unwrap_or_default();
    match app.config.storages.get(name) {
        Some(StorageConfig::Local(local)) => local.root.join(key).display().to_string(),
        Some(StorageConfig::S3(_) | StorageConfig::Telegram(_)) | None => key.to_owned(),
    }
}

/// The last lines: where everything is, and what to try.
fn last_words(app: &App, platform: &ConnectInfo, url: &str, shown: &Shown, options: DemoOptions) -> anyhow::Result<()> {
    let config = &app.config;
    let data_dir = shell(&config.data_dir.to_string_lossy());
    let program = std::env::current_exe().map_or_else(|_| "holdfast".to_owned(), |path| path.display().to_string());
    let program = shell(&program);
    let identity = config.encryption.identity_file.clone().unwrap_or_else(|| config.data_dir.join("age.key"));
    let identity = shell(&identity.to_string_lossy());
    let Shown { backup_id, restore_job, artifact } = shown;
    let artifact = shell(artifact);
    let password = shell(&config.data_dir.join("postgres.password").to_string_lossy());
    let (host, port, user, database) = (shell(&platform.host), platform.port, &platform.user, &platform.database);
    // `serve` will listen where the configuration says, even if that was taken now.
    let url = if options.exit { &format!("http://{}", reachable(config.listen.address)) } else { url };
    let (state, end) = if options.exit {
        (
            format!("`holdfast serve` serves the API at {url} and its documentation at {url}/docs"),
            "Run it again when you like",
        )
    } else {
        (
            format!("Serving the API at {url}, its documentation at {url}/docs"),
            "Ctrl-C ends it. Run it again when you like",
        )
    };
    report::print(&format!(
        "
{state}

Where things are
  age key     {identity}   (keep a copy elsewhere: whoever has it can read the backups, and without it nobody can)
  artifact    {artifact}
  database    PGPASSWORD=$(cat {password}) psql -h {host} -p {port} -U {user} {database}      (while Holdfast runs)

Go on
  export HOLDFAST_DATA_DIR={data_dir}
  alias holdfast={program}
  holdfast list
  holdfast show {backup_id}
  holdfast undo {restore_job}
  holdfast backup globex --format custom --wait
  holdfast restore latest:globex --confirm --wait
  TOKEN=$(holdfast token issue --subject me --scope 'backup:read backup:write' --project acme)
  curl -H \"Authorization: Bearer $TOKEN\" {url}/api/backup
  curl -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\
      -d '{{\"project_id\":\"acme\",\"compression\":\"zstd\"}}' {url}/api/backup/export
  age -d -i {identity} {artifact} | gunzip | less

{end}; to remove everything, delete {data_dir}
"
    ))
}

/// A word of a shell's command line.
fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_cannot_be_left() {
        assert_eq!(shell("/srv/holdfast"), "/srv/holdfast");
        assert_eq!(shell("/my data/it's"), "'/my data/it'\\''s'");
        assert_eq!(shell(""), "''");
    }
}
