//! Instances: registering, leaving, draining, listing.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::Row;

use super::dependencies::{check_dependencies, dependency_states};
use super::outbox::NewEvent;
use super::row::{Columns as _, readable};
use super::{Store, StoreError, Tx, object, sql};
use crate::domain::heartbeat::{self, Applied, Refusal};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::wire::bucket::Key;
use crate::wire::event::{Kind, Topic};
use crate::wire::registry::{ConfigRef, Dependency, Deregister, Instance, Register, ServicesDrain, ServicesList};
use crate::wire::{Error, ErrorCode};

/// What a registration made.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The new incarnation.
    pub incarnation: i64,
    /// The config that should be in force.
    pub config: Option<ConfigRef>,
    /// State of each dependency.
    pub dependencies: Vec<Dependency>,
}

/// An instance whose row this transaction locked.
pub(super) struct Locked {
    pub id: i64,
    pub service_name: ServiceName,
    pub interval_seconds: Option<f64>,
    pub draining: bool,
    pub record: heartbeat::Record,
}

impl Tx<'_> {
    /// Locks the instances with these keys and all instances of `services`, in the order of ids.
    pub(super) async fn lock_instances(
        &self,
        keys: &[(&ServiceName, &InstanceId)],
        services: &[&ServiceName],
    ) -> Result<Vec<Locked>, StoreError> {
        let names: Vec<&str> = keys.iter().map(|(service, _)| service.as_str()).collect();
        let instances: Vec<&str> = keys.iter().map(|(_, instance)| instance.as_str()).collect();
        let whole: Vec<&str> = services.iter().map(|service| service.as_str()).collect();
        let rows = self.query(sql::INSTANCES_LOCK, &[&names, &instances, &whole]).await?;
        Ok(readable("instances", &rows, locked_from))
    }

    /// Locks the instance that a call speaks of: the one it names, or the only one of its service.
    async fn lock_instance(&self, service: &ServiceName, named: Option<&InstanceId>) -> Result<Locked, StoreError> {
        let mut locked = match named {
            Some(instance) => self.lock_instances(&[(service, instance)], &[]).await?,
            None => self.lock_instances(&[], &[service]).await?,
        };
        let id = heartbeat::resolve(named, &locked, |row| &row.record.instance_id).map_err(Error::from)?.id;
        let at = locked.iter().position(|row| row.id == id);
        at.map(|at| locked.swap_remove(at)).ok_or_else(|| Error::from(Refusal::NotRegistered).into())
    }

    /// The newest activations of these services, by service.
    pub(super) async fn config_refs(&self, services: &[&str]) -> Result<HashMap<String, ConfigRef>, StoreError> {
        let rows = self.query(sql::CONFIG_HEADS, &[&services]).await?;
        rows.iter().map(|row| Ok((row.read("service_name")?, config_ref_from(row)?))).collect()
    }
}

impl Store {
    /// Registers an instance under `instance_id`, which replaces its record if there is one. It is told to beat each
    /// `interval_seconds`.
    ///
    /// # Errors
    /// [`ErrorCode::DependencyUnavailable`] where that was asked for; what Postgres says.
    pub async fn register(
        &self,
        request: &Register,
        instance_id: &InstanceId,
        interval_seconds: f64,
    ) -> Result<Registration, StoreError> {
        let input = (request, instance_id, interval_seconds);
        self.run_tx("register", input, |tx, (request, instance_id, interval_seconds)| {
            Box::pin(register_in(tx, request, instance_id, *interval_seconds))
        })
        .await
    }

    /// Removes an instance's record, and tells which.
    ///
    /// # Errors
    /// [`ErrorCode::NotRegistered`], [`ErrorCode::StaleIncarnation`], [`ErrorCode::AmbiguousInstance`]; what Postgres
    /// says.
    pub async fn deregister(&self, request: &Deregister) -> Result<InstanceId, StoreError> {
        self.run_tx("deregister", request, |tx, request| Box::pin(deregister_in(tx, request))).await
    }

