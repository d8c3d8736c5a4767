//! `central-hub serve`, the daemon, and `central-hub migrate`.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::grammar;
use super::options::{DatabaseArgs, NatsArgs};
use crate::domain::name::{BadName, InstanceId};
use crate::hub::{self, HubError, Options};
use crate::nats::{BadOption, bucket_prefix, subject_prefix};
use crate::store::migrate::{self, SchemaError};
use crate::wire::subject::Inboxes;

/// Why the daemon ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An option can't be used.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// The replica's name can't be used.
    #[error("--replica-id: {0}")]
    ReplicaId(#[from] BadName),
    /// The hub couldn't run.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The schema couldn't be brought up to date.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Signals can't be listened to.
    #[error("signals can't be listened to: {0}")]
    Signal(#[from] std::io::Error),
}

/// Run the daemon
///
/// It waits for NATS and PostgreSQL, brings the schema up to date, and serves until SIGTERM or Ctrl-C; then it finishes
/// what it accepted and publishes what is committed.
///
/// Secrets come from the environment only, or from files: to NATS it is CENTRAL_HUB_NATS_USER with _PASSWORD, or _TOKEN, or
/// _NKEY_SEED; to PostgreSQL it says CENTRAL_HUB_DB_PASSWORD, or CENTRAL_HUB_DATABASE_URL tells everything. Each may be
/// given as ..._FILE, the path of a file that holds it.
///
/// A second connection with its own identity writes KV and events when CENTRAL_HUB_NATS_WRITER_USER, _PASSWORD, _TOKEN
/// or _NKEY_SEED (or --nats-writer-creds) is set; then the answering one needs to publish to inboxes only. Such users
/// ship as deploy/nats/roles.conf.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    nats: NatsArgs,
    /// Credentials file of the connection that writes KV and events
    #[arg(long, env = "CENTRAL_HUB_NATS_WRITER_CREDS", value_name = "FILE", help_heading = "NATS")]
    nats_writer_creds: Option<std::path::PathBuf>,
    /// Where the answers to the connection that writes KV and events arrive [default: as --nats-inbox-prefix]
    #[arg(long, env = "CENTRAL_HUB_NATS_WRITER_INBOX_PREFIX", value_name = "PREFIX", help_heading = "NATS", value_parser = crate::nats::inbox_prefix)]
    nats_writer_inbox_prefix: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Connections to PostgreSQL at the most
    #[arg(long, env = "CENTRAL_HUB_DB_CONNECTIONS", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(4..=1000), help_heading = "PostgreSQL")]
    db_connections: u16,
    /// Expect the schema to be up to date instead of migrating it
    #[arg(long, env = "CENTRAL_HUB_NO_MIGRATE", help_heading = "PostgreSQL")]
    no_migrate: bool,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Copies of each stream and bucket in a NATS cluster: 1, 3 or 5
    #[arg(long, env = "CENTRAL_HUB_STREAM_REPLICAS", value_name = "N", default_value_t = 1, value_parser = stream_replicas)]
    stream_replicas: usize,
    /// Room for events on their stream; NATS sets it aside at once
    #[arg(long, env = "CENTRAL_HUB_EVENTS_MAX_MIB", value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    events_max_mib: u32,
    /// Where answers may go; a request that wants its answer elsewhere is dropped
    #[arg(long, env = "CENTRAL_HUB_INBOXES", value_name = "SUBJECT", value_delimiter = ',', default_values = Inboxes::DEFAULT)]
    inbox: Vec<String>,
    /// Name of this replica, unique among the hubs of one database; made up when left out
    #[arg(long, env = "CENTRAL_HUB_REPLICA_ID", value_name = "NAME")]
    replica_id: Option<String>,
    /// Believe the user that NATS names in a request: only right where every request comes across an account import with
    /// sharing
    #[arg(long, env = "CENTRAL_HUB_TRUST_REQUEST_INFO")]
    trust_request_info: bool,
    /// Requests in work at the most; one more gets `overloaded`
    #[arg(long, env = "CENTRAL_HUB_MAX_IN_FLIGHT", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_in_flight: u32,
    /// Heartbeats waiting at the most; one more gets `overloaded`
    #[arg(long, env = "CENTRAL_HUB_MAX_HEARTBEATS_WAITING", value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_heartbeats_waiting: u32,
    /// How long a stop waits for what is in flight
    #[arg(long, env = "CENTRAL_HUB_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = grammar::duration)]
    drain_timeout: std::time::Duration,
}

/// Which fleet, when several share one NATS.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Hub")]
pub struct FleetArgs {
    /// First tokens of all subjects
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_SUBJECT_PREFIX", value_name = "PREFIX", default_value = "hub", value_parser = subject_prefix)]
    pub subject_prefix: String,
    /// Start of all bucket names
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_BUCKET_PREFIX", value_name = "PREFIX", default_value = "hub", value_parser = bucket_prefix)]
    pub bucket_prefix: String,
}

fn stream_replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("must be 1, 3 or 5".into()),
    }
}

impl ServeArgs {
    fn options(&self) -> Result<Options, ServeError> {
        let replica_id = match &self.replica_id {
            Some(given) => given.parse()?,
            None => format!("hub-{}", nuid::next()).parse::<InstanceId>()?,
        };
        let (creds, inbox_prefix) = (self.nats_writer_creds.as_ref(), self.nats_writer_inbox_prefix.as_ref());
        Ok(Options {
            nats: self.nats.options("CENTRAL_HUB_NATS")?,
            nats_writer: self.nats.other_identity("CENTRAL_HUB_NATS_WRITER", creds, inbox_prefix)?,
            database_connections: self.db_connections.into(),
            migrate: !self.no_migrate,
            subject_prefix: self.fleet.subject_prefix.clone(),
            bucket_prefix: self.fleet.bucket_prefix.clone(),
            stream_replicas: self.stream_replicas,
            events_max_mib: self.events_max_mib,
            inboxes: Inboxes::new(self.inbox.iter().cloned()),
            host: rustix::system::uname().nodename().to_str().ok().map(str::to_owned),
            trust_request_info: self.trust_request_info,
            max_in_flight: self.max_in_flight as usize,
            max_heartbeats_waiting: self.max_heartbeats_waiting as usize,
            drain_timeout: self.drain_timeout,
            ..Options::new("", self.database.options()?, replica_id)
        })
    }
}

/// Runs the daemon until a signal.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(args: ServeArgs) -> Result<(), ServeError> {
    let options = args.options()?;
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let told = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    let (ready, _) = oneshot::channel();
    Ok(hub::run(options, ready, shutdown).await?)
}

/// Bring the schema up to date, and say what was done
#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs the missing migrations and tells their names.
///
/// # Errors
/// [`ServeError`].
pub async fn migrate(args: MigrateArgs) -> Result<Vec<String>, ServeError> {
    Ok(migrate::migrate(&args.database.options()?).await?)
}
