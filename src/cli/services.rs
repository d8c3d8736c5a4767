//! `central-hub services`, `wait` and `heartbeat`: who is there.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::kv::{Entry, Operation};
use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::config::{schema, strict};
use super::grammar;
use super::session::{Failure, HubArgs, Out, Session};
use super::table::{ago, or_dash, painted, status, table, text_without};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::wire::ErrorCode;
use crate::wire::bucket::{Bucket, Key};
use crate::wire::registry::{
    Deregister, Heartbeat, Instance, Register, Service, ServicesDrain, ServicesGet, ServicesList, ServicesPage,
};

/// Who is there: list, look at, register, take out of use
#[derive(Args, Clone, Debug)]
pub struct ServicesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// All instances, ordered by service; a narrow terminal doesn't show versions and addresses
    List(ListArgs),
    /// One service and its instances
    Get {
        /// The service
        service: ServiceName,
    },
    /// Register an instance by hand
    Register(Box<RegisterArgs>),
    /// Take an instance's record away
    Deregister(InstanceArgs),
    /// Take an instance out of use, or back in with --undo
    Drain {
        #[command(flatten)]
        instance: InstanceArgs,
        /// Put it back into use
        #[arg(long)]
        undo: bool,
        /// Why; it stands in the event
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show who is there, and then who comes, goes and changes, until Ctrl-C
    Watch {
        /// Only this service
        service: Option<ServiceName>,
    },
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    /// Only instances with this status
    #[arg(long, value_name = "healthy|degraded|down")]
    status: Option<Status>,
    /// Only instances of this service
    #[arg(long, value_name = "NAME")]
    service: Option<ServiceName>,
    /// Only instances whose metadata has this; may be given more than once. The value is JSON, or else a text
    #[arg(long, value_name = "KEY=VALUE", value_parser = member)]
    metadata: Vec<(String, Value)>,
    /// Leave out those that are out of use
    #[arg(long)]
    no_draining: bool,
}

#[derive(Args, Clone, Debug)]
struct RegisterArgs {
    /// The service
    service: ServiceName,
    /// Its id; left out, it is derived from host and port, else made up
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// Version of its software
    #[arg(long, value_name = "TEXT")]
    software_version: Option<String>,
    /// Where others reach it
    #[arg(long)]
    host: Option<String>,
    /// Where others reach it
    #[arg(long)]
    port: Option<u16>,
    /// A service or component that it needs; may be given more than once
    #[arg(long, value_name = "NAME")]
    needs: Vec<ServiceName>,
    /// Anything else worth knowing; may be given more than once. The value is JSON, or else a text
    #[arg(long, value_name = "KEY=VALUE", value_parser = member)]
    metadata: Vec<(String, Value)>,
    /// How often it will beat
    #[arg(long, value_name = "DURATION", value_parser = grammar::duration)]
    interval: Option<Duration>,
    /// Refuse unless everything that it needs is there
    #[arg(long)]
    require: bool,
    /// What configs it can read: a JSON Schema, or `@FILE`
    #[arg(long, value_name = "SCHEMA")]
    config_schema: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct InstanceArgs {
    /// The service
    service: ServiceName,
    /// Which instance; may be left out while it is the only one
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
}

/// `KEY=VALUE`; the value is JSON, or else a text.
fn member(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), strict::value_or_text(value)?))
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: ServicesArgs, hub: &HubArgs) -> Result<(), Failure> {
    match args.action {
        Action::List(args) => list(args, hub).await,
        Action::Get { service } => {
            let session = hub.connect().await?;
            session.show(&ServicesGet { service_name: service }, one).await
        }
        Action::Register(args) => register(*args, hub).await,
        Action::Deregister(InstanceArgs { service, instance }) => {
            let session = hub.connect().await?;
            let request = Deregister { service_name: service, instance_id: instance, incarnation: None };
            session.show(&request, |gone, _| format!("{}.{} is gone", gone.service_name, gone.instance_id)).await
        }
        Action::Drain { instance: InstanceArgs { service, instance }, undo, reason } => {
            let session = hub.connect().await?;
            let request = ServicesDrain { service_name: service, instance_id: instance, draining: !undo, reason };
            session
                .show(&request, |now, _| {
                    let state = if now.draining { "out of use" } else { "in use" };
                    format!("{}.{} is {state}", now.service_name, now.instance_id)
                })
                .await
        }
        Action::Watch { service } => watch(&hub.connect().await?, service.as_ref()).await,
    }
}

