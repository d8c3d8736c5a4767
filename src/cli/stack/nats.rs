//! A private nats-server with JetStream on files.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::StackError;
use super::folder::{self, Account, Extent, Scratch};
use super::guarded::GuardedCommand;
use super::server::Server;
use crate::cli::guard::StopSignal;
use crate::cli::servers;

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
    server: Server,
    name: String,
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
            let mut server = Server::new("nats-server", command.clone(), &folder, port, found.version);
            match server.run(async || is_ours(port, &name).await).await {
                Ok(()) => {
                    server.remove_with_it(scratch);
                    return Ok(NatsServer { server, name });
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
        format!("nats://127.0.0.1:{}", self.port())
    }

    /// Starts it again on the same port and data, after stopping it if it still runs; returns when it answers.
    ///
    /// # Errors
    /// [`StackError::Failed`] with the end of its log, if it doesn't come up.
    pub async fn restart(&mut self) -> Result<(), StackError> {
        let (port, name) = (self.port(), self.name.clone());
        self.server.run_again(async || is_ours(port, &name).await).await
    }
}

impl Deref for NatsServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for NatsServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// Whether the server of this name answers on this port, and JetStream is on.
async fn is_ours(port: u16, name: &str) -> Result<(), String> {
    let info = timeout(Duration::from_secs(2), ask(port)).await.map_err(|error| error.to_string())?;
    match info.map_err(|error| error.to_string())? {
        info if info.server_name != name => Err("another server is on this port".into()),
        info if !info.jetstream => Err("JetStream is not on".into()),
        _ => Ok(()),
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
