//! Parses, starts the log and hands over to the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Chosen here once, before anything opens a TLS connection; the only other way to have one chosen is a panic at first use.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    holdfast::cli::main()
}
