//! `holdfast config docs`: `docs/config.md`, for `make regenerate`.

use clap::Subcommand;

use crate::report;

/// The configuration's own description.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every setting with its meaning, default and variables, as Markdown.
    #[command(after_help = "Example:\n  holdfast config docs > docs/config.md")]
    Docs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Docs => report::print(&crate::config::markdown()),
    }
}
