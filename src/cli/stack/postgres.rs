//! A private PostgreSQL.

use std::ffi::OsString;
use std::fmt::Write;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::folder::{self, Account, Extent, Scratch};
use super::guarded::{GuardedCommand, GuardedProcess};
use super::server::Server;
use super::{START_DEADLINE, StackError};
use crate::cli::guard::StopSignal;
use crate::cli::servers::{self, Version};

/// The database that is made for the hub.
pub const DATABASE: &str = "central_hub";

/// The role that owns everything in a private PostgreSQL. It may do anything there.
pub const ROLE: &str = "central_hub";

/// How a [`Postgres`] is started.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The `central-hub` program, for its guard. Absolute.
    pub executable: PathBuf,
    /// The folder for its data, password and log; made if missing.
    pub folder: PathBuf,
    /// A folder with `initdb` and `postgres` to use instead of the one that [`servers::postgres`] finds.
    pub bin: Option<PathBuf>,
    /// The port on 127.0.0.1; `None` for the one used last, else a free one.
    pub port: Option<u16>,
    /// Whether commits survive a loss of power. `false` is faster, and right only for data that may be lost.
    pub fsync: bool,
    /// Server settings beyond ours, as `-c name=value` would set them.
    pub settings: Vec<(String, String)>,
    /// Whether the folder is removed once this process is gone.
    pub scratch: bool,
}

/// A running (or stopped, or killed) PostgreSQL with its data. Dropping it stops it.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    password: String,
}

impl Postgres {
    /// Starts a server, on an empty folder after making its data, and returns when the database [`DATABASE`] answers.
    ///
    /// # Errors
    /// Any [`StackError`]: no usable PostgreSQL, a folder that can't be used or whose data another major version made, a
    /// port that is taken, or a server that doesn't come up, with the end of its log.
    pub async fn start(options: PostgresOptions) -> Result<Postgres, StackError> {
        let found = {
            let bin = options.bin.clone();
            super::blocking(move || servers::postgres(bin.as_deref())).await?
        };
        let account = Account::unprivileged()?;
        let program = found.path.join("postgres");
        if let Some(account) = account.as_ref().filter(|account| !account.can_execute(&program)) {
            return Err(StackError::NotExecutable { program, user: account.name.clone() });
        }
        let known = ["data", "data.new", "password", "port", "server.log", "server.log.1"];
        let folder = folder::claim(&options.folder, &known)?;
        folder::wait_until_free(&folder).await?;
        let scratch = Scratch::new(&folder, options.scratch);
        folder::hand_over(&folder, account.as_ref(), Extent::Whole)?;
        let log = folder.join("server.log");
        folder::rotate_log(&log);
        let mut command = GuardedCommand::new(&options.executable, &program, &log);
        // A fast shutdown: it doesn't wait for clients to leave.
        command.signal = StopSignal::Int;
        command.grace = Duration::from_secs(10);
        command.account = account.clone();
        command.lock = Some(folder.clone());
        command.scratch = options.scratch;

        let data = folder.join("data");
        if data.join("PG_VERSION").exists() {
            same_major_version(&data, found.version)?;
        } else {
            initialize(&folder, &command, &found.path, account.as_ref()).await?;
        }
        let password = std::fs::read_to_string(folder.join("password"))
            .map_err(|source| StackError::io(format!("read {}", folder.join("password").display()), source))?;
        let password = password.trim().to_owned();

        // Two processes that start at the same moment may choose the same free port; the one that loses chooses again.
        for attempt in 1.. {
            let port = folder::choose_port(&folder, options.port, "PostgreSQL")?;
            let mut command = command.clone();
            command.args = server_args(&data, port, &options);
            let mut server = Server::new("PostgreSQL", command, &folder, port, found.version);
            let url = url_of(&password, port, "postgres");
            match server.run(async || answers(&url).await).await {
                Ok(()) => {
                    server.remove_with_it(scratch);
                    return Ok(Postgres { server, password });
                }
                Err(error) => {
                    server.stop().await;
                    if attempt == 3 || options.port.is_some() || folder::is_free(port) {
                        return Err(error);
                    }
                }
            }
        }
        Err(StackError::PortTaken { server: "PostgreSQL", port: 0 })
    }

    /// The address of [`DATABASE`], with role and password: the same after a restart.
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The address of another database of this server, with role and password.
    pub fn url_of(&self, database: &str) -> String {
        url_of(&self.password, self.port(), database)
    }

