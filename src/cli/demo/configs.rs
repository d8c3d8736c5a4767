//! Steps about configs: the first ones, a hot reload, a rollback, refusals.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::report::{Findings, Mismatch, check, shown};
use super::story::{PATIENCE, PREFIX, Story, eventually, refusal};
use crate::cli::chain;
use crate::client::CallError;
use crate::domain::config::Position;
use crate::domain::name::ServiceName;
use crate::wire::ErrorCode;
use crate::wire::config::{Config, ConfigChange, ConfigGet, ConfigHistory, ConfigRollback, ConfigSet, WriteOptions};
use crate::wire::error::ErrorBody;
use crate::wire::route::Endpoint;

/// What the hot reload changes, and to what.
const CHANGED: (&str, u64) = ("/operational/window_seconds", 1);

/// The version that the hot reload made, and the rollback has put out of force.
const OUTDATED: i64 = 2;

/// Who changes configs.
const OPERATOR: &str = "demo-operator";

/// A change by the operator, unconditional.
fn operator() -> WriteOptions {
    WriteOptions { created_by: Some(OPERATOR.into()), ..WriteOptions::default() }
}

impl Story {
    /// Sets a config for each service, all at once.
    pub(super) async fn first_configs(&self) -> Result<Findings, Mismatch> {
        let setting = self.fleet.iter().map(|service| async {
            let mut set = self.write(&service.name, service.config.clone());
            set.options.expected_version = Some(0);
            let asked = Instant::now();
            let change = self.hub.call(&set).await?;
            let right = change.version == Some(1) && change.changed && change.published;
            check(right, format!("{}: version 1, pushed", service.name), format!("{change:?}"))?;
            Ok::<Duration, Mismatch>(asked.elapsed())
        });
        let slowest = try_join_all(setting).await?.into_iter().max().unwrap_or_default();
        let configs = self.all_configs().await?;
        let right = configs.len() == self.fleet.len() && configs.iter().all(|config| config.version == Some(1));
        check(right, format!("{} configs of version 1", self.fleet.len()), format!("{configs:?}"))?;
        Ok(Findings::new(format!("{} configs committed and pushed, version 1 each", configs.len()))
            .line(format!("all at once; the slowest was done after {}", shown(slowest)))
            .fact("configs", configs.len())
            .time("slowest_set", slowest))
    }

    /// Changes one value for a service that runs, and follows it to each of its processes and back to the hub.
    pub(super) async fn hot_reload(&self) -> Result<Findings, Mismatch> {
        let active = self.config(None).await?;
        let mut content = content_of(&active)?;
        let (path, value) = CHANGED;
        let place = content.pointer_mut(path).ok_or_else(|| Mismatch::new(format!("a value at {path}"), "none"))?;
        let before = std::mem::replace(place, value.into());
        let Value::Object(config) = content.clone() else {
            return Err(Mismatch::new("a config that is an object", content));
        };
        let mut set = self.write(&self.hero, config);
        set.options.expected_version = Some(active.version);
        set.options.comment = Some("shorter windows".into());
        let called = Instant::now();
        let change = self.hub.call(&set).await?;
        let answered = called.elapsed();
        let next = change.version == Some(active.version + 1) && change.published;
        check(next, format!("version {}, pushed", active.version + 1), format!("{change:?}"))?;
        let (arrived, reported) = self.follow(&change, &content, called).await?;
        let processes = self.processes_of(&self.hero).len();
        let name = path.rsplit('/').next().unwrap_or_default();
        Ok(Findings::new(format!("{}: {name} {before} → {value}, version {}", self.hero, active.version + 1))
            .line(format!(
                "in force in all {processes} processes {} after the call, whose answer took {}",
                shown(arrived),
                shown(answered)
            ))
            .line(format!("after {} the hub knows from their heartbeats that they run it", shown(reported)))
            .fact("version", change.version)
            .fact("processes", processes)
            .time("answered", answered)
            .time("in_force", arrived)
            .time("reported", reported))
    }

    /// Takes the change back: the first version is in force again, under a newer revision.
    pub(super) async fn roll_back(&self) -> Result<Findings, Mismatch> {
        let active = self.config(None).await?;
        let old = self.config(Some(1)).await?;
        let content = content_of(&old)?;
        let called = Instant::now();
        let options =
            WriteOptions { expected_version: Some(active.version), comment: Some("too short".into()), ..operator() };
        let undo = ConfigRollback { service_name: self.hero.clone(), to_version: None, options };
        let change = self.hub.call(&undo).await?;
        check(change.version == Some(old.version), format!("version {} again", old.version), format!("{change:?}"))?;
        let (arrived, reported) = self.follow(&change, &content, called).await?;
        let now = self.config(None).await?;
        check(now.checksum == old.checksum, "the content of version 1 is in force", &now.checksum)?;
        let asked = ConfigHistory { service_name: self.hero.clone(), limit: None, before_revision: None };
        let history = self.hub.call(&asked).await?;
        let revisions: Vec<i64> = history.activations.iter().map(|one| one.revision).collect();
        check(revisions == [3, 2, 1], "a history of revisions 3, 2, 1", format!("{revisions:?}"))?;
        Ok(Findings::new(format!("{}: version {} again, under revision {}", self.hero, now.version, now.revision))
            .line(format!(
                "in force in all processes {} after the call, reported after {}",
                shown(arrived),
                shown(reported)
            ))
            .line("the history keeps all three activations")
            .fact("version", now.version)
            .fact("revision", now.revision)
            .time("in_force", arrived)
            .time("reported", reported))
    }

