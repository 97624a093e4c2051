//! How quickly the API answers when the control plane has much in it. `cargo bench --bench api`; how to read what it prints is in
//! `docs/performance.md`.
//!
//! A cluster of its own with made-up rows, the real `holdfast serve` as one process, the load from this one, on loopback. Set by the
//! environment:
//!
//! - `HOLDFAST_BENCH_PROJECTS`, `HOLDFAST_BENCH_BACKUPS`, `HOLDFAST_BENCH_JOBS`: rows, default 1000, 1000000 and 100000. There is an event
//!   in the history for each backup.
//! - `HOLDFAST_BENCH_RATE`, `HOLDFAST_BENCH_SECONDS`: requests a second, and for how long each kind of request is sent; default 200 and 30.
//! - `HOLDFAST_BENCH_ONLY`: leave out requests whose name does not have this in it. The baseline always runs.
//! - `HOLDFAST_BENCH_DATABASE_URL`: a database to use, and to leave as it is at the end, in place of a cluster of its own. Rows are made only
//!   where there are no projects yet.
//! - `TMPDIR`: where the cluster goes; about 1 GB is needed there.

mod load;
mod requests;
mod rows;
mod serving;

use std::{os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result};
use holdfast::{
    config::{DatabaseConfig, ToolsConfig},
    db,
    postgres::{embedded::EmbeddedCluster, tools::Tools},
};
use sqlx::{Connection, Executor};

use crate::{load::Measured, requests::Kind, rows::Sizes, serving::Serving};

fn main() -> Result<()> {
    // Cargo gives it for `cargo bench`. Whoever builds and runs all targets for tests does not want this to take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("not run: use `cargo bench --bench api`");
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench())
}

fn variable<T: std::str::FromStr>(name: &str, default: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.parse().with_context(|| format!("cannot read {name}"))
}

async fn bench() -> Result<()> {
    let sizes = Sizes {
        projects: variable("HOLDFAST_BENCH_PROJECTS", "1000")?,
        backups: variable("HOLDFAST_BENCH_BACKUPS", "1000000")?,
        jobs: variable("HOLDFAST_BENCH_JOBS", "100000")?,
    };
    let rate: u32 = variable("HOLDFAST_BENCH_RATE", "200")?;
    let lasts = Duration::from_secs(variable("HOLDFAST_BENCH_SECONDS", "30")?);
    let only: String = variable("HOLDFAST_BENCH_ONLY", "")?;

    // PostgreSQL's unprivileged user must be able to pass through.
    let passable = std::fs::Permissions::from_mode(0o711);
    let directory = tempfile::Builder::new().prefix("holdfast-bench-").permissions(passable).tempdir()?;
    let (cluster, info) = match std::env::var("HOLDFAST_BENCH_DATABASE_URL") {
        Ok(url) => (None, url.parse().context("cannot read HOLDFAST_BENCH_DATABASE_URL")?),
        Err(_) => {
            let tools = Tools::discover(&ToolsConfig::default()).await;
            let cluster = EmbeddedCluster::open(&directory.path().join("server"), &tools).await?;
            let mut maintenance = cluster.connect_info("postgres").connect().await?;
            maintenance.execute("CREATE DATABASE holdfast_bench").await?;
            maintenance.close().await?;
            let mut info = cluster.connect_info("holdfast_bench");
            info.host = "127.0.0.1".to_owned();
            (Some(cluster), info)
        }
    };
    let pool = db::connect(&info, &DatabaseConfig::default()).await?;
    db::migrate(&pool).await?;
    eprintln!("{} projects, {} backups, {} jobs …", sizes.projects, sizes.backups, sizes.jobs);
    let known = rows::make(&pool, sizes).await?;
    pool.close().await;

    let serving = Serving::start(&info, directory.path())?;
    let version = holdfast::postgres::tools::display_version(known.server_version);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cores} cores, PostgreSQL {version}, {} projects, {} backups, {} jobs",
        sizes.projects, sizes.backups, sizes.jobs
    );
    println!("{rate} requests a second for {} s each, load {}\n", lasts.as_secs(), system_load());
    println!("| request | answers | p50 | p99 | slowest | p50 × `/readyz` | p99 × |\n|---|--:|--:|--:|--:|--:|--:|");
    let (mut floor, mut failures) = (None, Vec::new());
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_baseline() || kind.name().contains(&only)) {
        eprintln!("{} (load {}) …", kind.name(), system_load());
        let maker = requests::Maker::new(&serving, kind, &known, sizes)?;
        match load::run(&maker, rate.min(kind.most_a_second()), lasts).await {
            Ok(measured) => {
                line(kind, &measured, floor.as_ref());
                if kind == Kind::Ready {
                    floor = Some(measured);
                }
            }
            Err(error) => {
                println!("| {} | failed | | | | | |", kind.name());
                failures.push(format!("{}: {error:#}", kind.name()));
            }
        }
    }
    println!("\nload at the end: {}", system_load());
    serving.stop()?;
    if let Some(cluster) = cluster {
        cluster.close().await?;
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// The system's load of the last minute.
fn system_load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// One line of the table, compared with the smallest question to the database.
fn line(kind: Kind, of: &Measured, floor: Option<&Measured>) {
    let milliseconds = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    let ratio = |quantile: f64| {
        let floor = floor.unwrap_or(of).quantile(quantile);
        of.quantile(quantile).as_secs_f64() / floor.as_secs_f64()
    };
    println!(
        "| {} | {} | {} | {} | {} | {:.1} | {:.1} |",
        kind.name(),
        of.answers(),
        milliseconds(of.quantile(0.5)),
        milliseconds(of.quantile(0.99)),
        milliseconds(of.quantile(1.0)),
        ratio(0.5),
        ratio(0.99),
    );
}