async fn list(args: ListArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let mut request = ServicesList {
        status: args.status,
        service_name: args.service,
        metadata: (!args.metadata.is_empty()).then(|| args.metadata.into_iter().collect::<Map<_, _>>()),
        include_draining: args.no_draining.then_some(false),
        limit: Some(1_000),
        cursor: None,
    };
    let mut services = Vec::new();
    loop {
        let page = session.call(&request).await?;
        services.extend(page.services);
        request.cursor = page.next_cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    let all = ServicesPage { services, next_cursor: None };
    session.out.print(&all, |out| {
        if all.services.is_empty() {
            "nobody is registered, or nobody like that".into()
        } else {
            many(&all.services, out)
        }
    })
}

/// What a narrow terminal doesn't show: version, and then address.
const DISPENSABLE: [usize; 2] = [3, 4];

/// Instances as a table.
fn many(instances: &[Instance], out: &Out) -> String {
    let now = OffsetDateTime::now_utc();
    let mut rows = table(&["service", "instance", "status", "version", "address", "config", "heard"]);
    for instance in instances {
        let state =
            if instance.draining { format!("{}, draining", instance.status) } else { instance.status.to_string() };
        let mut cells = vec![instance.service_name.to_string().into(), instance.instance_id.to_string().into()];
        cells.push(if instance.draining { state.into() } else { status(instance.status, out) });
        cells.push(or_dash(instance.version.as_ref()).into());
        cells.push(or_dash(address(instance.host.as_ref(), instance.port)).into());
        cells.push(config_of(instance).into());
        cells.push(or_dash(instance.last_heartbeat.map(|at| ago(at, now) + " ago")).into());
        rows.add_row(cells);
    }
    text_without(&DISPENSABLE, &mut rows)
}

fn config_of(instance: &Instance) -> String {
    let version = instance.config_version.map(|version| format!("v{version}"));
    match (&instance.config_error, version) {
        (Some(_), Some(version)) => format!("{version}, refused newer"),
        (Some(_), None) => "refused".into(),
        (None, version) => or_dash(version),
    }
}

fn address(host: Option<&String>, port: Option<u16>) -> Option<String> {
    match (host, port) {
        (Some(host), Some(port)) => Some(format!("{host}:{port}")),
        (Some(host), None) => Some(host.clone()),
        (None, _) => None,
    }
}

/// One service: a line about it, then its instances.
fn one(service: &Service, out: &Out) -> String {
    let to = address(service.host.as_ref(), service.port);
    let to = to.map_or_else(|| "nobody to talk to".into(), |address| format!("talk to {address}"));
    format!("{} is {}, {to}\n\n{}", service.service_name, service.status, many(&service.instances, out))
}

async fn register(args: RegisterArgs, hub: &HubArgs) -> Result<(), Failure> {
    let config_schema = args.config_schema.map(|given| schema("--config-schema", &given)).transpose()?;
    let session = hub.connect().await?;
    let request = Register {
        config_schema,
        instance_id: args.instance,
        version: args.software_version,
        host: args.host,
        port: args.port,
        dependencies: args.needs,
        metadata: args.metadata.into_iter().collect(),
        heartbeat_interval_seconds: args.interval.map(|interval| interval.as_secs_f64()),
        require_dependencies: args.require,
        ..Register::new(args.service)
    };
    session
        .show(&request, |made, _| {
            let mut lines = vec![format!(
                "{}.{} is registered, incarnation {}; it must beat every {} s, silence of {} s counts as down",
                made.service_name,
                made.instance_id,
                made.incarnation,
                made.heartbeat_interval_seconds,
                made.service_timeout_seconds
            )];
            lines.extend(made.dependencies.iter().map(|needed| {
                let status = serde_json::to_value(needed.status).unwrap_or_default();
                format!("  needs {}: {}", needed.name, status.as_str().unwrap_or_default())
            }));
            lines.extend(made.warnings.iter().map(|warning| format!("  warning: {warning}")));
            lines.join("\n")
        })
        .await
}

/// Prints each change of `hub_services` until it is interrupted.
async fn watch(session: &Session, service: Option<&ServiceName>) -> Result<(), Failure> {
    let bucket = Bucket::Services.name(&session.bucket_prefix);
    let unreadable = |error: &dyn std::error::Error| {
        Failure::NoAnswer(format!("{bucket} can't be watched: {}", super::chain(error)))
    };
    let kv = jetstream::new(session.hub.nats().clone()).get_key_value(&bucket).await;
    let kv = kv.map_err(|error| unreadable(&error))?;
    let filter = service.map_or_else(|| ">".into(), |service| format!("{service}.*"));
    let mut entries = kv.watch_with_history(&filter).await.map_err(|error| unreadable(&error))?;
    let mut columns = Columns::default();
    // What is there already is printed together, so that it stands in columns.
    let mut already = Some(Vec::new());
    while let Some(entry) = entries.next().await {
        // The watch mends itself after an error.
        let Ok(entry) = entry else { continue };
        let change = Change::of(&entry);
        if let Some(change) = &change {
            columns.fit(change);
        }
        let now = match &mut already {
            Some(waiting) => {
                waiting.extend(change);
                if entry.delta > 0 {
                    continue;
                }
                already.take().unwrap_or_default()
            }
            None => change.into_iter().collect(),
        };
        for change in now {
            session.out.print(&change, |out| columns.line(&change, out))?;
        }
    }
    Ok(())
}

/// What became of an instance.
#[derive(Serialize)]
#[serde(untagged)]
enum Change {
    Is(Box<Instance>),
    Gone { service_name: ServiceName, instance_id: InstanceId, gone: bool },
}

impl Change {
    /// `None` for a value that no hub wrote.
    fn of(entry: &Entry) -> Option<Self> {
        let Key::Instance(service_name, instance_id) = Key::parse(Bucket::Services, &entry.key)? else { return None };
        match entry.operation {
            Operation::Put => Some(Self::Is(serde_json::from_slice(&entry.value).ok()?)),
            _ => Some(Self::Gone { service_name, instance_id, gone: true }),
        }
    }

    fn names(&self) -> (&str, &str) {
        match self {
            Self::Is(instance) => (instance.service_name.as_str(), instance.instance_id.as_str()),
            Self::Gone { service_name, instance_id, .. } => (service_name.as_str(), instance_id.as_str()),
        }
    }
}

/// The columns of lines that are printed one by one: as wide as the widest so far.
#[derive(Default)]
struct Columns {
    service: usize,
    instance: usize,
}

impl Columns {
    fn fit(&mut self, change: &Change) {
        let (service, instance) = change.names();
        (self.service, self.instance) = (self.service.max(service.len()), self.instance.max(instance.len()));
    }

    fn line(&self, change: &Change, out: &Out) -> String {
        let ((service, instance), Self { service: first, instance: second }) = (change.names(), self);
        let begin = format!("{service:<first$}  {instance:<second$}");
        let Change::Is(instance) = change else { return format!("{begin}  gone") };
        // Colours have no width.
        let gap = " ".repeat("degraded".len() - instance.status.as_str().len());
        let draining = if instance.draining { "draining, " } else { "" };
        let mut facts = vec![format!("{draining}config {}", config_of(instance))];
        facts.extend(instance.version.iter().map(|version| format!("version {version}")));
        facts.extend(address(instance.host.as_ref(), instance.port));
        format!("{begin}  {}{gap}  {}", painted(instance.status, out), facts.join(", "))
    }
}

/// Wait until a service is there
///
/// Exit code: 0 when it is; 1 when the time is over.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// The service
    service: ServiceName,
    /// Not only there, but with an instance that is healthy and not out of use
    #[arg(long)]
    healthy: bool,
    /// How long to wait at the most
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = grammar::duration)]
    patience: Duration,
}

