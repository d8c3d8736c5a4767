//! Changing a config: one transaction under the service's lock, whatever the change.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tokio_postgres::Row;

use super::alerts::{Alert, Severity};
use super::config::{Active, active_from};
use super::outbox::NewEvent;
use super::registry::instance_in;
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::config::{Activation, Change, Expectation, Head, Refusal, Undo};
use crate::domain::gate::{Findings, Gate, Reader};
use crate::domain::limits::Limits;
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::config::{ConfigChange, WriteOptions, check_keys};
use crate::wire::{Error, ErrorCode};

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
    /// The call's subject and body, by which a request id is bound.
    pub subject: String,
    /// See `subject`.
    pub body: bytes::Bytes,
    /// Bounds on the content.
    pub limits: Limits,
    /// Versions that are kept; `None`: all.
    pub versions_kept: Option<i64>,
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
}

/// The state that a write finds.
struct State {
    head: Head,
    epoch: i64,
    active_config: Option<String>,
    schema: Option<Value>,
}

/// The content that a write puts in force.
struct Content {
    value: Value,
    /// As Postgres prints it.
    text: String,
}

impl Store {
    /// Changes a config, unless it is so already.
    ///
    /// # Errors
    /// What a rule refuses; what Postgres says.
    pub async fn write_config(&self, write: &ConfigWrite) -> Result<Written, StoreError> {
        self.run_tx("config write", write, |tx, write| Box::pin(write_in(tx, write))).await
    }

    /// What the gate of a service finds in a config.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn check_config(&self, service: &ServiceName, config: Value) -> Result<Findings, StoreError> {
        let rows = self.query(sql::CONFIG_SCHEMA_GET, &[&service.as_str()]).await?;
        let schema = rows.first().map(|row| row.get("schema"));
        let rows = self.query(sql::CONFIG_READERS, &[&service.as_str()]).await?;
        let readers = rows.iter().map(reader_from).collect::<Result<_, _>>()?;
        check(Gate { schema, readers, not_secret: BTreeSet::new() }, service.clone(), config).await
    }
}

async fn write_in(tx: &Tx<'_>, write: &ConfigWrite) -> Result<Written, StoreError> {
    let service = write.service_name.as_str();
    tx.execute(sql::CONFIG_HEAD_LOCK, &[&service]).await?;
    if let Some(change) = first_answer(tx, write).await? {
        return Ok(Written { change, active: read_active(tx, service).await? });
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
        return Ok(Written { change: change_reply, active: None });
    }
    if let Change::Activate(activation) = change {
        activate(tx, write, &state, activation, content.as_ref(), &forced).await?;
    }
    if let Some(request_id) = &options.request_id {
        let answer = serde_json::to_value(&change_reply).map_err(StoreError::defect)?;
        let body: &[u8] = &write.body;
        tx.execute(sql::CONFIG_REQUEST_KEEP, &[&write.subject, request_id, &body, &answer]).await?;
    }
    Ok(Written { change: change_reply, active: read_active(tx, service).await? })
}

/// The answer that this request got before, if it carries an id that was used.
async fn first_answer(tx: &Tx<'_>, write: &ConfigWrite) -> Result<Option<ConfigChange>, StoreError> {
    let Some(request_id) = &write.options.request_id else { return Ok(None) };
    let body: &[u8] = &write.body;
    let Some(row) = tx.query_opt(sql::CONFIG_REQUEST_FIND, &[&write.subject, request_id, &body]).await? else {
        return Ok(None);
    };
    if !row.get::<_, bool>("same_body") {
        let rule = "was used for another request within ten minutes: take a new one";
        return Err(Error::field("request_id", rule).into());
    }
    serde_json::from_value(row.get("answer")).map(Some).map_err(StoreError::defect)
}

fn state_from(row: &Row) -> Result<State, StoreError> {
    let undo = row.get::<_, Option<i64>>("undo_revision").map(|revision| Undo {
        revision,
        version: row.get("undo_version"),
        below: row.get("undo_below"),
    });
    Ok(State {
        head: Head {
            revision: row.get("revision"),
            version: row.get("version"),
            last_version: row.get("last_version"),
            undo,
        },
        epoch: row.get("epoch"),
        active_config: row.get("active_config"),
        schema: row.get("schema"),
    })
}

/// The content that the write puts in force; `None`: a delete, or a rollback to one.
async fn content(tx: &Tx<'_>, write: &ConfigWrite, state: &State) -> Result<Option<Content>, StoreError> {
    let service = &write.service_name;
    match &write.operation {
        Operation::Set(config) => normalised(tx, write, Value::Object(config.clone())).await.map(Some),
        Operation::Patch(patch) => {
            let active = state.active_config.as_ref().ok_or_else(|| no_config(service))?;
            let merged = merge(active, patch)?;
            if let Value::Object(map) = &merged {
                check_keys("patch", map, write.limits.config_keys)?;
            }
            normalised(tx, write, merged).await.map(Some)
        }
        Operation::Rollback(to) => {
            let target = to.or(state.head.undo.and_then(|undo| undo.version));
            let Some(version) = target else { return Ok(None) };
            let row = tx.query_opt(sql::CONFIG_VERSION, &[&service.as_str(), &version]).await?;
            let text: String = row.ok_or_else(|| no_version(service, version))?.get("config");
            let value = serde_json::from_str(&text).map_err(StoreError::defect)?;
            Ok(Some(Content { value, text }))
        }
        Operation::Delete => Ok(None),
    }
}

