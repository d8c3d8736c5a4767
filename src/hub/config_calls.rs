//! What the config calls do.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;

use super::Hub;
use super::serve::{Call, encode, explain};
use crate::domain::config::{Convergence, Position};
use crate::domain::name::ServiceName;
use crate::domain::schema::Schema;
use crate::domain::settings::Settings;
use crate::store::config_write::{ConfigWrite, Operation};
use crate::wire::bucket::Key;
use crate::wire::config::{
    ConfigChange, ConfigDelete, ConfigDiff, ConfigGet, ConfigHistory, ConfigList, ConfigPatch, ConfigRollback,
    ConfigSet, ConfigStatus, ConfigValidate, ConfigsPage, ConvergenceStatus, Diff, History, SchemaGet, SchemaSet,
    ServiceSchema, Validation, WriteOptions,
};
use crate::wire::{Error, ErrorCode};

/// How long a config call waits for KV before it says `published: false`.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Room that a config leaves in a message for what stands beside it in KV and in an answer, in bytes: author and comment
/// may have 1,000 characters of six bytes each.
const CONFIG_MARGIN: usize = 16_384;

impl Hub {
    pub(super) async fn config_get(&self, request: ConfigGet) -> Result<Bytes, Error> {
        let service = &request.service_name;
        let failed = |error| explain(&error, "config get", Some(service.as_str()));
        if let Some(version) = request.version {
            let config = self.store.config_version(service, version).await.map_err(failed)?;
            let config = config.ok_or_else(|| no_such_version(service, version, "version"))?;
            check_revision(service, config.revision, request.min_revision)?;
            return encode(&config);
        }
        let enough = |position: Position| request.min_revision.is_none_or(|least| position.revision >= least);
        let remembered = if self.memory_is_current() { self.memory.get(service.as_str()) } else { None };
        let current = match remembered.filter(|remembered| enough(remembered.position)) {
            Some(remembered) => remembered,
            None => {
                let active = self.store.configs_active(&[service.as_str()]).await.map_err(failed)?;
                let active = active.first().ok_or_else(|| no_such_config(service))?;
                self.memory.offer(active)
            }
        };
        check_revision(service, current.position.revision, request.min_revision)?;
        current.answer.clone().ok_or_else(|| no_such_config(service))
    }

    pub(super) async fn config_set(&self, request: ConfigSet, call: &Call) -> Result<ConfigChange, Error> {
        self.change(request.service_name, Operation::Set(request.config), request.options, call).await
    }

    pub(super) async fn config_patch(&self, request: ConfigPatch, call: &Call) -> Result<ConfigChange, Error> {
        self.change(request.service_name, Operation::Patch(request.patch), request.options, call).await
    }

    pub(super) async fn config_rollback(&self, request: ConfigRollback, call: &Call) -> Result<ConfigChange, Error> {
        self.change(request.service_name, Operation::Rollback(request.to_version), request.options, call).await
    }

    pub(super) async fn config_delete(&self, request: ConfigDelete, call: &Call) -> Result<ConfigChange, Error> {
        self.change(request.service_name, Operation::Delete, request.options, call).await
    }

