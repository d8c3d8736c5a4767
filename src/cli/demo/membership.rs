//! Steps about who is there: registration, the fleet view, heartbeats, a loss, a recovery, the goodbye.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::fleet::waves;
use super::process::{BEAT, Process};
use super::report::{Findings, Mismatch, check, shown};
use super::story::{PATIENCE, Story, eventually, refusal};
use crate::domain::name::ServiceName;
use crate::domain::status::Status;
use crate::wire::ErrorCode;
use crate::wire::health::Health;
use crate::wire::micro::NAME;
use crate::wire::registry::{DependencyStatus, Deregister, Heartbeat, Instance, Registered};
use crate::wire::route::Endpoint;

/// Heartbeats that each process must have had acknowledged.
const BEATS: u64 = 3;

/// Beyond its timeout, how long a lost process may go unnoticed: the hub looks once a second.
const NOTICE: Duration = Duration::from_secs(2);

/// How often the hub is asked where a service is, to see that it never names a lost process and names all others.
const LOOKUPS: usize = 20;

impl Story {
    /// Starts the processes wave by wave; each one's registration must find what it needs.
    pub(super) async fn register(&mut self) -> Result<Findings, Mismatch> {
        let waves = waves(&self.fleet);
        let mut needs = 0;
        for wave in &waves {
            let started: Vec<Process> =
                wave.iter().flat_map(|service| service.hosts.iter().map(|host| self.start(service, host))).collect();
            for process in started {
                needs += registration(&process).await?.dependencies.len();
                self.processes.push(process);
            }
        }
        let (services, processes) = (self.fleet.len(), self.processes.len());
        Ok(Findings::new(format!("{services} services in {processes} processes, in {} waves", waves.len()))
            .line(format!("{needs} dependencies, each of them healthy when it was needed"))
            .fact("services", services)
            .fact("processes", processes)
            .fact("waves", waves.len())
            .fact("dependencies", needs))
    }

    /// Lists everybody page by page, and looks every service up.
    pub(super) async fn fleet_view(&self) -> Result<Findings, Mismatch> {
        let (instances, pages) = eventually(PATIENCE, async || {
            let (instances, pages) = self.all_instances().await?;
            let listed: Vec<String> = instances.iter().filter(|one| is_of_fleet(one)).map(described).collect();
            let mut running: Vec<String> = self
                .processes
                .iter()
                .map(|process| format!("{} {} healthy", process.service, process.address()))
                .collect();
            running.sort_by_key(|line| listed.iter().position(|listed| listed == line));
            check(listed == running, "the list has each process once, healthy", differences(&listed, &running))?;
            let hubs = instances.len() - listed.len();
            check(hubs == 1, "the hub itself is listed once", format!("{hubs} times"))?;
            Ok((instances, pages))
        })
        .await?;
        let mut slowest = Duration::ZERO;
        for service in &self.fleet {
            let asked = Instant::now();
            let found = self.ask_for(&service.name).await?;
            slowest = slowest.max(asked.elapsed());
            let right = found.host.as_ref().is_some_and(|host| service.hosts.contains(host))
                && found.port == Some(service.port)
                && found.instances.len() == service.hosts.len();
            check(right, format!("{} is found at one of its processes", service.name), format!("{found:?}"))?;
        }
        Ok(Findings::new(format!("services.list: {} processes on {pages} pages, all healthy", instances.len()))
            .line(format!("services.get: an address for each service, in {} at the most", shown(slowest)))
            .fact("instances", instances.len())
            .fact("pages", pages)
            .time("slowest_lookup", slowest))
    }

    /// Waits until each process was heard, and compares what the processes count with what the hub counts.
    pub(super) async fn heartbeats(&self) -> Result<Findings, Mismatch> {
        for process in &self.processes {
            process.until(PATIENCE, "has its heartbeats acknowledged", |seen| seen.acknowledged >= BEATS).await?;
        }
        // First what they count, then what the hub counts: by then it can only be more.
        let acknowledged: u64 = self.processes.iter().map(|process| process.seen().acknowledged).sum();
        let served = self.heartbeats_served().await?;
        check(served >= acknowledged, format!("the hub has served {acknowledged} heartbeats or more"), served)?;
        let oldest = eventually(PATIENCE, async || {
            let now = self.hub.call(&Health {}).await?.now;
            let (instances, _) = self.all_instances().await?;
            let heard = instances.iter().filter(|one| is_of_fleet(one)).map(|one| one.last_heartbeat);
            let silence = heard.map(|heard| heard.map_or(f64::INFINITY, |heard| (now - heard).as_seconds_f64()));
            let (oldest, most) = (silence.fold(0.0, f64::max), 3.0 * BEAT.as_secs_f64());
            check(oldest < most, format!("each was heard within the last {most} s"), format!("one {oldest:.1} s ago"))?;
            Ok(oldest)
        })
        .await?;

        let example = self.processes.iter().find(|process| process.service == self.hero);
        let metrics = example.map(|process| process.seen().metrics).unwrap_or_default();
        let measured = |name: &str| metrics.get(name).and_then(Value::as_f64).unwrap_or_default();
        Ok(Findings::new(format!("{acknowledged} heartbeats acknowledged; {served} by the hub's own count"))
            .line(format!(
                "{}: cpu {:.0} %, {:.0} MB, {:.1} ms, {:.0}/s, queue {:.1}",
                self.hero,
                measured("cpu_percent"),
                measured("memory_mb"),
                measured("latency_ms"),
                measured("throughput_per_second"),
                measured("queue_lag"),
            ))
            .fact("acknowledged", acknowledged)
            .fact("served_by_hub", served)
            .time("longest_silence", Duration::from_secs_f64(oldest))
            .fact("example", metrics))
    }

