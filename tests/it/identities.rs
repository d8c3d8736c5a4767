//! Users of a private nats-server that runs with the permission lists that ship, and what they are refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event};
use central_hub::cli::roles::{ANSWERS, Roles, WRITES};
use central_hub::cli::stack::NatsServer;
use central_hub::client::HubClient;
use central_hub::wire::health::Health;

use crate::stack::{HubOptions, HubProcess, database, eventually, scratch};

/// How long a server may take to say something.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A nats-server with the users of `deploy/nats/roles.conf`, and a hub with its two identities there.
pub struct Guarded {
    pub roles: Roles,
    pub nats: NatsServer,
    pub hub: HubProcess,
}

/// A private nats-server with these lines in its configuration.
pub async fn nats_with(config: &str) -> NatsServer {
    let options = scratch();
    let mut nats = options.nats();
    nats.folder = options.data_dir;
    nats.config = config.to_owned();
    NatsServer::start(nats).await.expect("a private nats-server")
}

impl Guarded {
    /// Exactly the shipped users, and a hub with these variables beside those of its identities.
    pub async fn start(env: &[(&str, &str)]) -> Guarded {
        let roles = Roles::generate().unwrap();
        let config = roles.config();
        Self::start_on(roles, &config, env).await
    }

    /// The shipped users, and whoever comes without a name may do anything: to break what they can't.
    pub async fn start_open() -> Guarded {
        let roles = Roles::generate().unwrap();
        let config = roles.open_config();
        Self::start_on(roles, &config, &[]).await
    }

    async fn start_on(roles: Roles, config: &str, env: &[(&str, &str)]) -> Guarded {
        let nats = nats_with(config).await;
        let options = HubOptions { prefix: "hub".into(), ..HubOptions::on(&nats.url(), &database().await) };
        let (answers, writes) = (format!("_INBOX.{ANSWERS}"), format!("_INBOX.{WRITES}"));
        let options = options
            .env("CENTRAL_HUB_NATS_USER", ANSWERS)
            .env("CENTRAL_HUB_NATS_PASSWORD", roles.password(ANSWERS).unwrap())
            .env("CENTRAL_HUB_NATS_INBOX_PREFIX", &answers)
            .env("CENTRAL_HUB_NATS_WRITER_USER", WRITES)
            .env("CENTRAL_HUB_NATS_WRITER_PASSWORD", roles.password(WRITES).unwrap())
            .env("CENTRAL_HUB_NATS_WRITER_INBOX_PREFIX", &writes);
        let options = env.iter().fold(options, |options, (name, value)| options.env(name, value));
        let hub = HubProcess::start(options).await;
        let guarded = Guarded { roles, nats, hub };
        let health = guarded.caller("health").await;
        eventually(PATIENCE, || async {
            let health = health.hub.call(&Health {}).await.map_err(|error| error.to_string())?;
            if health.status.as_str() == "healthy" { Ok(()) } else { Err(format!("{health:?}")) }
        })
        .await;
        guarded
    }

    /// A connection of this user, with inboxes of its own.
    pub async fn caller(&self, user: &str) -> Caller {
        let password = self.roles.password(user).expect("a user that ships").to_owned();
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password);
        Caller::connect(&self.nats, options.custom_inbox_prefix(format!("_INBOX.{user}"))).await
    }

    /// What the server refused to either connection of the hub, and anything that it takes for a defect.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.hub.log();
        log.lines().filter(|line| line.contains("NATS refused") || line.contains("defect")).map(str::to_owned).collect()
    }
}

/// A connection, and what the server refused to it.
pub struct Caller {
    pub client: Client,
    pub hub: HubClient,
    refusals: Arc<Mutex<Vec<String>>>,
}

impl Caller {
    /// Connects with these options.
    pub async fn connect(nats: &NatsServer, options: ConnectOptions) -> Caller {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&refusals);
        let options = options.event_callback(move |event| {
            if let Event::ServerError(error) = event {
                heard.lock().unwrap().push(error.to_string());
            }
            std::future::ready(())
        });
        let client = options.connect(nats.url()).await.expect("a connection");
        Caller { hub: HubClient::new(client.clone()), client, refusals }
    }

    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// All that was refused so far.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap().clone()
    }

    /// Publishes an empty message to each subject and returns when the server has refused all of them.
    pub async fn cannot_publish(&self, subjects: &[&str]) {
        for subject in subjects {
            self.client.publish((*subject).to_owned(), "".into()).await.unwrap();
        }
        self.hears(subjects.iter().map(|subject| format!("Publish to \"{subject}\""))).await;
    }

    /// Subscribes to each subject and returns when the server has refused all of them.
    pub async fn cannot_subscribe(&self, subjects: &[&str]) {
        let mut subscriptions = Vec::new();
        for subject in subjects {
            subscriptions.push(self.client.subscribe((*subject).to_owned()).await.unwrap());
        }
        self.hears(subjects.iter().map(|subject| format!("Subscription to \"{subject}\""))).await;
    }

    /// Returns when the server has refused something in each of these words.
    pub async fn hears(&self, words: impl Iterator<Item = String>) {
        let words: Vec<String> = words.collect();
        eventually(PATIENCE, || async {
            let refusals = self.refusals();
            let missing: Vec<&String> =
                words.iter().filter(|words| !refusals.iter().any(|refusal| refusal.contains(*words))).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("not refused: {missing:?}")) }
        })
        .await;
    }

    /// A request in raw JSON, and its answer.
    pub async fn ask(&self, subject: &str, body: &str) -> serde_json::Value {
        let answer = self.client.request(subject.to_owned(), body.to_owned().into()).await.expect(subject);
        serde_json::from_slice(&answer.payload).expect("JSON")
    }
}
