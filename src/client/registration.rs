//! A process in the registry, for as long as its guard lives.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::backoff::Backoff;
use super::call::is_passing;
use super::config::{ConfigClient, Convergence};
use super::heartbeat::Heart;
use super::task::Task;
use super::{CallError, HubClient};
use crate::domain::name::{BadName, InstanceId};
use crate::domain::status::Status;
use crate::wire;
use crate::wire::ErrorCode;
use crate::wire::registry::{Deregister, Register, Registered};

/// Pauses between tries to register.
pub(super) const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Pauses between tries to say goodbye.
const GOODBYE_RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// Measures something, by name.
pub(super) type Measure = Arc<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

/// What the application and the heartbeats share.
pub(super) struct Seat {
    pub(super) hub: HubClient,
    pub(super) wishes: Mutex<Wishes>,
    /// Something changed that is worth a heartbeat at once.
    pub(super) news: Notify,
    /// Whether it is time to go.
    pub(super) leaving: watch::Sender<bool>,
    pub(super) registered: watch::Sender<Registered>,
}

/// What the application wants heartbeats to say.
pub(super) struct Wishes {
    pub(super) status: Status,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) measure: Option<Measure>,
    /// A config to report, which the heartbeats haven't taken over yet.
    pub(super) convergence: Option<Convergence>,
}

impl Seat {
    pub(super) fn wishes(&self) -> std::sync::MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HubClient {
    /// Registers a process, and keeps it registered: it beats as often as the hub says until the guard is dropped, and
    /// registers again when the hub doesn't know it any more.
    ///
    /// It tries until a hub answers, with growing pauses; dropping the future ends that. Without an `instance_id` one is
    /// derived from host and port, so that a restart replaces its own record; without those one is made up.
    ///
    /// # Errors
    /// A refusal that trying again wouldn't change, such as `bad_request`.
    pub async fn register(&self, request: Register) -> Result<Registration, wire::Error> {
        let request = with_id(request).map_err(|rule| wire::Error::field("instance_id", rule))?;
        let mut retry = RETRY;
        let registered = loop {
            match register_once(self, &request, &mut retry).await? {
                Ok(registered) => break registered,
                Err(pause) => sleep(pause).await,
            }
        };
        let seat = Arc::new(Seat {
            hub: self.clone(),
            wishes: Mutex::new(Wishes {
                status: request.status.unwrap_or(Status::Healthy),
                metrics: BTreeMap::new(),
                measure: None,
                convergence: None,
            }),
            news: Notify::new(),
            leaving: watch::Sender::new(false),
            registered: watch::Sender::new(registered),
        });
        // Behind a lock so that a supervised restart finds what it had.
        let heart = Arc::new(tokio::sync::Mutex::new(Heart::new(Arc::clone(&seat), request)));
        let task = Task::supervised("heartbeat", move || {
            let heart = Arc::clone(&heart);
            async move { heart.lock().await.run().await }
        });
        Ok(Registration { seat, task })
    }
}

/// Tries once to register. Within `Ok`: how long to wait before the next try, because nobody answered or something of the
/// moment is in the way.
///
/// # Errors
/// A refusal that isn't of the moment.
pub(super) async fn register_once(
    hub: &HubClient,
    request: &Register,
    retry: &mut Backoff,
) -> Result<Result<Registered, Duration>, wire::Error> {
    match hub.call_within(hub.timeout, request).await {
        Ok(registered) => {
            let (service, instance) = (registered.service_name.as_str(), registered.instance_id.as_str());
            for warning in &registered.warnings {
                tracing::warn!(service, warning, "the hub warns");
            }
            tracing::info!(service, instance, incarnation = registered.incarnation, "registered");
            Ok(Ok(registered))
        }
        Err(CallError::Refused(refusal)) if !is_passing(refusal.code) => Err(refusal),
        Err(error) => {
            let pause = retry.pause();
            let (service, tries) = (request.service_name.as_str(), retry.failures());
            // Now and then is often enough.
            if tries == 1 || tries.is_multiple_of(10) {
                tracing::warn!(service, tries, cause = %error, "not registered yet");
            } else {
                tracing::debug!(service, tries, cause = %error, "not registered yet");
            }
            Ok(Err(pause))
        }
    }
}

/// The same registration with an instance id. The client must choose it: a registration whose answer was lost is sent
/// again, and must not leave two records.
fn with_id(request: Register) -> Result<Register, BadName> {
    let id = match (&request.instance_id, &request.host, request.port) {
        (Some(id), ..) => id.clone(),
        (None, Some(host), Some(port)) => InstanceId::at_address(host, port),
        (None, ..) => fresh_id(request.service_name.as_str())?,
    };
    Ok(Register { instance_id: Some(id), ..request })
}

/// An id that nothing else has and that begins with `name`.
pub(super) fn fresh_id(name: &str) -> Result<InstanceId, BadName> {
    const RANDOM: usize = 16;
    let name: String = name.chars().take(InstanceId::MAX_LEN - RANDOM - 1).collect();
    format!("{name}-{:0RANDOM$x}", fastrand::u64(..)).parse()
}

/// A registered process. Dropping it ends the heartbeats, and the hub marks the process down when its timeout has passed;
/// [`Registration::deregister`] says goodbye.
#[must_use = "the process is silent once this is dropped"]
pub struct Registration {
    seat: Arc<Seat>,
    task: Task,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("registered", &*self.seat.registered.borrow()).finish_non_exhaustive()
    }
}