    /// How many heartbeats the hub says that it served with success.
    async fn heartbeats_served(&self) -> Result<u64, Mismatch> {
        let unreadable = |cause: &dyn std::fmt::Display| Mismatch::new("the hub tells its statistics", cause);
        let answer = self.hub.nats().request(format!("$SRV.STATS.{NAME}"), "".into()).await;
        let answer = answer.map_err(|error| unreadable(&error))?;
        let stats: Value = serde_json::from_slice(&answer.payload).map_err(|error| unreadable(&error))?;
        let name = Endpoint::Heartbeat.route().name;
        let endpoints = stats["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let endpoint = endpoints.iter().find(|endpoint| endpoint["name"] == name);
        let count = |field: &str| endpoint.and_then(|endpoint| endpoint[field].as_u64());
        let (requests, errors) = (count("num_requests"), count("num_errors"));
        requests.zip(errors).map(|(requests, errors)| requests - errors).ok_or_else(|| unreadable(&stats))
    }

    /// Ends a process without a goodbye, and waits until the hub has noticed and sends nobody there any more.
    pub(super) async fn lose_a_process(&mut self) -> Result<Findings, Mismatch> {
        let candidates: Vec<usize> =
            (0..self.processes.len()).filter(|index| self.processes[*index].service == self.hero).collect();
        let chosen = fastrand::Rng::with_seed(self.seed).choice(candidates);
        let victim = self.processes.remove(chosen.ok_or_else(|| Mismatch::new("a process to lose", "none"))?);
        let before = registration(&victim).await?;
        let (address, host) = (victim.address(), victim.host.clone());
        let limit = Duration::from_secs_f64(before.service_timeout_seconds) + NOTICE;
        let lost = Instant::now();
        victim.kill().await;

        eventually(limit, async || {
            let found = self.ask_for(&self.hero).await?;
            let status = found.instances.iter().find(|one| one.instance_id == before.instance_id).map(|one| one.status);
            check(status == Some(Status::Down), format!("{address} is marked down"), format!("{status:?}"))
        })
        .await?;
        let noticed = lost.elapsed();
        check(noticed <= limit, format!("{address} is marked down within {limit:?}"), format!("after {noticed:?}"))?;

        let mut named: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..LOOKUPS {
            let found = self.ask_for(&self.hero).await?;
            check(found.status == Status::Healthy, format!("{} as a whole is healthy", self.hero), found.status)?;
            *named.entry(found.host.unwrap_or_default()).or_default() += 1;
        }
        let others: BTreeSet<&String> = self.processes_of(&self.hero).iter().map(|process| &process.host).collect();
        let right = !named.contains_key(&host) && named.keys().collect::<BTreeSet<_>>() == others;
        check(right, format!("callers are sent to {others:?} and not to {host}"), format!("{named:?}"))?;
        Ok(Findings::new(format!("{} at {address} ends without a goodbye", self.hero))
            .line(format!("marked down after {} (promised: {})", shown(noticed), shown(limit)))
            .line(format!("{LOOKUPS} callers were all sent to its {} other processes", others.len()))
            .fact("address", address)
            .time("limit", limit)
            .time("noticed", noticed))
    }

    /// Starts the lost process again, and has its former self speak up late.
    pub(super) async fn recover(&mut self) -> Result<Findings, Mismatch> {
        let found = self.ask_for(&self.hero).await?;
        let runs = |one: &Instance| {
            self.processes_of(&self.hero).iter().any(|process| Some(&process.host) == one.host.as_ref())
        };
        let lost = found.instances.into_iter().find(|one| !runs(one));
        let lost = lost.ok_or_else(|| Mismatch::new("the lost process is still listed", "it isn't"))?;
        check(lost.status == Status::Down, "it is down", lost.status)?;
        let host = lost.host.clone().unwrap_or_default();
        let service = self.fleet.iter().find(|service| service.name == self.hero);
        let service = service.ok_or_else(|| Mismatch::new("the service is one of the fleet", &self.hero))?;
        let began = Instant::now();
        let process = self.start(service, &host);
        let registered = registration(&process).await?;
        self.processes.push(process);
        check(
            registered.instance_id == lost.instance_id && registered.incarnation > lost.incarnation,
            format!("{} under an incarnation after {}", lost.instance_id, lost.incarnation),
            format!("{} under {}", registered.instance_id, registered.incarnation),
        )?;
        let others = self.processes_of(&self.hero).len();
        eventually(PATIENCE, async || {
            let found = self.ask_for(&self.hero).await?;
            let again = |one: &Instance| one.incarnation == registered.incarnation && one.config_version.is_some();
            let healthy = found.instances.iter().filter(|one| one.status == Status::Healthy).count();
            let right = found.instances.iter().any(again) && healthy == others;
            check(right, format!("{} is back, with its config", lost.instance_id), format!("{:?}", found.instances))
        })
        .await?;
        let back = began.elapsed();

        let late_beat = Heartbeat {
            instance_id: Some(lost.instance_id.clone()),
            incarnation: Some(lost.incarnation),
            ..Heartbeat::new(self.hero.clone())
        };
        let late_goodbye = Deregister {
            service_name: self.hero.clone(),
            instance_id: Some(lost.instance_id.clone()),
            incarnation: Some(lost.incarnation),
        };
        refusal(self.hub.call(&late_beat).await, ErrorCode::StaleIncarnation, "a late heartbeat")?;
        refusal(self.hub.call(&late_goodbye).await, ErrorCode::StaleIncarnation, "a late goodbye")?;
        let found = self.ask_for(&self.hero).await?;
        let there = found.instances.iter().any(|one| one.incarnation == registered.incarnation);
        check(there, "the late goodbye changed nothing", format!("{:?}", found.instances))?;
        let (old, new) = (lost.incarnation, registered.incarnation);
        Ok(Findings::new(format!("healthy again {} after its start, with the config in force", shown(back)))
            .line(format!("same instance, incarnation {old} → {new}; a late heartbeat and a late"))
            .line(format!("goodbye of incarnation {old} are refused: stale_incarnation"))
            .fact("incarnation_before", old)
            .fact("incarnation", new)
            .time("back", back))
    }

    /// Everybody leaves, and is gone from the list; their configs stay.
    pub(super) async fn goodbye(&mut self) -> Result<Findings, Mismatch> {
        let leaving = self.processes.len();
        for process in &self.processes {
            process.leave();
        }
        for process in &self.processes {
            process.until(PATIENCE, "has left", |seen| seen.left).await?;
        }
        self.processes.clear();
        let (instances, _) = self.all_instances().await?;
        let left: Vec<String> = instances.iter().map(described).collect();
        let only_hub = instances.len() == 1 && !instances.iter().any(is_of_fleet);
        check(only_hub, "the hub alone is listed", left.join(", "))?;
        refusal(self.ask_for(&self.hero).await, ErrorCode::NotFound, "a look-up of a service that left")?;
        let configs = self.all_configs().await?.len();
        check(configs == self.fleet.len(), "each service's config stays", configs)?;
        Ok(Findings::new(format!("{leaving} processes left; the list holds {} alone", ServiceName::HUB))
            .line(format!("{configs} configs and their history stay"))
            .fact("left", leaving)
            .fact("configs", configs))
    }
}

/// The hub's answer to a process that registers, checked.
async fn registration(process: &Process) -> Result<Registered, Mismatch> {
    let seen = process.until(PATIENCE, "is registered", |seen| seen.registered.is_some()).await?;
    let registered = seen.registered.ok_or_else(|| Mismatch::new("a registration", "none"))?;
    let healthy = registered.dependencies.iter().all(|needed| needed.status == DependencyStatus::Healthy);
    let what = format!("all that {} needs is healthy", process.service);
    check(healthy, what, format!("{:?}", registered.dependencies))?;
    let timeout = registered.service_timeout_seconds;
    check(timeout == 3.0 * BEAT.as_secs_f64(), "a timeout of three heartbeats", format!("{timeout} s"))?;
    Ok(registered)
}

fn is_of_fleet(instance: &Instance) -> bool {
    instance.service_name.as_str() != ServiceName::HUB
}

fn described(one: &Instance) -> String {
    let (host, port) = (one.host.as_deref().unwrap_or("?"), one.port.unwrap_or_default());
    format!("{} {host}:{port} {}", one.service_name, one.status)
}

/// What one of two lists has and the other one hasn't.
fn differences(listed: &[String], running: &[String]) -> String {
    let beyond = |these: &[String], those: &[String]| -> String {
        let only: Vec<&str> = these.iter().filter(|line| !those.contains(line)).map(String::as_str).collect();
        if only.is_empty() { "nothing".into() } else { only.join(", ") }
    };
    format!("listed only: {}; running only: {}", beyond(listed, running), beyond(running, listed))
}
