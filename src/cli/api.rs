//! `holdfast api docs`: the OpenAPI document, for `make regenerate`.

use clap::Subcommand;

use crate::report;

/// The REST API's own description.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the OpenAPI document as JSON.
    #[command(after_help = "Example:\n  holdfast api docs > docs/api.json")]
    Docs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Docs => report::print_json(&crate::http::openapi()),
    }
}
