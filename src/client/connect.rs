//! A connection made for a hub's client: it begins at once, whether or not NATS is there, and never gives up.

use std::time::Duration;

use async_nats::Event;

use super::HubClient;
use crate::nats::{BadOption, NatsOptions, bucket_prefix, subject_prefix, variable};

/// Which hub, how to reach it, and as whom.
///
/// ```
/// use central_hub::client::ClientOptions;
/// use central_hub::nats::NatsOptions;
///
/// let options = ClientOptions {
///     nats: NatsOptions {
///         user: Some("tick-aggregator".into()),
///         password: Some("…".into()),
///         inbox_prefix: Some("_INBOX.tick-aggregator".into()),
///         ..NatsOptions::new("nats://nats:4222")
///     },
///     ..ClientOptions::default()
/// };
/// # assert_eq!(options.subject_prefix, "hub");
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How to reach NATS and as whom.
    pub nats: NatsOptions,
    /// First tokens of the hub's subjects, `hub`.
    pub subject_prefix: String,
    /// Start of the hub's bucket names, `hub`.
    pub bucket_prefix: String,
    /// How long a call waits for its answer, 5 s.
    pub timeout: Duration,
    /// Name of the connection, for those who look at the NATS server.
    pub name: Option<String>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            nats: NatsOptions::new(crate::nats::DEFAULT_URL),
            subject_prefix: "hub".into(),
            bucket_prefix: "hub".into(),
            timeout: super::TIMEOUT,
            name: None,
        }
    }
}

impl ClientOptions {
    /// The hub on the NATS at `url`, as nobody in particular.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { nats: NatsOptions::new(url), ..Self::default() }
    }

    /// What the environment says: `CENTRAL_HUB_NATS_URL`, `…_USER` and `…_PASSWORD`, `…_TOKEN`, `…_NKEY_SEED`, `…_CREDS`,
    /// `…_TLS_CA`, `…_TLS_CERT` and `…_TLS_KEY`, `…_TLS_REQUIRED`, `…_INBOX_PREFIX`, and `CENTRAL_HUB_SUBJECT_PREFIX` and
    /// `CENTRAL_HUB_BUCKET_PREFIX`. Secrets may also come as `…_FILE`, the path of a file that holds one.
    ///
    /// # Errors
    /// [`BadOption`], which names the variable.
    pub fn from_env() -> Result<Self, BadOption> {
        let mut options = Self { nats: NatsOptions::from_env()?, ..Self::default() };
        if let Some(prefix) = variable("CENTRAL_HUB_SUBJECT_PREFIX")? {
            options.subject_prefix = prefix;
        }
        if let Some(prefix) = variable("CENTRAL_HUB_BUCKET_PREFIX")? {
            options.bucket_prefix = prefix;
        }
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<(), BadOption> {
        subject_prefix(&self.subject_prefix).map_err(|rule| BadOption(format!("the subject prefix {rule}")))?;
        bucket_prefix(&self.bucket_prefix).map_err(|rule| BadOption(format!("the bucket prefix {rule}")))?;
        Ok(())
    }
}

impl HubClient {
    /// Connects, and returns at once: NATS may come later, and what needs it waits for it.
    ///
    /// # Errors
    /// What can't get better by waiting: an option that can't be used, a file that can't be read.
    pub async fn connect(options: ClientOptions) -> Result<Self, BadOption> {
        options.check()?;
        options.nats.check()?;
        let connect = options.nats.connect_options().await;
        let connect = connect.map_err(|error| BadOption(format!("the credentials file: {error}")))?;
        let connect = connect
            .name(options.name.as_deref().unwrap_or("central-hub client"))
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10))
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(|event| {
                note(&event);
                std::future::ready(())
            });
        let nats = connect.connect(options.nats.urls).await;
        // Nothing of the network was tried yet.
        let nats = nats.map_err(|error| BadOption(format!("the NATS options can't be used: {error}")))?;
        let client = Self::new(nats).with_prefix(options.subject_prefix).with_bucket_prefix(options.bucket_prefix);
        Ok(client.with_timeout(options.timeout))
    }
}

/// A fleet that lost its server comes back over half a second and more, not all at once; and none stays away for long.
fn reconnect_delay(attempt: usize) -> Duration {
    let whole = Duration::from_millis(100u64 << attempt.min(4)).min(Duration::from_secs(1));
    whole.mul_f64(0.25 + 0.75 * fastrand::f64())
}

fn note(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("lost NATS; reconnecting"),
        // A permission that is missing shows here and nowhere else.
        Event::ServerError(error) => tracing::error!(cause = %error, "NATS refused something"),
        Event::SlowConsumer(_) => tracing::warn!("messages arrive faster than they are taken: the newest were lost"),
        other => tracing::debug!(event = %other, "NATS connection"),
    }
}
