//! The command line: what people see, what programs get, and the exit codes, by the real program.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use central_hub::wire::Endpoint;
use central_hub::wire::route::{ROUTES, Route};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::ask::{Hub, SOON};
use crate::stack::{HubOptions, database, eventually, executable, private_nats};

/// The program, pointed at a hub.
struct Program {
    options: HubOptions,
}

/// A command that goes on until it is stopped, and what it prints.
struct Following {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    /// Its next line, which must be one JSON document.
    fn document(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Program {
    fn of(hub: &Hub) -> Program {
        Program { options: hub.process.options().clone() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(executable());
        command.args(args);
        self.surroundings(command)
    }

    /// A line as it stands in the reference, read by a shell.
    fn line(&self, line: &str) -> Said {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        said(self.surroundings(command).output().unwrap())
    }

    fn surroundings(&self, mut command: Command) -> Command {
        let folder = executable().parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", format!("{folder}:{path}"))
            .env("USER", "ann")
            .env("CENTRAL_HUB_NATS_URL", &self.options.nats_url)
            .env("CENTRAL_HUB_SUBJECT_PREFIX", &self.options.prefix)
            .env("CENTRAL_HUB_BUCKET_PREFIX", &self.options.prefix)
            .stdin(Stdio::null());
        command
    }

    /// A command that goes on until it is stopped.
    fn follow(&self, args: &[&str]) -> Following {
        let mut process = self.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Following { process, lines }
    }

    fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    /// What it says when all goes well.
    fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args:?}: {}", said.out);
        assert!(!said.out.contains('\x1b'), "{args:?}: colours are for terminals: {}", said.out);
        said.out
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }
}

fn said(output: Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// A table's cells, without what its columns add between them.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[tokio::test]
async fn a_service_from_registration_to_goodbye() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let register = [
        "services",
        "register",
        "tick",
        "--host",
        "10.0.0.5",
        "--port",
        "8002",
        "--needs",
        "dust",
        "--metadata",
        "zone=a",
    ];
    let out = program.ok(&register);
    assert!(out.starts_with("tick.10_0_0_5-8002 is registered, incarnation "), "{out}");
    assert!(out.contains("\n  needs dust: unknown\n"), "{out}");
    assert_eq!(
        program.ok(&["heartbeat", "tick", "--metric", "cpu=0.25"]),
        "tick.10_0_0_5-8002 is healthy; it has no config\n"
    );
    let out = program.ok(&["services", "list", "--service", "tick"]);
    assert_eq!(rows(&out)[0], ["SERVICE", "INSTANCE", "STATUS", "VERSION", "ADDRESS", "CONFIG", "HEARD"]);
    assert_eq!(rows(&out)[1][..6], ["tick", "10_0_0_5-8002", "healthy", "-", "10.0.0.5:8002", "-"]);
    assert_eq!(
        program.ok(&["services", "list", "--metadata", "zone=b"]),
        "nobody is registered, or nobody like that\n"
    );
    assert_eq!(program.json(&["services", "list", "--metadata", "zone=a"])["services"][0]["service_name"], "tick");
    assert!(program.ok(&["services", "get", "tick"]).starts_with("tick is healthy, talk to 10.0.0.5:8002\n"));
    assert!(program.ok(&["wait", "tick", "--healthy", "--for", "20s"]).starts_with("tick is healthy"));
    assert_eq!(program.ok(&["services", "drain", "tick"]), "tick.10_0_0_5-8002 is out of use\n");
    assert_eq!(program.ok(&["services", "drain", "tick", "--undo"]), "tick.10_0_0_5-8002 is in use\n");
    assert_eq!(program.json(&["metrics", "tick", "cpu"])["series"][0]["points"][0]["avg"], 0.25);
    assert!(program.ok(&["metrics", "tick"]).contains("cpu"));
    assert_eq!(program.json(&["uptime", "tick"])["uptime_pct"], 100.0);
    assert!(program.ok(&["uptime"]).contains("tick"));
    let out = program.ok(&["timeline", "tick", "--kinds", "registered,draining"]);
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.lines().next().unwrap().contains("service draining"), "newest first: {out}");
    assert_eq!(program.ok(&["services", "deregister", "tick"]), "tick.10_0_0_5-8002 is gone\n");

