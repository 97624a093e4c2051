//! What one tick costs with 10,000 projects, and how their starts are spread over the window. `make bench-schedule`.
//!
//! A cluster of its own, or the server of `HOLDFAST_BENCH_DATABASE_URL` (as a superuser), in a database that is dropped again. The clock is
//! moved; nothing is backed up. `HOLDFAST_BENCH_PROJECTS`: how many, default 10,000.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, Utc};
use holdfast::{
    app::App,
    clock::Clock,
    config::{self, ToolsConfig},
    db,
    keyring::Keyring,
    postgres::{connect::ConnectInfo, embedded::EmbeddedCluster, tools::Tools},
    schedule,
};
use sqlx::{Connection, Executor};

const DATABASE: &str = "holdfast_bench_schedule";

fn main() -> Result<()> {
    // Cargo gives it for `cargo bench`. Whoever builds and runs all targets for tests does not want this to take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not run: use `cargo bench --bench schedule`");
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench())
}

async fn bench() -> Result<()> {
    let projects: i64 = match std::env::var("HOLDFAST_BENCH_PROJECTS") {
        Ok(text) => text.parse().context("HOLDFAST_BENCH_PROJECTS")?,
        Err(_) => 10_000,
    };
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711))?;
    let tools = Arc::new(Tools::discover(&ToolsConfig::default()).await);
    let (cluster, maintenance): (_, ConnectInfo) = match std::env::var("HOLDFAST_BENCH_DATABASE_URL") {
        Ok(url) => (None, url.parse().context("HOLDFAST_BENCH_DATABASE_URL")?),
        Err(_) => {
            let cluster = EmbeddedCluster::open(&directory.path().join("server"), &tools).await?;
            let info = cluster.connect_info("postgres");
            (Some(cluster), info)
        }
    };
    let mut connection = maintenance.connect().await?;
    connection.execute("DROP DATABASE IF EXISTS holdfast_bench_schedule WITH (FORCE)").await?;
    connection.execute("CREATE DATABASE holdfast_bench_schedule TEMPLATE template0").await?;
    let outcome = measure(projects, maintenance.with_database(DATABASE), directory.path(), tools).await;
    connection.execute("DROP DATABASE IF EXISTS holdfast_bench_schedule WITH (FORCE)").await?;
    connection.close().await?;
    if let Some(cluster) = cluster {
        cluster.close().await?;
    }
    outcome
}

async fn measure(projects: i64, control: ConnectInfo, directory: &Path, tools: Arc<Tools>) -> Result<()> {
    let start: DateTime<Utc> = "2026-11-21T01:59:00Z".parse()?;
    println!("{projects} projects, daily at 02:00, a window of 120 minutes; a tick every 15 seconds\n");
    for own in [false, true] {
        let data = directory.join(format!("data-{own}")).display().to_string();
        let empty = directory.join("empty.toml");
        std::fs::write(&empty, "")?;
        let config = config::load(Some(&empty), &BTreeMap::from([("HOLDFAST_DATA_DIR".to_owned(), data)]))?;
        let keys = Keyring::open(&config, &Clock::System)?;
        let mut app = App::open(config, control.clone(), tools.clone(), keys).await?;
        app.clock = Clock::fixed(start);
        if own {
            app.pool.execute("TRUNCATE control_plane.projects, control_plane.schedules, control_plane.schedule_runs, control_plane.jobs, control_plane.backups CASCADE").await?;
        } else {
            db::migrate(&app.pool).await?;
        }
        sqlx::query("INSERT INTO control_plane.projects (id, name, slug) SELECT 'project-' || n, 'Project ' || n, 'project_' || n FROM generate_series(1, $1) n")
            .bind(projects)
            .execute(&app.pool)
            .await?;
        if own {
            sqlx::query("INSERT INTO control_plane.schedules (project_id, cron, next_slot, holdfast) SELECT id, '0 2 * * *', '2026-11-21 02:00:00Z', true FROM control_plane.projects")
                .execute(&app.pool)
                .await?;
        }
        app.pool.execute("ANALYZE").await?;
        println!("{}", if own { "each with a schedule of its own" } else { "all by the configuration's schedule" });
        one_day(&app, start, projects).await?;
    }
    Ok(())
}

/// Ticks from a minute before the slot until the window is over.
async fn one_day(app: &App, start: DateTime<Utc>, projects: i64) -> Result<()> {
    let mut ticks: Vec<(f64, u64, usize)> = Vec::new();
    while app.clock.now() < start + Duration::minutes(122) {
        let begun = Instant::now();
        let opened = schedule::open_due(app).await?;
        let started = schedule::start_due(app, 1_000).await?;
        ticks.push((begun.elapsed().as_secs_f64() * 1_000.0, opened, started));
        app.clock.advance(Duration::seconds(15));
    }
    let told = |name: &str, of: Vec<f64>| {
        let mut sorted = of;
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share) as usize).copied().unwrap_or_default();
        println!(
            "  {name:<34} {:>5} ticks  median {:>8.1} ms  p99 {:>8.1} ms  longest {:>8.1} ms",
            sorted.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    };
    told(
        "nothing is due",
        ticks.iter().filter(|(_, opened, started)| *opened == 0 && *started == 0).map(|tick| tick.0).collect(),
    );
    told("the slot is opened", ticks.iter().filter(|(_, opened, _)| *opened > 0).map(|tick| tick.0).collect());
    told(
        "backups are started",
        ticks.iter().filter(|(_, opened, started)| *opened == 0 && *started > 0).map(|tick| tick.0).collect(),
    );
    let minutes: Vec<i64> = sqlx::query_scalar(
        "SELECT count(r.project_id) FROM generate_series(0, 119) m LEFT JOIN control_plane.schedule_runs r
         ON r.status = 'enqueued' AND floor(extract(epoch FROM r.due_at - r.slot) / 60) = m GROUP BY m ORDER BY m",
    )
    .fetch_all(&app.pool)
    .await?;
    let total: i64 = minutes.iter().sum();
    anyhow::ensure!(total == projects, "{total} of {projects} were started");
    println!(
        "  starts a minute: {} to {}, {:.1} on average; {total} in all, each once\n",
        minutes.iter().min().unwrap_or(&0),
        minutes.iter().max().unwrap_or(&0),
        total as f64 / 120.0,
    );
    Ok(())
}
