//! What the README promises is there: every flag and variable of the daemon, and every subject.

use central_hub::cli::Cli;
use central_hub::wire::route::ROUTES;
use clap::CommandFactory as _;

const README: &str = include_str!("../../README.md");

#[test]
fn every_flag_of_the_daemon_is_told_with_its_variable() {
    let cli = Cli::command();
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
        // The second way to register is told in words; a schema is read as it is set.
        .filter(|pattern| !["register.*", "config.schema.get.*"].contains(pattern))
        .filter(|pattern| !shown(pattern))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "not in the README's tour");
}
