//! The heartbeats of a registered process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, sleep_until};

use super::CallError;
use super::backoff::Backoff;
use super::config::Convergence;
use super::registration::{self, Measure, Seat};
use crate::domain::config::Position;
use crate::domain::name::InstanceId;
use crate::wire::ErrorCode;
use crate::wire::registry::{ConfigRef, Heartbeat, HeartbeatAck, Register};

/// How long a heartbeat waits for its answer: an interval, within these bounds.
const ANSWER: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Pauses before a heartbeat that got no answer is repeated. They stay short, because the answer also tells which config
/// should be in force, and because the hub may be about to take the process for lost.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_millis(1_500));

/// Pauses after a refusal that trying again may not change: an operator has to.
const REFUSED_RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));

/// How long news waits for more news.
const GATHER: Duration = Duration::from_millis(20);

/// Beats for one process.
pub(super) struct Heart {
    seat: Arc<Seat>,
    /// As it registered, with its id.
    request: Register,
    /// The id that it had at first.
    first_id: InstanceId,
    /// The config to report.
    convergence: Option<Convergence>,
    interval: Duration,
    /// Whether the hub doesn't know this process any more.
    is_lost: bool,
    retry: Backoff,
    register_retry: Backoff,
    refused: Backoff,
    /// What the hub said about measurements that it refused.
    complaint: Option<String>,
}

impl Heart {
    pub(super) fn new(seat: Arc<Seat>, request: Register) -> Self {
        let registered = seat.registered.borrow().clone();
        let interval = interval(registered.heartbeat_interval_seconds);
        Self {
            seat,
            request,
            first_id: registered.instance_id,
            convergence: None,
            interval,
            is_lost: false,
            retry: RETRY,
            register_retry: registration::RETRY,
            refused: REFUSED_RETRY,
            complaint: None,
        }
    }

    /// Beats until it is time to go.
    pub(super) async fn run(&mut self) {
        let seat = Arc::clone(&self.seat);
        let mut leaving = seat.leaving.subscribe();
        let mut next = Instant::now() + self.pause();
        loop {
            tokio::select! {
                _ = leaving.wait_for(|leaving| *leaving) => return,
                () = sleep_until(next) => {}
                () = async {
                    tokio::select! {
                        () = seat.news.notified() => {}
                        () = reported(&mut self.convergence) => {}
                    }
                    sleep(GATHER).await;
                } => {}
            }
            if let Some(convergence) = seat.wishes().convergence.take() {
                self.convergence = Some(convergence);
                self.introduce();
            }
            // What has begun is finished before it goes, so that no goodbye is overtaken.
            let pause = if self.is_lost { self.register_again().await } else { self.beat().await };
            next = Instant::now() + pause;
        }
    }

    /// A little less than the interval, and not the same for all who began at the same moment.
    fn pause(&self) -> Duration {
        self.interval.mul_f64(0.9 + 0.1 * fastrand::f64())
    }

    /// Tells the config which instance this is, and what should be in force.
    fn introduce(&self) {
        let registered = self.seat.registered.borrow().clone();
        if let Some(convergence) = &self.convergence {
            convergence.me.send_replace(Some(registered.instance_id));
        }
        self.tell_config(registered.config);
    }

    fn tell_config(&self, config: Option<ConfigRef>) {
        if let (Some(convergence), Some(config)) = (&self.convergence, config) {
            let position = Position { epoch: config.epoch, revision: config.revision };
            convergence.should.send_replace(Some(position));
        }
    }

    /// Beats once; tells when to do so again.
    async fn beat(&mut self) -> Duration {
        let metrics = self.metrics();
        let measured = !metrics.is_empty();
        let answer = match self.send(metrics).await {
            // One bad name must not silence the process.
            Err(CallError::Refused(refusal)) if measured && is_malformed(refusal.code) => {
                if self.complaint.as_ref() != Some(&refusal.message) {
                    let (service, message) = (self.request.service_name.as_str(), &refusal.message);
                    tracing::error!(service, message, "the hub refuses the measurements; heartbeats go without them");
                    self.complaint = Some(refusal.message);
                }
                self.send(Map::new()).await
            }
            answer => answer,
        };
        match answer {
            Ok(ack) => {
                (self.retry, self.refused) = (RETRY, REFUSED_RETRY);
                self.interval = interval(ack.heartbeat_interval_seconds);
                self.tell_config(ack.config);
                self.pause()
            }
            Err(CallError::Refused(refusal)) => match refusal.code {
                ErrorCode::NotRegistered => self.register_again().await,
                ErrorCode::StaleIncarnation => self.give_way().await,
                ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::Internal => self.soon(),
                _ => {
                    let (service, message) = (self.request.service_name.as_str(), &refusal.message);
                    tracing::error!(service, message, "the hub refuses heartbeats");
                    self.refused.pause()
                }
            },
            Err(error) => {
                tracing::debug!(service = self.request.service_name.as_str(), cause = %error, "a heartbeat got no answer");
                self.soon()
            }
        }
    }

