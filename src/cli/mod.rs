//! The command line.

use std::process::ExitCode;

pub mod dev;
pub mod guard;
pub mod servers;
pub mod stack;

/// The `central-hub` program's arguments.
#[derive(Debug, clap::Parser)]
#[command(name = "central-hub", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Dev(dev::DevArgs),
    /// Keep a program running for as long as the caller lives
    #[command(hide = true)]
    Guard(guard::GuardArgs),
}

impl Cli {
    /// Runs the command that was given. The error, if any, has been written to stderr.
    pub async fn run(self) -> ExitCode {
        let result: Result<ExitCode, Box<dyn std::error::Error>> = match self.command {
            Command::Guard(args) => guard::run(args).await.map(ExitCode::from).map_err(Into::into),
            Command::Dev(args) => dev::run(args, |_addresses, shutdown, ready| async move {
                let _ = ready.send(());
                shutdown.cancelled().await;
                Ok(())
            })
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        };
        match result {
            Ok(code) => code,
            Err(error) => {
                let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("central-hub: {error}\n").as_bytes());
                ExitCode::FAILURE
            }
        }
    }
}