impl Registration {
    /// What the hub said to the newest registration. The instance id changes when another process took the first one.
    #[must_use]
    pub fn registered(&self) -> Registered {
        self.seat.registered.borrow().clone()
    }

    /// The id under which the process is known.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.seat.registered.borrow().instance_id.clone()
    }

    /// Says how well the process is, from the next heartbeat on, which is sent at once when this is something new.
    pub fn set_status(&self, status: Status) {
        let before = std::mem::replace(&mut self.seat.wishes().status, status);
        if before != status {
            self.seat.news.notify_one();
        }
    }

    /// Says a measurement with each heartbeat from now on. At most 64 names of `[A-Za-z0-9_.:-]{1,100}`; numbers that
    /// aren't finite are left out.
    pub fn set_metric(&self, name: impl Into<String>, value: f64) {
        self.seat.wishes().metrics.insert(name.into(), value);
    }

    /// Measures before each heartbeat. It must not take long: the heartbeat waits for it.
    pub fn measure<K, I>(&self, measure: impl Fn() -> I + Send + Sync + 'static)
    where
        K: Into<String>,
        I: IntoIterator<Item = (K, f64)>,
    {
        let measure = move || measure().into_iter().map(|(name, value)| (name.into(), value)).collect();
        self.seat.wishes().measure = Some(Arc::new(measure));
    }

    /// Has heartbeats tell the hub which config is in force here, or why a newer one isn't; and tells the config which
    /// instance this is, for rollouts, and what the hub says should be in force.
    pub fn report_config<T>(&self, config: &ConfigClient<T>) {
        self.seat.wishes().convergence = Some(config.convergence());
        self.seat.news.notify_one();
    }

    /// Ends the heartbeats and says goodbye: the process leaves the registry at once. It takes no longer than twice the
    /// client's timeout.
    ///
    /// # Errors
    /// [`CallError`], when the hub wasn't reached; it will then take the process for lost when its timeout has passed.
    pub async fn deregister(mut self) -> Result<(), CallError> {
        let timeout = self.seat.hub.timeout;
        self.seat.leaving.send_replace(true);
        // A registration that is on its way would come after the goodbye.
        let _ = timeout_at(Instant::now() + timeout, self.task.ended()).await;
        let registered = self.registered();
        let goodbye = Deregister {
            service_name: registered.service_name,
            instance_id: Some(registered.instance_id),
            incarnation: Some(registered.incarnation),
        };
        let deadline = Instant::now() + timeout;
        let mut retry = GOODBYE_RETRY;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.seat.hub.call_within(left, &goodbye).await {
                Ok(_) => return Ok(()),
                // It was heard and its answer lost, or another process has taken the place.
                Err(error) if matches!(error.code(), Some(ErrorCode::NotRegistered | ErrorCode::StaleIncarnation)) => {
                    return Ok(());
                }
                Err(error) => {
                    let pause = retry.pause();
                    if !error.is_passing() || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_given_to_whoever_has_none() {
        let id = |request| with_id(request).unwrap().instance_id.unwrap().to_string();
        let service = Register::new("tick".parse().unwrap());
        let placed = Register { host: Some("10.0.0.5".into()), port: Some(8002), ..service.clone() };
        assert_eq!(id(placed.clone()), "10_0_0_5-8002");
        assert_eq!(id(Register { instance_id: Some("me".parse().unwrap()), ..placed }), "me");
        let (one, two) = (id(service.clone()), id(service));
        assert!(one.starts_with("tick-") && one != two, "{one} {two}");
        let long = fresh_id(&"x".repeat(200)).unwrap();
        assert_eq!(long.as_str().len(), InstanceId::MAX_LEN);
    }
}