    /// Takes an instance out of use, or back in; the record after it.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::AmbiguousInstance`]; what Postgres says.
    pub async fn drain(&self, request: &ServicesDrain) -> Result<Instance, StoreError> {
        self.run_tx("drain", request, |tx, request| Box::pin(drain_in(tx, request))).await
    }

    /// A page of instances after the `(service, instance)` cursor; one more than `limit`, to tell whether more follow.
    ///
    /// # Errors
    /// What Postgres says, and that too many read.
    pub async fn instances_page(
        &self,
        request: &ServicesList,
        after: (&str, &str),
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError> {
        let _turn = self.turn().await?;
        let status = request.status.map(Status::as_str);
        let service = request.service_name.as_ref().map(ServiceName::as_str);
        let metadata = request.metadata.clone().map(Value::Object);
        let draining = request.include_draining.unwrap_or(true);
        let rows = i64::from(limit) + 1;
        let params: super::Params<'_> = &[&after.0, &after.1, &status, &service, &metadata, &draining, &rows];
        self.query(sql::INSTANCES_PAGE, params).await?.iter().map(instance_from).collect()
    }

    /// All instances of a service, ordered by id.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn instances_of(&self, service: &ServiceName) -> Result<Vec<Instance>, StoreError> {
        self.query(sql::INSTANCES_OF_SERVICE, &[&service.as_str()]).await?.iter().map(instance_from).collect()
    }

    /// The instances with these keys, as far as there are any.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn instances_by_key(&self, keys: &[(&str, &str)]) -> Result<Vec<Instance>, StoreError> {
        let (services, instances): (Vec<&str>, Vec<&str>) = keys.iter().copied().unzip();
        self.query(sql::INSTANCES_BY_KEY, &[&services, &instances]).await?.iter().map(instance_from).collect()
    }

    /// The KV keys of all instances.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn instance_keys(&self) -> Result<Vec<Key>, StoreError> {
        let rows = self.query(sql::INSTANCE_NAMES, &[]).await?;
        Ok(readable("instances", &rows, |row| Ok(Key::Instance(service_in(row)?, instance_in(row)?))))
    }
}

async fn register_in(
    tx: &Tx<'_>,
    request: &Register,
    instance_id: &InstanceId,
    interval_seconds: f64,
) -> Result<Registration, StoreError> {
    let service = request.service_name.as_str();
    let status = request.status.unwrap_or(Status::Healthy);
    let dependencies = dependency_states(tx, &request.dependencies).await?;
    if request.require_dependencies {
        check_dependencies(&dependencies)?;
    }
    let params: super::Params<'_> = &[
        &service,
        &instance_id.as_str(),
        &status.as_str(),
        &request.heartbeat_interval_seconds,
        &request.version,
        &request.host,
        &request.port.map(i32::from),
        &serde_json::json!(request.dependencies),
        &Value::Object(request.metadata.clone()),
        &request.config_schema,
        &interval_seconds,
    ];
    let incarnation: i64 = tx.query_one(sql::INSTANCE_REGISTER, params).await?.read("incarnation")?;
    tx.record(&[NewEvent {
        topic: Topic::Service,
        kind: Kind::Registered,
        service_name: request.service_name.clone(),
        instance_id: Some(instance_id.clone()),
        details: object(serde_json::json!({
            "incarnation": incarnation,
            "status": status,
            "version": request.version,
            "host": request.host,
            "port": request.port,
        })),
    }])
    .await?;
    let config = tx.config_refs(&[service]).await?.into_values().next();
    Ok(Registration { incarnation, config, dependencies })
}

