//! `central-hub demo`: verifies each step, fails when something is wrong, and leaves nothing behind in either case.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::stack::{eventually, executable, unique};

/// All steps of the demo, by the names that programs read.
const STEPS: [&str; 15] = [
    "start",
    "first_configs",
    "register",
    "fleet_view",
    "heartbeats",
    "hot_reload",
    "loss",
    "alert",
    "recovery",
    "rollback",
    "timeline",
    "refusals",
    "hub_itself",
    "goodbye",
    "cleanup",
];

/// A running `central-hub demo` with a folder of its own for what is temporary.
struct Demo {
    process: Child,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Demo {
    fn start(options: &[&str]) -> Demo {
        let folder = std::env::temp_dir().join(format!("central-hub-it-{}", unique()));
        std::fs::create_dir(&folder).unwrap();
        let mut process = Command::new(executable())
            .arg("demo")
            .args(options)
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Demo { process, output, folder }
    }

    /// Reads on until the step `name` is told, and gives what was told of it.
    fn step(&mut self, name: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before it told {name:?}");
            let told: Value = serde_json::from_str(&line).unwrap();
            if told["name"] == name {
                return told;
            }
        }
    }

    /// The rest of its output, and its exit code.
    fn rest(&mut self) -> (String, Option<i32>) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        (text, self.process.wait().unwrap().code())
    }

    /// The processes that have the folder among their arguments.
    fn processes(&self) -> Vec<(Pid, String)> {
        let folder = self.folder.to_str().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let all = entries.filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        });
        all.filter(|(_, line)| line.contains(folder)).collect()
    }

    fn has_left_nothing(&self) {
        assert_eq!(self.processes(), [], "no process is left");
        std::fs::remove_dir(&self.folder).expect("the folder for what is temporary is empty");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn people_read_that_each_step_was_verified() {
    let mut demo = Demo::start(&["--seed", "3"]);
    let (text, code) = demo.rest();
    assert_eq!(code, Some(0), "{text}");
    for number in 1..=STEPS.len() {
        assert!(text.lines().any(|line| line.starts_with(&format!("{number:>2} ✓ "))), "step {number}: {text}");
    }
    assert!(text.contains("All 15 steps were verified") && !text.contains('✗') && !text.contains('\x1b'), "{text}");
    demo.has_left_nothing();
}

#[tokio::test]
async fn programs_read_the_measurements() {
    let mut demo = Demo::start(&["--json"]);
    let (text, code) = demo.rest();
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, steps) = lines.split_last().unwrap();
    assert_eq!(steps.iter().map(|step| step["name"].as_str().unwrap()).collect::<Vec<_>>(), STEPS);
    assert!(steps.iter().all(|step| step["ok"] == true), "{text}");
    assert_eq!((&summary["ok"], &summary["verified"]), (&true.into(), &15.into()));
    assert!(summary["took_ms"].as_f64().unwrap() < 40_000.0, "{summary}");

    let facts = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap()["facts"].clone();
    assert_eq!(facts("register")["services"], 18);
    assert_eq!(facts("hot_reload")["processes"], 3);
    assert!(facts("heartbeats")["acknowledged"].as_u64().unwrap() >= 3 * 20);
    assert!(facts("alert")["alert"].as_i64().is_some());
    assert_eq!(facts("timeline")["uptime_pct"], 100.0);
    assert!(facts("loss")["noticed_ms"].as_f64() <= facts("loss")["limit_ms"].as_f64());
    demo.has_left_nothing();
}

#[tokio::test]
async fn ctrl_c_ends_it_in_good_order() {
    for after in ["start", "hot_reload"] {
        let mut demo = Demo::start(&["--json"]);
        demo.step(after);
        rustix::process::kill_process(Pid::from_child(&demo.process), Signal::INT).unwrap();
        let (rest, code) = demo.rest();
        assert_eq!(code, Some(130), "{rest}");
        demo.has_left_nothing();
    }
}

#[tokio::test]
async fn a_step_that_fails_says_so_and_fails_the_demo() {
    let mut demo = Demo::start(&["--json"]);
    demo.step("fleet_view");
    let processes = demo.processes();
    // Its guard has the server's name among its arguments too.
    let is_server = |line: &str| line.contains("nats-server --config") && !line.contains(" guard ");
    let (nats, _) = processes.iter().find(|(_, line)| is_server(line)).expect("a nats-server");
    rustix::process::kill_process(*nats, Signal::KILL).unwrap();
    let (text, code) = demo.rest();
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., failed, summary] = &lines[..] else { panic!("{text}") };
    assert!(failed["found"].as_str().unwrap().contains("nats-server ended by itself"), "{failed}");
    assert_eq!((&failed["ok"], &summary["ok"]), (&false.into(), &false.into()));
    demo.has_left_nothing();
}

#[tokio::test]
async fn nothing_survives_a_demo_that_was_killed() {
    let mut demo = Demo::start(&["--json"]);
    demo.step("register");
    demo.process.kill().unwrap();
    demo.process.wait().unwrap();
    eventually(Duration::from_secs(20), || async {
        let left = demo.processes();
        let empty = std::fs::read_dir(&demo.folder).unwrap().next().is_none();
        if left.is_empty() && empty { Ok(()) } else { Err(left) }
    })
    .await;
    demo.has_left_nothing();
}

#[tokio::test]
async fn without_servers_it_says_what_to_do() {
    let mut demo = Demo::start(&["--json", "--nats-server", "/nonexistent/nats-server"]);
    let (text, code) = demo.rest();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--nats-server"), "{text}");
    demo.has_left_nothing();
}
