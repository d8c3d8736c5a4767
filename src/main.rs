//! The program.

use std::process::ExitCode;

use central_hub::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    Cli::read().run().await
}
