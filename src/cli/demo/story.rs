//! The story that the demo tells: its steps in order, and what they share.
//!
//! Each step asks the hub what is so, and compares; none takes for granted that what it did has worked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fleet::Service;
use super::process::Process;
use super::report::{Mismatch, Report, check};
use crate::cli::chain;
use crate::client::{CallError, HubClient};
use crate::domain::name::ServiceName;
use crate::wire::config::{ConfigList, ConfigSummary};
use crate::wire::registry::{Instance, Service as Found, ServicesGet, ServicesList};
use crate::wire::{self, ErrorCode};

/// First token of the hub's subjects, and of its buckets' names.
pub const PREFIX: &str = "hub";

/// How long a step waits for what should take milliseconds: long enough for a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks while it waits for something that nobody announces.
const POLL: Duration = Duration::from_millis(10);

/// Rows of a page, few, so that the fleet takes several.
const PAGE: u32 = 6;

/// The service that the story is about.
const HERO: &str = "tick-aggregator";

/// The fleet and the connection of its operator.
pub struct Story {
    pub(super) hub: HubClient,
    pub(super) fleet: Vec<Service>,
    /// The processes that run.
    pub(super) processes: Vec<Process>,
    /// Whose configs are changed, and who loses a process.
    pub(super) hero: ServiceName,
    pub(super) nats_url: String,
    pub(super) seed: u64,
}

impl Story {
    /// Connects the operator; nothing of the fleet runs yet.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn new(nats_url: &str, fleet: Vec<Service>, seed: u64) -> Result<Story, Mismatch> {
        let nats = async_nats::ConnectOptions::new().name("central-hub demo").connect(nats_url).await;
        let nats = nats.map_err(|error| Mismatch::new("a connection to NATS", chain(&error)))?;
        let hero = HERO.parse().map_err(|rule| Mismatch::new("a service name", rule))?;
        let hub = HubClient::new(nats);
        Ok(Story { hub, fleet, processes: Vec::new(), hero, nats_url: nats_url.to_owned(), seed })
    }

    /// Everything up to the goodbye; `false` at the first step that fails, which ends it.
    pub async fn tell(&mut self, report: &mut Report) -> bool {
        report.step("first_configs", "Each service gets its first config", self.first_configs()).await
            && report.step("register", "The fleet registers, in the order of its needs", self.register()).await
            && report.step("fleet_view", "The hub knows who is there", self.fleet_view()).await
            && report.step("heartbeats", "All beat, with measurements", self.heartbeats()).await
            && report.step("hot_reload", "A config changes while its service runs", self.hot_reload()).await
            && report.step("loss", "A process is lost", self.lose_a_process()).await
            && report.step("alert", "An alert tells of it", self.alert()).await
            && report.step("recovery", "It comes back", self.recover()).await
            && report.step("rollback", "The config is rolled back", self.roll_back()).await
            && report.step("timeline", "The timeline tells what happened", self.timeline()).await
            && report.step("refusals", "Bad writes are refused", self.bad_writes()).await
            && report.step("hub_itself", "The hub itself is well and has kept the story", self.hub_itself()).await
    }

    /// The fleet says goodbye.
    pub async fn end(&mut self, report: &mut Report) -> bool {
        report.step("goodbye", "The fleet says goodbye", self.goodbye()).await
    }

    /// The processes of a service.
    pub(super) fn processes_of(&self, service: &ServiceName) -> Vec<&Process> {
        self.processes.iter().filter(|process| process.service == *service).collect()
    }

    /// Starts a process of `service` on `host`.
    pub(super) fn start(&self, service: &Service, host: &str) -> Process {
        // Each process measures something else, and the same in the next demo with this seed.
        let own = host.bytes().fold(self.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        Process::start(&self.nats_url, service, host, own)
    }

    /// What the hub tells of a service.
    pub(super) async fn ask_for(&self, service: &ServiceName) -> Result<Found, CallError> {
        self.hub.call(&ServicesGet { service_name: service.clone() }).await
    }

    /// All instances, with the number of pages that they took.
    pub(super) async fn all_instances(&self) -> Result<(Vec<Instance>, usize), CallError> {
        let (mut instances, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let request = ServicesList { limit: Some(PAGE), cursor, ..ServicesList::default() };
            let page = self.hub.call(&request).await?;
            instances.extend(page.services);
            pages += 1;
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok((instances, pages));
            }
        }
    }

    /// All configs that there are.
    pub(super) async fn all_configs(&self) -> Result<Vec<ConfigSummary>, CallError> {
        let (mut configs, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.hub.call(&ConfigList { limit: Some(PAGE), cursor }).await?;
            configs.extend(page.configs);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(configs);
            }
        }
    }
}

/// Tries until it succeeds, or `deadline` has passed.
///
/// # Errors
/// The last mismatch.
pub async fn eventually<T, F>(deadline: Duration, mut attempt: F) -> Result<T, Mismatch>
where
    F: AsyncFnMut() -> Result<T, Mismatch>,
{
    let until = Instant::now() + deadline;
    loop {
        match attempt().await {
            Err(Mismatch { expected, found }) if Instant::now() >= until => {
                return Err(Mismatch::new(format!("{expected}, within {deadline:?}"), found));
            }
            Err(_) => sleep(POLL).await,
            found => return found,
        }
    }
}

/// The refusal that a call must have got.
///
/// # Errors
/// When the hub did it, or refused it for another reason.
pub fn refusal<T: std::fmt::Debug>(
    answer: Result<T, CallError>,
    code: ErrorCode,
    what: &str,
) -> Result<wire::Error, Mismatch> {
    match answer {
        Err(CallError::Refused(error)) => {
            check(error.code == code, format!("{what} is refused with {code}"), &error)?;
            Ok(error)
        }
        Err(error) => Err(Mismatch::new(format!("{what} is refused with {code}"), chain(&error))),
        Ok(answer) => Err(Mismatch::new(format!("{what} is refused with {code}"), format!("{answer:?}"))),
    }
}
