//! Changing a config: one transaction under the service's lock, whatever the change.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::config::{Active, active_from};
use super::delivery::Delivery;
use super::outbox::NewEvent;
use super::row::Columns as _;
use super::{Store, StoreError, Tx, gate, object, sql};
use crate::domain::alert::Case;
use crate::domain::alert::plan::Begin;
use crate::domain::config::{Activation, Change, Expectation, Head, Refusal, Undo};
use crate::domain::limits::Limits;
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::settings::{Retention, Settings};
use crate::wire::config::{ConfigChange, WriteOptions, check_keys, too_large};
use crate::wire::event::Topic;
use crate::wire::{Error, ErrorCode, json};

/// What a write does to a service's config.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Publishes this content.
    Set(Map<String, Value>),
    /// Publishes what a merge patch makes of the active content.
    Patch(Map<String, Value>),
    /// Puts a version back in force; `None`: takes back the newest change that isn't taken back yet.
    Rollback(Option<i64>),
    /// Takes the config out of force.
    Delete,
}

/// A write and all that it is decided by, beside the state of the config.
#[derive(Clone, Debug)]
pub struct ConfigWrite {
    /// The service.
    pub service_name: ServiceName,
    /// What to do.
    pub operation: Operation,
    /// How.
    pub options: WriteOptions,
    /// Whom NATS vouches for.
    pub authenticated_as: Option<String>,
    /// By what it is recognised when it comes again.
    pub delivery: Delivery,
    /// Bounds on the content.
    pub limits: Limits,
    /// Which versions are kept; `None`: all.
    pub retention: Option<Retention>,
    /// Whether instances are to run it at once, rather than after a change freeze.
    pub push: bool,
}

/// What a write did.
#[derive(Clone, Debug)]
pub struct Written {
    /// The answer, except whether KV holds it.
    pub change: ConfigChange,
    /// What is in force after it; `None` after a dry run.
    pub active: Option<Active>,
    /// Whether this answer was given before, and nothing was done now.
    pub repeated: bool,
}

/// The state that a write finds.
struct State {
    head: Head,
    epoch: i64,
    active_config: Option<String>,
    /// JSON pointers that the writer of the active version vouched for.
    not_secret: BTreeSet<String>,
    schema: Option<Value>,
}

/// The content that a write puts in force.
struct Content {
    value: Value,
    /// As Postgres prints it.
    text: String,
    /// JSON pointers that its writer vouches for.
    not_secret: BTreeSet<String>,
}

impl Store {
    /// Changes a config, unless it is so already.
    ///
    /// # Errors
    /// What a rule refuses; what Postgres says.
    pub async fn write_config(&self, write: &ConfigWrite) -> Result<Written, StoreError> {
        self.run_tx("config write", write, |tx, write| Box::pin(write_in(tx, write))).await
    }
}

