//! `central-hub config`: the whole life of a configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::session::{Failure, HubArgs, Out, Session, read_text};
use super::shown;
use super::table::{ago, or_dash, table, text};
use crate::domain::config::Convergence;
use crate::domain::name::ServiceName;
use crate::nats::BadOption;
use crate::wire::config::{
    Config, ConfigChange, ConfigDelete, ConfigDiff, ConfigGet, ConfigHistory, ConfigList, ConfigPatch, ConfigRollback,
    ConfigSet, ConfigStatus, ConfigValidate, ConfigsPage, ConvergenceStatus, History, SchemaGet, SchemaSet, Validation,
    WriteOptions,
};

mod diff;
mod edit;
mod files;
pub(super) mod strict;
mod watch;

/// The configs: look at, change, compare, take back
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Which services have a config
    List,
    /// The active config, or any version of it
    Get {
        /// The service
        service: ServiceName,
        /// Not the active version, but this one
        #[arg(long, value_name = "N")]
        version: Option<i64>,
    },
    /// Publish a config
    Set {
        /// The service
        service: ServiceName,
        /// The content: JSON, `@FILE`, or `-` for standard input
        content: String,
        #[command(flatten)]
        options: WriteArgs,
    },
    /// Change part of a config: a JSON merge patch (RFC 7396), in which null removes a key
    Patch {
        /// The service
        service: ServiceName,
        /// The patch: JSON, `@FILE`, or `-` for standard input
        patch: String,
        #[command(flatten)]
        options: WriteArgs,
    },
    /// Change a config in your editor ($VISUAL or $EDITOR), see the difference, and publish it
    Edit(edit::EditArgs),
    /// Take back the newest change, or put the version --to back in force
    Rollback {
        /// The service
        service: ServiceName,
        /// This version
        #[arg(long, value_name = "N")]
        to: Option<i64>,
        #[command(flatten)]
        options: WriteArgs,
    },
    /// Take a config out of force; a rollback undoes it
    Delete {
        /// The service
        service: ServiceName,
        #[command(flatten)]
        options: WriteArgs,
    },
    /// What was in force when, and by whom; newest first
    History {
        /// The service
        service: ServiceName,
        /// How many at the most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Only what was before this revision
        #[arg(long, value_name = "REVISION")]
        before: Option<i64>,
    },
    /// What changed from one version to another
    Diff {
        /// The service
        service: ServiceName,
        /// A version
        from: i64,
        /// Another; left out, the active one
        to: Option<i64>,
    },
    /// Would this config be taken? Exit code 1 when not
    Validate {
        /// The service
        service: ServiceName,
        /// The content: JSON, `@FILE`, or `-` for standard input
        content: String,
        /// A value that looks like a secret and is none, by its JSON pointer; may be given more than once
        #[arg(long, value_name = "POINTER")]
        not_secret: Vec<String>,
    },
    /// Who runs what
    Status {
        /// The service
        service: ServiceName,
    },
    /// Show each change of a service's config as it lands
    Watch {
        /// The service; left out, all
        service: Option<ServiceName>,
    },
    /// Write all configs to a folder, a file each, to keep in git
    Export(files::ExportArgs),
    /// Bring the hub to what a folder says; --dry-run shows the plan
    Import(files::ImportArgs),
    /// What a service's configs must look like
    Schema {
        #[command(subcommand)]
        action: SchemaAction,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum SchemaAction {
    /// Show it
    Get {
        /// The service
        service: ServiceName,
    },
    /// Set it: a JSON Schema, draft 2020-12
    Set {
        /// The service
        service: ServiceName,
        /// The schema: JSON, `@FILE`, or `-` for standard input; null takes it away
        schema: String,
    },
}

/// How a change is made.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Change")]
struct WriteArgs {
    /// Who you are
    #[arg(long, env = "USER", value_name = "NAME")]
    by: Option<String>,
    /// Why
    #[arg(long, short = 'm', value_name = "TEXT")]
    comment: Option<String>,
    /// Refuse unless this version is active; 0: unless none is
    #[arg(long, value_name = "N")]
    expect_version: Option<i64>,
    /// Refuse unless this revision is the newest; 0: unless there never was one
    #[arg(long, value_name = "REVISION")]
    expect_revision: Option<i64>,
    /// Check everything, say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Publish although a live instance declared that it can't read it
    #[arg(long)]
    force: bool,
    /// A value that looks like a secret and is none, by its JSON pointer; may be given more than once
    #[arg(long, value_name = "POINTER")]
    not_secret: Vec<String>,
}

impl WriteArgs {
    fn options(self) -> WriteOptions {
        WriteOptions {
            created_by: self.by,
            comment: self.comment,
            expected_version: self.expect_version,
            expected_revision: self.expect_revision,
            dry_run: self.dry_run,
            force: self.force,
            not_secret: self.not_secret,
            ..WriteOptions::default()
        }
    }
}

/// Does it.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: ConfigArgs, hub: &HubArgs) -> Result<(), Failure> {
    match args.action {
        Action::List => list(&hub.connect().await?).await,
        Action::Get { service, version } => {
            let request = ConfigGet { service_name: service, version, min_revision: None };
            hub.connect().await?.show(&request, |config, _| pretty(config)).await
        }
        Action::Set { service, content, options } => {
            let dry_run = options.dry_run;
            let config = object("the config", &content)?;
            let request = ConfigSet { options: options.options(), ..ConfigSet::new(service, config) };
            hub.connect().await?.show(&request, changed(dry_run)).await
        }
        Action::Patch { service, patch, options } => {
            let dry_run = options.dry_run;
            let patch = object("the patch", &patch)?;
            let request = ConfigPatch { service_name: service, patch, options: options.options() };
            hub.connect().await?.show(&request, changed(dry_run)).await
        }
        Action::Edit(args) => edit::run(args, hub).await,
        Action::Rollback { service, to, options } => {
            let dry_run = options.dry_run;
            let request = ConfigRollback { service_name: service, to_version: to, options: options.options() };
            hub.connect().await?.show(&request, changed(dry_run)).await
        }
        Action::Delete { service, options } => {
            let dry_run = options.dry_run;
            let request = ConfigDelete { service_name: service, options: options.options() };
            hub.connect().await?.show(&request, changed(dry_run)).await
        }
        Action::History { service, limit, before } => {
            let request = ConfigHistory { service_name: service, limit: Some(limit), before_revision: before };
            hub.connect().await?.show(&request, history).await
        }
        Action::Diff { service, from, to } => compare(&hub.connect().await?, service, from, to).await,
        Action::Validate { service, content, not_secret } => validate(hub, service, &content, not_secret).await,
        Action::Status { service } => hub.connect().await?.show(&ConfigStatus { service_name: service }, status).await,
        Action::Watch { service } => watch::run(&hub.connect().await?, service.as_ref()).await,
        Action::Export(args) => files::export(args, hub).await,
        Action::Import(args) => files::import(args, hub).await,
        Action::Schema { action: SchemaAction::Get { service } } => {
            let request = SchemaGet { service_name: service };
            hub.connect().await?.show(&request, |found, _| pretty_json(&found.schema)).await
        }
        Action::Schema { action: SchemaAction::Set { service, schema } } => {
            let schema = self::schema("the schema", &schema)?;
            let done = if schema.is_null() { "has no schema any more" } else { "has a new schema" };
            let request = SchemaSet { service_name: service, schema, request_id: None, deadline: None };
            let said = |set: &crate::wire::config::ServiceSchema, _: &Out| {
                with_warnings(format!("{} {done}", set.service_name), &set.warnings)
            };
            hub.connect().await?.show(&request, said).await
        }
    }
}

