//! A private nats-server with JetStream on files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::folder::{self, Account, Extent, Scratch};
use super::guarded::{GuardedCommand, GuardedProcess};
use super::{START_DEADLINE, StackError};
use crate::cli::guard::StopSignal;
use crate::cli::servers::{self, Version};

/// How a [`NatsServer`] is started.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The `central-hub` program, for its guard. Absolute.
    pub executable: PathBuf,
    /// The folder for its configuration, log and streams; made if missing.
    pub folder: PathBuf,
    /// A nats-server to use instead of the one that [`servers::nats_server`] finds.
    pub program: Option<PathBuf>,
    /// The port on 127.0.0.1; `None` for the one used last, else a free one.
    pub port: Option<u16>,
    /// Lines to add to its configuration, at the top level: accounts, limits, TLS.
    pub config: String,
    /// Whether the folder is removed once this process is gone.
    pub scratch: bool,
}

/// A running (or stopped, or killed) nats-server with its data. Dropping it stops it.
#[derive(Debug)]
pub struct NatsServer {
    command: GuardedCommand,
    process: Option<GuardedProcess>,
    /// Dropped after the process, so that a guard which still runs is the one to remove the folder.
    scratch: Option<Scratch>,
    folder: PathBuf,
    name: String,
    port: u16,
    version: Version,
}

/// What a server says first on each connection.
#[derive(Debug, Deserialize)]
struct Info {
    server_name: String,
    #[serde(default)]
    jetstream: bool,
}

impl NatsServer {
    /// Starts a server and returns when it answers and JetStream is on.
    ///
    /// # Errors
    /// Any [`StackError`]: no usable nats-server, a folder that can't be used, a port that is taken, or a server that
    /// doesn't come up, with the end of its log.
    pub async fn start(options: NatsOptions) -> Result<NatsServer, StackError> {
        let found = {
            let program = options.program.clone();
            super::blocking(move || servers::nats_server(program.as_deref())).await?
        };
        let account = Account::unprivileged()?;
        let known = ["store", "server.conf", "server.log", "server.log.1", "port", "nats-server", "nats-server.new"];
        let folder = folder::claim(&options.folder, &known)?;
        folder::wait_until_free(&folder).await?;
        let scratch = Scratch::new(&folder, options.scratch);
        folder::hand_over(&folder, account.as_ref(), Extent::Whole)?;
        let log = folder.join("server.log");
        folder::rotate_log(&log);
        let program = folder::executable_for(&found.path, &folder, account.as_ref())?;
        let mut command = GuardedCommand::new(&options.executable, &program, &log);
        command.args = vec!["--config".into(), folder.join("server.conf").into()];
        command.signal = StopSignal::Term;
        command.account = account.clone();
        command.lock = Some(folder.clone());
        command.scratch = options.scratch;

        // Two processes that start at the same moment may choose the same free port; the one that loses chooses again.
        for attempt in 1.. {
            let port = folder::choose_port(&folder, options.port, "nats-server")?;
            let name = format!("private-{port}-{:08x}", fastrand::u32(..));
            let text = configuration(&name, port, &folder.join("store"), &options.config);
            folder::write_private(&folder.join("server.conf"), &text, account.as_ref())?;
            let mut server = NatsServer {
                command: command.clone(),
                process: None,
                scratch: None,
                folder: folder.clone(),
                name,
                port,
                version: found.version,
            };
            match server.run().await {
                Ok(()) => {
                    server.scratch = scratch;
                    return Ok(server);
                }
                Err(error) => {
                    server.stop().await;
                    if attempt == 3 || options.port.is_some() || folder::is_free(port) {
                        return Err(error);
                    }
                }
            }
        }
        Err(StackError::PortTaken { server: "nats-server", port: 0 })
    }

    /// Its address, `nats://127.0.0.1:<port>`: the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The process id of the server itself, `None` when it doesn't run.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(GuardedProcess::pid)
    }

    /// Its folder: `server.conf`, `server.log`, and `store` with the streams.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it in good order and returns when it is gone.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop().await;
        }
    }

    /// Kills it with SIGKILL and returns when it is gone.
    pub async fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9().await;
        }
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub async fn pause(&mut self) {
        if let Some(process) = &mut self.process {
            process.pause().await;
        }
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&mut self) {
        if let Some(process) = &mut self.process {
            process.resume();
        }
    }

    /// Waits until it ends without having been stopped or killed here.
    pub async fn failure(&mut self) -> StackError {
        match &mut self.process {
            Some(process) => {
                process.ended().await;
                StackError::Ended { server: "nats-server", log_tail: super::last_lines(process.log()) }
            }
            None => std::future::pending().await,
        }
    }

    /// Starts it again on the same port and data, after stopping it if it still runs; returns when it answers.
    ///
    /// # Errors
    /// [`StackError::Failed`] with the end of its log, if it doesn't come up.
    pub async fn restart(&mut self) -> Result<(), StackError> {
        self.stop().await;
        folder::wait_until_free(&self.folder).await?;
        self.run().await
    }

    async fn run(&mut self) -> Result<(), StackError> {
        let process = self.process.insert(GuardedProcess::spawn(&self.command).await?);
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(Ok(info)) = timeout(Duration::from_secs(2), ask(self.port)).await
                // Another server on this port is not the one we started.
                && info.server_name == self.name
                && info.jetstream
            {
                return Ok(());
            }
            if !process.is_running() {
                return Err(StackError::failed("nats-server", "it ended while it started", &self.command.log));
            }
            if Instant::now() > deadline {
                return Err(StackError::failed("nats-server", "it did not answer in time", &self.command.log));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The server's own greeting, which needs no credentials.
async fn ask(port: u16) -> std::io::Result<Info> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    let text = line.strip_prefix("INFO ").ok_or(std::io::ErrorKind::InvalidData)?;
    serde_json::from_str(text).map_err(std::io::Error::from)
}

fn configuration(name: &str, port: u16, store: &Path, extra: &str) -> String {
    let store = store.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!(
        "server_name: \"{name}\"\nhost: \"127.0.0.1\"\nport: {port}\njetstream {{\n  store_dir: \"{store}\"\n}}\n{extra}\n"
    )
}
