//! `central-hub completions` and `man`: what a shell and a reader need of the command line itself.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// Print completions for your shell
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write one per command to a folder
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write central-hub.1, central-hub-config.1 and so on here
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Prints completions.
///
/// # Errors
/// When they can't be written.
pub fn completions(args: CompletionsArgs) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "central-hub", &mut script);
    io::stdout().write_all(&script)
}

/// Prints or writes manual pages.
///
/// # Errors
/// When they can't be written.
pub fn man(args: ManArgs) -> io::Result<()> {
    match args.folder {
        Some(folder) => {
            std::fs::create_dir_all(&folder)?;
            clap_mangen::generate_to(Cli::command(), &folder)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            io::stdout().write_all(&page)
        }
    }
}
