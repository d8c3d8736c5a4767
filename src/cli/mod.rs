//! The command line, with the private servers that `dev`, `demo` and the tests run on.

use std::process::ExitCode;

use clap::FromArgMatches as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

use crate::hub;
use crate::store::DatabaseOptions;
use session::{Failure, HubArgs, Out};

pub mod alerts;
pub mod config;
pub mod context;
pub mod demo;
pub mod dev;
pub mod epoch;
pub mod fleet;
pub mod grammar;
pub mod guard;
pub mod health;
pub mod log;
pub mod options;
pub mod roles;
pub mod serve;
pub mod servers;
pub mod services;
pub mod session;
pub mod shell;
pub mod shown;
pub mod signals;
pub mod stack;
pub mod table;
pub mod timeline;
pub mod top;

/// The `central-hub` program's arguments.
#[derive(Debug, clap::Parser)]
#[command(name = "central-hub", version, about, after_long_help = grammar::CONTRACT)]
pub struct Cli {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(flatten)]
    hub: HubArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Dev(Box<dev::DevArgs>),
    Demo(demo::DemoArgs),
    Migrate(serve::MigrateArgs),
    Health(health::HealthArgs),
    /// The fleet at a glance
    Status,
    Services(Box<services::ServicesArgs>),
    Wait(services::WaitArgs),
    Heartbeat(services::HeartbeatArgs),
    Config(Box<config::ConfigArgs>),
    Infra(fleet::InfraArgs),
    Deps(fleet::DepsArgs),
    Uptime(fleet::UptimeArgs),
    Metrics(fleet::MetricsArgs),
    Timeline(timeline::TimelineArgs),
    Alerts(alerts::AlertsArgs),
    Top(top::TopArgs),
    Epoch(epoch::EpochArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    /// Keep a program running for as long as the caller lives
    #[command(hide = true)]
    Guard(guard::GuardArgs),
}

type CliError = Box<dyn std::error::Error + Send + Sync>;

impl Cli {
    /// Reads the program's arguments. A mistake, or a question for help, is answered and ends the program.
    #[must_use]
    pub fn read() -> Self {
        let mut grammar = grammar::grammar();
        let matches = grammar.get_matches_mut();
        let read = grammar::refuse_unused(&grammar, &matches).and_then(|()| Self::from_arg_matches(&matches));
        read.unwrap_or_else(|error| error.format(&mut grammar).exit())
    }

    /// Runs the command that was given, and tells what went wrong.
    pub async fn run(self) -> ExitCode {
        let json = self.hub.json();
        self.run_command().await.unwrap_or_else(|failure| failure.tell(json))
    }

    async fn run_command(self) -> Result<ExitCode, Failure> {
        let (log, hub) = (self.log, &self.hub);
        match self.command {
            Command::Health(args) => return health::run(args, hub).await,
            Command::Status => fleet::status(hub).await?,
            Command::Services(args) => services::run(*args, hub).await?,
            Command::Wait(args) => services::wait(args, hub).await?,
            Command::Heartbeat(args) => services::heartbeat(args, hub).await?,
            Command::Config(args) => config::run(*args, hub).await?,
            Command::Infra(args) => fleet::infra(args, hub).await?,
            Command::Deps(args) => fleet::deps(args, hub).await?,
            Command::Uptime(args) => fleet::uptime(args, hub).await?,
            Command::Metrics(args) => fleet::metrics(args, hub).await?,
            Command::Timeline(args) => timeline::timeline(args, hub).await?,
            Command::Alerts(args) => alerts::alerts(args, hub).await?,
            Command::Top(args) => top::run(args, hub).await?,
            Command::Completions(args) => shell::completions(args)?,
            Command::Man(args) => shell::man(args)?,
            Command::Guard(args) => {
                let ended = guard::run(args).await.map_err(|error| Failure::Ended(error.into()))?;
                return Ok(ExitCode::from(ended));
            }
            Command::Serve(args) => {
                log.start(LevelFilter::TRACE);
                serve::serve(*args).await?;
            }
            Command::Dev(args) => {
                // Its terminal is for people: of the hub's log it shows what is wrong.
                log.start(LevelFilter::WARN);
                let roles = roles::Roles::generate()?;
                let hub = |addresses, shutdown, ready| private_hub_as(Some(&roles), addresses, "dev", shutdown, ready);
                dev::run(*args, &roles, hub).await.map_err(|error| Failure::Ended(error.into()))?;
            }
            Command::Demo(args) => {
                // Processes that go down are part of its story.
                log.start(LevelFilter::ERROR);
                let hub = |addresses, shutdown, ready| private_hub(addresses, "demo", shutdown, ready);
                return demo::run(args, hub).await.map_err(Failure::Ended);
            }
            Command::Epoch(args) => {
                log.start(LevelFilter::WARN);
                let epoch = epoch::raise(args).await.map_err(Failure::of_database)?;
                Out::stdout(hub.json()).print(&serde_json::json!({ "epoch": epoch }), |_| {
                    format!("the epoch is {epoch}; running hubs publish every config anew within seconds")
                })?;
            }
            Command::Migrate(args) => {
                log.start(LevelFilter::WARN);
                let applied = serve::migrate(args).await.map_err(Failure::of_database)?;
                Out::stdout(hub.json()).print(&serde_json::json!({ "applied": applied }), |_| {
                    if applied.is_empty() { "the schema is up to date".into() } else { applied.join("\n") }
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs a hub on private servers that know no users.
async fn private_hub(
    addresses: dev::Addresses,
    replica_id: &str,
    shutdown: CancellationToken,
    ready: oneshot::Sender<()>,
) -> Result<(), CliError> {
    private_hub_as(None, addresses, replica_id, shutdown, ready).await
}

/// Runs a hub on private servers, in this process: with the two identities of `roles`, if the NATS knows them.
async fn private_hub_as(
    roles: Option<&roles::Roles>,
    addresses: dev::Addresses,
    replica_id: &str,
    shutdown: CancellationToken,
    ready: oneshot::Sender<()>,
) -> Result<(), CliError> {
    let database = DatabaseOptions::from_url(&addresses.database_url)?;
    let options = hub::Options::new(&addresses.nats_url, database, replica_id.parse()?);
    let options = match roles {
        Some(roles) => roles.identify(&addresses.nats_url, options),
        None => options,
    };
    Ok(hub::run(options, ready, shutdown).await?)
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        // Some errors print their cause themselves.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
