//! `central-hub completions` and `man`: what a shell and a reader need of the command line itself.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::grammar::grammar;

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
    clap_complete::generate(args.shell, &mut grammar(), "central-hub", &mut script);
    if args.shell == Shell::Bash {
        // clap_complete 4.6 takes the dash of the program's name for the start of a subcommand, in half of the script.
        let text = String::from_utf8_lossy(&script).replace("central__subcmd__hub", "central__hub");
        script = text.into_bytes();
    }
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
            clap_mangen::generate_to(grammar(), &folder)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(grammar()).render(&mut page)?;
            io::stdout().write_all(&page)
        }
    }
}
