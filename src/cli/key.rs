//! `holdfast key`: the key that opens backups.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{Context, Failure, recovery_sheet};
use crate::{
    clock::Clock,
    keyring::{self, KeyFiles},
    keys::{self, KeyError},
    report,
};

/// The key that opens backups.
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

/// Key errors as failures.
pub(super) fn refusal(error: KeyError) -> anyhow::Error {
    match &error {
        KeyError::Exists(_) => Failure::refused(error.code(), error.to_string())
            .hint("Give another --output. An old key is needed for as long as backups that it opens are kept.")
            .into(),
        _ => Failure::new(super::Exit::Unexpected, error.code(), error.to_string()).into(),
    }
}
