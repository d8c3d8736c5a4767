//! What the config calls do.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;

use super::Hub;
use super::cursor::List;
use super::serve::{Call, encode, explain};
use crate::domain::config::{Convergence, Position, Violation};
use crate::domain::limits::Limits;
use crate::domain::name::ServiceName;
use crate::domain::settings;
use crate::store::StoreError;
use crate::store::config_schema::SchemaWrite;
use crate::store::config_write::{ConfigWrite, Operation};
use crate::store::delivery::Delivery;
use crate::store::gate::{compiles, find_secrets, parsed, violations};
use crate::wire::bucket::Key;
use crate::wire::config::{
    ConfigChange, ConfigDelete, ConfigDiff, ConfigGet, ConfigHistory, ConfigList, ConfigPatch, ConfigRollback,
    ConfigSet, ConfigStatus, ConfigValidate, ConfigsPage, ConvergenceStatus, Diff, History, SchemaGet, SchemaSet,
    ServiceSchema, Validation, WriteOptions, too_large,
};
use crate::wire::{Error, ErrorCode, json};

/// How long a config call waits for KV before it says `published: false`.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Room that a config leaves in a message for what stands beside it in KV and in an answer, in bytes: author and comment
/// may have 1,000 characters of six bytes each.
const CONFIG_MARGIN: usize = 16_384;

/// How deep a config may be nested, however it was written, for the hub to read it.
const READABLE_DEPTH: usize = 100;

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
        let management = self.settings.borrow().config_management.clone();
        let write = ConfigWrite {
            operation,
            authenticated_as: call.authenticated_as.clone(),
            delivery: delivery(call, options.request_id.clone(), options.deadline),
            options,
            limits: self.config_limits(),
            retention: management.retention(),
            // The hub's own config is never frozen: it is what ends a freeze.
            push: service.as_str() == ServiceName::HUB || management.enable_hot_reload,
            service_name: service.clone(),
        };
        let written = self.store.write_config(&write).await;
        let written = written.map_err(|error| explain(&error, "config change", Some(service.as_str())))?;
        let mut change = written.change;
        let Some(active) = written.active else { return Ok(change) };
        self.memory.offer(&active);
        if change.changed && !written.repeated {
            let (version, revision) = (change.version, change.revision);
            tracing::info!(service = service.as_str(), version, revision, "config changed");
        }
        let projected = self.configs.project(Key::Config(service));
        self.committed.notify_one();
        if active.pushed {
            change.published = matches!(tokio::time::timeout(PUBLISH_TIMEOUT, projected).await, Ok(Ok(true)));
        }
        Ok(change)
    }

    /// The bounds on a config now. What no message can carry would reach no watcher.
    fn config_limits(&self) -> Limits {
        let mut limits = self.settings.borrow().limits.clone();
        let carried = self.requests.client.max_payload().saturating_sub(CONFIG_MARGIN);
        limits.config_bytes = limits.config_bytes.min(carried);
        limits
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
        let after: Option<ServiceName> = List::Configs.place(request.cursor.as_deref(), |name| name.parse().ok())?;
        let rows = self.store.configs_page(after.as_ref().map_or("", ServiceName::as_str), limit).await;
        let (configs, more) = self.page(rows.map_err(|error| explain(&error, "config list", None))?, limit);
        let last = configs.last().map(|last| List::Configs.cursor(&last.service_name));
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
            // Strictly: what could not be told exactly is not told.
            let content = json::parse_object(config.config.get().as_bytes(), READABLE_DEPTH);
            contents.push(content.map(Value::Object).map_err(|violation| {
                let place = Error::shown(&violation.path);
                let rule = format!("version {version} was written by SQL: at {place} {}", violation.rule);
                Error::field(field, rule).at(&violation.path)
            })?);
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
        let failed = |error| explain(&error, "config validate", Some(service.as_str()));
        let config = Value::Object(request.config);
        let secrets =
            find_secrets(service, &config, &request.not_secret.into_iter().collect()).await.map_err(failed)?;
        // Postgres, whose log may show all that it is sent, never sees a secret.
        if secrets.is_empty() {
            let most = self.config_limits().config_bytes;
            if self.store.size_of_config(&config).await.map_err(failed)? > most {
                return Err(too_large(most));
            }
        }
        let found = self.store.check_config(service, config).await.map_err(failed)?;
        Ok(Validation {
            valid: found.violations.is_empty() && secrets.is_empty() && found.incompatible.is_empty(),
            violations: found.violations,
            secrets,
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
        if service_name.as_str() == ServiceName::HUB {
            return Ok(ServiceSchema { service_name, schema: settings::schema(), warnings: Vec::new() });
        }
        let schema = self.store.config_schema(&service_name).await;
        let schema = schema.map_err(|error| explain(&error, "schema get", Some(service_name.as_str())))?;
        Ok(ServiceSchema { service_name, schema: schema.unwrap_or(Value::Null), warnings: Vec::new() })
    }

    pub(super) async fn schema_set(&self, request: SchemaSet, call: &Call) -> Result<ServiceSchema, Error> {
        let SchemaSet { service_name, schema, request_id, deadline } = request;
        if service_name.as_str() == ServiceName::HUB && !schema.is_null() {
            let rule = "the schema of the hub's own settings is built in; hub.config.schema.get tells it";
            return Err(Error::field("service_name", rule));
        }
        if !schema.is_null() {
            compiles("schema", &schema).await?;
        }
        let authenticated_as = call.authenticated_as.clone();
        let write =
            SchemaWrite { service_name, schema, authenticated_as, delivery: delivery(call, request_id, deadline) };
        let set = self.store.set_config_schema(&write).await;
        set.map_err(|error| explain(&error, "schema set", Some(write.service_name.as_str())))
    }

    /// A warning to an instance that declares that it can't read what is in force. It is registered all the same: whether it
    /// starts is its own decision.
    pub(super) async fn warn_of_config(&self, service: &ServiceName, schema: &Value) -> Option<String> {
        let found = async {
            let active = self.store.configs_active(&[service.as_str()]).await?;
            let Some(config) = active.into_iter().next().and_then(|active| active.config) else { return Ok(None) };
            let content = parsed(config.config.get())?;
            let violation = violations(schema.clone(), content).await?.into_iter().next();
            Ok::<_, StoreError>(violation.map(|violation| (config.version, violation)))
        };
        match found.await {
            Ok(found) => found.map(|(version, violation)| {
                let Violation { path, message } = violation;
                format!(
                    "config_schema: it doesn't hold for the config in force, version {version}: at {path:?}, {message}"
                )
            }),
            Err(error) => {
                tracing::debug!(cause = %error.chain(), "a registration was not told about its config");
                None
            }
        }
    }
}

fn delivery(call: &Call, request_id: Option<String>, deadline: Option<OffsetDateTime>) -> Delivery {
    Delivery { subject: call.subject.to_string(), body: call.body.clone(), request_id, deadline }
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
