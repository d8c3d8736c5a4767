//! Seeded traffic with an account of it: which sets were acknowledged, which requests got neither an answer nor a refusal.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use central_hub::client::{CallError, HubClient};
use central_hub::domain::name::ServiceName;
use central_hub::wire::ErrorCode;
use central_hub::wire::config::{ConfigGet, ConfigList, ConfigSet};
use central_hub::wire::health::Health;
use central_hub::wire::registry::{Heartbeat, Register, ServicesGet, ServicesList};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::stack::HubOptions;
use crate::witness::Truth;

/// How one set went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: it is in Postgres, whatever happens later.
    Acknowledged { version: i64, revision: i64 },
    /// Refused: it is not.
    Refused(ErrorCode),
    /// No answer, or one that says so: nobody knows.
    Unknown,
}

/// A set and how it went.
#[derive(Debug, Clone)]
pub struct Set {
    pub service: String,
    /// What makes its content different from that of every other set.
    pub token: String,
    pub outcome: Outcome,
}

/// Sets that are under way.
pub struct Burst {
    acknowledged: Arc<AtomicU64>,
    done: Arc<Mutex<Vec<Set>>>,
    task: JoinHandle<()>,
}

impl Burst {
    /// Sends `count` different sets for `services` services, `at_once` of them at a time, in an order that `seed` decides.
    pub fn start(
        options: &HubOptions,
        nats: &async_nats::Client,
        services: usize,
        count: usize,
        at_once: usize,
        seed: u64,
    ) -> Burst {
        let hub = HubClient::new(nats.clone()).with_prefix(options.prefix.clone()).with_timeout(Duration::from_secs(3));
        let acknowledged: Arc<AtomicU64> = Arc::default();
        let mut random = fastrand::Rng::with_seed(seed);
        let jobs: Vec<_> = (0..count)
            .map(|number| (format!("config-{}", random.usize(..services)), format!("{seed}-{number}")))
            .map(|(service, token)| set(hub.clone(), service, token, Arc::clone(&acknowledged)))
            .collect();
        let done: Arc<Mutex<Vec<Set>>> = Arc::default();
        let task = tokio::spawn({
            let done = Arc::clone(&done);
            async move {
                let mut sets = futures_util::stream::iter(jobs).buffer_unordered(at_once);
                while let Some(set) = sets.next().await {
                    done.lock().unwrap().push(set);
                }
            }
        });
        Burst { acknowledged, done, task }
    }

    /// Sets that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until all are answered or given up.
    pub async fn ended(self) -> Vec<Set> {
        self.task.await.unwrap();
        std::mem::take(&mut *self.done.lock().unwrap())
    }

    /// Sends no more, waits for nothing, and gives those that are answered.
    pub async fn cut(self) -> Vec<Set> {
        self.task.abort();
        let _ = self.task.await;
        std::mem::take(&mut *self.done.lock().unwrap())
    }
}

async fn set(hub: HubClient, service: String, token: String, acknowledged: Arc<AtomicU64>) -> Set {
    let content = json!({ "marker": token, "operational": { "symbols": ["EURUSD", "XAUUSD"] } });
    let request = ConfigSet::new(service.parse().unwrap(), content.as_object().unwrap().clone());
    let outcome = match hub.call(&request).await {
        Ok(change) => {
            acknowledged.fetch_add(1, Ordering::SeqCst);
            assert!(change.changed, "its content is new: {change:?}");
            Outcome::Acknowledged { version: change.version.unwrap(), revision: change.revision }
        }
        Err(CallError::Refused(refusal)) if refusal.details.get("outcome").is_some() => Outcome::Unknown,
        Err(CallError::Refused(refusal)) => Outcome::Refused(refusal.code),
        Err(CallError::NoHub { .. }) => Outcome::Refused(ErrorCode::Unavailable),
        Err(_) => Outcome::Unknown,
    };
    Set { service, token, outcome }
}

