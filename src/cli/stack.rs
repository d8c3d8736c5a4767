//! Private servers: a nats-server and a PostgreSQL of our own, for `dev`, `demo`, benchmarks and tests.
//!
//! Each runs under a [guard](crate::cli::guard) and listens on 127.0.0.1 only. A data folder holds two folders, `nats`
//! and `postgres`, each complete in itself (data, log, port, password), and belongs to one stack at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::guard::try_lock;
use crate::cli::servers::NotFound;

mod folder;
mod guarded;
mod nats;
mod postgres;
mod server;

pub use folder::Account;
pub use guarded::{GuardedCommand, GuardedProcess};
pub use nats::{NatsOptions, NatsServer};
pub use postgres::{DATABASE, Postgres, PostgresOptions, ROLE};
pub use server::Server;

/// How long a server may take to answer after its start: a recovery on a busy machine takes seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How much of a log an error shows, in lines.
const LOG_TAIL: usize = 20;

/// How a [`Stack`] is started.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// The `central-hub` program, for the guards. Absolute; [`std::env::current_exe`] in the program itself.
    pub executable: PathBuf,
    /// The folder for everything; made if missing. A second start finds its data, and its ports if they are free.
    pub data_dir: PathBuf,
    /// The port for NATS on 127.0.0.1; `None` for the one used last, else a free one.
    pub nats_port: Option<u16>,
    /// The port for PostgreSQL on 127.0.0.1; `None` for the one used last, else a free one.
    pub pg_port: Option<u16>,
    /// A nats-server to use, whatever its version; `None` to look for one.
    pub nats_server: Option<PathBuf>,
    /// A folder with `initdb` and `postgres`; `None` to look for one.
    pub pg_bin: Option<PathBuf>,
    /// Whether PostgreSQL's commits survive a loss of power. NATS keeps its own default either way: the database is the
    /// truth.
    pub fsync: bool,
    /// Lines to add to the configuration of NATS, at the top level.
    pub nats_config: String,
    /// PostgreSQL settings beyond ours, as name and value.
    pub pg_settings: Vec<(String, String)>,
    /// Whether the data folder is removed once this process is gone or has dropped the stack.
    pub scratch: bool,
}

impl StackOptions {
    /// A stack that keeps its data safely, on ports of its own choice.
    pub fn new(executable: &Path, data_dir: &Path) -> StackOptions {
        StackOptions {
            executable: executable.to_path_buf(),
            data_dir: data_dir.to_path_buf(),
            nats_port: None,
            pg_port: None,
            nats_server: None,
            pg_bin: None,
            fsync: true,
            nats_config: String::new(),
            pg_settings: Vec::new(),
            scratch: false,
        }
    }

    /// A stack whose data lasts as long as it runs: without fsync, removed at the end however that comes.
    pub fn scratch(executable: &Path, data_dir: &Path) -> StackOptions {
        StackOptions { fsync: false, scratch: true, ..StackOptions::new(executable, data_dir) }
    }

    /// The part for NATS alone, in the folder where [`Stack`] would have it.
    pub fn nats(&self) -> NatsOptions {
        NatsOptions {
            executable: self.executable.clone(),
            folder: self.data_dir.join("nats"),
            program: self.nats_server.clone(),
            port: self.nats_port,
            config: self.nats_config.clone(),
            scratch: self.scratch,
        }
    }

    /// The part for PostgreSQL alone, in the folder where [`Stack`] would have it.
    pub fn postgres(&self) -> PostgresOptions {
        PostgresOptions {
            executable: self.executable.clone(),
            folder: self.data_dir.join("postgres"),
            bin: self.pg_bin.clone(),
            port: self.pg_port,
            fsync: self.fsync,
            settings: self.pg_settings.clone(),
            scratch: self.scratch,
        }
    }
}

/// A nats-server and a PostgreSQL that run as long as this lives: dropping it, or the end of this process by whatever
/// cause, stops both.
#[derive(Debug)]
pub struct Stack {
    /// The nats-server, to be stopped, killed or paused as a test wants.
    pub nats: NatsServer,
    /// The PostgreSQL, to be stopped, killed or paused as a test wants.
    pub postgres: Postgres,
    /// Held for as long as the data folder is ours.
    _lock: std::fs::File,
}

