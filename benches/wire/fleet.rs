//! What is measured: private servers, a hub of the real program, an echo, and a fleet of registered instances.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use central_hub::cli::stack::{GuardedCommand, GuardedProcess, Stack, StackOptions};
use central_hub::client::HubClient;
use central_hub::domain::name::ServiceName;
use central_hub::wire::config::ConfigSet;
use central_hub::wire::health::Health;
use central_hub::wire::registry::{Heartbeat, Register};
use central_hub::wire::{Endpoint, Request as _};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::load::{Request, Requests};
use crate::usage::{self, Memory};
use crate::{Error, Plan};

/// Where the echo listens.
const ECHO_SUBJECT: &str = "echo";

/// The subjects' first token: the hub's default.
const PREFIX: &str = "hub";

/// How long the hub may take to serve, and what it published to settle.
const PATIENCE: Duration = Duration::from_secs(60);

/// Registrations in flight.
const REGISTRATIONS: usize = 32;

/// The servers and processes. Each runs under a guard and ends with this one.
pub struct Fleet {
    pub stack: Stack,
    pub hub: GuardedProcess,
    pub echo: GuardedProcess,
}

impl Fleet {
    /// Starts all of it, on commits that survive a loss of power and in files that go at the end.
    pub async fn start(program: &Path, pg_settings: &[(String, String)]) -> Result<Self, Error> {
        let program = program.canonicalize()?;
        let program = program.as_path();
        let name = format!("central-hub-bench-{}", nuid::next());
        let folder = std::env::temp_dir().join(&name);
        let servers =
            StackOptions { fsync: true, pg_settings: pg_settings.to_vec(), ..StackOptions::scratch(program, &folder) };
        let stack = Stack::start(servers).await?;
        let mut hub = command(program, program, &std::env::temp_dir().join(format!("{name}-hub")))?;
        hub.args = vec!["serve".into()];
        hub.grace = Duration::from_secs(20);
        let environment =
            [("CENTRAL_HUB_NATS_URL", stack.nats_url()), ("CENTRAL_HUB_DATABASE_URL", stack.database_url())];
        hub.env = environment.map(|(name, value)| (name.into(), value.into())).into();
        let mut echo = command(program, &std::env::current_exe()?, &std::env::temp_dir().join(format!("{name}-echo")))?;
        echo.args = ["--echo", ECHO_SUBJECT, "--nats", &stack.nats_url()].map(OsString::from).into();
        let fleet = Self { hub: GuardedProcess::spawn(&hub).await?, echo: GuardedProcess::spawn(&echo).await?, stack };
        fleet.wait_until_ready().await?;
        Ok(fleet)
    }

    pub fn nats_url(&self) -> String {
        self.stack.nats_url()
    }

    /// Who is who, for a profiler.
    pub fn processes(&self) -> String {
        let pid = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let (nats, postgres) = (pid(self.stack.nats.pid()), pid(self.stack.postgres.pid()));
        format!(
            "process ids: hub {}, echo {}, nats-server {nats}, postgres {postgres}",
            self.hub.pid(),
            self.echo.pid()
        )
    }

    /// The hub's memory.
    pub fn hub_memory(&self) -> Result<Memory, Error> {
        usage::memory(self.hub.pid())
    }

