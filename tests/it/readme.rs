//! What the README promises is there: every flag and variable of the daemon, and every subject.

use central_hub::cli::grammar::grammar;
use central_hub::wire::route::ROUTES;

const README: &str = include_str!("../../README.md");

#[test]
fn every_flag_of_the_daemon_is_told_with_its_variable() {
    let cli = grammar();
    let serve = cli.find_subcommand("serve").expect("the daemon's command");
    let arguments = serve.get_arguments().chain(cli.get_arguments());
    let mut missing = Vec::new();
    for argument in arguments.filter(|argument| !["help", "version"].contains(&argument.get_id().as_str())) {
        let flag = argument.get_long().map(|long| format!("`--{long}`"));
        let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
        missing.extend(flag.into_iter().chain(variable).filter(|word| !README.contains(word)));
    }
    assert_eq!(missing, Vec::<String>::new(), "not in the README");
}

#[test]
fn every_subject_is_shown_by_example() {
    // The reference shows all of them with all fields; the tour shows at least one call of each.
    let shown = |pattern: &str| README.contains(&format!("hub.{}", pattern.replace(".*", ".tick-aggregator")));
    let missing: Vec<&str> = ROUTES
        .iter()
        .map(|route| route.pattern)
        // The second way to register is told in words.
        .filter(|pattern| *pattern != "register.*")
        .filter(|pattern| !shown(pattern))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "not in the README's tour");
}

/// The lines of the README that a reader types after `$ central-hub`, without what a comment, a pipe or a file adds.
fn commands() -> impl Iterator<Item = &'static str> {
    let typed = README.lines().filter_map(|line| line.strip_prefix("$ central-hub "));
    typed.map(|line| line.split(['#', '|', '>']).next().unwrap_or_default().trim())
}

/// The words of a line as a shell reads them, with either kind of quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().expect("there is one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_line_can_be_read() {
    assert!(commands().count() > 30);
    for line in commands() {
        let words = std::iter::once("central-hub".to_owned()).chain(words(line));
        grammar().try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn every_command_is_shown_by_example() {
    let mut missing = Vec::new();
    for command in grammar().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        // These two are begun by make.
        let is_shown = |path: &str| commands().any(|line| line.starts_with(path)) || ["dev", "demo"].contains(&path);
        let inner: Vec<_> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
        let paths = inner.iter().map(|inner| format!("{name} {}", inner.get_name()));
        let paths: Vec<_> = if inner.is_empty() { vec![name.to_owned()] } else { paths.collect() };
        missing.extend(
            paths.into_iter().filter(|path| !is_shown(path) && !README.contains(&format!("central-hub {path}"))),
        );
    }
    assert_eq!(missing, Vec::<String>::new(), "not in the README");
}

#[test]
fn every_exit_code_of_the_help_is_told() {
    let help = grammar().render_long_help().to_string();
    for code in ["0", "1", "2"] {
        assert!(help.contains(&format!("\n  {code}  ")), "{help}");
        assert!(README.contains(&format!("\n| {code} | ")), "{code}");
    }
}