async fn deregister_in(tx: &Tx<'_>, request: &Deregister) -> Result<InstanceId, StoreError> {
    let locked = tx.lock_instance(&request.service_name, request.instance_id.as_ref()).await?;
    heartbeat::check_incarnation(request.incarnation, locked.record.incarnation).map_err(Error::from)?;
    tx.execute(sql::INSTANCE_DELETE, &[&vec![locked.id]]).await?;
    tx.record(&[NewEvent {
        topic: Topic::Service,
        kind: Kind::Deregistered,
        service_name: locked.service_name,
        instance_id: Some(locked.record.instance_id.clone()),
        details: object(serde_json::json!({ "reason": "goodbye", "incarnation": locked.record.incarnation })),
    }])
    .await?;
    Ok(locked.record.instance_id)
}

async fn drain_in(tx: &Tx<'_>, request: &ServicesDrain) -> Result<Instance, StoreError> {
    let locked = tx.lock_instance(&request.service_name, request.instance_id.as_ref()).await;
    let locked = locked.map_err(|error| match error {
        StoreError::Refused(refusal) if refusal.code == ErrorCode::NotRegistered => not_found().into(),
        other => other,
    })?;
    let row = tx.query_one(sql::INSTANCE_DRAIN, &[&locked.id, &request.draining, &request.reason]).await?;
    if locked.draining != request.draining {
        tx.record(&[NewEvent {
            topic: Topic::Service,
            kind: if request.draining { Kind::Draining } else { Kind::Undraining },
            service_name: locked.service_name,
            instance_id: Some(locked.record.instance_id),
            details: object(serde_json::json!({ "reason": request.reason })),
        }])
        .await?;
    }
    instance_from(&row)
}

fn not_found() -> Error {
    Error::new(ErrorCode::NotFound, "no such service or instance: hub.services.list tells which there are")
}

pub(super) fn service_in(row: &Row) -> Result<ServiceName, StoreError> {
    row.read::<String>("service_name")?.try_into().map_err(StoreError::defect)
}

pub(super) fn instance_in(row: &Row) -> Result<InstanceId, StoreError> {
    row.read::<String>("instance_id")?.try_into().map_err(StoreError::defect)
}

pub(super) fn status_in(row: &Row) -> Result<Status, StoreError> {
    row.read::<&str>("status")?.parse().map_err(StoreError::defect)
}

/// A [`ConfigRef`] from columns `version`, `revision` and `epoch`.
pub(super) fn config_ref_from(row: &Row) -> Result<ConfigRef, StoreError> {
    Ok(ConfigRef { version: row.read("version")?, revision: row.read("revision")?, epoch: row.read("epoch")? })
}

/// The names in a list; what is no name, only a hand at the SQL prompt could write, and it can't be anybody's.
fn names(list: Value) -> Vec<ServiceName> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str()?.parse().ok()).collect()
}

fn locked_from(row: &Row) -> Result<Locked, StoreError> {
    Ok(Locked {
        id: row.read("id")?,
        service_name: service_in(row)?,
        interval_seconds: row.read("heartbeat_interval_seconds")?,
        draining: row.read("draining")?,
        record: heartbeat::Record {
            instance_id: instance_in(row)?,
            incarnation: row.read("incarnation")?,
            status: status_in(row)?,
            applied: Applied {
                revision: row.read("config_revision")?,
                version: row.read("config_version")?,
                error: row.read("config_error")?,
            },
        },
    })
}

fn instance_from(row: &Row) -> Result<Instance, StoreError> {
    Ok(Instance {
        service_name: service_in(row)?,
        instance_id: instance_in(row)?,
        incarnation: row.read("incarnation")?,
        status: status_in(row)?,
        draining: row.read("draining")?,
        version: row.read("version")?,
        host: row.read("host")?,
        port: row.read::<Option<i32>>("port")?.map(u16::try_from).transpose().map_err(StoreError::defect)?,
        dependencies: names(row.read("dependencies")?),
        metadata: object(row.read("metadata")?),
        last_heartbeat: row.read("last_heartbeat")?,
        registered_at: row.read("registered_at")?,
        config_revision: row.read("config_revision")?,
        config_version: row.read("config_version")?,
        config_error: row.read("config_error")?,
    })
}
