//! The program.

use std::process::ExitCode;

use central_hub::cli::Cli;
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::parse().run().await
}