    /// Changes a config and pushes it: commits, remembers, and waits a moment for KV.
    async fn change(
        &self,
        service: ServiceName,
        operation: Operation,
        options: WriteOptions,
        call: &Call,
    ) -> Result<ConfigChange, Error> {
        if let Some(deadline) = options.deadline {
            check_deadline(deadline, OffsetDateTime::now_utc())?;
        }
        let mut settings = self.settings.borrow().clone();
        // What no message can carry would reach no watcher.
        let carried = self.requests.client.max_payload().saturating_sub(CONFIG_MARGIN);
        settings.limits.config_bytes = settings.limits.config_bytes.min(carried);
        let own = service.as_str() == ServiceName::HUB;
        let write = ConfigWrite {
            operation,
            options,
            authenticated_as: call.authenticated_as.clone(),
            subject: call.subject.to_string(),
            body: call.body.clone(),
            limits: settings.limits,
            versions_kept: settings.config_management.versions_kept(),
            push: own || settings.config_management.enable_hot_reload,
            service_name: service.clone(),
        };
        let written = self.store.write_config(&write).await;
        let written = written.map_err(|error| explain(&error, "config change", Some(service.as_str())))?;
        let mut change = written.change;
        let Some(active) = written.active else { return Ok(change) };
        self.memory.offer(&active);
        if change.changed {
            let (version, revision) = (change.version, change.revision);
            tracing::info!(service = service.as_str(), version, revision, "config changed");
        }
        let projected = self.configs.project(Key::Config(service));
        self.committed.notify_one();
        if let Some(projected) = projected {
            change.published = matches!(tokio::time::timeout(PUBLISH_TIMEOUT, projected).await, Ok(Ok(())));
        }
        if own && let Some(config) = &active.config {
            let value = serde_json::from_str(config.config.get()).unwrap_or(Value::Null);
            change.warnings.extend(Settings::load(&value).map(|loaded| loaded.warnings).unwrap_or_default());
        }
        Ok(change)
    }

    pub(super) async fn config_history(&self, request: ConfigHistory) -> Result<History, Error> {
        let service = &request.service_name;
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default);
        let history = self.store.config_history(service, request.before_revision, limit).await;
        let (activations, versions) =
            history.map_err(|error| explain(&error, "config history", Some(service.as_str())))?;
        if activations.is_empty() && request.before_revision.is_none() {
            return Err(no_such_config(service));
        }
        Ok(History { activations, versions })
    }

    pub(super) async fn config_list(&self, request: ConfigList) -> Result<ConfigsPage, Error> {
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default);
        let rows = self.store.configs_page(request.cursor.as_deref().unwrap_or_default(), limit).await;
        let (configs, more) = self.page(rows.map_err(|error| explain(&error, "config list", None))?, limit);
        let last = configs.last().map(|last| last.service_name.to_string());
        Ok(ConfigsPage { next_cursor: last.filter(|_| more), configs })
    }

    pub(super) async fn config_diff(&self, request: ConfigDiff) -> Result<Diff, Error> {
        let service = &request.service_name;
        let failed = |error| explain(&error, "config diff", Some(service.as_str()));
        let to = match request.to {
            Some(version) => version,
            None => {
                let active = self.store.configs_active(&[service.as_str()]).await.map_err(failed)?;
                let active = active.first().and_then(|active| active.config.as_ref());
                active.ok_or_else(|| no_such_config(service))?.version
            }
        };
        let mut contents = Vec::with_capacity(2);
        for (field, version) in [("from", request.from), ("to", to)] {
            let config = self.store.config_version(service, version).await.map_err(failed)?;
            let config = config.ok_or_else(|| no_such_version(service, version, field))?;
            contents.push(serde_json::from_str::<Value>(config.config.get()).unwrap_or(Value::Null));
        }
        let operations = match contents.as_slice() {
            [from, to] => json_patch::diff(from, to).0,
            _ => Vec::new(),
        };
        let patch = operations.iter().filter_map(|operation| serde_json::to_value(operation).ok()).collect();
        Ok(Diff { from: request.from, to, patch })
    }

    pub(super) async fn config_validate(&self, request: ConfigValidate) -> Result<Validation, Error> {
        let service = &request.service_name;
        let findings = self.store.check_config(service, Value::Object(request.config)).await;
        let found = findings.map_err(|error| explain(&error, "config validate", Some(service.as_str())))?;
        Ok(Validation {
            valid: found.violations.is_empty() && found.secrets.is_empty() && found.incompatible.is_empty(),
            violations: found.violations,
            secrets: found.secrets,
            incompatible_instances: found.incompatible,
        })
    }

    pub(super) async fn config_status(&self, request: ConfigStatus) -> Result<ConvergenceStatus, Error> {
        let service = &request.service_name;
        let failed = |error| explain(&error, "config status", Some(service.as_str()));
        let active = self.store.configs_active(&[service.as_str()]).await.map_err(failed)?;
        let active = active.first().ok_or_else(|| no_such_config(service))?;
        let head = active.position;
        let instances = self.store.config_reports(service, head.revision, active.updated_at).await.map_err(failed)?;
        let key = Key::Config(service.clone());
        let in_kv = tokio::time::timeout(PUBLISH_TIMEOUT, self.configs.read(&key)).await;
        let published =
            matches!(in_kv, Ok(Ok(Some(value))) if serde_json::from_slice::<Position>(&value).is_ok_and(|p| p == head));
        Ok(ConvergenceStatus {
            version: active.config.as_ref().map(|config| config.version),
            revision: head.revision,
            published,
            converged: !instances.is_empty() && instances.iter().all(|instance| instance.state == Convergence::Current),
            instances,
        })
    }

    pub(super) async fn schema_get(&self, request: SchemaGet) -> Result<ServiceSchema, Error> {
        let service_name = request.service_name;
        let schema = self.store.config_schema(&service_name).await;
        let schema = schema.map_err(|error| explain(&error, "schema get", Some(service_name.as_str())))?;
        Ok(ServiceSchema { service_name, schema: schema.unwrap_or(Value::Null), warnings: Vec::new() })
    }

    pub(super) async fn schema_set(&self, request: SchemaSet) -> Result<ServiceSchema, Error> {
        let SchemaSet { service_name, schema } = request;
        let given = Some(&schema).filter(|schema| !schema.is_null());
        if let Some(schema) = given {
            compiles("schema", schema).await?;
        }
        let failed = |error| explain(&error, "schema set", Some(service_name.as_str()));
        self.store.set_config_schema(&service_name, given).await.map_err(failed)?;
        let mut warnings = Vec::new();
        let active = self.store.configs_active(&[service_name.as_str()]).await.map_err(failed)?;
        if let Some(config) = active.first().and_then(|active| active.config.as_ref()) {
            let value = serde_json::from_str(config.config.get()).unwrap_or(Value::Null);
            let found = self.store.check_config(&service_name, value).await.map_err(failed)?;
            if !found.violations.is_empty() {
                warnings.push(format!("the active config, version {}, doesn't satisfy it", config.version));
            }
        }
        Ok(ServiceSchema { service_name, schema, warnings })
    }
}

