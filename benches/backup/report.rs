//! What is printed: Markdown tables.

use std::time::Duration;

use crate::{
    contender::{Contender, Run},
    server::Server,
    uploads::Line,
};

/// Ten to the sixth, as `HOLDFAST_BENCH_SIZE` is usually given.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// The system's load of the last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}

pub fn head(server: &Server, data_bytes: u64) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = holdfast::postgres::tools::display_version(server.version);
    println!("{cores} cores, PostgreSQL {version}, {} of table data, load {}\n", megabytes(data_bytes), load());
}

pub fn foot() {
    println!("\nload at the end: {}", load());
}

/// `rounds` holds, for each round, one run of each contender; the first one is the floor.
pub fn table(contenders: &[Contender], rounds: &[Vec<Run>]) {
    println!("| | wall | × floor | CPU | of it `pg_dump` | peak memory | stored |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (index, contender) in contenders.iter().enumerate() {
        let runs = || rounds.iter().filter_map(|round| round.get(index));
        let time = |of: fn(&Run) -> Duration| seconds(median(runs().map(of)).unwrap_or_default());
        let ratios = rounds
            .iter()
            .filter_map(|round| Some(round.get(index)?.wall.as_secs_f64() / round.first()?.wall.as_secs_f64()));
        let alone = runs().all(|run| run.beside.peak_bytes == 0);
        let peak = runs().map(|run| if alone { run.client.peak_bytes } else { run.beside.peak_bytes }).max();
        let stored = median(runs().map(|run| run.stored_bytes)).unwrap_or_default();
        println!(
            "| {contender} | {} | {:.2} | {} | {} | {} | {} |",
            time(|run| run.wall),
            median(ratios).unwrap_or_default(),
            time(|run| run.client.cpu + run.beside.cpu),
            time(|run| run.client.cpu),
            mebibytes(peak.unwrap_or_default()),
            if stored == 0 { "–".to_owned() } else { megabytes(stored) },
        );
    }
}

pub fn memory(once: u64, twice: u64, lines: &[(String, u64, u64)]) {
    println!("\n| peak memory of the process | {} | {} |\n|---|--:|--:|", megabytes(once), megabytes(twice));
    for (name, once, twice) in lines {
        println!("| {name} | {} | {} |", mebibytes(*once), mebibytes(*twice));
    }
}

/// Each line beside the one that bounds it, which may be missing with the client.
pub fn uploads(lines: &[Line]) {
    let median_of = |line: &Line| median(line.walls.iter().copied()).unwrap_or_default();
    println!("\n| upload | wall | × its bound | bound | CPU | peak memory | of it parts in flight |");
    println!("|---|--:|--:|---|--:|--:|--:|");
    for line in lines {
        let ratio = |bound: &Line| format!("{:.2}", median_of(line).as_secs_f64() / median_of(bound).as_secs_f64());
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            line.name,
            seconds(median_of(line)),
            lines.iter().find(|bound| bound.name == line.bound).map_or_else(|| "–".to_owned(), ratio),
            line.bound,
            seconds(median(line.cpu.iter().copied()).unwrap_or_default()),
            mebibytes(line.peak_bytes),
            line.in_flight_bytes.map_or_else(|| "–".to_owned(), mebibytes),
        );
    }
}

pub fn restores(lines: &[(&str, Run)]) {
    println!("\n| restore | wall | CPU | of it `psql` | peak memory |\n|---|--:|--:|--:|--:|");
    for (name, run) in lines {
        let cpu = run.client.cpu + run.beside.cpu;
        println!(
            "| {name} | {} | {} | {} | {} |",
            seconds(run.wall),
            seconds(cpu),
            seconds(run.client.cpu),
            mebibytes(run.beside.peak_bytes)
        );
    }
}
