//! The command line, with the private servers that `dev`, `demo` and the tests run on.

use std::io::Write as _;
use std::process::ExitCode;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

use crate::hub;
use crate::store::DatabaseOptions;

pub mod config;
pub mod context;
pub mod demo;
pub mod dev;
pub mod epoch;
pub mod fleet;
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
pub mod stack;
pub mod table;
pub mod top;

/// The `central-hub` program's arguments.
#[derive(Debug, clap::Parser)]
#[command(name = "central-hub", version, about)]
pub struct Cli {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Dev(Box<dev::DevArgs>),
    Demo(demo::DemoArgs),
    Migrate(serve::MigrateArgs),
    Health(Box<health::HealthArgs>),
    Status(Box<fleet::StatusArgs>),
    Services(Box<services::ServicesArgs>),
    Wait(Box<services::WaitArgs>),
    Heartbeat(Box<services::HeartbeatArgs>),
    Config(Box<config::ConfigArgs>),
    Infra(Box<fleet::InfraArgs>),
    Deps(Box<fleet::DepsArgs>),
    Uptime(Box<fleet::UptimeArgs>),
    Metrics(Box<fleet::MetricsArgs>),
    Timeline(Box<fleet::TimelineArgs>),
    Alerts(Box<fleet::AlertsArgs>),
    Top(Box<top::TopArgs>),
    Epoch(epoch::EpochArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    /// Keep a program running for as long as the caller lives
    #[command(hide = true)]
    Guard(guard::GuardArgs),
}

type CliError = Box<dyn std::error::Error + Send + Sync>;

impl Cli {
    /// Runs the command that was given. The error, if any, has been written to stderr.
    pub async fn run(self) -> ExitCode {
        match self.run_command().await {
            Ok(code) => code,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "central-hub: {}", chain(error.as_ref()));
                ExitCode::FAILURE
            }
        }
    }

    async fn run_command(self) -> Result<ExitCode, CliError> {
        let (json, asked) = match self.command {
            Command::Status(args) => (args.hub.json(), fleet::status(*args).await),
            Command::Services(args) => (args.json(), services::run(*args).await),
            Command::Wait(args) => (args.json(), services::wait(*args).await),
            Command::Heartbeat(args) => (args.json(), services::heartbeat(*args).await),
            Command::Config(args) => (args.json(), config::run(*args).await),
            Command::Infra(args) => (args.hub.json(), fleet::infra(*args).await),
            Command::Deps(args) => (args.hub.json(), fleet::deps(*args).await),
            Command::Uptime(args) => (args.hub.json(), fleet::uptime(*args).await),
            Command::Metrics(args) => (args.hub.json(), fleet::metrics(*args).await),
            Command::Timeline(args) => (args.hub.json(), fleet::timeline(*args).await),
            Command::Alerts(args) => (args.json(), fleet::alerts(*args).await),
            Command::Top(args) => (args.hub.json(), top::run(*args).await),
            other => return Self { command: other, ..self }.run_here().await,
        };
        Ok(asked.map_or_else(|failure| failure.tell(json), |()| ExitCode::SUCCESS))
    }

    /// Runs a command that isn't a question to a hub.
    async fn run_here(self) -> Result<ExitCode, CliError> {
        match self.command {
            Command::Completions(args) => shell::completions(args)?,
            Command::Man(args) => shell::man(args)?,
            Command::Guard(args) => return Ok(ExitCode::from(guard::run(args).await?)),
            Command::Health(args) => return Ok(health::run(*args).await?),
            Command::Serve(args) => {
                self.log.start(LevelFilter::TRACE);
                serve::serve(*args).await?;
            }
            Command::Dev(args) => {
                // Its terminal is for people: of the hub's log it shows what is wrong.
                self.log.start(LevelFilter::WARN);
                let roles = roles::Roles::generate()?;
                let hub = |addresses, shutdown, ready| private_hub_as(Some(&roles), addresses, "dev", shutdown, ready);
                dev::run(*args, &roles, hub).await?;
            }
            Command::Demo(args) => {
                // Processes that go down are part of its story.
                self.log.start(LevelFilter::ERROR);
                return demo::run(args, |addresses, shutdown, ready| private_hub(addresses, "demo", shutdown, ready))
                    .await;
            }
            Command::Epoch(args) => {
                self.log.start(LevelFilter::WARN);
                let raised = epoch::raise(args).await?;
                writeln!(
                    std::io::stdout(),
                    "the epoch is {raised}; running hubs publish every config anew within seconds"
                )?;
            }
            Command::Migrate(args) => {
                self.log.start(LevelFilter::WARN);
                let applied = serve::migrate(args).await?;
                let done = if applied.is_empty() { "the schema is up to date".into() } else { applied.join("\n") };
                writeln!(std::io::stdout(), "{done}")?;
            }
            _ => {}
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
