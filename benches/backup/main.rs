//! How long a backup takes and what it costs, beside what people run by hand. `cargo bench --bench backup`; how to read what it
//! prints is in `docs/performance.md`.
//!
//! A cluster of its own with a made-up tenant, everything warm, then rounds in which every contender runs once (A B C, A B C, …),
//! so that whatever else the machine does falls on all of them. Set by the environment:
//!
//! - `HOLDFAST_BENCH_SIZE`: table data, default `500 MB`.
//! - `HOLDFAST_BENCH_RUNS`: rounds, default 3.
//! - `HOLDFAST_BENCH_ONLY`: leave out contenders whose name does not have this in it. The floor always runs.
//! - `HOLDFAST_BENCH_EXTRA=no`: leave out the memory at twice the size, the uploads and the restores; `uploads`: only uploads, and the floor.
//! - `HOLDFAST_BENCH_DATABASE_URL`: a server to use in place of the own one; the role must be a superuser, and the databases
//!   `holdfast_bench` and `holdfast_bench_restore` are made there and dropped.
//! - `HOLDFAST_BENCH_TRANSPORT=socket`: reach the own server through its Unix socket and not through TCP, for all contenders.
//! - `TMPDIR`: where cluster and artifacts go; about five times the size is needed there.

mod contender;
#[path = "../../tests/support/faulty_proxy.rs"]
mod faulty_proxy;
mod holdfast_process;
mod process;
mod report;
#[path = "../../tests/support/s3_server.rs"]
mod s3_server;
mod server;
mod slow_line;
#[path = "../../tests/support/telegram_stand_in/mod.rs"]
mod telegram_stand_in;
mod tenant;
mod uploads;

use std::{os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use holdfast::byte_size::ByteSize;

use crate::{
    contender::{Contender, Run},
    server::Server,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == holdfast_process::ARGUMENT) {
        return runtime()?.block_on(holdfast_process::main());
    }
    if arguments.iter().any(|argument| argument == uploads::S3_ARGUMENT) {
        return runtime()?.block_on(uploads::s3_main());
    }
    if arguments.iter().any(|argument| argument == uploads::SLOW_S3_ARGUMENT) {
        return runtime()?.block_on(uploads::slow_s3_main());
    }
    if arguments.iter().any(|argument| argument == uploads::LINE_ARGUMENT) {
        return runtime()?.block_on(uploads::line_main());
    }
    if arguments.iter().any(|argument| argument == uploads::TELEGRAM_ARGUMENT) {
        return runtime()?.block_on(uploads::telegram_main());
    }
    // Cargo gives it for `cargo bench`. Whoever builds and runs all targets for tests does not want this to take minutes.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("not run: use `cargo bench --bench backup`");
        return Ok(());
    }
    runtime()?.block_on(bench())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn variable<T: std::str::FromStr>(name: &str, default: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    text.parse().with_context(|| format!("cannot read {name}"))
}

async fn bench() -> Result<()> {
    let size: ByteSize = variable("HOLDFAST_BENCH_SIZE", "500 MB")?;
    let runs: usize = variable("HOLDFAST_BENCH_RUNS", "3")?;
    let only: String = variable("HOLDFAST_BENCH_ONLY", "")?;
    let extra: String = variable("HOLDFAST_BENCH_EXTRA", "yes")?;

    // PostgreSQL's unprivileged user must be able to pass through.
    let passable = std::fs::Permissions::from_mode(0o711);
    let directory = tempfile::Builder::new().prefix("holdfast-bench-").permissions(passable).tempdir()?;
    let server = Server::open(directory.path()).await?;
    let result = measure(&server, directory.path(), size, runs.max(1), &only, &extra).await;
    server.close().await?;
    result
}

async fn measure(
    server: &Server,
    directory: &Path,
    size: ByteSize,
    runs: usize,
    only: &str,
    extra: &str,
) -> Result<()> {
    eprintln!("making a tenant of about {} …", report::megabytes(size.0));
    let data_bytes = tenant::make(server, size).await?;
    report::head(server, data_bytes);

    let contenders: Vec<Contender> =
        Contender::all().into_iter().filter(|c| *c == Contender::Floor || c.to_string().contains(only)).collect();
    eprintln!("warming up …");
    Contender::Floor.run(server, tenant::SCHEMA, directory)?;
    if extra == "uploads" {
        report::uploads(&uploads::measure(server, directory, runs).await?);
        report::foot();
        return Ok(());
    }

    let mut rounds: Vec<Vec<Run>> = Vec::new();
    for round in 1..=runs {
        eprintln!("round {round} of {runs} (load {})", report::load());
        rounds.push(contenders.iter().map(|c| c.run(server, tenant::SCHEMA, directory)).collect::<Result<_>>()?);
    }
    report::table(&contenders, &rounds);

    if extra == "yes" {
        eprintln!("memory at twice the size …");
        let twice_bytes = tenant::make_twice(server).await?;
        let mut lines = Vec::new();
        for contender in contenders.iter().filter(|c| c.is_holdfast()) {
            let once = rounds.iter().map(|round| &round[position(&contenders, contender)]);
            let once = once.map(|run| run.beside.peak_bytes).max().unwrap_or_default();
            let twice = contender.run(server, tenant::TWICE, directory)?.beside.peak_bytes;
            lines.push((contender.to_string(), once, twice));
        }
        report::memory(data_bytes, twice_bytes, &lines);
        tenant::drop_twice(server).await?;

        eprintln!("uploads …");
        report::uploads(&uploads::measure(server, directory, runs).await?);

        eprintln!("restores …");
        report::restores(&contender::restores(server, directory).await?);
    }
    report::foot();
    Ok(())
}

fn position(contenders: &[Contender], wanted: &Contender) -> usize {
    contenders.iter().position(|c| c == wanted).unwrap_or_default()
}