/// Whether a service is what is waited for.
fn is_there(service: &Service, healthy: bool) -> bool {
    let usable = |instance: &Instance| instance.status == Status::Healthy && !instance.draining;
    if healthy { service.instances.iter().any(usable) } else { service.status != Status::Down }
}

/// How often a wait looks.
const LOOK: Duration = Duration::from_millis(250);

/// Waits.
///
/// # Errors
/// [`Failure`].
pub async fn wait(args: WaitArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let until = Instant::now() + args.patience;
    let request = ServicesGet { service_name: args.service };
    loop {
        let found = match session.call(&request).await {
            Ok(service) if is_there(&service, args.healthy) => {
                return session.out.print(&service, |out| one(&service, out));
            }
            Ok(service) if service.status == Status::Healthy => "is healthy and out of use".into(),
            Ok(service) => format!("is {}", service.status),
            Err(Failure::Refused(refusal)) if refusal.code == ErrorCode::NotFound => "isn't registered".into(),
            // A hub that is about to come is waited for, too.
            Err(Failure::NoAnswer(text)) => format!("can't be asked for: {text}"),
            Err(other) => return Err(other),
        };
        if Instant::now() + LOOK > until {
            let waited = humantime::format_duration(args.patience);
            return Err(Failure::not_so(format!("{} {found}, after {waited}", request.service_name)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Send one heartbeat by hand
#[derive(Args, Clone, Debug)]
pub struct HeartbeatArgs {
    /// The service
    service: ServiceName,
    /// Which instance; may be left out while it is the only one
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// How well it is
    #[arg(long, value_name = "healthy|degraded|down", default_value = "healthy")]
    status: Status,
    /// A measurement; may be given more than once
    #[arg(long, value_name = "NAME=NUMBER", value_parser = measurement)]
    metric: Vec<(String, Value)>,
    /// The revision of the config that it runs
    #[arg(long, value_name = "REVISION")]
    config_revision: Option<i64>,
    /// The version of the config that it runs
    #[arg(long, value_name = "N")]
    config_version: Option<i64>,
    /// Why it refused the newest config
    #[arg(long, value_name = "TEXT")]
    config_error: Option<String>,
}

fn measurement(text: &str) -> Result<(String, Value), String> {
    let (name, value) = member(text)?;
    if value.is_number() { Ok((name, value)) } else { Err("must be NAME=NUMBER".into()) }
}

/// Beats.
///
/// # Errors
/// [`Failure`].
pub async fn heartbeat(args: HeartbeatArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let request = Heartbeat {
        instance_id: args.instance,
        status: Some(args.status),
        metrics: args.metric.into_iter().collect(),
        config_revision: args.config_revision,
        config_version: args.config_version,
        config_error: args.config_error,
        ..Heartbeat::new(args.service)
    };
    session
        .show(&request, |heard, _| {
            let config = match heard.config {
                None => "it has no config".into(),
                Some(config) => match config.version {
                    Some(version) => format!("it should run config v{version}, revision {}", config.revision),
                    None => format!("its config was deleted, revision {}", config.revision),
                },
            };
            format!("{}.{} is {}; {config}", heard.service_name, heard.instance_id, heard.status)
        })
        .await
}
