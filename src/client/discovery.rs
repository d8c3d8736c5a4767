//! Who else is there: asked for, or watched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::backoff::Backoff;
use super::task::Task;
use super::watch::{Fold, KeyWatch, News};
use super::{CallError, HubClient};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::wire::ErrorCode;
use crate::wire::bucket::{Bucket, Key};
use crate::wire::registry::{Instance, Service, ServicesGet, ServicesList};

impl HubClient {
    /// All instances that match, over all pages.
    ///
    /// ```no_run
    /// # async fn example(hub: central_hub::client::HubClient) -> Result<(), Box<dyn std::error::Error>> {
    /// use central_hub::domain::status::Status;
    /// use central_hub::wire::registry::ServicesList;
    ///
    /// let healthy = ServicesList { status: Some(Status::Healthy), ..ServicesList::default() };
    /// for instance in hub.get_services(healthy).await? {
    ///     println!("{} at {:?}:{:?}", instance.service_name, instance.host, instance.port);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CallError`], of whichever page.
    pub async fn get_services(&self, wanted: ServicesList) -> Result<Vec<Instance>, CallError> {
        let mut question = wanted;
        let mut found = Vec::new();
        loop {
            let page = self.call(&question).await?;
            found.extend(page.services);
            match page.next_cursor {
                // A hub that doesn't get on would be asked for ever.
                Some(next) if question.cursor.as_ref() != Some(&next) => question.cursor = Some(next),
                _ => return Ok(found),
            }
        }
    }

    /// A service and where to reach it, another instance each time; `None` when nobody is registered under that name.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get_service(&self, service_name: ServiceName) -> Result<Option<Service>, CallError> {
        match self.call(&ServicesGet { service_name }).await {
            Ok(service) => Ok(Some(service)),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A live view of all instances, which needs no hub to be read.
    #[must_use]
    pub fn watch_services(&self) -> ServicesView {
        let watch = self.watch_instances();
        ServicesView { state: watch.state(), _watch: watch }
    }
}

/// All instances, as KV tells of them. While NATS or the hub is away it keeps what it knew; a bucket that was emptied or
/// made anew takes nobody from it whom the hub still knows.
#[derive(Debug)]
pub struct ServicesView {
    state: watch::Receiver<Services>,
    _watch: Arc<KeyWatch<Services>>,
}

impl Clone for ServicesView {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), _watch: Arc::clone(&self._watch) }
    }
}

impl ServicesView {
    /// Waits until it has once known all that there is.
    pub async fn loaded(&mut self) {
        let _ = self.state.wait_for(|services| services.is_loaded).await;
    }

    /// Whether it is fed at the moment; otherwise it is what it was when it last was.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state.borrow().is_live
    }

    /// All instances, by service and id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Instance>> {
        self.state.borrow().known.values().cloned().collect()
    }

    /// The instances of one service, by id.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Vec<Arc<Instance>> {
        self.state.borrow().of(service).cloned().collect()
    }

    /// One instance to talk to, at random: a healthy one that isn't draining, else a degraded one.
    #[must_use]
    pub fn pick(&self, service: &ServiceName) -> Option<Arc<Instance>> {
        let services = self.state.borrow();
        [Status::Healthy, Status::Degraded].into_iter().find_map(|status| {
            let fits = |instance: &&Arc<Instance>| instance.status == status && !instance.draining;
            let fitting: Vec<_> = services.of(service).filter(fits).collect();
            fastrand::choice(fitting).cloned()
        })
    }

    /// Waits until something is different from when this handle was last told so.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Pauses between questions to a hub that doesn't answer.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Has the hub asked about those that the bucket lacks, until it answers: only it knows who is gone.
pub(super) fn confirm(hub: &HubClient, watch: &mut KeyWatch<Services>) {
    let (hub, doubt) = (hub.clone(), Arc::clone(&watch.state().borrow().doubt));
    watch.beside(|state| {
        Task::supervised("check of the services", move || {
            let (hub, doubt, state) = (hub.clone(), Arc::clone(&doubt), Arc::clone(&state));
            async move {
                let mut again = ASK_AGAIN;
                loop {
                    doubt.notified().await;
                    again.reset();
                    let doubted = state.borrow().unconfirmed.clone();
                    let listed = loop {
                        match hub.get_services(ServicesList::default()).await {
                            Ok(listed) => break listed,
                            Err(error) => {
                                tracing::debug!(cause = %error, "who is missing in the bucket is kept until the hub answers");
                                sleep(again.pause()).await;
                            }
                        }
                    };
                    state.send_if_modified(|services| services.keep_only(doubted, &listed));
                }
            }
        })
    });
}

/// What is known of all instances.
#[derive(Debug, Default)]
pub(super) struct Services {
    known: BTreeMap<(ServiceName, String), Arc<Instance>>,
    /// Those that the watch hasn't told since it was opened.
    unconfirmed: BTreeSet<(ServiceName, String)>,
    /// Wakes who asks the hub about those.
    doubt: Arc<Notify>,
    is_live: bool,
    is_loaded: bool,
}

impl Services {
    fn of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Arc<Instance>> {
        let from = (service.clone(), String::new());
        self.known.range(from..).take_while(move |((name, _), _)| name == service).map(|(_, instance)| instance)
    }

