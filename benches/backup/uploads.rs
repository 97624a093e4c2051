//! Uploads: Holdfast to an S3 server and to a stand-in of Telegram's Bot API, both on loopback and in processes of their own, beside the S3
//! command-line client that uploads a finished file. Then with a database, and with a storage, that is slower than the processors.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use holdfast::{
    artifact::{Compression, Encryption},
    postgres::connect::ConnectInfo,
};

use crate::{
    contender::{self, Contender},
    faulty_proxy::{Fault, FaultyProxy},
    holdfast_process::{self, Place},
    process::{Usage, pipeline},
    s3_server,
    server::Server,
    slow_line,
    telegram_stand_in::StandIn,
    tenant,
};

pub const S3_ARGUMENT: &str = "--s3-server";
pub const SLOW_S3_ARGUMENT: &str = "--slow-s3-server";
pub const LINE_ARGUMENT: &str = "--slow-line";
pub const TELEGRAM_ARGUMENT: &str = "--telegram-stand-in";

/// An S3 server that takes so much in a second, of each request.
struct Slow {
    megabytes: u64,
    /// The lines of the table.
    finished: &'static str,
    streamed: &'static str,
    holdfast: &'static str,
}

/// One that is slower than the database all the time, and one that is slower while rows pass that compress badly and quicker while the others do.
const SLOW: [Slow; 2] = [
    Slow {
        megabytes: 10,
        finished: "`aws s3 cp` of the finished file, 1 part at a time, to 10 MB/s",
        streamed: "`pg_dump \\| zstd -1 \\| aws s3 cp -`, 1 part at a time, to 10 MB/s",
        holdfast: "Holdfast to S3 of 10 MB/s, 1 part in flight",
    },
    Slow {
        megabytes: 40,
        finished: "`aws s3 cp` of the finished file, 1 part at a time, to 40 MB/s",
        streamed: "`pg_dump \\| zstd -1 \\| aws s3 cp -`, 1 part at a time, to 40 MB/s",
        holdfast: "Holdfast to S3 of 40 MB/s, 1 part in flight",
    },
];

/// One line of the table: each round's wall time, and the largest memory of all rounds.
pub struct Line {
    pub name: String,
    pub walls: Vec<Duration>,
    pub cpu: Vec<Duration>,
    pub peak_bytes: u64,
    /// Parts in flight times their size, where something is uploaded in parts.
    pub in_flight_bytes: Option<u64>,
    /// The line without which this one cannot be quicker.
    pub bound: &'static str,
}

const FLOOR: &str = "`pg_dump -Fp > /dev/null`";
const BESIDE: &str = "the floor beside `aws s3 cp`";
const LINE: &str = "`pg_dump -Fp > /dev/null` over a slow line";

