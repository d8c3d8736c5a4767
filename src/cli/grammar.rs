//! The command line's grammar: the options of a hub and of the output stand before a command or after it.

use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _};

use super::Cli;

/// What programs may rely on, at the end of `--help`.
pub const CONTRACT: &str = "\
Exit codes:
  0  done
  1  the hub refused, or what was asked for isn't so (wait, config validate, health, demo)
     or a daemon couldn't go on
  2  no answer: no hub, no NATS or PostgreSQL, wrong credentials
     or an option, a file or an argument that can't be used

With --json standard output holds one JSON document: the hub's reply as in subjects.md, with all pages of a list in one (of \
alerts and timeline one page: --limit, --cursor). services watch, config watch and timeline --follow print a document a line.

A failure is {\"error\":{\"message\":…}}, with code and details where the hub refused, and is told on standard error too; an \
argument that can't be read is told there only.";

/// A time as people write it: `500ms`, `1h 30m`; a number alone is seconds.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

/// Commands that ask no hub, with those options that they take all the same.
const ASK_NO_HUB: [(&str, &[&str]); 8] = [
    ("serve", &[]),
    ("dev", &[]),
    ("demo", &["json"]),
    ("migrate", &["json"]),
    ("epoch", &["json"]),
    ("completions", &[]),
    ("man", &[]),
    ("guard", &[]),
];

/// The grammar: of the options that may stand anywhere, each command shows and takes those that mean something to it.
#[must_use]
pub fn grammar() -> Command {
    let grammar = Cli::command();
    let anywhere: Vec<_> = grammar.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    let asks_nobody = |command: Command, taken: &[&str]| {
        let is_foreign = |arg: &&clap::Arg| {
            let id = arg.get_id().as_str();
            let own = command.get_arguments().any(|own| own.get_id() == arg.get_id());
            !own && !id.starts_with("log_") && !taken.contains(&id)
        };
        let foreign: Vec<_> = anywhere.iter().filter(is_foreign).map(|arg| arg.clone().hide(true)).collect();
        command.args(foreign)
    };
    ASK_NO_HUB
        .into_iter()
        .fold(grammar, |grammar, (name, taken)| grammar.mut_subcommand(name, |command| asks_nobody(command, taken)))
}

/// Refuses an option that the command would ignore: `central-hub --context prod serve`.
///
/// # Errors
/// When there is one.
pub fn refuse_unused(grammar: &Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, given)) = matches.subcommand() else { return Ok(()) };
    if !ASK_NO_HUB.iter().any(|(asks_nobody, _)| *asks_nobody == name) {
        return Ok(());
    }
    let Some(mut command) = grammar.find_subcommand(name).cloned() else { return Ok(()) };
    let is_unused = |arg: &&clap::Arg| {
        arg.is_hide_set() && given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
    };
    let Some(unused) = command.get_arguments().find(is_unused).and_then(clap::Arg::get_long) else { return Ok(()) };
    let unused = format!("--{unused}");
    let usage = command.render_usage();
    let mut error = clap::Error::new(ErrorKind::UnknownArgument).with_cmd(&command);
    error.insert(ContextKind::InvalidArg, ContextValue::String(unused));
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    Err(error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn read(line: &str) -> Result<Cli, String> {
        let mut grammar = grammar();
        let words = std::iter::once("central-hub").chain(line.split(' '));
        let matches = grammar.try_get_matches_from_mut(words).map_err(|error| error.to_string())?;
        refuse_unused(&grammar, &matches).map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }

    #[test]
    fn options_of_the_hub_stand_before_a_command_or_after_it() {
        for line in [
            "--json status",
            "status --json",
            "--json config get tick",
            "config --json get tick",
            "config get --json tick",
            "alerts --json ack 7",
            "--json health",
            "--json epoch raise",
        ] {
            assert!(read(line).unwrap().hub.json(), "{line}");
        }
        assert!(!read("status").unwrap().hub.json());
        let address = "--nats-url nats://elsewhere:4222";
        assert_eq!(read(&format!("{address} status")).unwrap().hub.nats.nats_url, ["nats://elsewhere:4222"]);
        assert!(read(&format!("{address} serve")).is_ok());
    }

    #[test]
    fn an_option_that_would_be_ignored_is_refused() {
        for line in [
            "--context prod serve",
            "--json dev",
            "dev --json",
            "--nats-url nats://elsewhere:4222 demo",
            "--timeout 1s man",
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains("unexpected argument"), "{line}: {error}");
        }
    }
}