    /// A write on top of a version that is no longer active, and one with a misspelt field: neither changes anything.
    pub(super) async fn bad_writes(&self) -> Result<Findings, Mismatch> {
        let active = self.config(None).await?;
        let mut outdated = self.write(&self.hero, Map::new());
        outdated.options.expected_version = Some(OUTDATED);
        let conflict = refusal(
            self.hub.call(&outdated).await,
            ErrorCode::VersionConflict,
            "a write on top of a version that is out of force",
        )?;
        let told = conflict.details.get("active_version");
        check(
            told == Some(&active.version.into()),
            format!("the refusal tells that version {} is active", active.version),
            &conflict,
        )?;

        const MISSPELT: &str = "expected_verison";
        let subject = Endpoint::ConfigSet.subject(PREFIX, Some(self.hero.as_str()));
        let body = json!({"config": {}, MISSPELT: active.version}).to_string();
        let answer = self.hub.nats().request(subject, body.into()).await;
        let answer = answer.map_err(|error| Mismatch::new("an answer", chain(&error)))?;
        let named = serde_json::from_slice::<ErrorBody>(&answer.payload).map(|body| body.error).ok();
        let right = named.as_ref().is_some_and(|error| {
            error.code == ErrorCode::BadRequest && error.details.get("field") == Some(&MISSPELT.into())
        });
        let found = String::from_utf8_lossy(&answer.payload);
        check(right, format!("bad_request that names the field {MISSPELT}"), found)?;

        let after = self.config(None).await?;
        let same = (after.version, after.revision) == (active.version, active.revision);
        check(same, "the active config is as it was", format!("version {}", after.version))?;
        Ok(Findings::new(format!("expected_version {OUTDATED}, but {} is active: version_conflict", active.version))
            .line(format!("a misspelt field: bad_request, which names {MISSPELT}"))
            .line("nothing has changed")
            .fact("active_version", active.version))
    }

    /// Follows a change to the processes of the hero, and back to the hub through their heartbeats: how long after
    /// `called` the last of them had it, and how long after it the hub knew.
    async fn follow(
        &self,
        change: &ConfigChange,
        content: &Value,
        called: Instant,
    ) -> Result<(Duration, Duration), Mismatch> {
        let wanted = Position { epoch: change.epoch, revision: change.revision };
        let mut arrived = Duration::ZERO;
        let processes = self.processes_of(&self.hero);
        for process in &processes {
            let has_it = |held: Option<Position>| held.is_some_and(|held| held >= wanted);
            let expected = format!("has revision {}", change.revision);
            let seen = process
                .until(PATIENCE, &expected, |seen| has_it(seen.config.as_ref().map(|held| held.position)))
                .await?;
            let held = seen.config.ok_or_else(|| Mismatch::new("a config", "none"))?;
            let right = held.version == change.version && held.config.as_ref() == Some(content);
            check(right, format!("{} has what was set", process.address()), format!("{held:?}"))?;
            arrived = arrived.max(held.at.saturating_duration_since(called));
        }
        eventually(PATIENCE, async || {
            let found = self.ask_for(&self.hero).await?;
            let reported: Vec<_> =
                found.instances.iter().map(|one| (one.config_version, one.config_revision)).collect();
            let all = reported.len() == processes.len()
                && reported.iter().all(|one| *one == (change.version, Some(change.revision)));
            check(all, format!("each process reports revision {}", change.revision), format!("{reported:?}"))
        })
        .await?;
        Ok((arrived, called.elapsed()))
    }

    fn write(&self, service: &ServiceName, config: Map<String, Value>) -> ConfigSet {
        ConfigSet { options: operator(), ..ConfigSet::new(service.clone(), config) }
    }

    /// A version of the hero's config, or the active one.
    async fn config(&self, version: Option<i64>) -> Result<Config, CallError> {
        self.hub.call(&ConfigGet { service_name: self.hero.clone(), version, min_revision: None }).await
    }
}

fn content_of(config: &Config) -> Result<Value, Mismatch> {
    serde_json::from_str(config.config.get()).map_err(|error| Mismatch::new("a config that is JSON", error))
}
