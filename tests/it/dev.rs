//! `central-hub dev`: starts with nothing configured, ends with nothing left behind.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use central_hub::cli::guard::try_lock;
use rustix::process::{Pid, Signal};

use crate::stack::{eventually, executable, scratch};

/// A running `central-hub dev`; killed, like its guards would be stopped, when a test fails.
struct Dev {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Dev {
    fn start(folder: &Path, options: &[&str]) -> Dev {
        let mut process = Command::new(executable())
            .args(["dev", "--no-fsync", "--data-dir"])
            .arg(folder)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Dev { process, output }
    }

    /// Reads on until a line contains `part`, and gives that line.
    fn line_with(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended before it said {part:?}");
        }
        line.trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder's path that no other process has among its arguments.
fn folder() -> PathBuf {
    scratch().data_dir
}

/// The processes that were started with this folder among their arguments.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let arguments = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    arguments
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[tokio::test]
async fn nothing_survives_a_dev_that_was_killed() {
    let folder = folder();
    let mut dev = Dev::start(&folder, &["--temporary"]);
    dev.line_with("The hub is up");
    assert!(processes_of(&folder).len() >= 5, "dev, two guards, two servers");
    dev.signal(Signal::KILL);
    dev.process.wait().unwrap();
    eventually(Duration::from_secs(20), || async {
        let left = processes_of(&folder);
        if left.is_empty() && !folder.exists() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn a_dev_that_was_killed_early_leaves_nothing_and_the_next_one_starts() {
    let folder = folder();
    let mut dev = Dev::start(&folder, &[]);
    // In the middle of making the data.
    eventually(Duration::from_secs(20), || async { folder.join("postgres/data.new/PG_VERSION").exists() }).await;
    dev.signal(Signal::KILL);
    dev.process.wait().unwrap();

    let mut dev = Dev::start(&folder, &[]);
    let url = dev.line_with("nats://");
    dev.signal(Signal::KILL);
    dev.process.wait().unwrap();

    // At once: while the servers of the one before are still stopping.
    let mut dev = Dev::start(&folder, &["--temporary"]);
    assert_eq!(dev.line_with("nats://"), url, "the port is remembered");
    drop(dev);
    eventually(Duration::from_secs(20), || async { processes_of(&folder).is_empty() && !folder.exists() }).await;
}

#[tokio::test]
async fn sigterm_and_ctrl_c_end_it_in_good_order() {
    let folder = folder();
    for signal in [Signal::TERM, Signal::INT] {
        let mut dev = Dev::start(&folder, &[]);
        let url = dev.line_with("nats://").split_whitespace().last().unwrap().to_owned();
        async_nats::connect(url).await.unwrap().flush().await.unwrap();
        dev.signal(signal);
        dev.line_with("stopping the hub");
        dev.line_with("stopping NATS");
        assert_eq!(dev.process.wait().unwrap().code(), Some(0), "{signal:?}");
        assert!(processes_of(&folder).is_empty(), "all are gone when it returns");
        assert!(try_lock(&folder.join("postgres")).unwrap().is_some());
        let log = std::fs::read_to_string(folder.join("postgres/server.log")).unwrap();
        assert!(log.contains("database system is shut down"), "{log}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn its_hub_has_the_identities_that_ship_and_everybody_else_is_free() {
    let folder = folder();
    let lines = tempfile::NamedTempFile::new().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(lines.path(), format!("http: \"127.0.0.1:{port}\"\n")).unwrap();
    let mut dev = Dev::start(&folder, &["--temporary", "--nats-config", lines.path().to_str().unwrap()]);
    let url = dev.line_with("nats://").split_whitespace().last().unwrap().to_owned();
    dev.line_with("kv watch");

    let anybody = async_nats::connect(url).await.unwrap();
    anybody.request("hub.register.a", "".into()).await.unwrap();
    let jetstream = async_nats::jetstream::new(anybody);
    let config = async_nats::jetstream::stream::Config { name: "mine".into(), ..Default::default() };
    jetstream.create_stream(config).await.unwrap();

    let mut monitor = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    monitor.write_all(b"GET /connz?auth=1 HTTP/1.0\r\n\r\n").unwrap();
    let mut connections = String::new();
    monitor.read_to_string(&mut connections).unwrap();
    for (name, user) in [("answering", "hub-answers"), ("writing", "hub-writes")] {
        let connection = connections.split("\"cid\"").find(|text| text.contains(&format!("central-hub {name} dev")));
        assert!(connection.is_some_and(|text| text.contains(&format!("\"{user}\""))), "{connections}");
    }
}

#[test]
fn lines_that_bring_other_users_are_refused() {
    let lines = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(lines.path(), "authorization { token: open_sesame }\n").unwrap();
    let folder = folder();
    let run = Command::new(executable())
        .args(["dev", "--temporary", "--data-dir"])
        .arg(&folder)
        .arg("--nats-config")
        .arg(lines.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("--nats-config: `authorization`") && !said.contains("open_sesame"), "{said}");
    assert!(!folder.exists());
}
