//! What is compared: what people run by hand, and Holdfast.

use std::{fmt, fs::File, path::Path, process::Command, time::Duration};

use age::secrecy::ExposeSecret;
use anyhow::{Result, ensure};
use holdfast::{
    artifact::{Compression, Encoding, Encryption, Format},
    proof_record::ProofLevel,
};

use crate::{
    holdfast_process::{self, Order, Place, What},
    process::{Usage, pipeline},
    server::Server,
    tenant,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// `pg_dump` to nowhere: no backup through `pg_dump` can take less.
    Floor,
    Gzip,
    Custom,
    Zstd,
    Holdfast(Compression, Encryption, ProofLevel),
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub wall: Duration,
    /// Of `pg_dump` or `psql`; its memory only where nothing runs beside it.
    pub client: Usage,
    /// Of all that runs beside it on the client's side.
    pub beside: Usage,
    pub stored_bytes: u64,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Floor => f.write_str("`pg_dump -Fp > /dev/null`"),
            Self::Gzip => f.write_str("`pg_dump \\| gzip > file`"),
            Self::Custom => f.write_str("`pg_dump -Fc > file`"),
            Self::Zstd => f.write_str("`pg_dump \\| zstd -T0 > file`"),
            Self::Holdfast(compression, encryption, proof) => {
                let age = if *encryption == Encryption::Age { "+age" } else { "" };
                write!(f, "Holdfast sql+{compression}{age}, proof {proof}")
            }
        }
    }
}

impl Contender {
    pub fn all() -> [Self; 9] {
        use Contender::*;
        [
            Floor,
            Gzip,
            Custom,
            Zstd,
            Holdfast(Compression::Gzip, Encryption::None, ProofLevel::Counts),
            Holdfast(Compression::Zstd, Encryption::None, ProofLevel::Counts),
            Holdfast(Compression::Zstd, Encryption::Age, ProofLevel::Off),
            Holdfast(Compression::Zstd, Encryption::Age, ProofLevel::Counts),
            Holdfast(Compression::Zstd, Encryption::Age, ProofLevel::Full),
        ]
    }

    pub fn is_holdfast(self) -> bool {
        matches!(self, Self::Holdfast(..))
    }

    /// Runs once. What was stored is removed again, before anything of it burdens the next one's disk.
    pub fn run(self, server: &Server, schema: &str, directory: &Path) -> Result<Run> {
        let path = directory.join("by-hand");
        let by_hand = |format, filter: Option<Command>, output| {
            let (wall, usages) =
                pipeline([server.pg_dump(schema, format)].into_iter().chain(filter).collect(), None, output)?;
            let pg_dump = usages.first().copied().unwrap_or_default();
            let beside = usages.iter().skip(1).fold(Usage::default(), |sum, usage| sum.and(*usage));
            let stored_bytes = path.metadata().map_or(0, |data| data.len());
            let _ = std::fs::remove_file(&path);
            Ok(Run { wall, client: pg_dump, beside, stored_bytes })
        };
        match self {
            Self::Floor => by_hand("plain", None, None),
            Self::Gzip => by_hand("plain", Some(Command::new("gzip")), Some(File::create(&path)?)),
            Self::Custom => by_hand("custom", None, Some(File::create(&path)?)),
            Self::Zstd => {
                let mut zstd = Command::new("zstd");
                zstd.args(["-q", "-T0"]);
                by_hand("plain", Some(zstd), Some(File::create(&path)?))
            }
            Self::Holdfast(compression, encryption, proof) => {
                let mut order = order(server, schema, directory, compression, encryption);
                order.what = What::BackUp { schema: schema.to_owned(), proof };
                let (wall, beside, done) = holdfast_process::run(&order)?;
                let file = order.storage.join(&order.name);
                ensure!(file.metadata()?.len() == done.stored.bytes, "the stored file has another size");
                std::fs::remove_file(file)?;
                let pg_dump = Usage { cpu: beside.children_cpu, ..Usage::default() };
                Ok(Run { wall, client: pg_dump, beside, stored_bytes: done.stored.bytes })
            }
        }
    }
}

pub fn order(
    server: &Server,
    schema: &str,
    directory: &Path,
    compression: Compression,
    encryption: Encryption,
) -> Order {
    Order {
        url: holdfast_process::url(&server.info()),
        storage: directory.join("storage"),
        place: Place::Local,
        name: "backup".to_owned(),
        encoding: Encoding { format: Some(Format::Sql), compression, encryption },
        identity: age::x25519::Identity::generate().to_string().expose_secret().to_owned(),
        what: What::BackUp { schema: schema.to_owned(), proof: ProofLevel::Counts },
    }
}

/// Restores by hand and by Holdfast, in turns.
pub async fn restores(server: &Server, directory: &Path) -> Result<Vec<(&'static str, Run)>> {
    let mut found = Vec::new();
    for _ in 0..2 {
        found.push(("`zstd -d \\| psql`", by_hand(server, directory).await?));
        found.push(("Holdfast, sql+zstd+age, to `psql`", by_holdfast(server, directory).await?));
    }
    Ok(found)
}

async fn by_hand(server: &Server, directory: &Path) -> Result<Run> {
    let order = order(server, tenant::SCHEMA, directory, Compression::Zstd, Encryption::None);
    let done = holdfast_process::run(&order)?.2;
    server.fresh_target().await?;
    let file = order.storage.join(&order.name);
    let mut zstd = Command::new("zstd");
    zstd.args(["-d", "-q", "-c"]);
    let (wall, usages) = pipeline(vec![zstd, server.psql()], Some(File::open(&file)?), None)?;
    std::fs::remove_file(&file)?;
    let usage = |index: usize| usages.get(index).copied().unwrap_or_default();
    Ok(Run { wall, client: usage(1), beside: usage(0), stored_bytes: done.stored.bytes })
}

async fn by_holdfast(server: &Server, directory: &Path) -> Result<Run> {
    let mut order = order(server, tenant::SCHEMA, directory, Compression::Zstd, Encryption::Age);
    let done = holdfast_process::run(&order)?.2;
    server.fresh_target().await?;
    order.what = What::Restore(done);
    order.url = holdfast_process::url(&server.target());
    let (wall, beside, _) = holdfast_process::run(&order)?;
    std::fs::remove_file(order.storage.join(&order.name))?;
    let client = Usage { cpu: beside.children_cpu, ..Usage::default() };
    Ok(Run { wall, client, beside, stored_bytes: done.stored.bytes })
}