/// A schema from the command line, from a file (`@FILE`), or from standard input (`-`).
///
/// # Errors
/// When it can't be read, is no JSON, or would be altered on its way to the hub.
pub(super) fn schema(what: &str, given: &str) -> Result<Value, Failure> {
    handed_in(what, given, strict::schema)
}

fn object(what: &str, given: &str) -> Result<Map<String, Value>, Failure> {
    handed_in(what, given, strict::object)
}

fn handed_in<T>(what: &str, given: &str, read: impl Fn(&str, &str) -> Result<T, BadOption>) -> Result<T, Failure> {
    let read = match (given, given.strip_prefix('@')) {
        ("-", _) => read(what, &read_text(&PathBuf::from("-"))?),
        (_, Some(path)) => read(&format!("{what} in {path}"), &read_text(&PathBuf::from(path))?),
        _ => read(what, given).map_err(|BadOption(text)| BadOption(text + "; a file is named with a leading @")),
    };
    Ok(read?)
}

/// JSON as people read it, and as a terminal may show it.
fn pretty_json<T: Serialize>(value: &T) -> String {
    shown::escaped(&serde_json::to_string_pretty(value).unwrap_or_default()) + "\n"
}

/// A config's content as people read it.
fn pretty(config: &Config) -> String {
    let value = serde_json::from_str::<Value>(config.config.get()).unwrap_or_default();
    pretty_json(&value)
}

fn with_warnings(mut line: String, warnings: &[String]) -> String {
    for warning in warnings {
        line.push_str(&format!("\n  warning: {}", shown::line(warning)));
    }
    line
}

/// What a change did, or would do.
fn changed(dry_run: bool) -> impl FnOnce(&ConfigChange, &Out) -> String {
    move |change, _| {
        let service = &change.service_name;
        let what = match (change.changed, change.version) {
            (false, _) => format!("{service} has it already: nothing changed"),
            (true, Some(version)) => format!("{service} v{version}, revision {}", change.revision),
            (true, None) => format!("{service} has no config any more, revision {}", change.revision),
        };
        let line = match (change.changed, dry_run, change.published) {
            (false, ..) => what,
            (true, true, _) => format!("it would be taken: {what}"),
            (true, false, true) => format!("{what}, pushed"),
            (true, false, false) => format!("{what}, committed and not pushed yet"),
        };
        with_warnings(line, &change.warnings)
    }
}