    fn soon(&mut self) -> Duration {
        self.retry.pause().min(self.interval)
    }

    async fn send(&self, metrics: Map<String, Value>) -> Result<HeartbeatAck, CallError> {
        let (instance_id, incarnation) = {
            let registered = self.seat.registered.borrow();
            (registered.instance_id.clone(), registered.incarnation)
        };
        let report =
            self.convergence.as_ref().map(|convergence| convergence.report.borrow().clone()).unwrap_or_default();
        let heartbeat = Heartbeat {
            service_name: self.request.service_name.clone(),
            instance_id: Some(instance_id),
            incarnation: Some(incarnation),
            status: Some(self.seat.wishes().status),
            metrics,
            config_revision: report.revision,
            config_version: report.version,
            config_error: report.error,
        };
        self.seat.hub.call_within(self.interval.clamp(ANSWER.0, ANSWER.1), &heartbeat).await
    }

    fn metrics(&self) -> Map<String, Value> {
        let (set, measure) = {
            let wishes = self.seat.wishes();
            (wishes.metrics.clone(), wishes.measure.clone())
        };
        let measured = measure.map(|measure| self.measured(&measure)).unwrap_or_default();
        let finite = |(name, value): (String, f64)| Some((name, serde_json::Number::from_f64(value)?.into()));
        set.into_iter().chain(measured).filter_map(finite).collect()
    }

    fn measured(&self, measure: &Measure) -> Vec<(String, f64)> {
        catch_unwind(AssertUnwindSafe(|| measure())).unwrap_or_else(|_| {
            tracing::error!(
                service = self.request.service_name.as_str(),
                "measuring panicked; the heartbeat goes without"
            );
            Vec::new()
        })
    }

    /// Tries once to register again: the process was removed, or the hub's database went back.
    async fn register_again(&mut self) -> Duration {
        self.is_lost = true;
        let request = Register { status: Some(self.seat.wishes().status), ..self.request.clone() };
        match registration::register_once(&self.seat.hub, &request, &mut self.register_retry).await {
            Ok(Ok(registered)) => {
                self.is_lost = false;
                (self.retry, self.register_retry, self.refused) = (RETRY, registration::RETRY, REFUSED_RETRY);
                self.interval = interval(registered.heartbeat_interval_seconds);
                self.seat.registered.send_replace(registered);
                self.introduce();
                // The new record doesn't know which config is in force here.
                if self.convergence.is_some() { Duration::ZERO } else { self.pause() }
            }
            Ok(Err(pause)) => pause,
            Err(refusal) => {
                let (service, message) = (self.request.service_name.as_str(), &refusal.message);
                tracing::error!(service, message, "the hub refuses to register this process again");
                self.refused.pause()
            }
        }
    }

    /// Another process registered under the same id. It stays, and this one goes on under a fresh id: each would evict the
    /// other otherwise.
    async fn give_way(&mut self) -> Duration {
        let taken = self.first_id.as_str();
        match registration::fresh_id(taken) {
            Ok(fresh) => {
                let (service, fresh_id) = (self.request.service_name.as_str(), fresh.as_str());
                tracing::warn!(service, taken, fresh_id, "another process has this instance id; taking a fresh one");
                self.request.instance_id = Some(fresh);
                self.register_again().await
            }
            // It can't be: it is made of valid ones.
            Err(_) => self.refused.pause(),
        }
    }
}

/// Returns when a config has news to report.
async fn reported(convergence: &mut Option<Convergence>) {
    let ended = match convergence {
        Some(convergence) => convergence.report.changed().await.is_err(),
        None => true,
    };
    // What isn't followed any more has no news.
    if ended {
        std::future::pending::<()>().await;
    }
}

fn is_malformed(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::BadRequest | ErrorCode::TooLarge)
}

/// The hub's own bounds are narrower.
fn interval(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.05, 86_400.0)).unwrap_or(Duration::from_secs(30))
}
