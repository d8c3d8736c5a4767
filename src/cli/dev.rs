//! `central-hub dev`: a private NATS, PostgreSQL and hub in one terminal, with nothing to configure.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::roles::{self, Roles};
use super::stack::{Stack, StackError, StackOptions};

/// How long the hub may take to finish what it has accepted before its servers are stopped under it.
const HUB_GRACE: Duration = Duration::from_secs(20);

/// Run a private NATS, PostgreSQL and hub in this terminal, until Ctrl-C
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DevArgs {
    /// Where the servers keep their data [default: central-hub/dev below $XDG_DATA_HOME, ~/.local/share, or /var/lib for root]
    #[arg(long, value_name = "DIR", env = "CENTRAL_HUB_DEV_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Throw the data away at the end
    #[arg(long)]
    pub temporary: bool,
    /// The port of NATS on 127.0.0.1 [default: the one used last, else a free one]
    #[arg(long, value_name = "PORT", env = "CENTRAL_HUB_DEV_NATS_PORT")]
    pub nats_port: Option<u16>,
    /// The port of PostgreSQL on 127.0.0.1 [default: the one used last, else a free one]
    #[arg(long, value_name = "PORT", env = "CENTRAL_HUB_DEV_PG_PORT")]
    pub pg_port: Option<u16>,
    /// The nats-server to run [default: the one in .tools/bin, else on PATH, 2.10 or newer]
    #[arg(long, value_name = "PROGRAM", env = super::servers::NATS_SERVER_VARIABLE)]
    pub nats_server: Option<PathBuf>,
    /// The folder with PostgreSQL's initdb and postgres [default: the one on PATH, else the newest installed]
    #[arg(long, value_name = "DIR", env = super::servers::PG_BIN_VARIABLE)]
    pub pg_bin: Option<PathBuf>,
    /// A file with lines to add to the configuration of NATS: limits, monitoring, websocket; users are there already
    #[arg(long, value_name = "FILE", env = "CENTRAL_HUB_DEV_NATS_CONFIG")]
    pub nats_config: Option<PathBuf>,
    /// Let PostgreSQL answer before data is on disk: faster, and a loss of power loses data
    #[arg(long)]
    pub no_fsync: bool,
}

/// Where the private servers answer: what a hub needs to know.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The address of NATS.
    pub nats_url: String,
    /// The address of the database, with role and password.
    pub database_url: String,
}

/// What the hub's future ends with.
pub type HubError = Box<dyn std::error::Error + Send + Sync>;

/// Why `dev` ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A private server can't run, or ended by itself.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The hub failed.
    #[error("the hub ended: {0}")]
    Hub(#[source] HubError),
    /// The hub ended without an error, though nobody told it to.
    #[error("the hub ended by itself")]
    HubEnded,
    /// The file of lines for NATS would put other users in the place of the hub's.
    #[error(
        "--nats-config: `{0}`: the users of this NATS are made here, and whoever comes without a name may do anything"
    )]
    Users(String),
    /// No folder for the data was named and none can be derived.
    #[error("this user has no home folder: name a folder with --data-dir")]
    NoHome,
    /// A call to the system failed.
    #[error("can't {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Starts the servers and the hub, says where they are, stays until Ctrl-C or SIGTERM, and stops the hub, NATS and
/// PostgreSQL in that order. If this process is killed, the guards of the servers stop them.
///
/// NATS knows the users of `roles`, so that the hub can have the identities that it has elsewhere; whoever comes without a
/// name may do anything. `run_hub` runs a hub on the addresses until the token is cancelled, and sends on the channel once it serves.
///
/// # Errors
/// [`DevError`] if something doesn't start or ends by itself; what was started is stopped first.
pub async fn run<F, Fut>(args: DevArgs, roles: &Roles, run_hub: F) -> Result<(), DevError>
where
    F: FnOnce(Addresses, CancellationToken, oneshot::Sender<()>) -> Fut,
    Fut: Future<Output = Result<(), HubError>>,
{
    // From the first moment: Ctrl-C while the servers start ends in the same good order.
    let asked_to_stop = cancelled_by_signals()?;
    let options = stack_options(&args, roles)?;
    let data_dir = options.data_dir.clone();
    say(&format!("starting NATS and PostgreSQL (data in {}) …\n", data_dir.display()));
    let mut stack = Stack::start(options).await?;
    let outcome =
        if asked_to_stop.is_cancelled() { Ok(()) } else { serve(&mut stack, &data_dir, &asked_to_stop, run_hub).await };
    say("stopping NATS and PostgreSQL …\n");
    stack.stop().await;
    outcome
}