/// Checks that a schema can be used, on a thread where that may take its time.
pub(super) async fn compiles(field: &'static str, schema: &Value) -> Result<(), Error> {
    let schema = schema.clone();
    let compiled = tokio::task::spawn_blocking(move || Schema::compile(&schema).map(|_| ())).await;
    let compiled = compiled.map_err(|_| Error::field(field, "can't be used as a JSON Schema"))?;
    compiled.map_err(|rule| Error::field(field, rule))
}

fn no_such_config(service: &ServiceName) -> Error {
    Error::new(ErrorCode::NotFound, format!("{service} has no config in force; hub.config.set gives it one"))
}

fn no_such_version(service: &ServiceName, version: i64, field: &str) -> Error {
    Error::new(
        ErrorCode::NotFound,
        format!("{service} has no config version {version}; hub.config.history tells which there are"),
    )
    .with("field", field)
}

fn check_revision(service: &ServiceName, revision: i64, least: Option<i64>) -> Result<(), Error> {
    match least {
        Some(least) if revision < least => Err(Error::new(
            ErrorCode::NotFound,
            format!("{service} has no config of revision {least} or newer; the newest is {revision}"),
        )
        .with("field", "min_revision")
        .with("revision", revision)),
        _ => Ok(()),
    }
}

fn check_deadline(deadline: OffsetDateTime, now: OffsetDateTime) -> Result<(), Error> {
    if now <= deadline {
        return Ok(());
    }
    let now = now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    Err(Error::new(ErrorCode::Expired, "deadline: it has passed, nothing was done")
        .with("field", "deadline")
        .with("now", now))
}