/// Runs everything `rounds` times, in turns. Without the S3 client its line is missing.
pub async fn measure(server: &Server, directory: &Path, rounds: usize) -> Result<Vec<Line>> {
    let s3 = Service::start(S3_ARGUMENT)?;
    let slow = SLOW
        .iter()
        .map(|slow| Ok((slow, Service::start_with(SLOW_S3_ARGUMENT, &[&slow.megabytes.to_string()])?)))
        .collect::<Result<Vec<_>>>()?;
    let telegram = Service::start(TELEGRAM_ARGUMENT)?;
    let near = server.info();
    let line = Service::start_with(LINE_ARGUMENT, &[&near.host, &near.port.to_string()])?;
    let line_port: u16 = line.said[0].parse()?;
    let s3_place = |at: &Service, parts_in_flight| Place::S3 { endpoint: at.said[0].clone(), parts_in_flight };
    let [base_url, token, chat_id] = &telegram.said[..] else {
        anyhow::bail!("the stand-in says something unexpected")
    };
    let chat = Place::Telegram { base_url: base_url.clone(), token: token.clone(), chat_id: chat_id.parse()? };
    let has_client = Command::new("aws").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !has_client {
        eprintln!("the S3 command-line client is not installed: apt-get install awscli");
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |name: &str, bound, wall, usage: Usage, in_flight_bytes| {
        let at = lines.iter().position(|line| line.name == name).unwrap_or_else(|| {
            let (name, walls, cpu) = (name.to_owned(), Vec::new(), Vec::new());
            lines.push(Line { name, walls, cpu, peak_bytes: 0, in_flight_bytes, bound });
            lines.len() - 1
        });
        lines[at].walls.push(wall);
        lines[at].cpu.push(usage.cpu);
        lines[at].peak_bytes = lines[at].peak_bytes.max(usage.peak_bytes);
    };
    for round in 1..=rounds {
        eprintln!("uploads, round {round} of {rounds}");
        let floor = Contender::Floor.run(server, tenant::SCHEMA, directory)?;
        add(FLOOR, FLOOR, floor.wall, floor.client, None);
        // The finished file is what Holdfast stores on disk.
        let mut order = contender::order(server, tenant::SCHEMA, directory, Compression::Zstd, Encryption::Age);
        let (wall, usage, _) = holdfast_process::run(&order)?;
        add("Holdfast to the disk", FLOOR, wall, usage, None);
        let finished = order.storage.join(&order.name);
        if has_client {
            let name = "`aws s3 cp` of the finished file";
            let (wall, usages) = pipeline(vec![client(&s3.said[0], &finished, round)], None, None)?;
            add(name, name, wall, usages.first().copied().unwrap_or_default(), None);
            for (slow, server_of_it) in &slow {
                let endpoint = &server_of_it.said[0];
                let finished = one_part_at_a_time(client(endpoint, &finished, round), directory)?;
                let (wall, usages) = pipeline(vec![finished], None, None)?;
                add(slow.finished, slow.finished, wall, usages.first().copied().unwrap_or_default(), None);
                let mut zstd = Command::new("zstd");
                zstd.args(["-1", "-q"]);
                let streamed = one_part_at_a_time(client(endpoint, Path::new("-"), round), directory)?;
                let (wall, usages) =
                    pipeline(vec![server.pg_dump(tenant::SCHEMA, "plain"), zstd, streamed], None, None)?;
                add(slow.streamed, slow.finished, wall, usages.last().copied().unwrap_or_default(), None);
            }
            // On a machine that the server shares, database and storage work for the same processors: together they need this long.
            let (floor, copied) = std::thread::scope(|scope| {
                let copying = scope.spawn(|| pipeline(vec![client(&s3.said[0], &finished, round)], None, None));
                let floor = Contender::Floor.run(server, tenant::SCHEMA, directory);
                (floor, copying.join())
            });
            let (copied, usages) = copied.map_err(|_| anyhow::anyhow!("the client's thread panicked"))??;
            add(BESIDE, BESIDE, floor?.wall.max(copied), usages.first().copied().unwrap_or_default(), None);
        }
        fs::remove_file(&finished)?;
        let part = holdfast_process::S3_PART.0;
        let mut places = vec![
            ("Holdfast to S3, 1 part in flight", BESIDE, s3_place(&s3, 1), part),
            ("Holdfast to S3, 4 parts in flight", BESIDE, s3_place(&s3, 4), 4 * part),
            ("Holdfast to the stand-in of Telegram", FLOOR, chat.clone(), 19 << 20),
        ];
        places.extend(slow.iter().map(|(slow, server)| (slow.holdfast, slow.finished, s3_place(server, 1), part)));
        for (name, bound, place, in_flight) in places {
            order.place = place;
            order.name = format!("backup-{round}-{}", name.replace([' ', ',', '/'], "-"));
            let (wall, usage, _) = holdfast_process::run(&order)?;
            add(name, bound, wall, usage, Some(in_flight));
        }
        let mut over_the_line = server.pg_dump(tenant::SCHEMA, "plain");
        over_the_line.env("PGHOST", "127.0.0.1").env("PGPORT", line_port.to_string());
        let (wall, usages) = pipeline(vec![over_the_line], None, None)?;
        add(LINE, LINE, wall, usages.first().copied().unwrap_or_default(), None);
        order.url =
            holdfast_process::url(&ConnectInfo { host: "127.0.0.1".to_owned(), port: line_port, ..near.clone() });
        for (name, place, in_flight) in [
            ("Holdfast over that line to S3, 1 part in flight", s3_place(&s3, 1), part),
            ("Holdfast over that line to S3, 4 parts in flight", s3_place(&s3, 4), 4 * part),
            ("Holdfast over that line to the stand-in of Telegram", chat.clone(), 19 << 20),
        ] {
            order.place = place;
            order.name = format!("backup-{round}-{}", name.replace([' ', ',', '/'], "-"));
            let (wall, usage, _) = holdfast_process::run(&order)?;
            add(name, LINE, wall, usage, Some(in_flight));
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

/// The client otherwise sends ten at once.
fn one_part_at_a_time(mut command: Command, directory: &Path) -> Result<Command> {
    let config = directory.join("aws-config");
    fs::write(&config, "[default]\ns3 =\n  max_concurrent_requests = 1\n  multipart_chunksize = 16MB\n")?;
    command.env("AWS_CONFIG_FILE", config);
    Ok(command)
}

/// A server as a process of its own, so that its memory and processor time are not Holdfast's.
struct Service {
    process: Child,
    /// What it said when it was ready, by words.
    said: Vec<String>,
}

impl Service {
    fn start(argument: &str) -> Result<Self> {
        Self::start_with(argument, &[])
    }

    fn start_with(argument: &str, more: &[&str]) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(argument)
            .args(more)
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

/// The process of an S3 server behind a line that passes as many megabytes in a second as follow the argument.
pub async fn slow_s3_main() -> Result<()> {
    let megabytes: u64 =
        std::env::args().skip_while(|argument| argument != SLOW_S3_ARGUMENT).nth(1).context("no rate")?.parse()?;
    let server = s3_server::S3Server::start().await;
    let upstream = server.endpoint().trim_start_matches("http://").parse()?;
    let proxy = FaultyProxy::start(upstream).await;
    proxy.inject(Fault::Slow { bytes_per_second: megabytes * 1_000_000 }, |_| true, usize::MAX);
    println!("{}", proxy.url().as_str().trim_end_matches('/'));
    until_told().await
}

/// The process of a slow line to the server whose host and port follow the argument.
pub async fn line_main() -> Result<()> {
    let mut given = std::env::args().skip_while(|argument| argument != LINE_ARGUMENT).skip(1);
    let (host, port) = (given.next().context("no host")?, given.next().context("no port")?.parse()?);
    println!("{}", slow_line::open(&host, port).await?);
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
