//! Uploads: Holdfast to an S3 server and to a stand-in of Telegram's Bot API, both on loopback and in processes of their own, beside the S3
//! command-line client that uploads a finished file.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast::artifact::{Compression, Encryption};

use crate::{
    contender::{self, Contender},
    holdfast_process::{self, Place},
    process::{Usage, pipeline},
    s3_server,
    server::Server,
    telegram_stand_in::StandIn,
    tenant,
};

pub const S3_ARGUMENT: &str = "--s3-server";
pub const TELEGRAM_ARGUMENT: &str = "--telegram-stand-in";

/// One line of the table: each round's wall time, and the largest memory of all rounds.
pub struct Line {
    pub name: String,
    pub walls: Vec<Duration>,
    pub cpu: Vec<Duration>,
    pub peak_bytes: u64,
    /// Parts in flight times their size, where something is uploaded in parts.
    pub in_flight_bytes: Option<u64>,
}

/// Runs everything `rounds` times, in turns. Without the S3 client its line is missing.
pub async fn measure(server: &Server, directory: &Path, rounds: usize) -> Result<Vec<Line>> {
    let s3 = Service::start(S3_ARGUMENT)?;
    let telegram = Service::start(TELEGRAM_ARGUMENT)?;
    let s3_place = |parts_in_flight| Place::S3 { endpoint: s3.said[0].clone(), parts_in_flight };
    let [base_url, token, chat_id] = &telegram.said[..] else {
        anyhow::bail!("the stand-in says something unexpected")
    };
    let chat = Place::Telegram { base_url: base_url.clone(), token: token.clone(), chat_id: chat_id.parse()? };
    let has_client = Command::new("aws").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !has_client {
        eprintln!("the S3 command-line client is not installed: apt-get install awscli");
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |name: &str, wall, usage: Usage, in_flight_bytes| {
        let at = lines.iter().position(|line| line.name == name).unwrap_or_else(|| {
            let (name, walls, cpu) = (name.to_owned(), Vec::new(), Vec::new());
            lines.push(Line { name, walls, cpu, peak_bytes: 0, in_flight_bytes });
            lines.len() - 1
        });
        lines[at].walls.push(wall);
        lines[at].cpu.push(usage.cpu);
        lines[at].peak_bytes = lines[at].peak_bytes.max(usage.peak_bytes);
    };
    for round in 1..=rounds {
        eprintln!("uploads, round {round} of {rounds}");
        let floor = Contender::Floor.run(server, tenant::SCHEMA, directory)?;
        add(&Contender::Floor.to_string(), floor.wall, floor.client, None);
        // The finished file is what Holdfast stores on disk.
        let mut order = contender::order(server, tenant::SCHEMA, directory, Compression::Zstd, Encryption::Age);
        let (wall, usage, _) = holdfast_process::run(&order)?;
        add("Holdfast to the disk", wall, usage, None);
        let finished = order.storage.join(&order.name);
        if has_client {
            let (wall, usages) = pipeline(vec![client(&s3.said[0], &finished, round)], None, None)?;
            add("`aws s3 cp` of the finished file", wall, usages.first().copied().unwrap_or_default(), None);
        }
        fs::remove_file(&finished)?;
        for (name, place, in_flight) in [
            ("Holdfast to S3, 1 part in flight", s3_place(1), holdfast_process::S3_PART.0),
            ("Holdfast to S3, 4 parts in flight", s3_place(4), 4 * holdfast_process::S3_PART.0),
            ("Holdfast to the stand-in of Telegram", chat.clone(), 19 << 20),
        ] {
            order.place = place;
            order.name = format!("backup-{round}-{}", name.replace([' ', ','], "-"));
            let (wall, usage, _) = holdfast_process::run(&order)?;
            add(name, wall, usage, Some(in_flight));
        }
    }
    Ok(lines)
}

fn client(endpoint: &str, file: &Path, round: usize) -> Command {
    let mut command = Command::new("aws");
    command.args(["s3", "cp", "--only-show-errors", "--endpoint-url", endpoint]).arg(file);
    command.arg(format!("s3://{}/by-client-{round}", s3_server::BUCKET));
    command.env("AWS_ACCESS_KEY_ID", s3_server::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", s3_server::SECRET_KEY);
    command.env("AWS_DEFAULT_REGION", "eu-central-1").env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// A server as a process of its own, so that its memory and processor time are not Holdfast's.
struct Service {
    process: Child,
    /// What it said when it was ready, by words.
    said: Vec<String>,
}

impl Service {
    fn start(argument: &str) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a server")?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no standard output")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "a server did not start");
        Ok(Self { process, said: line.split_whitespace().map(str::to_owned).collect() })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It ends with its standard input, and removes its files.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The S3 server's process.
pub async fn s3_main() -> Result<()> {
    let server = s3_server::S3Server::start().await;
    println!("{}", server.endpoint());
    until_told().await
}

/// The stand-in's process: every limit but that of messages a minute.
pub async fn telegram_main() -> Result<()> {
    let stand_in = StandIn::start().await;
    stand_in.control().set_pacing(false);
    println!("{} {} {}", stand_in.base_url(), stand_in.token(), stand_in.chat_id());
    until_told().await
}

async fn until_told() -> Result<()> {
    Ok(tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await?.map(|_| ())?)
}