    /// Of those that the bucket lacked when the hub was asked, and lacks still, only these are there; whether others were
    /// taken for it.
    fn keep_only(&mut self, doubted: BTreeSet<(ServiceName, String)>, listed: &[Instance]) -> bool {
        let listed: BTreeSet<_> =
            listed.iter().map(|there| (&there.service_name, there.instance_id.as_str())).collect();
        let before = self.known.len();
        for key in doubted {
            let is_gone = self.unconfirmed.remove(&key) && !listed.contains(&(&key.0, key.1.as_str()));
            if is_gone {
                self.known.remove(&key);
            }
        }
        self.known.len() < before
    }
}

fn known_as(key: &str) -> Option<(ServiceName, InstanceId)> {
    match Key::parse(Bucket::Services, key)? {
        Key::Instance(service, instance) => Some((service, instance)),
        Key::Config(_) | Key::Component(_) => None,
    }
}

impl Fold for Services {
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Opened => {
                self.unconfirmed = self.known.keys().cloned().collect();
                false
            }
            News::Put { key, value } => {
                let Some((service, instance_id)) = known_as(&key) else { return false };
                let key = (service, instance_id.to_string());
                self.unconfirmed.remove(&key);
                let instance: Instance = match serde_json::from_slice(&value) {
                    Ok(instance) => instance,
                    Err(error) => {
                        tracing::warn!(service = key.0.as_str(), cause = %error, "an instance's record can't be read");
                        return false;
                    }
                };
                if self.known.get(&key).is_some_and(|known| **known == instance) {
                    return false;
                }
                self.known.insert(key, Arc::new(instance));
                true
            }
            News::Removed { key } => {
                let Some((service, instance_id)) = known_as(&key) else { return false };
                let key = (service, instance_id.to_string());
                self.unconfirmed.remove(&key);
                self.known.remove(&key).is_some()
            }
            News::Current => {
                let changed = !(self.is_live && self.is_loaded);
                (self.is_live, self.is_loaded) = (true, true);
                changed
            }
            // Who said goodbye left a marker. Whoever is just missing is missing because the bucket was made anew, and is
            // perhaps not filled again.
            News::Settled => {
                if !self.unconfirmed.is_empty() {
                    self.doubt.notify_one();
                }
                false
            }
            News::Lost => std::mem::replace(&mut self.is_live, false),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::Endpoint;
    use serde_json::Value;

    fn record(service: &str, id: &str) -> News {
        let mut value: Value = serde_json::from_str(Endpoint::ServicesDrain.route().reply).unwrap();
        value["service_name"] = service.into();
        value["instance_id"] = id.into();
        News::Put { key: format!("{service}.{id}"), value: value.to_string().into() }
    }

    fn known(key: &str) -> (ServiceName, String) {
        let (service, id) = known_as(key).unwrap();
        (service, id.to_string())
    }

    fn names(services: &Services) -> Vec<String> {
        services.known.values().map(|instance| format!("{}.{}", instance.service_name, instance.instance_id)).collect()
    }

    fn open(services: &mut Services, records: &[News]) {
        services.take(News::Opened);
        for record in records {
            services.take(record.clone());
        }
        services.take(News::Current);
    }

    #[test]
    fn an_emptied_bucket_empties_nothing_until_it_is_filled_again() {
        let mut services = Services::default();
        open(&mut services, &[record("a", "1"), record("b", "1"), record("b", "2")]);
        services.take(News::Settled);
        assert_eq!(names(&services), ["a.1", "b.1", "b.2"]);
        services.take(News::Lost);
        open(&mut services, &[]);
        services.take(News::Settled);
        assert_eq!(names(&services), ["a.1", "b.1", "b.2"], "the empty push");
        services.take(News::Lost);
        open(&mut services, &[record("b", "2")]);
        assert_eq!(names(&services), ["a.1", "b.1", "b.2"], "the hub may still be filling it");
        services.take(record("c", "1"));
        services.take(News::Settled);
        assert_eq!(names(&services), ["a.1", "b.1", "b.2", "c.1"], "or nobody may");
        let listed: Vec<Instance> = ["a.1", "c.1"].map(|key| services.known[&known(key)].as_ref().clone()).into();
        let mut doubted = services.unconfirmed.clone();
        doubted.insert(known("b.2"));
        assert!(services.keep_only(doubted.clone(), &listed));
        assert_eq!(names(&services), ["a.1", "b.2", "c.1"], "the hub says so, and the bucket");
        assert!(!services.keep_only(doubted, &[]), "each question is about those that it was asked for");
    }

    #[test]
    fn a_goodbye_is_heard_at_once_and_rubbish_is_not() {
        let mut services = Services::default();
        open(&mut services, &[record("a", "1"), record("a", "2")]);
        assert!(services.take(News::Removed { key: "a.1".into() }));
        assert!(!services.take(News::Removed { key: "a.1".into() }));
        for key in ["a.2", "no-key", "a.b.c"] {
            assert!(!services.take(News::Put { key: key.into(), value: "forged".into() }), "{key}");
        }
        assert_eq!(names(&services), ["a.2"]);
        let a = "a".parse().unwrap();
        assert_eq!(services.of(&a).count(), 1);
        assert_eq!(services.of(&"b".parse().unwrap()).count(), 0);
    }
}