    /// Makes a database, empty, or with the content of `template`, which nobody may be connected to.
    ///
    /// # Errors
    /// [`StackError::Database`] with what the server says.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<(), StackError> {
        let mut statement = format!("CREATE DATABASE {}", quoted(name));
        if let Some(template) = template {
            let _ = write!(statement, " TEMPLATE {}", quoted(template));
        }
        execute(&self.url_of("postgres"), &statement).await.map_err(StackError::Database)
    }

    /// Removes a database and throws out who is connected to it.
    ///
    /// # Errors
    /// [`StackError::Database`] with what the server says.
    pub async fn drop_database(&self, name: &str) -> Result<(), StackError> {
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name));
        execute(&self.url_of("postgres"), &statement).await.map_err(StackError::Database)
    }

    /// Starts it again on the same port and data, after stopping it if it still runs; returns when it answers.
    ///
    /// # Errors
    /// [`StackError::Failed`] with the end of its log, if it doesn't come up.
    pub async fn restart(&mut self) -> Result<(), StackError> {
        let url = self.url_of("postgres");
        self.server.run_again(async || answers(&url).await).await
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn url_of(password: &str, port: u16, database: &str) -> String {
    format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/{database}")
}

/// Whether it answers at `url`, and has [`DATABASE`].
async fn answers(url: &str) -> Result<(), String> {
    let made = timeout(Duration::from_secs(5), ensure_database(url)).await.map_err(|error| error.to_string())?;
    made.map_err(|error| error.to_string())
}

/// Makes the data folder with a fresh password. It is made beside its place and renamed, so that one that was cut short
/// is begun anew, never used.
async fn initialize(
    folder: &Path,
    server: &GuardedCommand,
    bin: &Path,
    account: Option<&Account>,
) -> Result<(), StackError> {
    let unfinished = folder.join("data.new");
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StackError::io(format!("remove {}", unfinished.display()), error));
        }
        _ => {}
    }
    let mut password = String::new();
    let mut random = [0u8; 24];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| std::io::Read::read_exact(&mut source, &mut random))
        .map_err(|source| StackError::io("read /dev/urandom".to_owned(), source))?;
    random.iter().for_each(|byte| _ = write!(password, "{byte:02x}"));
    folder::write_private(&folder.join("password"), &password, account)?;

    let mut initdb = server.clone();
    initdb.program = bin.join("initdb");
    let mut args: Vec<OsString> = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-instructions"]
        .iter()
        .map(OsString::from)
        .collect();
    // The server writes everything to disk itself at its first stop; until then the data is as good as none.
    args.push("--no-sync".into());
    args.push(format!("--username={ROLE}").into());
    args.extend(["--pwfile".into(), folder.join("password").into()]);
    args.extend(["--pgdata".into(), unfinished.clone().into()]);
    initdb.args = args;
    let mut process = GuardedProcess::spawn(&initdb).await?;
    match timeout(START_DEADLINE, process.ended()).await {
        Ok(Some(0)) => {}
        Ok(_) => return Err(StackError::failed("initdb", "it ended with an error", &server.log)),
        Err(_) => return Err(StackError::failed("initdb", "it took too long", &server.log)),
    }
    std::fs::rename(&unfinished, folder.join("data"))
        .map_err(|source| StackError::io(format!("rename {}", unfinished.display()), source))
}

fn same_major_version(data: &Path, server: Version) -> Result<(), StackError> {
    let file = data.join("PG_VERSION");
    let text =
        std::fs::read_to_string(&file).map_err(|source| StackError::io(format!("read {}", file.display()), source))?;
    match Version::parse(&text) {
        Some(version) if version.major == server.major => Ok(()),
        _ => Err(StackError::OtherVersion {
            folder: data.to_path_buf(),
            made_by: text.trim().to_owned(),
            found: server.to_string(),
        }),
    }
}

fn server_args(data: &Path, port: u16, options: &PostgresOptions) -> Vec<OsString> {
    let switch = |on: bool| if on { "on" } else { "off" };
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        // No socket file: its path would have to be short, and TCP with a password serves everyone.
        ("unix_socket_directories", String::new()),
        ("max_connections", "300".to_owned()),
        ("fsync", switch(options.fsync).to_owned()),
        ("full_page_writes", switch(options.fsync).to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("timezone", "UTC".to_owned()),
        ("log_timezone", "UTC".to_owned()),
    ];
    settings.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let mut args: Vec<OsString> = vec!["-D".into(), data.into()];
    for (name, value) in settings {
        args.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    args
}

/// Makes the hub's database if it is missing. An answer of any kind means that the server is up.
async fn ensure_database(url: &str) -> Result<(), tokio_postgres::Error> {
    match execute(url, &format!("CREATE DATABASE {}", quoted(DATABASE))).await {
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::DUPLICATE_DATABASE) => Ok(()),
        result => result,
    }
}

/// Runs one statement on a connection of its own.
async fn execute(url: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    let result = client.batch_execute(statement).await;
    drop(client);
    let _ = connection.await;
    result
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