/// Checks that Postgres has every acknowledged version with its content and no refused one, and that numbers have neither
/// gaps nor twins; tells how many were acknowledged.
pub async fn nothing_was_lost(truth: &Truth, sets: &[Set]) -> usize {
    let sql = "SELECT c.service_name, c.version, c.config_data->>'marker', a.revision
               FROM service_configs c JOIN config_activations a USING (service_name, version)
               WHERE c.config_data ? 'marker'";
    let rows = truth.rows(sql, &[]).await.expect("an answer of Postgres");
    let stored: HashMap<(String, String), (i64, i64)> =
        rows.iter().map(|row| ((row.get(0), row.get(2)), (row.get(1), row.get(3)))).collect();
    for set in sets {
        let found = stored.get(&(set.service.clone(), set.token.clone()));
        match &set.outcome {
            Outcome::Acknowledged { version, revision } => assert_eq!(found, Some(&(*version, *revision)), "{set:?}"),
            Outcome::Refused(_) => assert_eq!(found, None, "{set:?}"),
            Outcome::Unknown => {}
        }
    }
    let sql = "SELECT c.service_name, count(*), max(c.version), count(*) FILTER (WHERE active)
               FROM service_configs c JOIN config_heads h USING (service_name) GROUP BY c.service_name, h.version
               HAVING count(*) <> max(c.version) OR count(*) FILTER (WHERE active) <> count(DISTINCT h.version)";
    let odd = truth.rows(sql, &[]).await.expect("an answer of Postgres");
    assert!(odd.is_empty(), "gaps in the versions, or not one active where one should be: {odd:?}");
    let sql = "SELECT service_name FROM config_activations GROUP BY service_name HAVING count(*) <> max(revision)";
    let odd = truth.rows(sql, &[]).await.expect("an answer of Postgres");
    assert!(odd.is_empty(), "gaps in the revisions: {odd:?}");
    sets.iter().filter(|set| matches!(set.outcome, Outcome::Acknowledged { .. })).count()
}

/// Requests of every kind, all the time, until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Account>>,
}

/// What became of requests.
#[derive(Debug, Default)]
pub struct Account {
    pub answered: u64,
    /// Nobody listened: the request was never delivered.
    pub undelivered: u64,
    /// Refusals, by code.
    pub refused: BTreeMap<String, u64>,
    /// Neither an answer nor a refusal.
    pub unanswered: Vec<String>,
}

impl Load {
    /// `workers` that ask one request after the other, in an order that `seed` decides. A request counts as unanswered
    /// after `patience`.
    pub fn start(options: &HubOptions, nats: &async_nats::Client, workers: u64, patience: Duration, seed: u64) -> Load {
        let stop: Arc<AtomicBool> = Arc::default();
        let answered: Arc<AtomicU64> = Arc::default();
        let tasks = (0..workers)
            .map(|worker| {
                let worker = Worker {
                    hub: HubClient::new(nats.clone()).with_prefix(options.prefix.clone()).with_timeout(patience),
                    service: format!("load-{worker}").parse().unwrap(),
                    random: fastrand::Rng::with_seed(seed ^ worker),
                    stop: Arc::clone(&stop),
                    answered: Arc::clone(&answered),
                };
                tokio::spawn(worker.run())
            })
            .collect();
        Load { stop, answered, tasks }
    }

    /// Requests that were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops asking and waits for the last answers.
    pub async fn stop(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Account::default();
        for task in self.tasks {
            let one = task.await.unwrap();
            total.answered += one.answered;
            total.undelivered += one.undelivered;
            total.unanswered.extend(one.unanswered);
            for (code, count) in one.refused {
                *total.refused.entry(code).or_default() += count;
            }
        }
        total
    }
}

struct Worker {
    hub: HubClient,
    service: ServiceName,
    random: fastrand::Rng,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Worker {
    async fn run(mut self) -> Account {
        let mut account = Account::default();
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            match self.ask(number).await {
                Ok(()) => {
                    account.answered += 1;
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(CallError::NoHub { .. }) => {
                    account.undelivered += 1;
                    tokio::time::sleep(Duration::from_millis(self.random.u64(1..5))).await;
                }
                // Nothing is there to be found yet.
                Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::NotFound => account.answered += 1,
                Err(CallError::Refused(refusal)) => {
                    *account.refused.entry(refusal.code.to_string()).or_default() += 1;
                }
                Err(error) => account.unanswered.push(error.to_string()),
            }
        }
        account
    }

    async fn ask(&mut self, number: u64) -> Result<(), CallError> {
        let service = self.service.clone();
        match self.random.u8(..10) {
            _ if number == 1 => {
                let instance_id = Some("only".parse().unwrap());
                self.hub.call(&Register { instance_id, ..Register::new(service) }).await.map(drop)
            }
            0..=3 => self.hub.call(&Heartbeat::new(service)).await.map(drop),
            4 | 5 => {
                let content = json!({ "number": number }).as_object().unwrap().clone();
                self.hub.call(&ConfigSet::new(service, content)).await.map(drop)
            }
            6 => self.hub.call(&ConfigGet { service_name: service, version: None, min_revision: None }).await.map(drop),
            7 => self.hub.call(&ServicesList::default()).await.map(drop),
            8 => self.hub.call(&ServicesGet { service_name: service }).await.map(drop),
            _ if number.is_multiple_of(2) => self.hub.call(&ConfigList::default()).await.map(drop),
            _ => self.hub.call(&Health {}).await.map(drop),
        }
    }
}