/// All pages of the list.
async fn all(session: &Session) -> Result<ConfigsPage, Failure> {
    let mut request = ConfigList { limit: Some(1_000), cursor: None };
    let mut configs = Vec::new();
    loop {
        let page = session.call(&request).await?;
        configs.extend(page.configs);
        request.cursor = page.next_cursor;
        if request.cursor.is_none() {
            return Ok(ConfigsPage { configs, next_cursor: None });
        }
    }
}

async fn list(session: &Session) -> Result<(), Failure> {
    let page = all(session).await?;
    session.out.print(&page, |_| {
        let now = OffsetDateTime::now_utc();
        let mut rows = table(&["service", "version", "revision", "changed"]);
        for config in &page.configs {
            let version = config.version.map_or_else(|| "deleted".into(), |version| format!("v{version}"));
            let changed = ago(config.updated_at, now) + " ago";
            rows.add_row([config.service_name.to_string(), version, config.revision.to_string(), changed]);
        }
        if page.configs.is_empty() { "no service has a config".into() } else { text(&mut rows) }
    })
}

fn history(history: &History, _: &Out) -> String {
    let now = OffsetDateTime::now_utc();
    let mut rows = table(&["revision", "version", "action", "by", "when", "comment"]);
    for activation in &history.activations {
        let version = activation.version.map_or_else(|| "-".into(), |version| format!("v{version}"));
        rows.add_row([
            activation.revision.to_string(),
            version,
            activation.action.clone(),
            activation.by.clone(),
            ago(activation.at, now) + " ago",
            activation.comment.clone().unwrap_or_default(),
        ]);
    }
    text(&mut rows)
}

async fn compare(session: &Session, service: ServiceName, from: i64, to: Option<i64>) -> Result<(), Failure> {
    let difference = session.call(&ConfigDiff { service_name: service.clone(), from, to }).await?;
    if session.out.json() {
        return session.out.print(&difference, |_| String::new());
    }
    let mut texts = Vec::with_capacity(2);
    for version in [difference.from, difference.to] {
        let request = ConfigGet { service_name: service.clone(), version: Some(version), min_revision: None };
        texts.push(pretty(&session.call(&request).await?));
    }
    let [before, after] = texts.as_slice() else { return Ok(()) };
    let names = (format!("{service} v{}", difference.from), format!("{service} v{}", difference.to));
    session.out.print(&difference, |out| {
        let lines = diff::unified((&names.0, before), (&names.1, after), out);
        if lines.is_empty() { format!("{} and {} are the same", names.0, names.1) } else { lines }
    })
}

async fn validate(hub: &HubArgs, service: ServiceName, content: &str, not_secret: Vec<String>) -> Result<(), Failure> {
    let config = object("the config", content)?;
    let session = hub.connect().await?;
    let found = session.call(&ConfigValidate { service_name: service, config, not_secret }).await?;
    session.out.print(&found, |_| findings(&found))?;
    if found.valid { Ok(()) } else { Err(Failure::Told("it would be refused".into())) }
}

/// What stands in a config's way.
fn findings(found: &Validation) -> String {
    let violations = found.violations.iter().map(|violation| {
        let path = if violation.path.is_empty() { "/" } else { &violation.path };
        format!("{path}: {}", violation.message)
    });
    let secrets = found.secrets.iter().map(|path| format!("{path}: looks like a secret"));
    let readers = found.incompatible_instances.iter().map(|id| format!("{id}: declared that it can't read it"));
    let lines: Vec<String> = violations.chain(secrets).chain(readers).map(|line| shown::line(&line)).collect();
    if lines.is_empty() { "it would be taken".into() } else { lines.join("\n") }
}

fn status(status: &ConvergenceStatus, _: &Out) -> String {
    let now = OffsetDateTime::now_utc();
    let version = status.version.map_or_else(|| "deleted".into(), |version| format!("v{version}"));
    let published = if status.published { "in KV" } else { "not in KV yet" };
    let converged = match (status.converged, status.version) {
        (true, Some(_)) => "everybody runs it",
        (true, None) => "everybody knows",
        (false, Some(_)) => "not everybody says that it runs it",
        (false, None) => "not everybody says that it knows",
    };
    let mut rows = table(&["instance", "state", "version", "revision", "since", "error"]);
    for instance in &status.instances {
        let state = match instance.state {
            Convergence::Current => "current",
            Convergence::Behind => "behind",
            Convergence::Failed => "failed",
            Convergence::Unknown => "unknown",
        };
        rows.add_row([
            instance.instance_id.to_string(),
            state.into(),
            or_dash(instance.config_version.map(|version| format!("v{version}"))),
            or_dash(instance.config_revision),
            ago(instance.since, now) + " ago",
            instance.config_error.clone().unwrap_or_default(),
        ]);
    }
    let head = format!("{version}, revision {}: {published}, {converged}", status.revision);
    if status.instances.is_empty() {
        format!("{head}; no instance is live")
    } else {
        format!("{head}\n\n{}", text(&mut rows))
    }
}
