//! `central-hub config export` and `import`: the fleet's configs as files, for git.
//!
//! `<service>.json` holds a config, `<service>.schema.json` a schema; both with sorted keys and two blanks of indentation,
//! so that what didn't change makes no difference.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{WriteArgs, all, diff, pretty_json, strict};
use crate::cli::session::{Failure, HubArgs, Session};
use crate::domain::name::ServiceName;
use crate::nats::BadOption;
use crate::wire;
use crate::wire::config::{ConfigDelete, ConfigGet, ConfigSet, SchemaGet, SchemaSet, WriteOptions};

/// What `config export` takes.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The folder; made if it is missing
    folder: PathBuf,
    /// Only these services
    services: Vec<ServiceName>,
    /// Remove files of configs that the hub doesn't have
    #[arg(long, conflicts_with = "services")]
    prune: bool,
}

/// What `config import` takes.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// The folder
    folder: PathBuf,
    /// Only these services
    services: Vec<ServiceName>,
    /// Take configs out of force that the folder doesn't have
    #[arg(long, conflicts_with = "services")]
    prune: bool,
    #[command(flatten)]
    options: WriteArgs,
}

/// A service's config and schema; `None`: it has none.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    config: Option<Map<String, Value>>,
    schema: Option<Value>,
    /// Version of the config; 0: none is active.
    version: i64,
}

/// What was done, or would be, with one file or config.
#[derive(Debug, Serialize)]
struct Step {
    service_name: ServiceName,
    what: &'static str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What the hub didn't take.
#[derive(Debug, Serialize)]
struct Refused {
    service_name: ServiceName,
    error: wire::Error,
}

async fn read_hub(session: &Session, only: &[ServiceName]) -> Result<BTreeMap<ServiceName, Kept>, Failure> {
    let mut kept = BTreeMap::new();
    let known = all(session).await?.configs;
    let mut progress = Progress::of(known.len());
    for summary in known {
        let service = summary.service_name;
        progress.step(&service);
        if !only.is_empty() && !only.contains(&service) {
            continue;
        }
        let (config, version) = match summary.version {
            None => (None, 0),
            Some(_) => {
                let request = ConfigGet { service_name: service.clone(), version: None, min_revision: None };
                let config = session.call(&request).await?;
                let content = strict::object(&format!("{service}'s config"), config.config.get())?;
                (Some(content), config.version)
            }
        };
        // The hub's own schema is built in: nothing to keep.
        let schema = match service.as_str() {
            ServiceName::HUB => Value::Null,
            _ => session.call(&SchemaGet { service_name: service.clone() }).await?.schema,
        };
        let schema = Some(schema).filter(|schema| !schema.is_null());
        kept.insert(service, Kept { config, schema, version });
    }
    Ok(kept)
}

/// Which service a file is of, and whether it holds a schema.
fn file_of(name: &str) -> Option<(ServiceName, bool)> {
    let stem = name.strip_suffix(".json")?;
    match stem.strip_suffix(".schema") {
        Some(service) => Some((service.parse().ok()?, true)),
        None => Some((stem.parse().ok()?, false)),
    }
}

fn path_of(folder: &Path, service: &ServiceName, schema: bool) -> PathBuf {
    folder.join(if schema { format!("{service}.schema.json") } else { format!("{service}.json") })
}

/// Writes the hub's configs to files; what is the same already isn't touched.
///
/// # Errors
/// [`Failure`].
pub async fn export(args: ExportArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let kept = read_hub(&session, &args.services).await?;
    if let Some(missing) = args.services.iter().find(|service| !kept.contains_key(*service)) {
        return Err(Failure::not_so(format!("{missing} has no config; `central-hub config list` tells which do")));
    }
    std::fs::create_dir_all(&args.folder)?;
    let mut steps = Vec::new();
    for (service, kept) in &kept {
        let wanted = [(false, kept.config.as_ref().map(|map| Value::Object(map.clone()))), (true, kept.schema.clone())];
        for (schema, value) in wanted {
            let path = path_of(&args.folder, service, schema);
            let before = read_file(&path).ok();
            let what = if schema { "schema" } else { "config" };
            let action = match (value.map(|value| pretty_json(&value)), before) {
                (Some(text), Some(before)) if text == before => "unchanged",
                (Some(text), before) => {
                    write_atomically(&path, &text)?;
                    if before.is_some() { "updated" } else { "created" }
                }
                (None, Some(_)) if args.prune => {
                    std::fs::remove_file(&path)?;
                    "removed"
                }
                (None, _) => continue,
            };
            steps.push(Step { service_name: service.clone(), what, action, version: None, warnings: Vec::new() });
        }
    }
    if args.prune {
        for (service, schema) in files_in(&args.folder)?.into_iter().filter(|(service, _)| !kept.contains_key(service))
        {
            std::fs::remove_file(path_of(&args.folder, &service, schema))?;
            let what = if schema { "schema" } else { "config" };
            steps.push(Step { service_name: service, what, action: "removed", version: None, warnings: Vec::new() });
        }
    }
    report(&session, &steps, &[], false)
}

/// A reader never sees half a file; and nobody who may write to the folder makes this write to another one: the scratch
/// file is new, by a name that can't be foreseen.
fn write_atomically(path: &Path, text: &str) -> Result<(), Failure> {
    let scratch = path.with_extension(format!("{}.new", nuid::next()));
    let mut options = std::fs::OpenOptions::new();
    let made = options.write(true).create_new(true).open(&scratch);
    let written = made.and_then(|mut file| {
        let moved = file.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&scratch, path));
        moved.inspect_err(|_| drop(std::fs::remove_file(&scratch)))
    });
    written.map_err(|error| Failure::NoAnswer(format!("{} can't be written: {error}", path.display())))
}