/// Runs the hub on the stack until it is asked to stop or something ends by itself; when this returns, the hub is gone.
async fn serve<F, Fut>(
    stack: &mut Stack,
    data_dir: &Path,
    asked_to_stop: &CancellationToken,
    run_hub: F,
) -> Result<(), DevError>
where
    F: FnOnce(Addresses, CancellationToken, oneshot::Sender<()>) -> Fut,
    Fut: Future<Output = Result<(), HubError>>,
{
    let addresses = Addresses { nats_url: stack.nats_url(), database_url: stack.database_url() };
    let welcome = welcome(&addresses, data_dir);
    let shutdown = CancellationToken::new();
    let (ready, mut is_ready) = oneshot::channel();
    let mut hub = std::pin::pin!(run_hub(addresses, shutdown.clone(), ready));
    let mut welcomed = false;
    let failure = loop {
        tokio::select! {
            ended = &mut hub => return Err(ended.map_or_else(DevError::Hub, |()| DevError::HubEnded)),
            error = stack.failure() => break Err(error.into()),
            () = asked_to_stop.cancelled() => break Ok(()),
            serves = &mut is_ready, if !welcomed => {
                welcomed = true;
                if serves.is_ok() {
                    say(&welcome);
                }
            }
        }
    };
    say("\nstopping the hub …\n");
    shutdown.cancel();
    match timeout(HUB_GRACE, hub).await {
        Ok(Err(error)) if failure.is_ok() => Err(DevError::Hub(error)),
        _ => failure,
    }
}

fn stack_options(args: &DevArgs, roles: &Roles) -> Result<StackOptions, DevError> {
    let io = |what: String| move |source| DevError::Io { what, source };
    let executable = std::env::current_exe().map_err(io("find this program".to_owned()))?;
    let data_dir = match &args.data_dir {
        Some(folder) => folder.clone(),
        None => default_data_dir().ok_or(DevError::NoHome)?,
    };
    let nats_config = match &args.nats_config {
        Some(file) => std::fs::read_to_string(file).map_err(io(format!("read {}", file.display())))?,
        None => String::new(),
    };
    if let Some(line) = roles::users_of(&nats_config) {
        return Err(DevError::Users(line.to_owned()));
    }
    Ok(StackOptions {
        nats_port: args.nats_port,
        pg_port: args.pg_port,
        nats_server: args.nats_server.clone(),
        pg_bin: args.pg_bin.clone(),
        fsync: !(args.no_fsync || args.temporary),
        nats_config: format!("{}{nats_config}", roles.open_config()),
        scratch: args.temporary,
        ..StackOptions::new(&executable, &data_dir)
    })
}

/// As root, the servers run as another user, who can't look into root's home.
fn default_data_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some("/var/lib/central-hub/dev".into());
    }
    let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let data = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))?;
    Some(data.join("central-hub/dev"))
}

/// A token that Ctrl-C, SIGTERM or a terminal that goes away cancels.
pub(super) fn cancelled_by_signals() -> Result<CancellationToken, DevError> {
    let listen = |kind| signal(kind).map_err(|source| DevError::Io { what: "handle signals".to_owned(), source });
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}

fn welcome(addresses: &Addresses, data_dir: &Path) -> String {
    let Addresses { nats_url, database_url } = addresses;
    let data_dir = data_dir.display();
    format!(
        "
The hub is up, for this machine only. Ctrl-C stops everything.

  NATS        {nats_url}
  PostgreSQL  {database_url}
  data        {data_dir}

Try it, in another terminal:

  export CENTRAL_HUB_NATS_URL={nats_url}
  central-hub status
  central-hub top

Or with the nats command line:

  nats -s {nats_url} req hub.register '{{\"service_name\": \"tick-aggregator\"}}'
  nats -s {nats_url} req hub.heartbeat.tick-aggregator ''
  nats -s {nats_url} kv watch hub_config tick-aggregator

"
    )
}

/// Writes to stdout. A reader that went away doesn't stop the servers.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