fn merge(active: &str, patch: &Map<String, Value>) -> Result<Value, StoreError> {
    let before: Value = serde_json::from_str(active).map_err(StoreError::defect)?;
    let mut merged = before.clone();
    json_patch::merge(&mut merged, &Value::Object(patch.clone()));
    let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    if is_empty(&merged) && !is_empty(&before) {
        let rule = "would remove every key: use hub.config.delete, or set an empty config on purpose";
        return Err(Error::field("patch", rule).into());
    }
    Ok(merged)
}

async fn normalised(tx: &Tx<'_>, write: &ConfigWrite, value: Value) -> Result<Content, StoreError> {
    let text: String = tx.query_one(sql::CONFIG_NORMALISE, &[&value.to_string()]).await?.get("config");
    if text.len() > write.limits.config_bytes {
        return Err(Error::too_large("config", write.limits.config_bytes, "bytes as PostgreSQL prints it").into());
    }
    Ok(Content { value, text })
}

/// Holds the content against the gate, and gives the instances that `force` overrules.
async fn pass_gate(
    tx: &Tx<'_>,
    write: &ConfigWrite,
    state: &State,
    content: Value,
) -> Result<Vec<InstanceId>, StoreError> {
    let options = &write.options;
    for pointer in &options.not_secret {
        if content.pointer(pointer).is_none() {
            let rule = format!("{pointer} points nowhere in the config");
            return Err(Error::field("not_secret", rule).into());
        }
    }
    let rows = tx.query(sql::CONFIG_READERS, &[&write.service_name.as_str()]).await?;
    let gate = Gate {
        schema: state.schema.clone(),
        readers: rows.iter().map(reader_from).collect::<Result<_, _>>()?,
        not_secret: options.not_secret.iter().cloned().collect(),
    };
    let findings = check(gate, write.service_name.clone(), content).await?;
    // What is put back in force was vouched for when it was written.
    let is_new = matches!(write.operation, Operation::Set(_) | Operation::Patch(_));
    if is_new && !findings.secrets.is_empty() {
        return Err(Error::new(
            ErrorCode::SecretDetected,
            "config: it carries secrets; put \"${env:NAME}\" there, which clients resolve from their environment, or list the path in not_secret if it is none",
        )
        .with("field", "config")
        .with("paths", findings.secrets)
        .into());
    }
    if !findings.violations.is_empty() {
        let violations = serde_json::to_value(&findings.violations).map_err(StoreError::defect)?;
        return Err(Error::new(ErrorCode::SchemaViolation, "config: it doesn't satisfy the service's schema")
            .with("field", "config")
            .with("violations", violations)
            .into());
    }
    if !findings.incompatible.is_empty() && !options.force {
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

/// Checks on a thread where it may take its time.
async fn check(gate: Gate, service: ServiceName, config: Value) -> Result<Findings, StoreError> {
    tokio::task::spawn_blocking(move || gate.check(&service, &config)).await.map_err(StoreError::defect)
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
            let not_secret = (!options.not_secret.is_empty()).then(|| serde_json::json!(options.not_secret));
            let params: super::Params<'_> =
                &[&service, &version, &content.text, &author, &write.authenticated_as, &options.comment, &not_secret];
            tx.execute(sql::CONFIG_INSERT, params).await?;
        }
        (Some(version), _) => {
            tx.execute(sql::CONFIG_REACTIVATE, &[&service, &version]).await?;
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
    tx.resolve_forced(&write.service_name).await?;
    if let Some(kept) = write.versions_kept {
        tx.execute(sql::CONFIG_PRUNE, &[&service, &kept]).await?;
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
    if !forced.is_empty() {
        details.insert("forced_upon".into(), forced.as_slice().into());
        tx.raise(&Alert {
            severity: Severity::Warning,
            source: "config",
            name: write.service_name.clone(),
            instance_id: None,
            message: format!("{author} forced a config upon instances that declared that they can't read it"),
            details: object(serde_json::json!({ "instances": forced, "revision": activation.revision })),
        })
        .await?;
    }
    let event = NewEvent {
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

fn reader_from(row: &Row) -> Result<Reader, StoreError> {
    Ok(Reader { instance_id: instance_in(row)?, schema: row.get("config_schema") })
}

fn refusal_error(refusal: Refusal, service: &ServiceName, head: &Head) -> Error {
    match refusal {
        Refusal::Conflict => Error::new(
            ErrorCode::VersionConflict,
            "the active config is not the expected one: read it, and decide again",
        )
        .with("active_version", head.version)
        .with("revision", head.revision),
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
