//! What ships in `deploy/`: its parts agree with each other and with the program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use central_hub::cli::roles::ROLES;
use central_hub::cli::servers;
use central_hub::hub::Options;
use central_hub::store::DatabaseOptions;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The variables of `roles.conf`.
fn variables() -> BTreeSet<&'static str> {
    ROLES.lines().filter_map(|line| line.trim().strip_prefix("password: $")).collect()
}

/// Runs `passwords.sh` and gives what the file then holds.
fn passwords(file: &PathBuf) -> Vec<(String, String)> {
    let run = Command::new(root().join("deploy/passwords.sh")).arg(file).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split_once('=').map(|(name, value)| (name.into(), value.into())).unwrap()).collect()
}

#[test]
fn each_password_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env");
    let made = passwords(&file);
    let names: BTreeSet<_> = made.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, variables().into_iter().chain(["POSTGRES_PASSWORD"]).collect());
    let values: BTreeSet<_> = made.iter().map(|(_, value)| value).collect();
    assert_eq!(values.len(), made.len(), "all differ");
    let plain =
        |value: &&String| value.starts_with('p') && value.len() >= 40 && value.chars().all(char::is_alphanumeric);
    assert!(values.iter().all(plain), "the server reads them as text");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(passwords(&file), made, "a second run changes nothing");

    // One that is missing or empty is added, and the others stay.
    let rest: String = made.iter().skip(1).map(|(name, value)| format!("{name}={value}\n")).collect();
    std::fs::write(&file, rest).unwrap();
    let again = passwords(&file);
    assert_eq!(again.len(), made.len());
    assert!(made[1..].iter().all(|pair| again.contains(pair)));
}

#[test]
fn the_server_takes_the_configuration_with_these_passwords_and_not_without() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = passwords(&folder.path().join("env"));
    let server = servers::nats_server(None).unwrap().path;
    let check = |env: &[(String, String)]| {
        let config = root().join("deploy/nats/nats-server.conf");
        let env = env.iter().map(|(name, value)| (name, value));
        Command::new(&server).arg("-t").arg("-c").arg(config).env_clear().envs(env).output().unwrap()
    };
    let right = check(&made);
    assert!(right.status.success(), "{right:?}");
    let (missing, _) = made.remove(0);
    let wrong = check(&made);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains(&missing), "{wrong:?}");
}

#[test]
fn no_password_has_a_default_and_none_is_missing() {
    let compose = read("compose.yaml");
    for name in variables().into_iter().chain(["POSTGRES_PASSWORD"]) {
        let guarded = format!("${{{name}:?run deploy/passwords.sh .env}}");
        assert_eq!(compose.matches(&format!("${{{name}")).count(), compose.matches(&guarded).count(), "{name}");
        assert!(compose.contains(&format!("{name}: {guarded}")), "NATS or PostgreSQL is told {name}");
    }
}

#[test]
fn a_stop_is_given_longer_than_the_hub_takes() {
    let seconds = |file: &str, setting: &str| -> u64 {
        let text = read(file);
        let line = text.lines().find_map(|line| line.trim().strip_prefix(setting)).expect(setting);
        line.trim().trim_end_matches('s').parse().unwrap()
    };
    let database = DatabaseOptions::from_url("postgres://a/b").unwrap();
    let options = Options::new("", database, "a".parse().unwrap());
    // Beside what it waits for, it flushes and leaves two connections.
    let longest = options.drain_timeout.as_secs() + 10;
    assert!(seconds("deploy/central-hub.service", "TimeoutStopSec=") > longest);
    assert!(seconds("compose.yaml", "stop_grace_period:") > longest);
}

#[test]
fn the_unit_sets_variables_that_the_program_knows() {
    let help = Command::new(crate::stack::executable()).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    // Secrets are no flags, so the help names them once for all.
    let secrets =
        ["NATS_USER", "NATS_PASSWORD_FILE", "NATS_WRITER_USER", "NATS_WRITER_PASSWORD_FILE", "DB_PASSWORD_FILE"];
    for file in ["deploy/central-hub.service", "compose.yaml"] {
        for line in read(file).lines() {
            let line = line.trim().trim_start_matches("Environment=");
            let Some(variable) = line.split(['=', ':', ' ']).next().filter(|name| name.starts_with("CENTRAL_HUB_"))
            else {
                continue;
            };
            let short = variable.trim_start_matches("CENTRAL_HUB_");
            let secret = secrets.contains(&short) || secrets.contains(&format!("{short}_FILE").as_str());
            assert!(
                secret || short.starts_with("HEALTH_") || help.contains(&format!("env: {variable}=")),
                "{file}: {variable}"
            );
        }
    }
}