/// The text of a regular file. Others are refused, and not waited for as a pipe without a writer would be.
fn read_file(path: &Path) -> std::io::Result<String> {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    std::io::read_to_string(file)
}

fn files_in(folder: &Path) -> Result<Vec<(ServiceName, bool)>, Failure> {
    let unreadable = |error| Failure::NoAnswer(format!("{} can't be read: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        files.extend(name.to_str().and_then(file_of));
    }
    files.sort();
    Ok(files)
}

/// All of the folder, read and checked before anything is changed.
fn read_folder(folder: &Path, only: &[ServiceName]) -> Result<BTreeMap<ServiceName, Kept>, Failure> {
    let mut kept: BTreeMap<ServiceName, Kept> = BTreeMap::new();
    for (service, schema) in files_in(folder)? {
        if !only.is_empty() && !only.contains(&service) {
            continue;
        }
        let path = path_of(folder, &service, schema);
        let name = path.display().to_string();
        let unchanged = |BadOption(text)| BadOption(text + "; nothing was changed");
        let text = read_file(&path).map_err(|error| unchanged(BadOption(format!("{name} can't be read: {error}"))))?;
        let entry = kept.entry(service).or_default();
        if schema {
            entry.schema = Some(strict::schema(&name, &text).map_err(unchanged)?);
        } else {
            entry.config = Some(strict::object(&name, &text).map_err(unchanged)?);
        }
    }
    Ok(kept)
}

/// Brings the hub to what the folder says: schemas first, then configs; each only if it differs. A config that somebody
/// changes meanwhile is refused, and the rest still done.
///
/// # Errors
/// [`Failure`].
pub async fn import(args: ImportArgs, hub: &HubArgs) -> Result<(), Failure> {
    let wanted = read_folder(&args.folder, &args.services)?;
    let session = hub.connect().await?;
    let found = read_hub(&session, &args.services).await?;
    let (mut steps, mut failures) = (Vec::new(), Vec::new());
    let mut progress = Progress::of(wanted.len());
    for (service, wanted) in &wanted {
        progress.step(service);
        let found = found.get(service).cloned().unwrap_or_default();
        match import_one(&session, service, wanted, &found, &args.options).await {
            Ok(done) => steps.extend(done),
            Err(Failure::Refused(refusal)) => failures.push(Refused { service_name: service.clone(), error: *refusal }),
            Err(failure) => return Err(failure),
        }
    }
    if args.prune {
        let stray = found.iter().filter(|(service, kept)| kept.config.is_some() && !wanted.contains_key(*service));
        for (service, _) in stray {
            let options = args.options.clone().options();
            let change = session.call(&ConfigDelete { service_name: service.clone(), options }).await?;
            steps.push(Step {
                service_name: service.clone(),
                what: "config",
                action: "deleted",
                version: None,
                warnings: change.warnings,
            });
        }
    }
    drop(progress);
    report(&session, &steps, &failures, args.options.dry_run)?;
    if failures.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = failures.iter().map(|refused| format!("{}: {}", refused.service_name, refused.error)).collect();
    Err(Failure::Told(texts.join("\n")))
}

async fn import_one(
    session: &Session,
    service: &ServiceName,
    wanted: &Kept,
    found: &Kept,
    options: &WriteArgs,
) -> Result<Vec<Step>, Failure> {
    let dry_run = options.dry_run;
    let mut steps = Vec::new();
    let step =
        |what, action, version, warnings| Step { service_name: service.clone(), what, action, version, warnings };
    if let Some(schema) = &wanted.schema {
        if Some(schema) == found.schema.as_ref() {
            steps.push(step("schema", "unchanged", None, Vec::new()));
        } else {
            let (service_name, schema) = (service.clone(), schema.clone());
            let request = SchemaSet { service_name, schema, request_id: None, deadline: None };
            let warnings = if dry_run { Vec::new() } else { session.call(&request).await?.warnings };
            steps.push(step("schema", if found.schema.is_some() { "updated" } else { "created" }, None, warnings));
        }
    }
    let Some(config) = &wanted.config else { return Ok(steps) };
    if Some(config) == found.config.as_ref() {
        steps.push(step("config", "unchanged", Some(found.version), Vec::new()));
        return Ok(steps);
    }
    let options = options.clone().options();
    let expected_version = options.expected_version.or(Some(found.version));
    let request = ConfigSet {
        options: WriteOptions { expected_version, ..options },
        ..ConfigSet::new(service.clone(), config.clone())
    };
    let change = session.call(&request).await?;
    if dry_run && !session.out.json() {
        let before = found.config.as_ref().map(pretty_json).unwrap_or_default();
        let active = if found.version > 0 { format!("v{}", found.version) } else { "has none".into() };
        let names = (format!("{service} {active}"), "the folder");
        let shown = diff::unified((&names.0, &before), (names.1, &pretty_json(config)), &session.out);
        writeln!(std::io::stdout(), "{shown}")?;
    }
    let action = if found.version > 0 { "updated" } else { "created" };
    steps.push(step("config", action, change.version, change.warnings));
    Ok(steps)
}

fn report(session: &Session, steps: &[Step], failures: &[Refused], dry_run: bool) -> Result<(), Failure> {
    session.out.print(&serde_json::json!({ "steps": steps, "failures": failures }), |_| {
        let of = |action: &str| steps.iter().filter(|step| step.action == action).count();
        let mut lines: Vec<String> = Vec::new();
        for step in steps.iter().filter(|step| step.action != "unchanged") {
            let version = step.version.map_or_else(String::new, |version| format!(", v{version}"));
            let would = if dry_run { "would be " } else { "" };
            lines.push(format!("{} {} {would}{}{version}", step.service_name, step.what, step.action));
            lines.extend(step.warnings.iter().map(|warning| format!("  warning: {warning}")));
        }
        let change = if dry_run { "to change" } else { "changed" };
        lines.push(format!("{} unchanged, {} {change}", of("unchanged"), steps.len() - of("unchanged")));
        lines.join("\n")
    })
}

/// How far long work has come, on a terminal only.
struct Progress {
    all: usize,
    done: usize,
    shown: bool,
}

impl Progress {
    fn of(all: usize) -> Self {
        use std::io::IsTerminal as _;
        Self { all, done: 0, shown: all > 20 && std::io::stderr().is_terminal() }
    }

    fn step(&mut self, service: &ServiceName) {
        self.done += 1;
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K{}/{} {service}", self.done, self.all);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