async fn write_in(tx: &Tx<'_>, write: &ConfigWrite) -> Result<Written, StoreError> {
    let service = write.service_name.as_str();
    tx.execute(sql::CONFIG_HEAD_LOCK, &[&service]).await?;
    if let Some(change) = tx.first_answer(&write.delivery).await? {
        return Ok(Written { change, active: read_active(tx, service).await?, repeated: true });
    }
    let state = state_from(&tx.query_one(sql::CONFIG_STATE, &[&service]).await?)?;
    let options = &write.options;
    let expected = Expectation { version: options.expected_version, revision: options.expected_revision };
    let refused = |refusal| refusal_error(refusal, &write.service_name, &state.head);
    state.head.check(expected).map_err(refused)?;

    let content = content(tx, write, &state).await?;
    let same = content.as_ref().map(|content| &content.text) == state.active_config.as_ref();
    let change = match &write.operation {
        Operation::Set(_) | Operation::Patch(_) => state.head.publish(same),
        Operation::Rollback(Some(version)) => state.head.roll_back_to(*version),
        Operation::Rollback(None) => state.head.roll_back().map_err(refused)?,
        Operation::Delete => state.head.delete().map_err(refused)?,
    };
    let mut warnings = Vec::new();
    let mut forced = Vec::new();
    if let (Change::Activate(_), Some(content)) = (change, &content) {
        forced = pass_gate(tx, write, &state, content.value.clone()).await?;
        if !forced.is_empty() {
            warnings.push(format!("forced: {} live instances declared that they can't read it", forced.len()));
        }
    }
    if !write.push {
        warnings.push(
            "a change freeze is on (operational.config_management.enable_hot_reload is false): stored, not pushed"
                .into(),
        );
    }
    if let Some(content) = content.as_ref().filter(|_| service == ServiceName::HUB) {
        warnings.extend(Settings::load(&content.value).map(|loaded| loaded.warnings).unwrap_or_default());
    }
    let (changed, version, revision) = match change {
        Change::Unchanged => (false, state.head.version, state.head.revision),
        Change::Activate(activation) => (true, activation.version, activation.revision),
    };
    let change_reply = ConfigChange {
        service_name: write.service_name.clone(),
        version,
        revision,
        epoch: state.epoch,
        changed,
        published: false,
        warnings,
    };
    if options.dry_run {
        tx.execute(sql::CONFIG_HEAD_FORGET, &[&service]).await?;
        return Ok(Written { change: change_reply, active: None, repeated: false });
    }
    if let Change::Activate(activation) = change {
        activate(tx, write, &state, activation, content.as_ref(), &forced).await?;
    }
    tx.keep_answer(&write.delivery, &change_reply).await?;
    Ok(Written { change: change_reply, active: read_active(tx, service).await?, repeated: false })
}

fn state_from(row: &Row) -> Result<State, StoreError> {
    let undo = match row.read::<Option<i64>>("undo_revision")? {
        Some(revision) => Some(Undo { revision, version: row.read("undo_version")?, below: row.read("undo_below")? }),
        None => None,
    };
    Ok(State {
        head: Head {
            revision: row.read("revision")?,
            version: row.read("version")?,
            last_version: row.read("last_version")?,
            undo,
        },
        epoch: row.read("epoch")?,
        active_config: row.read("active_config")?,
        not_secret: match row.read::<Option<Value>>("not_secret")? {
            None => BTreeSet::new(),
            Some(pointers) => serde_json::from_value(pointers).map_err(StoreError::defect)?,
        },
        schema: row.read("schema")?,
    })
}

/// The content that the write puts in force; `None`: a delete, or a rollback to one.
async fn content(tx: &Tx<'_>, write: &ConfigWrite, state: &State) -> Result<Option<Content>, StoreError> {
    let service = &write.service_name;
    match &write.operation {
        Operation::Set(config) => new_content(tx, write, state, Value::Object(config.clone())).await.map(Some),
        Operation::Patch(patch) => {
            let active = state.active_config.as_ref().ok_or_else(|| no_config(service))?;
            let merged = merge(active, patch, &write.limits)?;
            new_content(tx, write, state, Value::Object(merged)).await.map(Some)
        }
        Operation::Rollback(to) => {
            let target = to.or(state.head.undo.and_then(|undo| undo.version));
            let Some(version) = target else { return Ok(None) };
            let row = tx.query_opt(sql::CONFIG_VERSION, &[&service.as_str(), &version]).await?;
            let gone = || if to.is_some() { no_version(service, version) } else { not_kept(service, version) };
            let text: String = row.ok_or_else(gone)?.read("config")?;
            let value = gate::parsed(&text)?;
            // Its writer vouched for it.
            Ok(Some(Content { value, text, not_secret: BTreeSet::new() }))
        }
        Operation::Delete => Ok(None),
    }
}

