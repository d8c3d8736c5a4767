//! What each call does: decode, decide, one transaction, reply, push.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;

use super::Hub;
use super::cursor::List;
use super::serve::{Call, encode, explain};
use crate::domain::heartbeat::{Applied, Report};
use crate::domain::liveness;
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::store::StoreError;
use crate::store::gate::compiles;
use crate::store::heartbeat::Beat;
use crate::wire::bucket::Key;
use crate::wire::health::{Health, HubHealth, NatsHealth, PostgresHealth, ProjectionHealth};
use crate::wire::registry::{
    Deregister, Deregistered, Heartbeat, HeartbeatAck, Instance, Register, Registered, Service, ServicesDrain,
    ServicesGet, ServicesList, ServicesPage,
};
use crate::wire::{Endpoint, Error, ErrorCode, Fields, Request};

/// How long `hub.health` waits for Postgres, and for NATS.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// Room that a page leaves in a message for what surrounds its rows, in bytes.
pub(super) const PAGE_MARGIN: usize = 4_096;

impl Hub {
    fn decode<R: Request>(&self, call: &Call) -> Result<R, Error> {
        let settings = self.settings.borrow();
        let mut fields = Fields::parse(&call.body, call.service.as_deref(), &settings.limits)?;
        let request = R::decode(&mut fields)?;
        fields.finish()?;
        Ok(request)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// What the caller is told instead.
    pub async fn answer(&self, call: &Call) -> Result<Bytes, Error> {
        match call.endpoint {
            Endpoint::Register | Endpoint::RegisterAs => encode(&self.register(self.decode(call)?).await?),
            Endpoint::Heartbeat => encode(&self.heartbeat(self.decode(call)?).await?),
            Endpoint::Deregister => encode(&self.deregister(self.decode(call)?).await?),
            Endpoint::ServicesList => encode(&self.services_list(self.decode(call)?).await?),
            Endpoint::ServicesGet => encode(&self.services_get(self.decode(call)?).await?),
            Endpoint::ServicesDrain => encode(&self.services_drain(self.decode(call)?).await?),
            Endpoint::ConfigGet => self.config_get(self.decode(call)?).await,
            Endpoint::ConfigSet => encode(&self.config_set(self.decode(call)?, call).await?),
            Endpoint::ConfigPatch => encode(&self.config_patch(self.decode(call)?, call).await?),
            Endpoint::ConfigRollback => encode(&self.config_rollback(self.decode(call)?, call).await?),
            Endpoint::ConfigDelete => encode(&self.config_delete(self.decode(call)?, call).await?),
            Endpoint::ConfigDiff => encode(&self.config_diff(self.decode(call)?).await?),
            Endpoint::ConfigValidate => encode(&self.config_validate(self.decode(call)?).await?),
            Endpoint::ConfigStatus => encode(&self.config_status(self.decode(call)?).await?),
            Endpoint::SchemaGet => encode(&self.schema_get(self.decode(call)?).await?),
            Endpoint::SchemaSet => encode(&self.schema_set(self.decode(call)?, call).await?),
            Endpoint::ConfigHistory => encode(&self.config_history(self.decode(call)?).await?),
            Endpoint::ConfigList => encode(&self.config_list(self.decode(call)?).await?),
            Endpoint::Health => {
                self.decode::<Health>(call)?;
                encode(&self.health().await)
            }
            Endpoint::Status => encode(&self.fleet_status(self.decode(call)?).await?),
            Endpoint::Metrics => encode(&self.metrics(self.decode(call)?).await?),
            Endpoint::UptimeOf => encode(&self.uptime_of(self.decode(call)?).await?),
            Endpoint::Uptime => encode(&self.uptime(self.decode(call)?).await?),
            Endpoint::InfraStatus => encode(&self.infra_status(self.decode(call)?).await?),
            Endpoint::InfraCheck => encode(&self.infra_check(self.decode(call)?).await?),
            Endpoint::DepsGraph => self.deps_graph(self.decode(call)?).await,
            Endpoint::DepsImpact => self.deps_impact(self.decode(call)?).await,
            Endpoint::AlertsList => encode(&self.alerts_list(self.decode(call)?).await?),
            Endpoint::AlertsAck => encode(&self.alerts_ack(self.decode(call)?, call).await?),
            Endpoint::Timeline => encode(&self.timeline(self.decode(call)?).await?),
        }
    }

    /// Answers at once what memory knows: the active config, asked for without further wishes.
    pub fn answer_from_memory(&self, call: &Call) -> Option<Bytes> {
        if call.endpoint != Endpoint::ConfigGet || !(call.body.is_empty() || &*call.body == b"{}") {
            return None;
        }
        self.memory_is_current().then(|| self.memory.get(call.service.as_deref()?)?.answer.clone()).flatten()
    }

    /// Whether memory has what is in force. In a change freeze KV doesn't tell of what others commit.
    pub(super) fn memory_is_current(&self) -> bool {
        let settings = &self.settings.borrow().config_management;
        settings.enable_hot_reload
            && self.config_sight.within(Duration::from_secs_f64(settings.config_cache_ttl_seconds))
    }

    async fn register(&self, request: Register) -> Result<Registered, Error> {
        let instance_id = match (&request.instance_id, &request.host, request.port) {
            (Some(id), ..) => id.clone(),
            (None, Some(host), Some(port)) => InstanceId::at_address(host, port),
            (None, ..) => generated_id()?,
        };
        let service = request.service_name.as_str();
        if let Some(schema) = &request.config_schema {
            compiles("config_schema", schema).await?;
        }
        let settings = self.settings.borrow().service_discovery.clone();
        let asked = request.heartbeat_interval_seconds;
        let interval_seconds = asked.unwrap_or(settings.heartbeat_interval_seconds);
        let made = self
            .store
            .register(&request, &instance_id, interval_seconds)
            .await
            .map_err(|error| explain(&error, "register", Some(service)))?;
        self.committed.notify_one();
        tracing::info!(service, instance = instance_id.as_str(), incarnation = made.incarnation, "registered");
        let mut warnings = registration_warnings(&request);
        if let Some(schema) = &request.config_schema {
            warnings.extend(self.warn_of_config(&request.service_name, schema).await);
        }
        Ok(Registered {
            status: request.status.unwrap_or(Status::Healthy),
            heartbeat_interval_seconds: interval_seconds,
            service_timeout_seconds: liveness::timeout_seconds(asked, &settings),
            incarnation: made.incarnation,
            config: made.config,
            dependencies: made.dependencies,
            warnings,
            service_name: request.service_name,
            instance_id,
        })
    }

    async fn heartbeat(&self, request: Heartbeat) -> Result<HeartbeatAck, Error> {
        let metrics = (!request.metrics.is_empty()).then(|| serde_json::Value::Object(request.metrics).to_string());
        let report = Report {
            instance_id: request.instance_id,
            incarnation: request.incarnation,
            status: request.status.unwrap_or(Status::Healthy),
            applied: Applied {
                revision: request.config_revision,
                version: request.config_version,
                error: request.config_error,
            },
        };
        let service_name = request.service_name;
        let runs = report.applied.revision;
        let heard = self.heartbeats.take(Beat { service_name: service_name.clone(), report, metrics }).await?;
        if let (Some(runs), Some(should)) = (runs, heard.config)
            && runs > should.revision
        {
            self.weigh_hearsay(&service_name, &heard.instance_id, runs).await;
        }
        Ok(HeartbeatAck {
            service_name,
            instance_id: heard.instance_id,
            status: heard.status,
            config: heard.config,
            heartbeat_interval_seconds: heard.interval_seconds,
        })
    }

    /// An instance says that it runs something newer than what Postgres has: then Postgres went back, and the epoch is
    /// raised so that the instance takes what is in force now.
    async fn weigh_hearsay(&self, service: &ServiceName, instance: &InstanceId, runs: i64) {
        let raised = async {
            let active = self.store.configs_active(&[service.as_str()]).await?;
            let Some(head) = active.first().map(|active| active.position).filter(|head| runs > head.revision) else {
                return Ok(None);
            };
            let evidence = format!("{service}.{instance} runs revision {runs}");
            self.store.raise_epoch_told_by(service, instance, head.epoch, &evidence).await
        };
        match raised.await {
            Ok(None) => {}
            Ok(Some(epoch)) => {
                let (service, instance) = (service.as_str(), instance.as_str());
                tracing::warn!(
                    epoch,
                    service,
                    instance,
                    runs,
                    "an instance runs a newer config than Postgres has: the epoch was raised"
                );
                self.configs.suspicion.notify_one();
            }
            Err(error) => tracing::debug!(cause = %error.chain(), "the epoch was not looked at"),
        }
    }

    async fn deregister(&self, request: Deregister) -> Result<Deregistered, Error> {
        let service = request.service_name.as_str();
        let instance_id =
            self.store.deregister(&request).await.map_err(|error| explain(&error, "deregister", Some(service)))?;
        self.committed.notify_one();
        tracing::info!(service, instance = instance_id.as_str(), "deregistered");
        Ok(Deregistered { service_name: request.service_name, instance_id })
    }

    async fn services_list(&self, request: ServicesList) -> Result<ServicesPage, Error> {
        let place = |place: &str| {
            let (service, instance) = place.split_once('.')?;
            Some((service.parse::<ServiceName>().ok()?, instance.parse::<InstanceId>().ok()?))
        };
        let after = List::Instances.place(request.cursor.as_deref(), place)?;
        let after = after.as_ref().map_or(("", ""), |(service, instance)| (service.as_str(), instance.as_str()));
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default);
        let rows = self.store.instances_page(&request, after, limit).await;
        let rows = rows.map_err(|error| explain(&error, "services list", None))?;
        let (services, more) = self.page(rows, limit);
        let last =
            services.last().map(|last| Key::Instance(last.service_name.clone(), last.instance_id.clone()).text());
        let last = last.map(|last| List::Instances.cursor(last));
        Ok(ServicesPage { next_cursor: last.filter(|_| more), services })
    }