    async fn wait_until_ready(&self) -> Result<(), Error> {
        let nats = async_nats::connect(self.nats_url()).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let hub = HubClient::new(nats.clone()).call(&Health {}).await;
            let echo = nats.request(ECHO_SUBJECT, "".into()).await;
            let settled = hub.as_ref().is_ok_and(|health| health.projection.pending == Some(0));
            if settled && echo.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.hub.log()).unwrap_or_default();
                return Err(format!("no hub or no echo after {PATIENCE:?}: {hub:?}, {echo:?}\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Gives each service a config, registers the instances, waits until all of it is published, and gives the requests.
    pub async fn populate(&self, plan: &Plan) -> Result<Requests, Error> {
        let nats = async_nats::connect(self.nats_url()).await?;
        let hub = HubClient::new(nats.clone()).with_timeout(PATIENCE);
        let mut get = Vec::new();
        for number in 0..plan.services {
            let name = service(number)?;
            hub.call(&config(&name)?).await?;
            get.push(Request {
                subject: Endpoint::ConfigGet.subject(PREFIX, Some(name.as_str())).into(),
                body: "".into(),
            });
        }
        let hub = &hub;
        let heartbeat: Vec<Request> = futures_util::stream::iter(0..plan.instances)
            .map(|number| async move { register(hub, &service(number % plan.services)?, number).await })
            .buffered(REGISTRATIONS)
            .try_collect()
            .await?;
        // The same bodies, so that an echo carries what a heartbeat does.
        let echo = heartbeat.iter().map(|beat| Request { subject: ECHO_SUBJECT.into(), body: beat.body.clone() });
        let requests = Requests { echo: echo.collect(), get, heartbeat };
        self.wait_until_ready().await?;
        Ok(requests)
    }

    /// Rows of `health_metrics`, those of the hub's own heartbeats not counted.
    pub async fn heartbeat_rows(&self) -> Result<u64, Error> {
        let (client, connection) = tokio_postgres::connect(&self.stack.database_url(), tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let count = "SELECT count(*) FROM health_metrics WHERE metric_type = 'heartbeat' AND service_name <> $1";
        let row = client.query_one(count, &[&ServiceName::hub().as_str()]).await?;
        drop(client);
        connection.await??;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }

    /// Stops everything, in the order in which nothing is missed, and removes the files.
    pub async fn stop(mut self) {
        self.echo.stop().await;
        self.hub.stop().await;
        self.stack.stop().await;
    }
}

/// A program under a guard, in a folder for its log that goes when this process does.
fn command(guard: &Path, program: &Path, folder: &Path) -> Result<GuardedCommand, Error> {
    std::fs::create_dir(folder)?;
    let mut command = GuardedCommand::new(guard, program, &folder.join("log"));
    command.lock = Some(folder.to_path_buf());
    command.scratch = true;
    Ok(command)
}

fn service(number: u32) -> Result<ServiceName, Error> {
    Ok(format!("service-{number:03}").parse()?)
}

/// A config of a size that services really have.
fn config(service_name: &ServiceName) -> Result<ConfigSet, Error> {
    let settings = json!({
        "operational": {
            "batch_size": 100, "max_retries": 3, "timeout_seconds": 30, "log_level": "info", "buffer_size": 1000,
            "symbols": ["EUR/USD", "XAU/USD", "GBP/USD"], "endpoint": format!("http://{service_name}.internal:8080"),
        },
        "features": {"compression": true, "tracing": false, "sampling": 0.25},
    });
    let settings = settings.as_object().cloned().unwrap_or_default();
    Ok(ConfigSet::new(service_name.clone(), settings))
}

/// Registers an instance; its heartbeat, with two measurements and the config that it runs.
async fn register(hub: &HubClient, service_name: &ServiceName, number: u32) -> Result<Request, Error> {
    let registered = hub
        .call(&Register {
            instance_id: Some(format!("{service_name}-{number:05}").parse()?),
            version: Some("1.0.0".into()),
            host: Some("127.0.0.1".into()),
            port: Some(8080),
            // However long a run is: none goes down because its turn comes late.
            heartbeat_interval_seconds: Some(3600.0),
            ..Register::new(service_name.clone())
        })
        .await?;
    let beat = Heartbeat {
        instance_id: Some(registered.instance_id),
        incarnation: Some(registered.incarnation),
        metrics: [("cpu_percent".to_owned(), json!(12.5)), ("memory_mb".to_owned(), json!(256))].into_iter().collect(),
        config_revision: registered.config.map(|config| config.revision),
        config_version: registered.config.and_then(|config| config.version),
        ..Heartbeat::new(service_name.clone())
    };
    // The first one says something new: which config it runs. Those that are measured say nothing new.
    hub.call(&Heartbeat { metrics: serde_json::Map::new(), ..beat.clone() }).await?;
    let subject = Heartbeat::ENDPOINT.subject(PREFIX, Some(service_name.as_str())).into();
    let mut body = serde_json::to_value(&beat)?;
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(Request { subject, body: serde_json::to_vec(&body)?.into() })
}
