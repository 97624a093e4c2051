//! `holdfast key recovery-sheet`: everything that a person needs to restore when neither Holdfast nor its machine is there any more.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context as _;

use super::{Context, Exit, Failure};
use crate::{
    clock::Clock,
    config::{Config, StorageConfig},
    keyring::KeyFiles,
    keys, report,
};

pub fn run(context: &Context, config: &Config, output: Option<&Path>) -> anyhow::Result<()> {
    let sheet = sheet(config)?;
    let Some(path) = output else {
        context.warn("this page holds the secret key: print it, do not leave it in a file or a terminal's history");
        return report::print(&sheet);
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let message = format!("cannot make {}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Failure::refused("file.exists", message).hint("Give another --output: nothing is overwritten.")
            }
            _ => Failure::new(Exit::Unexpected, "file.unavailable", message),
        }
    })?;
    file.write_all(sheet.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    context.warn(&format!("{} holds the secret key: keep it offline", path.display()));
    Ok(())
}

fn sheet(config: &Config) -> anyhow::Result<String> {
    let path = KeyFiles::of(config).identity;
    if !path.exists() {
        return Err(Failure::new(Exit::NotFound, "key.not_found", format!("there is no key file {}", path.display()))
            .hint("Make one with `holdfast key generate`, or name it in encryption.identity_file.")
            .into());
    }
    let identities = keys::load_identities(&path).map_err(super::key::refusal)?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let secrets: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("AGE-SECRET-KEY-")).collect();
    let recipients: Vec<String> = identities.recipients().iter().map(ToString::to_string).collect();
    let seals: Vec<String> = if KeyFiles::of(config).seal.exists() {
        super::key::seals(config)?.1.accepted().map(|key| format!("{key}  (key {})", key.id())).collect()
    } else {
        vec!["none yet: it is made at the first start; print this page again then".to_owned()]
    };
    let storages: Vec<String> =
        config.storages.iter().map(|(name, storage)| format!("  {name}: {}", place(storage))).collect();
    Ok(format!(
        "\
HOLDFAST RECOVERY SHEET                                        {date}
=====================================================================

THIS PAGE HOLDS A SECRET. Whoever has it and a stored backup can read
that backup. Keep it in a safe, not on the machine that makes backups.

What it is for: backups are encrypted to the key below. When the machine
with Holdfast is lost, this page and a stored file are enough.

Secret key (age, X25519; the line is the whole content of a key file)

  {secrets}

Its public half, to which backups are encrypted

  {recipients}

Public keys that check who wrote a manifest (seal.accepted_keys of a new
installation; docs/recovery.md tells how to do it with openssl)

  {seals}

Where the backups are

{storages}

  Files are named backups/PROJECT/backup-DATE-TIME-ID.EXTENSION; beside each
  lies a .manifest.json with its size and SHA-256.

How to restore without Holdfast, with age, gzip or zstd, and PostgreSQL's
own client programs (version 15.20, 16.16, 17.12, 18.7 or later)

  1. Put the secret key into a file, key.txt, and check the stored file:

       sha256sum backup-….sql.gz.age      compare with the manifest's \"stored\"

  2. Decrypt and decompress it:

       age -d -i key.txt backup-….sql.gz.age | gunzip > dump.sql
                                         (.zst: | zstd -d; .dump, .tar: leave out)

  3. Load it into an empty database, in one transaction:

       psql -X -v ON_ERROR_STOP=1 --single-transaction -d NEWDB -f dump.sql
       pg_restore --exit-on-error --single-transaction -d NEWDB dump.dump
                                         (for .dump and .tar)

  Do step 3 as a role that owns nothing else: a dump can hold code.
",
        date = report::instant(Clock::System.now()),
        secrets = secrets.join("\n  "),
        recipients = recipients.join("\n  "),
        seals = seals.join("\n  "),
        storages = storages.join("\n"),
    ))
}

fn place(storage: &StorageConfig) -> String {
    match storage {
        StorageConfig::Local(_) => format!("directory {}", storage.place()),
        StorageConfig::S3(s3) => format!("S3 bucket {}, in region {}", storage.place(), s3.signing_region()),
        StorageConfig::Telegram(_) => format!("Telegram chat {} (docs/telegram.md)", storage.place()),
    }
}
