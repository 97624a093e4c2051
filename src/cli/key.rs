//! `holdfast key`: the key that opens backups, and the one that seals their manifests.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{Context, Exit, Failure, recovery_sheet};
use crate::{
    clock::Clock,
    config::Config,
    keyring::{self, KeyFiles},
    keys::{self, KeyError},
    report,
    transform::seal::{PublicKey, Seals},
};

/// The keys that open and seal backups.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an age key file, and print its recipient: the public half, for `encryption.recipients`.
    ///
    /// An existing file is never overwritten: backups that were encrypted to it would be lost.
    #[command(after_help = "Examples:
  holdfast key generate                              age.key below the data directory
  holdfast key generate --output /safe/backup.key    on a machine that only restores")]
    Generate {
        /// Where to put it [default: encryption.identity_file, else age.key below the data directory].
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the public key that checks the seals of this installation's manifests.
    ///
    /// In PEM, for `openssl pkeyutl -verify`; its middle line is what another installation's `seal.accepted_keys` takes. With --json also the
    /// keys that it has replaced, and those that are accepted besides.
    #[command(after_help = "Examples:
  holdfast key seal > seal.pub
  holdfast key seal --json")]
    Seal {},
    /// Make a new key for seals. What the old one has sealed stays good: its public half is kept.
    ///
    /// The old private key is gone afterwards. Copy the key file to every other machine of the installation, and start each process again:
    /// until then it seals with the old key, and accepts nothing that the new one has sealed. Take a key that somebody else may have out of the
    /// file by hand: then what it has sealed counts no more.
    #[command(after_help = "Examples:
  holdfast key rotate-seal --dry-run
  holdfast key rotate-seal && holdfast key recovery-sheet | lpr")]
    RotateSeal {
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print a page for the safe: the secret key, where the backups are, and how to restore without Holdfast.
    #[command(after_help = "Examples:
  holdfast key recovery-sheet | lpr
  holdfast key recovery-sheet --output /mnt/usb/holdfast-recovery.txt")]
    RecoverySheet {
        /// A file to write instead, with mode 0600; it must not exist yet.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

pub fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    match args.what {
        What::RecoverySheet { output } => recovery_sheet::run(context, &config, output.as_deref()),
        What::Seal {} => seal(context, &config),
        What::RotateSeal { dry_run } => rotate_seal(context, &config, dry_run),
        What::Generate { output } => {
            let path = match output {
                Some(path) => path,
                None => {
                    keyring::make_data_dir(&config.data_dir)?;
                    KeyFiles::of(&config).identity
                }
            };
            let recipient = keys::generate_identity_file(&path, &Clock::System).map_err(refusal)?;
            if context.is_json() {
                return report::print_json(&json!({ "file": path, "recipient": recipient.to_string() }));
            }
            report::print(&format!("{recipient}\n"))?;
            context.remark(&format!(
                "made {}: without it no backup can be opened. Keep a copy elsewhere: `holdfast key recovery-sheet`",
                path.display()
            ));
            Ok(())
        }
    }
}

/// The seals' keys, which must be there.
pub(super) fn seals(config: &Config) -> anyhow::Result<(PathBuf, Seals)> {
    let path = KeyFiles::of(config).seal;
    if !path.exists() {
        return Err(Failure::new(Exit::NotFound, "key.not_found", format!("there is no key file {}", path.display()))
            .hint("It is made at the first start, out of the secrets key, unless seal.key_file says that it is elsewhere.")
            .into());
    }
    let seals = keyring::load_seals(config, &path)
        .map_err(|error| Failure::new(Exit::Unexpected, "key.invalid", error.to_string()))?;
    Ok((path, seals))
}

fn seal(context: &Context, config: &Config) -> anyhow::Result<()> {
    let (path, seals) = seals(config)?;
    let keys: Vec<_> = seals.accepted().collect();
    if context.is_json() {
        let told = |key: &PublicKey| json!({ "key_id": key.id().to_string(), "public_key": key.to_string() });
        return report::print_json(&json!({
            "file": path, "since": seals.since(), "accepted": keys.iter().map(told).collect::<Vec<_>>(),
            "signing": keys.first().map(told),
        }));
    }
    report::print(&keys.first().map(PublicKey::to_pem).unwrap_or_default())
}

fn rotate_seal(context: &Context, config: &Config, dry_run: bool) -> anyhow::Result<()> {
    let (path, seals) = seals(config)?;
    if dry_run {
        let old = seals.accepted().next().map(|key| key.id().to_string());
        if context.is_json() {
            return report::print_json(&json!({ "dry_run": true, "file": path, "replaced": old }));
        }
        return report::print(&format!("would replace key {} in {}\n", old.unwrap_or_default(), path.display()));
    }
    let (new, old) = keys::rotate_seal_file(&path, &Clock::System).map_err(refusal)?;
    if context.is_json() {
        return report::print_json(&json!({
            "dry_run": false, "file": path, "replaced": old.id().to_string(), "key_id": new.id().to_string(), "public_key": new.to_string(),
        }));
    }
    report::print(&new.to_pem())?;
    context.remark(&format!(
        "key {} seals from the next start of each process on, and what {} has sealed stays good. Copy {} to the other machines, and print a \
         new `holdfast key recovery-sheet`",
        new.id(),
        old.id(),
        path.display()
    ));
    Ok(())
}

/// Key errors as failures.
pub(super) fn refusal(error: KeyError) -> anyhow::Error {
    match &error {
        KeyError::Exists(_) => Failure::refused(error.code(), error.to_string())
            .hint("Give another --output. An old key is needed for as long as backups that it opens are kept.")
            .into(),
        _ => Failure::new(Exit::Unexpected, error.code(), error.to_string()).into(),
    }
}