    let refused = program.run(&["services", "get", "tick"]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""));
    assert!(refused.err.starts_with("central-hub: not_found: no instance of tick"), "{}", refused.err);
    let waited = program.run(&["wait", "tick", "--for", "100ms"]);
    assert_eq!((waited.code, waited.err.as_str()), (Some(1), "central-hub: tick isn't registered, after 100ms\n"));
}

#[tokio::test]
async fn a_config_from_its_first_version_to_its_last() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let first = file("first.json", r#"{"operational": {"interval": 5}}"#);
    assert_eq!(
        program.ok(&["config", "set", "tick", &format!("@{first}"), "-m", "first"]),
        "tick v1, revision 1, pushed\n"
    );
    assert_eq!(program.ok(&["config", "set", "tick", &format!("@{first}")]), "tick has it already: nothing changed\n");
    let patch = r#"{"operational":{"interval":6}}"#;
    assert_eq!(program.json(&["config", "patch", "tick", patch, "--dry-run"])["version"], 2);
    assert_eq!(
        program.ok(&["config", "patch", "tick", patch, "--dry-run"]),
        "it would be taken: tick v2, revision 2\n"
    );
    assert_eq!(program.ok(&["config", "patch", "tick", patch]), "tick v2, revision 2, pushed\n");
    assert_eq!(program.ok(&["config", "get", "tick"]), "{\n  \"operational\": {\n    \"interval\": 6\n  }\n}\n");
    assert_eq!(program.json(&["config", "get", "tick", "--version", "1"])["config"]["operational"]["interval"], 5);
    let out = program.ok(&["config", "diff", "tick", "1"]);
    assert!(out.starts_with("--- tick v1\n+++ tick v2\n@@"), "{out}");
    assert!(out.contains("\n-    \"interval\": 5\n+    \"interval\": 6\n"), "{out}");
    assert_eq!(program.json(&["config", "diff", "tick", "1"])["patch"][0]["op"], "replace");
    let history = program.ok(&["config", "history", "tick"]);
    assert_eq!(rows(&history)[2], ["1", "v1", "published", "ann", rows(&history)[2][4], "first"]);
    assert_eq!(program.ok(&["config", "rollback", "tick"]), "tick v1, revision 3, pushed\n");
    let out = program.ok(&["config", "status", "tick"]);
    assert!(out.starts_with("v1, revision 3: in KV, not everybody"), "{out}");
    assert!(program.ok(&["config", "list"]).contains("tick     v1       3"), "{}", program.ok(&["config", "list"]));

    // What is refused says where, and what to try; nothing that is secret is shown.
    let refused = program.run(&["config", "set", "tick", r#"{"db_password":"hush-hush"}"#]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("secret_detected") && refused.err.ends_with("\n  /db_password\n"), "{}", refused.err);
    assert!(!refused.err.contains("hush-hush"));
    let refused = program.run(&["config", "set", "tick", "{}", "--expect-version", "7"]);
    assert!(refused.code == Some(1) && refused.err.contains("version_conflict"), "{}", refused.err);
    let refused = program.run(&["config", "set", "tick", "{", "--json"]);
    assert!(refused.code == Some(2) && refused.err.contains("is no JSON"), "{}", refused.err);
    assert!(serde_json::from_str::<Value>(&refused.out).unwrap()["error"]["message"].is_string());
    let invalid = program.run(&["config", "validate", "tick", r#"{"token":"abcdef"}"#]);
    assert_eq!((invalid.code, invalid.out.as_str()), (Some(1), "/token: looks like a secret\n"));
    assert_eq!(
        program.ok(&["config", "validate", "tick", r#"{"token":"abcdef"}"#, "--not-secret", "/token"]),
        "it would be taken\n"
    );

    let schema = r#"{"properties":{"operational":{"required":["interval"]}}}"#;
    assert_eq!(program.ok(&["config", "schema", "set", "tick", schema]), "tick has a new schema\n");
    assert!(program.ok(&["config", "schema", "get", "tick"]).contains("required"));
    let refused = program.run(&["config", "set", "tick", r#"{"operational":{}}"#]);
    assert!(refused.err.ends_with("\n  /operational: \"interval\" is a required property\n"), "{}", refused.err);
    assert_eq!(program.ok(&["config", "schema", "set", "tick", "null"]), "tick has no schema any more\n");

    // An editor that changes something, and one that doesn't.
    let edited =
        said(program.command(&["config", "edit", "tick", "-y"]).env("EDITOR", "sed -i s/5/9/").output().unwrap());
    assert_eq!((edited.code, edited.out.as_str()), (Some(0), "tick v3, revision 4, pushed\n"), "{}", edited.err);
    assert!(edited.err.contains("+    \"interval\": 9"), "the difference is shown: {}", edited.err);
    let same = said(program.command(&["config", "edit", "tick"]).env("EDITOR", "true").output().unwrap());
    assert_eq!((same.code, same.out.as_str()), (Some(0), "nothing changed\n"));
    let failed = said(program.command(&["config", "edit", "tick"]).env("EDITOR", "false").output().unwrap());
    assert!(failed.code == Some(1) && failed.err.contains("nothing was published"), "{}", failed.err);

    assert_eq!(program.ok(&["config", "delete", "tick"]), "tick has no config any more, revision 5, pushed\n");
    assert_eq!(program.run(&["config", "get", "tick"]).code, Some(1));
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[tokio::test]
async fn a_fleet_of_configs_as_files() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    for service in ["a", "b"] {
        hub.ask(&format!("config.set.{service}"), json!({"config": {"z": 1, "a": [1, 2]}})).await;
    }
    hub.ask("config.schema.set.a", json!({"schema": {"type": "object"}})).await;
    let out = program.ok(&["config", "export", &path]);
    assert!(out.ends_with("0 unchanged, 3 changed\n"), "{out}");
    assert_eq!(read(folder.path(), "b.json"), "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"z\": 1\n}\n");
    assert_eq!(program.ok(&["config", "export", &path]), "3 unchanged, 0 changed\n", "again, nothing to commit");
    assert_eq!(program.ok(&["config", "import", &path]), "3 unchanged, 0 changed\n");

    std::fs::write(folder.path().join("b.json"), r#"{"z": 2}"#).unwrap();
    std::fs::write(folder.path().join("c.json"), r#"{"new": true}"#).unwrap();
    let plan = program.ok(&["config", "import", &path, "--dry-run"]);
    assert!(
        plan.contains("-  \"z\": 1") && plan.contains("+  \"z\": 2") && plan.contains("c config would be created, v1"),
        "{plan}"
    );
    assert_eq!(hub.ask("config.get.b", "").await["config"]["z"], 1, "a plan changes nothing");
    let out = program.ok(&["config", "import", &path]);
    assert!(out.contains("b config updated, v2\nc config created, v1\n"), "{out}");
    assert_eq!(hub.ask("config.get.b", "").await["config"], json!({"z": 2}));

    // One that can't be read changes nothing at all; one that is refused, nothing but itself.
    std::fs::write(folder.path().join("a.json"), r#"{"z": 9}"#).unwrap();
    std::fs::write(folder.path().join("c.json"), "{").unwrap();
    let refused = program.run(&["config", "import", &path]);
    assert!(refused.code == Some(2) && refused.err.contains("nothing was changed"), "{}", refused.err);
    assert_eq!(hub.ask("config.get.a", "").await["config"]["z"], 1);
    std::fs::write(folder.path().join("c.json"), r#"{"password": "hush-hush"}"#).unwrap();
    let refused = program.run(&["config", "import", &path]);
    assert!(refused.code == Some(1) && refused.err.contains("c: secret_detected"), "{}", refused.err);
    assert_eq!(hub.ask("config.get.a", "").await["config"]["z"], 9);
    std::fs::remove_file(folder.path().join("c.json")).unwrap();
    let out = program.ok(&["config", "import", &path, "--prune"]);
    assert!(out.contains("c config deleted"), "{out}");
    assert!(
        program.ok(&["config", "export", &path, "--prune"]).ends_with("1 unchanged, 2 changed\n"),
        "as it writes them"
    );
    assert!(program.ok(&["config", "export", &path, "--prune"]).ends_with("3 unchanged, 0 changed\n"));
}

#[tokio::test]
async fn the_fleet_at_a_glance() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("register.web", json!({"instance_id": "1", "dependencies": ["store"]})).await;
    hub.ask("register.store", json!({"instance_id": "1", "dependencies": ["disk"]})).await;
    let out = program.ok(&["status"]);
    assert!(
        out.starts_with("services    ") && out.contains("\ninstances   ") && out.contains("\nalerts      "),
        "{out}"
    );
    assert!(program.json(&["status"])["services"]["total"].as_i64() >= Some(2));
    let needs = program.ok(&["deps"]);
    assert!(rows(&needs).contains(&vec!["web", "service", "healthy", "store"]), "{needs}");
    assert!(rows(&needs).contains(&vec!["disk", "unknown", "unknown"]), "{needs}");
    let dot = program.ok(&["deps", "--dot"]);
    assert!(dot.starts_with("digraph fleet {\n") && dot.contains("\"web\" -> \"store\";"), "{dot}");
    assert_eq!(program.ok(&["deps", "--impact", "disk"]), "directly        store\nthrough others  web\n");
    assert!(program.ok(&["infra", "--check"]).contains("postgresql !"));
    assert!(program.json(&["infra"])["components"].is_array());
    assert_eq!(program.ok(&["alerts", "--service", "web"]), "all quiet\n");
    assert_eq!(program.json(&["alerts"])["alerts"], json!([]));
    assert!(program.ok(&["health"]).starts_with("healthy: "));
    let refused = program.run(&["alerts", "ack", "999"]);
    assert!(refused.code == Some(1) && refused.err.contains("not_found"), "{}", refused.err);
}

#[tokio::test]
async fn without_an_answer_it_says_why_and_what_to_try() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let nobody = program.run(&["services", "list", "--nats-url", "nats://127.0.0.1:1"]);
    assert_eq!(nobody.code, Some(2));
    assert!(nobody.err.contains("127.0.0.1:1 can't be used") && nobody.err.contains("--nats-url"), "{}", nobody.err);
    let other = program.run(&["services", "list", "--subject-prefix", "nobody"]);
    assert_eq!(other.code, Some(2));
    assert!(other.err.contains("no hub listens on nobody.services.list"), "{}", other.err);
    let usage = program.run(&["config", "get"]);
    assert!(usage.code == Some(2) && usage.err.contains("Usage:"), "{}", usage.err);
    let none = program.run(&["top"]);
    assert!(none.code == Some(1) && none.err.contains("needs a terminal"), "{}", none.err);

    // A context of the nats command line.
    let home = tempfile::tempdir().unwrap();
    let contexts = home.path().join("nats/context");
    std::fs::create_dir_all(&contexts).unwrap();
    let context = json!({"description": "here", "url": program.options.nats_url, "unknown_field": 1});
    std::fs::write(contexts.join("here.json"), context.to_string()).unwrap();
    let run = |name: &str| {
        let args = ["services", "list", "--nats-url", "nats://127.0.0.1:1", "--context", name];
        said(program.command(&args).env("XDG_CONFIG_HOME", home.path()).output().unwrap())
    };
    assert_eq!(run("here").code, Some(0));
    let missing = run("there");
    assert!(missing.code == Some(2) && missing.err.contains("nats context ls"), "{}", missing.err);
    assert_eq!(run("../here").code, Some(2));
    std::fs::write(contexts.join("list.json"), "[]").unwrap();
    let list = run("list");
    assert!(list.code == Some(2) && list.err.contains("list.json is no context"), "{}", list.err);
}

#[test]
fn it_describes_itself() {
    let run = |args: &[&str]| said(Command::new(executable()).args(args).output().unwrap());
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.code == Some(0) && script.out.contains("central-hub"), "{}", script.err);
    }
    let ask = r#"source <("$0" completions bash)
        complete -p central-hub >/dev/null || exit
        answer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _central__hub "$1" "${!#}" "${*: -2:1}"; echo ${COMPREPLY[@]}; }
        answer central-hub config e; answer central-hub services l; answer central-hub config set --not"#;
    let completed = said(Command::new("bash").args(["-c", ask]).arg(executable()).output().unwrap());
    assert_eq!((completed.out.as_str(), completed.err.as_str()), ("edit export\nlist\n--not-secret\n", ""));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", "--folder", &folder.path().display().to_string()]).code, Some(0));
    for page in ["central-hub.1", "central-hub-config-set.1", "central-hub-top.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
    let help = run(&["--help"]).out;
    assert!(help.contains("Exit codes:") && help.contains("With --json"), "{help}");
}

/// What the examples of the reference speak of, brought back before each of them.
async fn as_in_the_examples(hub: &Hub, nth: usize) {
    hub.ask("register.tick-aggregator", json!({"host": "10.0.0.5", "port": 8002})).await;
    hub.ask("heartbeat.tick-aggregator", json!({"metrics": {"cpu": 0.5}})).await;
    hub.ask("config.set.tick-aggregator", json!({"config": {"operational": {"interval": 1_000 + nth}}})).await;
}

/// The subjects that were asked on since the last time.
async fn asked_on(hub: &Hub, asked: &mut async_nats::Subscriber) -> Vec<String> {
    // What this connection sends comes back to it after all that others sent before.
    let end = hub.subject("that-was-all");
    hub.nats.publish(end.clone(), "".into()).await.unwrap();
    let mut subjects = Vec::new();
    loop {
        let subject = asked.next().await.unwrap().subject.to_string();
        if subject == end {
            return subjects;
        }
        subjects.push(subject);
    }
}

/// The names at the top of a JSON object; a cursor is there only when there is more.
fn names(document: &Value) -> BTreeSet<&str> {
    document.as_object().unwrap().keys().map(String::as_str).filter(|name| *name != "next_cursor").collect()
}

#[tokio::test]
async fn every_subject_is_reached_and_its_reply_printed_as_documented() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("register.broken", json!({"instance_id": "1", "status": "down"})).await;
    let alert = eventually(SOON, || async {
        let listed = hub.ask("alerts.list", "").await;
        listed["alerts"][0]["id"].as_i64().ok_or(listed)
    })
    .await;
    let mut asked = hub.nats.subscribe(hub.subject(">")).await.unwrap();
    for (nth, route) in ROUTES.iter().enumerate() {
        as_in_the_examples(&hub, nth).await;
        asked_on(&hub, &mut asked).await;
        let Route { endpoint, command, .. } = route;
        let command = command.replace(" ack 7 ", &format!(" ack {alert} "));
        let said = program.line(&format!("central-hub {command} --json"));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{command}: {}", said.out);
        let printed: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{command}: {error}: {}", said.out));
        let documented = serde_json::from_str(route.reply).unwrap();
        assert_eq!(names(&printed), names(&documented), "{command}: {}", said.out);
        // The command line registers on the subject that permissions can bind to a service.
        let endpoint = if *endpoint == Endpoint::Register { Endpoint::RegisterAs } else { *endpoint };
        let service = endpoint.names_service().then_some("tick-aggregator");
        let subject = endpoint.subject(&hub.prefix, service);
        let subjects = asked_on(&hub, &mut asked).await;
        assert!(subjects.contains(&subject), "{command} asks on {subject}: {subjects:?}");

        // For people it prints something else, on one screen.
        let said = program.line(&format!("central-hub {command}"));
        let repeated = ["services deregister", "config delete"].iter().any(|once| command.starts_with(once));
        if !repeated {
            assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{command}: {}", said.out);
            assert!(!said.out.trim().is_empty(), "{command}");
        }
    }
}

#[tokio::test]
async fn what_follows_is_a_document_a_line() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("register.tick", json!({"instance_id": "1"})).await;
    hub.ask("config.set.tick", json!({"config": {"n": 1}})).await;
    hub.value_once("config", "tick", |entry| entry["version"] == 1).await;
    hub.value_once("services", "tick.1", |_| true).await;

    let mut services = program.follow(&["services", "watch", "tick", "--json"]);
    assert_eq!(services.document()["instance_id"], "1");
    hub.ask("deregister.tick", "").await;
    assert_eq!(services.document(), json!({"service_name": "tick", "instance_id": "1", "gone": true}));

    let mut configs = program.follow(&["--json", "config", "watch", "tick"]);
    assert_eq!(configs.document()["config"], json!({"n": 1}));
    hub.ask("config.set.tick", json!({"config": {"n": 2}})).await;
    assert_eq!(configs.document()["config"], json!({"n": 2}));

    let mut events = program.follow(&["timeline", "tick", "--kinds", "config", "--follow", "--json"]);
    assert_eq!(events.document()["details"]["version"], 1);
    assert_eq!(events.document()["details"]["version"], 2);
    hub.ask("config.delete.tick", "").await;
    assert_eq!(events.document()["kind"], "deleted");
}

#[tokio::test]
async fn a_timeline_is_followed_over_a_restart_of_nats_and_told_once() {
    let mut nats = private_nats().await;
    let mut hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    let program = Program::of(&hub);
    for instance in ["1", "2"] {
        hub.ask("register.tick", json!({"instance_id": instance})).await;
    }
    let mut events = program.follow(&["timeline", "tick", "--limit", "1", "--follow", "--json"]);
    assert_eq!(events.document()["instance_id"], "2");
    for round in 0..2 {
        nats.kill9().await;
        if round == 1 {
            std::fs::remove_dir_all(nats.folder().join("store")).unwrap();
        }
        nats.restart().await.unwrap();
        hub.process.ready().await;
        let comers = [format!("{round}-a"), format!("{round}-b"), format!("{round}-c")];
        for instance in &comers {
            hub.ask("register.tick", json!({"instance_id": instance})).await;
        }
        for instance in comers {
            assert_eq!(events.document()["instance_id"], instance);
        }
    }
}

#[tokio::test]
async fn a_failure_is_a_document_too() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let failed = |args: &[&str], code: i32| {
        let said = program.run(args);
        assert_eq!(said.code, Some(code), "{args:?}: {}", said.err);
        assert!(said.err.starts_with("central-hub: "), "{args:?}: {}", said.err);
        serde_json::from_str::<Value>(&said.out).unwrap_or_else(|error| panic!("{args:?}: {error}: {}", said.out))
    };
    let refused = failed(&["config", "set", "tick", r#"{"token":"abcdef"}"#, "--json"], 1);
    assert_eq!(refused["error"]["code"], "secret_detected");
    assert_eq!(refused["error"]["details"]["paths"], json!(["/token"]));
    let required = ["--json", "services", "register", "tick", "--needs", "dust", "--require"];
    assert_eq!(
        failed(&required, 1)["error"]["details"]["dependencies"],
        json!([{"name": "dust", "status": "unknown"}])
    );
    assert!(program.run(&required[1..]).err.ends_with("\n  dust: unknown\n"));
    for args in [
        &["status", "--json", "--nats-url", "nats://127.0.0.1:1"],
        &["--json", "--nats-url", "nats://127.0.0.1:1", "health"],
    ] {
        assert!(failed(args, 2)["error"]["message"].as_str().unwrap().contains("127.0.0.1:1"));
    }
    // A finding is the answer, and there is one document.
    assert_eq!(failed(&["config", "validate", "tick", r#"{"token":"abcdef"}"#, "--json"], 1)["valid"], false);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tick.json"), r#"{"token": "abcdef"}"#).unwrap();
    let imported = failed(&["config", "import", &folder.path().display().to_string(), "--json"], 1);
    assert_eq!(imported["failures"][0]["error"]["code"], "secret_detected");
    assert_eq!(imported["steps"], json!([]));
    // Out of use isn't what a wait for health waits for.
    hub.ask("register.tick", json!({"instance_id": "1"})).await;
    hub.ask("services.drain.tick", json!({"draining": true})).await;
    let waited = failed(&["wait", "tick", "--healthy", "--for", "100ms", "--json"], 1);
    assert_eq!(waited["error"]["message"], "tick is healthy and out of use, after 100ms");
    program.ok(&["wait", "tick", "--for", "20s"]);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("config.set.tick", json!({"config": {"n": 1}})).await;
    hub.value_once("config", "tick", |entry| entry["version"] == 1).await;
    for args in [
        "--help",
        "completions bash",
        "man",
        "status",
        "status --json",
        "services watch",
        "config get tick",
        "config watch",
        "timeline --follow",
        "health",
        "health --json",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let words: Vec<&str> = args.split(' ').collect();
        let said = said(program.command(&words).stdout(writer).output().unwrap());
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{args}");
    }
}

#[tokio::test]
async fn an_editor_needs_somebody_to_say_yes() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("config.set.tick", json!({"config": {"n": 5}})).await;
    let drafts = tempfile::tempdir().unwrap();
    let mut edit = program.command(&["config", "edit", "tick"]);
    let edited = said(edit.env("TMPDIR", drafts.path()).env("EDITOR", "sed -i s/5/9/").output().unwrap());
    assert_eq!(edited.code, Some(1));
    let last = "central-hub: nothing was published: there is no terminal to ask on; --yes publishes without asking";
    assert_eq!(edited.err.matches("published").count(), 1, "it is said once: {}", edited.err);
    assert!(edited.err.contains(&format!("\n{last}; your text is kept in ")), "{}", edited.err);
    let refused = said(
        program
            .command(&["config", "edit", "tick", "--yes"])
            .env("EDITOR", r#"sed -i 's/"n": 5/"token": "abc"/'"#)
            .env("TMPDIR", drafts.path())
            .output()
            .unwrap(),
    );
    assert!(refused.code == Some(1) && refused.err.contains("/token: looks like a secret\n"), "{}", refused.err);
    let none = program.run(&["config", "edit", "tick"]);
    assert!(none.code == Some(1) && none.err.contains("set EDITOR"), "{}", none.err);
    assert_eq!(hub.ask("config.get.tick", "").await["config"], json!({"n": 5}));
}

#[tokio::test]
async fn what_would_be_altered_on_its_way_is_refused() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tick.json").display().to_string();
    let at_path = format!("@{path}");
    let in_folder = folder.path().display().to_string();
    for (text, rule) in [
        (r#"{"a":1,"a":2}"#, "/a stands twice in its object"),
        (r#"{"a":[12345678901234567890123]}"#, "/a/0 a number must fit"),
        (r#"{"a":0.12345678901234567890123}"#, "/a a number must fit"),
    ] {
        std::fs::write(&path, text).unwrap();
        for args in [
            &["config", "set", "tick", text][..],
            &["config", "set", "tick", &at_path],
            &["config", "patch", "tick", text],
            &["config", "validate", "tick", text],
            &["config", "schema", "set", "tick", text],
            &["config", "import", &in_folder],
        ] {
            let refused = program.run(args);
            assert!(refused.code == Some(2) && refused.err.contains(rule), "{args:?}: {}", refused.err);
            assert!(args.contains(&text) || refused.err.contains(&path), "{args:?}: {}", refused.err);
        }
        let edited = said(
            program
                .command(&["config", "edit", "tick", "--yes"])
                .env("EDITOR", format!("cp {path}"))
                .env("TMPDIR", folder.path())
                .output()
                .unwrap(),
        );
        assert!(edited.code == Some(1) && edited.err.contains(rule), "{}", edited.err);
    }
    assert_eq!(program.json(&["config", "list"])["configs"], json!([]));
}

#[tokio::test]
async fn no_config_moves_the_terminal() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    let content = |n: i64| json!({ "a\u{9b}2J": format!("x\u{202e}y\u{2066}{n}\u{7f}") });
    for n in [1, 2] {
        hub.ask("config.set.tick", json!({ "config": content(n) })).await;
    }
    hub.ask("config.schema.set.tick", json!({"schema": {"title": "\u{9b}2J"}})).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    program.ok(&["config", "export", &path]);
    assert_eq!(program.ok(&["config", "import", &path]), "2 unchanged, 0 changed\n", "nothing is lost");
    std::fs::write(folder.path().join("tick.json"), content(3).to_string()).unwrap();
    let secret = json!({ "\u{9b}2J": { "password": "hush-hush" } }).to_string();
    hub.value_once("config", "tick", |entry| entry["version"] == 2).await;
    let watched = program.follow(&["config", "watch", "tick", "--json"]).document();
    assert_eq!(watched["config"], content(2));
    for args in [
        &["config", "get", "tick"][..],
        &["config", "get", "tick", "--json"],
        &["config", "schema", "get", "tick"],
        &["config", "diff", "tick", "1"],
        &["config", "diff", "tick", "1", "--json"],
        &["config", "import", &path, "--dry-run"],
        &["config", "set", "tick", &secret],
        &["config", "set", "tick", &secret, "--json"],
        &["config", "validate", "tick", &secret],
    ] {
        let said = program.run(args);
        let shown = said.out + &said.err;
        let stray =
            |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
        assert!(!shown.contains(stray) && shown.contains("\\u009b"), "{args:?}: {shown:?}");
    }
    assert_eq!(program.json(&["config", "get", "tick"])["config"], content(2));
}

/// The files that `config edit` left in a folder for temporary ones.
fn left_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

#[tokio::test]
async fn what_was_edited_and_not_published_is_kept() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("config.set.tick", json!({"config": {"n": 5}})).await;
    for (editor, args, code, kept) in [
        ("sed -i s/5/9/", &["--expect-version", "7"][..], 1, true),
        ("edit() { sed -i s/5/9/ \"$1\"; return 3; }; edit", &[], 1, true),
        ("false", &[], 1, false),
        ("true", &[], 0, false),
        ("sed -i s/5/6/", &[], 0, false),
    ] {
        let drafts = tempfile::tempdir().unwrap();
        let mut edit = program.command(&[&["config", "edit", "tick", "--yes"], args].concat());
        let edited = said(edit.env("EDITOR", editor).env("TMPDIR", drafts.path()).output().unwrap());
        assert_eq!(edited.code, Some(code), "{editor}: {}", edited.err);
        let left = left_in(drafts.path());
        assert_eq!(left.len(), usize::from(kept), "{editor}: {left:?}");
        for file in left {
            assert!(edited.err.contains(&format!("your text is kept in {}", file.display())), "{}", edited.err);
            assert!(std::fs::read_to_string(file).unwrap().contains('9'));
        }
        assert_eq!(std::fs::read_dir(drafts.path()).unwrap().count(), usize::from(kept), "{editor}");
    }
}

#[tokio::test]
async fn a_signal_while_the_editor_is_open() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("config.set.tick", json!({"config": {"n": 5}})).await;
    let folder = tempfile::tempdir().unwrap();
    let (open, close) = (folder.path().join("open"), folder.path().join("close"));
    let editor = format!(
        "edit() {{ touch {}; while ! [ -e {} ]; do sleep 0.05; done; sed -i s/5/9/ \"$1\"; }}; edit",
        open.display(),
        close.display()
    );
    for (signals, code) in [(&["INT", "QUIT"][..], 0), (&["TERM"], 143), (&["HUP"], 129)] {
        let drafts = tempfile::tempdir().unwrap();
        let _ = std::fs::remove_file(&open);
        let _ = std::fs::remove_file(&close);
        let mut edit = program.command(&["config", "edit", "tick", "--yes"]);
        edit.env("EDITOR", &editor).env("TMPDIR", drafts.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = edit.spawn().unwrap();
        eventually(SOON, || std::future::ready(open.exists().then_some(()).ok_or("no editor"))).await;
        for signal in signals {
            let sent = Command::new("kill").args(["-s", signal, &process.id().to_string()]).status().unwrap();
            assert!(sent.success());
        }
        if code == 0 {
            std::fs::write(&close, "").unwrap();
        }
        let edited = said(process.wait_with_output().unwrap());
        assert_eq!(edited.code, Some(code), "{signals:?}: {}", edited.err);
        assert_eq!(std::fs::read_dir(drafts.path()).unwrap().count(), 0, "{signals:?}");
    }
    assert_eq!(hub.ask("config.get.tick", "").await["config"], json!({"n": 9}));
}

#[tokio::test]
async fn an_export_writes_and_an_import_reads_its_own_files_only() {
    let hub = Hub::fresh().await;
    let program = Program::of(&hub);
    hub.ask("config.set.tick", json!({"config": {"n": 5}})).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let other = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(other.path(), folder.path().join("tick.json.new")).unwrap();
    program.ok(&["config", "export", &path]);
    assert_eq!(std::fs::read_to_string(other.path()).unwrap(), "", "a link isn't followed");
    assert!(read(folder.path(), "tick.json").contains('5'));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");

    let odd = folder.path().join("odd.json");
    std::fs::create_dir(&odd).unwrap();
    let refused = program.run(&["config", "import", &path]);
    assert!(refused.code == Some(2) && refused.err.contains("odd.json can't be read: it is no"), "{}", refused.err);
    std::fs::remove_dir(&odd).unwrap();
    assert!(Command::new("mkfifo").arg(&odd).status().unwrap().success());
    let refused = program.run(&["config", "import", &path]);
    assert!(refused.code == Some(2) && refused.err.contains("odd.json can't be read: it is no"), "{}", refused.err);
}