    async fn services_get(&self, request: ServicesGet) -> Result<Service, Error> {
        let service_name = request.service_name;
        let rows = self.store.instances_of(&service_name).await;
        let rows = rows.map_err(|error| explain(&error, "services get", Some(service_name.as_str())))?;
        let status = Status::best(rows.iter().map(|instance| instance.status));
        let status = status.ok_or_else(|| no_such_service(&service_name))?;
        let chosen = choose(&rows).cloned();
        let most = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let (instances, _) = self.page(rows, most);
        let (host, port) = chosen.map_or((None, None), |instance| (instance.host, instance.port));
        Ok(Service { service_name, status, host, port, instances })
    }

    async fn services_drain(&self, request: ServicesDrain) -> Result<Instance, Error> {
        let service = request.service_name.as_str();
        let instance = self.store.drain(&request).await.map_err(|error| explain(&error, "drain", Some(service)))?;
        self.committed.notify_one();
        tracing::info!(service, instance = instance.instance_id.as_str(), draining = instance.draining, "drain");
        Ok(instance)
    }

    /// Cuts rows to `limit`, and to what one message can carry; tells whether any were left.
    pub(super) fn page<T: Serialize>(&self, mut rows: Vec<T>, limit: u32) -> (Vec<T>, bool) {
        let all = rows.len();
        let mut room = self.requests.client.max_payload().saturating_sub(PAGE_MARGIN);
        let fits = |row: &T| {
            let size = serde_json::to_vec(row).map_or(0, |text| text.len() + 1);
            let left = room.checked_sub(size);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let count = rows.iter().take(limit as usize).take_while({
            let mut fits = fits;
            move |row| fits(row)
        });
        // A row that no message can carry makes the answer too large, which is told; without it the list would just end.
        let count = count.count().max(1);
        rows.truncate(count);
        (rows, count < all)
    }

    async fn health(&self) -> HubHealth {
        let asked = Instant::now();
        let (postgres, nats, pending) = tokio::join!(
            tokio::time::timeout(HEALTH_TIMEOUT, self.store.now()),
            self.writer.round_trip(HEALTH_TIMEOUT),
            tokio::time::timeout(HEALTH_TIMEOUT, self.store.count_unpublished()),
        );
        let postgres_ms = matches!(postgres, Ok(Ok(_))).then(|| super::millis(asked.elapsed()));
        let pending = pending.ok().and_then(Result::ok);
        let well = |fine: bool| if fine { Status::Healthy } else { Status::Down };
        // It answers others, and had no connection to spare for this question.
        let waited = matches!(postgres, Err(_) | Ok(Err(StoreError::Busy)));
        let busy = waited && self.store.silence() < HEALTH_TIMEOUT;
        let watching = self.config_sight.within(Duration::ZERO);
        let all_well = postgres_ms.is_some() && nats.is_ok() && watching;
        HubHealth {
            status: if all_well { Status::Healthy } else { Status::Degraded },
            version: env!("CARGO_PKG_VERSION").into(),
            replica_id: self.options.replica_id.to_string(),
            leader: self.leads.load(std::sync::atomic::Ordering::Relaxed),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            now: OffsetDateTime::now_utc(),
            postgres: PostgresHealth {
                status: if busy { Status::Degraded } else { well(postgres_ms.is_some()) },
                response_time_ms: postgres_ms,
            },
            nats: NatsHealth {
                status: well(nats.is_ok()),
                rtt_ms: nats.ok().map(super::millis),
                server_version: self.writer.client.server_info().version,
            },
            projection: ProjectionHealth { pending },
        }
    }
}

fn generated_id() -> Result<InstanceId, Error> {
    nuid::next().to_string().try_into().map_err(|rule| Error::field("instance_id", rule))
}

fn registration_warnings(request: &Register) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen = HashSet::new();
    for name in &request.dependencies {
        if !seen.insert(name) {
            warnings.push(format!("dependencies: {name} is named twice"));
        }
    }
    if request.dependencies.contains(&request.service_name) {
        warnings.push("dependencies: the service depends on itself".into());
    }
    if request.host.is_some() != request.port.is_some() {
        warnings.push("host and port: one without the other tells nobody where you are".into());
    }
    warnings
}

/// The instance to send a caller to: a healthy one that isn't draining, else a degraded one; any of them, so that calls
/// spread.
fn choose(instances: &[Instance]) -> Option<&Instance> {
    [Status::Healthy, Status::Degraded].into_iter().find_map(|status| {
        let fit: Vec<&Instance> = instances
            .iter()
            .filter(|instance| instance.status == status && !instance.draining && instance.host.is_some())
            .collect();
        fit.get(fastrand::usize(..fit.len().max(1))).copied()
    })
}

fn no_such_service(service: &ServiceName) -> Error {
    Error::new(ErrorCode::NotFound, format!("no instance of {service} is registered; hub.services.list tells who is"))
}
