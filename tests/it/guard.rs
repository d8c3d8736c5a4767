//! `central-hub guard`: a program runs exactly as long as its parent.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use central_hub::cli::guard::try_lock;
use rustix::process::{Pid, Signal};

use crate::stack::{eventually, executable};

/// A guard, the pipe that keeps it, and the pid that it told.
struct Guard {
    process: Child,
    pipe: ChildStdin,
    pid: i32,
}

fn guard(options: &[&str], program: &[&str]) -> Guard {
    let mut process = Command::new(executable())
        .arg("guard")
        .args(options)
        .arg("--")
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim().strip_prefix("pid ").expect("the first line tells the pid").parse().unwrap();
    let pipe = process.stdin.take().unwrap();
    Guard { process, pipe, pid }
}

fn lives(pid: i32) -> bool {
    rustix::process::test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

fn kill9(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn the_end_of_the_pipe_stops_the_program() {
    let mut guard = guard(&[], &["sleep", "1000"]);
    assert!(lives(guard.pid));
    drop(guard.pipe);
    assert_eq!(guard.process.wait().unwrap().code(), Some(143), "128 + SIGTERM");
    assert!(!lives(guard.pid));
}

/// A guarded shell that loops, and is known to have set its trap.
async fn trapping(options: &[&str], trap: &str) -> Guard {
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!("{trap}; touch {}; while :; do sleep 0.05; done", ready.display());
    let guard = guard(options, &["sh", "-c", &script]);
    eventually(Duration::from_secs(10), || async { ready.exists() }).await;
    guard
}

#[tokio::test]
async fn a_stubborn_program_is_killed_after_its_grace() {
    let mut guard = trapping(&["--grace", "200ms"], "trap '' TERM").await;
    drop(guard.pipe);
    assert_eq!(guard.process.wait().unwrap().code(), Some(137), "128 + SIGKILL");
    assert!(!lives(guard.pid));
}

#[tokio::test]
async fn the_signal_is_the_one_that_was_chosen() {
    let mut guard = trapping(&["--signal", "INT"], "trap 'exit 5' INT").await;
    drop(guard.pipe);
    assert_eq!(guard.process.wait().unwrap().code(), Some(5));
}

#[test]
fn a_paused_program_hears_the_end_too() {
    let mut guard = guard(&[], &["sleep", "1000"]);
    rustix::process::kill_process(Pid::from_raw(guard.pid).unwrap(), Signal::STOP).unwrap();
    drop(guard.pipe);
    assert_eq!(guard.process.wait().unwrap().code(), Some(143));
}

#[test]
fn the_exit_code_of_the_program_is_passed_on() {
    let mut guard = guard(&[], &["sh", "-c", "exit 7"]);
    assert_eq!(guard.process.wait().unwrap().code(), Some(7));
    drop(guard.pipe);
}

#[test]
fn a_program_that_cannot_start_is_an_error() {
    let guard = Command::new(executable())
        .args(["guard", "--", "/does/not/exist"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = guard.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/does/not/exist"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_program_left_behind_is_ended_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!("setsid sleep 1000 & echo $! >{}", file.display());
    let mut guard = guard(&["--grace", "200ms"], &["sh", "-c", &script]);
    assert_eq!(guard.process.wait().unwrap().code(), Some(0));
    let orphan: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    assert!(!lives(orphan));
    drop(guard.pipe);
}

#[tokio::test]
async fn the_lock_lasts_as_long_as_the_program_even_without_its_guard() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let mut first = guard(&["--lock", &path], &["sleep", "1000"]);
    assert!(try_lock(Path::new(&path)).unwrap().is_none());

    first.process.kill().unwrap();
    first.process.wait().unwrap();
    assert!(lives(first.pid), "nobody is left to stop it");
    assert!(try_lock(Path::new(&path)).unwrap().is_none(), "the program holds the lock itself");

    kill9(first.pid);
    let lock = eventually(Duration::from_secs(5), || async { try_lock(Path::new(&path)).unwrap() }).await;
    drop(lock);
    let second = guard(&["--lock", &path], &["sleep", "1000"]);
    assert!(lives(second.pid));
}

#[tokio::test]
async fn a_scratch_folder_is_removed_when_the_parent_is_gone_and_kept_when_it_asks_for_a_stop() {
    use std::io::Write;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("stack/server");
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let options = ["--lock", folder.to_str().unwrap(), "--scratch"];

    let mut asked = guard(&options, &["sleep", "1000"]);
    asked.pipe.write_all(b"s").unwrap();
    asked.process.wait().unwrap();
    assert!(folder.join("data").exists());

    let mut left = guard(&options, &["sleep", "1000"]);
    drop(left.pipe);
    left.process.wait().unwrap();
    assert!(!folder.exists());
    assert!(!parent.path().join("stack").exists(), "it was empty");
    assert!(parent.path().exists());
}