/// What a merge patch makes of the active content, which must be what a set could have brought, and stay so.
fn merge(active: &str, patch: &Map<String, Value>, limits: &Limits) -> Result<Map<String, Value>, StoreError> {
    let before = json::parse_object(active.as_bytes(), limits.depth).map_err(|violation| {
        let place = Error::shown(&violation.path);
        let rule = format!("the active config can't be patched, set it whole: at {place} {}", violation.rule);
        Error::field("patch", rule).at(&violation.path)
    })?;
    let is_empty = before.is_empty();
    let mut merged = Value::Object(before);
    json_patch::merge(&mut merged, &Value::Object(patch.clone()));
    let merged = object(merged);
    if merged.is_empty() && !is_empty {
        let rule = "would remove every key: use hub.config.delete, or set an empty config on purpose";
        return Err(Error::field("patch", rule).into());
    }
    check_keys("patch", &merged, limits.config_keys)?;
    json::check_forms(&merged).map_err(|violation| {
        Error::field("patch", format!("{} {}", Error::shown(&violation.path), violation.rule)).at(&violation.path)
    })?;
    Ok(merged)
}

/// Content that is about to be published. Its secrets are looked for before Postgres sees it, whose log may show all that it
/// is sent.
async fn new_content(tx: &Tx<'_>, write: &ConfigWrite, state: &State, value: Value) -> Result<Content, StoreError> {
    let mut not_secret: BTreeSet<String> = write.options.not_secret.iter().cloned().collect();
    not_secret.extend(still_vouched_for(write, state, &value)?);
    let secrets = gate::find_secrets(&write.service_name, &value, &not_secret).await?;
    if !secrets.is_empty() {
        let next = "put \"${env:NAME}\" there, which clients resolve from their environment, or list the path in not_secret if it is none";
        return Err(Error::secret_detected("config", next, secrets).into());
    }
    let text: String = tx.query_one(sql::CONFIG_NORMALISE, &[&value.to_string()]).await?.read("config")?;
    if text.len() > write.limits.config_bytes {
        return Err(too_large(write.limits.config_bytes).into());
    }
    Ok(Content { value, text, not_secret })
}

/// What the writer of the active version vouched for, as far as it is the same still: in a patch, which leaves alone what it
/// doesn't name, or in the same config once more.
fn still_vouched_for(write: &ConfigWrite, state: &State, value: &Value) -> Result<Vec<String>, StoreError> {
    let Some(active) = state.active_config.as_ref().filter(|_| !state.not_secret.is_empty()) else {
        return Ok(Vec::new());
    };
    let active = gate::parsed(active)?;
    let leaves_alone = matches!(write.operation, Operation::Patch(_)) || active == *value;
    let is_the_same = |pointer: &&String| leaves_alone && value.pointer(pointer) == active.pointer(pointer);
    let is_there = |pointer: &&String| value.pointer(pointer).is_some();
    Ok(state.not_secret.iter().filter(is_the_same).filter(is_there).cloned().collect())
}

/// Holds the content against the gate, and gives the instances that `force` overrules.
async fn pass_gate(
    tx: &Tx<'_>,
    write: &ConfigWrite,
    state: &State,
    content: Value,
) -> Result<Vec<InstanceId>, StoreError> {
    let findings = tx.check_config(&write.service_name, state.schema.clone(), content).await?;
    if !findings.violations.is_empty() {
        let violations = serde_json::to_value(&findings.violations).map_err(StoreError::defect)?;
        return Err(Error::new(ErrorCode::SchemaViolation, "config: it doesn't satisfy the service's schema")
            .with("field", "config")
            .with("violations", violations)
            .into());
    }
    if !findings.incompatible.is_empty() && !write.options.force {
        let instances: Vec<&str> = findings.incompatible.iter().map(InstanceId::as_str).collect();
        return Err(Error::new(
            ErrorCode::Incompatible,
            "config: live instances declared that they can't read it; upgrade them first, or publish with force",
        )
        .with("field", "config")
        .with("instances", instances)
        .into());
    }
    Ok(findings.incompatible)
}