impl Stack {
    /// Starts both servers and returns when both answer.
    ///
    /// # Errors
    /// Any [`StackError`]; what was already started is stopped.
    pub async fn start(options: StackOptions) -> Result<Stack, StackError> {
        let account = Account::unprivileged()?;
        let data_dir = folder::claim(&options.data_dir, &["nats", "postgres"])?;
        let lock = try_lock(&data_dir)
            .map_err(|source| StackError::io(format!("lock {}", data_dir.display()), source))?
            .ok_or_else(|| StackError::Locked { folder: data_dir.clone() })?;
        // Not what lies in it: the servers of a process that was killed may still be stopping there.
        folder::hand_over(&data_dir, account.as_ref(), folder::Extent::Alone)?;
        let (nats, postgres) =
            tokio::try_join!(NatsServer::start(options.nats()), Postgres::start(options.postgres()))?;
        Ok(Stack { nats, postgres, _lock: lock })
    }

    /// The address of NATS.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// The address of the hub's database, with role and password.
    pub fn database_url(&self) -> String {
        self.postgres.url()
    }

    /// Waits until a server ends that nobody here stopped, and says which, with the end of its log.
    pub async fn failure(&mut self) -> StackError {
        tokio::select! {
            error = self.nats.failure() => error,
            error = self.postgres.failure() => error,
        }
    }

    /// Stops NATS, then PostgreSQL, each in good order, and returns when both are gone.
    pub async fn stop(mut self) {
        self.nats.stop().await;
        self.postgres.stop().await;
    }
}

/// Why a private server can't run. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A server's program is missing.
    #[error(transparent)]
    Servers(#[from] NotFound),
    /// The data folder holds something that no stack put there.
    #[error("{} is not a data folder: {} lies in it; choose an empty or new folder", .folder.display(), .stranger.display())]
    NotOurs {
        /// The data folder.
        folder: PathBuf,
        /// What lies in it.
        stranger: PathBuf,
    },
    /// Another process uses the data folder.
    #[error("{} is in use by another central-hub: stop that one, or choose another folder", .folder.display())]
    Locked {
        /// The data folder.
        folder: PathBuf,
    },
    /// As root, servers run as another user, who can't reach the data folder.
    #[error(
        "the servers run as user {user}, who can't enter {} and so not reach {}: choose a folder elsewhere, such as below \
         /var/lib, or don't run this as root", .barrier.display(), .folder.display()
    )]
    Unreachable {
        /// The data folder.
        folder: PathBuf,
        /// The folder above it that the user can't enter.
        barrier: PathBuf,
        /// The user.
        user: String,
    },
    /// As root, PostgreSQL runs as another user, who can't execute it.
    #[error("PostgreSQL runs as user {user}, who can't execute {}: name one elsewhere with --pg-bin", .program.display())]
    NotExecutable {
        /// The program.
        program: PathBuf,
        /// The user.
        user: String,
    },
    /// We are root and there is no user to run servers as.
    #[error("PostgreSQL can't run as root, and this system has neither a user postgres nor a user nobody")]
    NoAccount,
    /// The data was made by another major version of PostgreSQL.
    #[error(
        "{} was made by PostgreSQL {made_by}, and this is {found}: name the other one with --pg-bin, or choose another \
         folder", .folder.display()
    )]
    OtherVersion {
        /// The data folder.
        folder: PathBuf,
        /// The major version that made it.
        made_by: String,
        /// The version that was found.
        found: String,
    },
    /// The port that was asked for is taken; 0 if every port that was tried is.
    #[error("no port for {server}: {port} on 127.0.0.1 is taken; choose another, or leave the choice to us")]
    PortTaken {
        /// Which server.
        server: &'static str,
        /// The port.
        port: u16,
    },
    /// A server didn't come up.
    #[error("{server} did not start: {why}{}", tail(.log_tail))]
    Failed {
        /// Which server.
        server: String,
        /// What happened.
        why: String,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A server ended that nobody here stopped.
    #[error("{server} ended by itself{}", tail(.log_tail))]
    Ended {
        /// Which server.
        server: &'static str,
        /// The last lines of its log.
        log_tail: String,
    },
    /// A statement on a private PostgreSQL failed.
    #[error("PostgreSQL refused: {0}")]
    Database(#[source] tokio_postgres::Error),
    /// A call to the system failed.
    #[error("can't {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StackError {
    fn io(what: String, source: std::io::Error) -> StackError {
        StackError::Io { what, source }
    }

    fn failed(server: &str, why: &str, log: &Path) -> StackError {
        StackError::Failed { server: server.to_owned(), why: why.to_owned(), log_tail: last_lines(log) }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("\nits log ends with:\n{log}") }
}

/// Runs what waits for other programs off the runtime's threads.
async fn blocking<T, F>(work: F) -> Result<T, StackError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, NotFound> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(StackError::io("look for servers".to_owned(), std::io::Error::other(error))),
    }
}