async fn activate(
    tx: &Tx<'_>,
    write: &ConfigWrite,
    state: &State,
    activation: Activation,
    content: Option<&Content>,
    forced: &[InstanceId],
) -> Result<(), StoreError> {
    let service = write.service_name.as_str();
    let options = &write.options;
    let author = options.created_by.as_deref().unwrap_or("unknown");
    tx.execute(sql::CONFIG_DEACTIVATE, &[&service]).await?;
    match (activation.version, content) {
        (Some(version), Some(content)) if activation.is_new => {
            let not_secret = (!content.not_secret.is_empty()).then(|| serde_json::json!(content.not_secret));
            let params: super::Params<'_> =
                &[&service, &version, &content.text, &author, &write.authenticated_as, &options.comment, &not_secret];
            tx.execute(sql::CONFIG_INSERT, params).await?;
        }
        (Some(version), _) => {
            if tx.execute(sql::CONFIG_REACTIVATE, &[&service, &version]).await? == 0 {
                // Somebody removed it a moment ago.
                return Err(no_version(&write.service_name, version).into());
            }
        }
        (None, _) => {}
    }
    let params: super::Params<'_> = &[
        &service,
        &activation.revision,
        &activation.version,
        &activation.action.as_str(),
        &author,
        &write.authenticated_as,
        &options.comment,
        &activation.undo,
        &!forced.is_empty(),
        &write.push,
    ];
    tx.execute(sql::CONFIG_ACTIVATE, params).await?;
    tx.end_forced(Some(&write.service_name)).await?;
    if let Some(retention) = write.retention {
        tx.prune_configs(Some(service), retention).await?;
    }
    let forced: Vec<&str> = forced.iter().map(InstanceId::as_str).collect();
    let mut details = object(serde_json::json!({
        "version": activation.version,
        "revision": activation.revision,
        "epoch": state.epoch,
        "replaces": state.head.version,
        "by": author,
        "comment": options.comment,
    }));
    if let Some(name) = &write.authenticated_as {
        details.insert("authenticated_as".into(), name.as_str().into());
    }
    if let Some(content) = content.filter(|content| !content.not_secret.is_empty()) {
        details.insert("not_secret".into(), serde_json::json!(content.not_secret));
    }
    if !forced.is_empty() {
        details.insert("forced_upon".into(), forced.as_slice().into());
        tx.begin_alerts(&[Begin {
            severity: Case::ConfigForced.severity(),
            kind: Case::ConfigForced.kind(),
            name: write.service_name.clone(),
            message: format!("{author} forced a config upon instances that declared that they can't read it"),
            details: object(serde_json::json!({ "instances": forced, "revision": activation.revision })),
            cause: None,
            replaces: None,
        }])
        .await?;
    }
    let event = NewEvent {
        topic: Topic::Config,
        kind: activation.action.into(),
        service_name: write.service_name.clone(),
        instance_id: None,
        details,
    };
    tx.record(&[event]).await
}

async fn read_active(tx: &Tx<'_>, service: &str) -> Result<Option<Active>, StoreError> {
    let row = tx.query_opt(sql::CONFIG_ACTIVE, &[&vec![service]]).await?;
    row.as_ref().map(active_from).transpose()
}

fn refusal_error(refusal: Refusal, service: &ServiceName, head: &Head) -> Error {
    match refusal {
        Refusal::OtherVersion | Refusal::OtherRevision => {
            let field = if refusal == Refusal::OtherVersion { "expected_version" } else { "expected_revision" };
            Error::new(
                ErrorCode::VersionConflict,
                format!("{field}: the active config is not the expected one: read it, and decide again"),
            )
            .with("field", field)
            .with("active_version", head.version)
            .with("revision", head.revision)
        }
        Refusal::NoConfig => no_config(service),
        Refusal::NothingToUndo => Error::new(
            ErrorCode::NotFound,
            format!(
                "{service} has no earlier config to go back to; name one with to_version, hub.config.history tells which there are"
            ),
        ),
    }
}

fn no_config(service: &ServiceName) -> Error {
    Error::new(ErrorCode::NotFound, format!("{service} has no config in force; hub.config.set gives it one"))
}

fn no_version(service: &ServiceName, version: i64) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!("{service} has no config version {version}, or no longer; hub.config.history tells which there are"),
    )
    .with("field", "to_version")
}

/// What a rollback without argument goes back to, when it is gone: a version is kept while the next
/// rollback would need it, and no longer.
fn not_kept(service: &ServiceName, version: i64) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!(
            "version {version} of {service} was in force before and is no longer kept; name another one with to_version, hub.config.history tells which there are"
        ),
    )
}
