//! What tests stand on: servers shared by all tests of this process, private ones to break, and hub processes.
//!
//! Everything runs under guards, so that a test that crashes, or is killed, leaves no process and no data behind.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use central_hub::cli::stack::{GuardedCommand, GuardedProcess, NatsServer, Postgres, Stack, StackOptions};
use tokio::time::{Instant, sleep};

/// The `central-hub` program that was built for these tests.
pub fn executable() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_central-hub"))
}

/// Options for private servers in a folder of their own, which vanish with this process: to kill, pause and restart.
pub fn scratch() -> StackOptions {
    let folder = std::env::temp_dir().join(format!("central-hub-it-{}", nuid::next()));
    StackOptions::scratch(executable(), &folder)
}

/// A private nats-server and PostgreSQL.
pub async fn private_stack() -> Stack {
    Stack::start(scratch()).await.expect("private servers")
}

/// A private nats-server.
pub async fn private_nats() -> NatsServer {
    private_nats_with("").await
}

/// A private nats-server with these lines in its configuration.
pub async fn private_nats_with(config: &str) -> NatsServer {
    // Its folder alone, without the one of a whole stack around it.
    let options = scratch();
    let mut nats = options.nats();
    nats.folder = options.data_dir;
    nats.config = config.to_owned();
    NatsServer::start(nats).await.expect("a private nats-server")
}

/// A private PostgreSQL.
pub async fn private_postgres() -> Postgres {
    let options = scratch();
    let mut postgres = options.postgres();
    postgres.folder = options.data_dir;
    Postgres::start(postgres).await.expect("a private PostgreSQL")
}

/// The servers that all tests of this process share. Leave them running: who breaks a server starts a private one.
pub fn shared() -> &'static Stack {
    static SHARED: OnceLock<Stack> = OnceLock::new();
    SHARED.get_or_init(|| {
        // On a runtime of its own, which outlives that of the test that came first.
        let start = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let runtime: &'static tokio::runtime::Runtime = Box::leak(Box::new(runtime));
            runtime.block_on(private_stack())
        };
        std::thread::spawn(start).join().expect("the shared servers")
    })
}

/// The address of the shared nats-server.
pub fn nats_url() -> String {
    shared().nats_url()
}

/// A client of the shared nats-server.
pub async fn nats() -> async_nats::Client {
    async_nats::connect(nats_url()).await.expect("a connection to NATS")
}

/// The address of a fresh, empty database on the shared PostgreSQL.
pub async fn database() -> String {
    let name = unique();
    shared().postgres.create_database(&name, None).await.expect("a database");
    shared().postgres.url_of(&name)
}

/// A name nothing else has, whatever the case of its letters: a prefix for the subjects and buckets of one test. (The
/// name of an event stream is made of upper-case letters only.)
pub fn unique() -> String {
    static RUN: LazyLock<u128> =
        LazyLock::new(|| std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_micros());
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("t{:x}n{}", *RUN, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// What a condition of [`eventually`] may answer: `bool`, `Option<T>`, or `Result<T, E>`, whose last error is shown.
pub trait Outcome {
    type Value;
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();
    fn outcome(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "None".to_owned())
    }
}

impl<T, E: std::fmt::Debug> Outcome for Result<T, E> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Asks again and again until the condition holds, and gives what it found; panics, at the caller's line, when the
/// deadline has passed. The only way in which tests wait.
#[track_caller]
pub fn eventually<F, Fut>(deadline: Duration, mut condition: F) -> impl Future<Output = <Fut::Output as Outcome>::Value>
where
    F: FnMut() -> Fut,
    Fut: Future<Output: Outcome>,
{
    let caller = std::panic::Location::caller();
    async move {
        let until = Instant::now() + deadline;
        let mut pause = Duration::from_millis(5);
        loop {
            let last = match condition().await.outcome() {
                Ok(value) => return value,
                Err(last) => last,
            };
            assert!(Instant::now() < until, "not within {deadline:?} at {caller}; last answer: {last}");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// How a [`HubProcess`] is started.
#[derive(Debug, Clone)]
pub struct HubOptions {
    pub nats_url: String,
    pub database_url: String,
    /// The prefix of its subjects and of its buckets. Replicas of one hub share it.
    pub prefix: String,
    pub replica_id: String,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
}

impl HubOptions {
    /// A hub on the shared servers, with a database and a prefix of its own.
    pub async fn fresh() -> HubOptions {
        HubOptions::on(&nats_url(), &database().await)
    }

    /// A hub on these servers, with a prefix of its own.
    pub fn on(nats_url: &str, database_url: &str) -> HubOptions {
        HubOptions {
            nats_url: nats_url.to_owned(),
            database_url: database_url.to_owned(),
            prefix: unique(),
            replica_id: unique(),
            env: Vec::new(),
        }
    }

    /// The same hub, as another replica.
    pub fn replica(&self) -> HubOptions {
        HubOptions { replica_id: unique(), ..self.clone() }
    }

    /// With one more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> HubOptions {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A `central-hub serve` of the real program. Dropping it stops it; if its test failed, the end of its log is shown.
pub struct HubProcess {
    options: HubOptions,
    command: GuardedCommand,
    process: Option<GuardedProcess>,
}

impl HubProcess {
    /// Starts it and returns while it still connects.
    pub async fn start(options: HubOptions) -> HubProcess {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.log", options.replica_id));
        let mut command = GuardedCommand::new(executable(), executable(), &log);
        command.args = vec!["serve".into()];
        command.grace = Duration::from_secs(20);
        let fixed = [
            ("CENTRAL_HUB_NATS_URL", &options.nats_url),
            ("CENTRAL_HUB_DATABASE_URL", &options.database_url),
            ("CENTRAL_HUB_SUBJECT_PREFIX", &options.prefix),
            ("CENTRAL_HUB_BUCKET_PREFIX", &options.prefix),
            ("CENTRAL_HUB_REPLICA_ID", &options.replica_id),
            // NATS sets it aside at once, for each hub of each test.
            ("CENTRAL_HUB_EVENTS_MAX_MIB", &"8".to_owned()),
        ];
        command.env.extend(fixed.iter().map(|(name, value)| (name.into(), value.into())));
        command.env.extend(options.env.iter().map(|(name, value)| (name.into(), value.into())));
        let mut hub = HubProcess { options, command, process: None };
        hub.restart().await;
        hub
    }

    /// Returns when it says of itself that it is healthy; panics when it ended instead.
    pub async fn ready(&mut self) {
        let subject = self.subject("health");
        let nats = async_nats::connect(&self.options.nats_url).await.expect("a connection to NATS");
        let replica_id = self.options.replica_id.clone();
        eventually(Duration::from_secs(30), || {
            assert!(self.is_running(), "the hub ended before it was ready");
            let (asked, replica_id) = (nats.request(subject.clone(), "".into()), &replica_id);
            async move {
                let answer = asked.await.map_err(|error| error.to_string())?;
                let health: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
                // Of several replicas any may answer.
                let ready = health["replica_id"] == **replica_id && health["status"] == "healthy";
                if ready { Ok(()) } else { Err(health.to_string()) }
            }
        })
        .await;
    }

    pub fn options(&self) -> &HubOptions {
        &self.options
    }

    /// A subject of this hub: `subject("health")` is `<prefix>.health`.
    pub fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.options.prefix)
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(GuardedProcess::pid)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(GuardedProcess::is_running)
    }

    /// Starts it again with the same options, after stopping it if it still runs.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.process = Some(GuardedProcess::spawn(&self.command).await.expect("the hub's process"));
    }

    /// Sends SIGTERM and returns at once; [`ended`](Self::ended) tells how it went.
    pub fn terminate(&mut self) {
        self.process.as_mut().expect("a running hub").terminate();
    }

    /// Waits for its end and gives its exit code: 128 + n if signal n ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        self.process.take().expect("a running hub").ended().await
    }

    /// Sends SIGTERM and returns when it is gone.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop().await;
        }
    }

    /// Kills it with SIGKILL and returns when it is gone.
    pub async fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9().await;
        }
    }

    pub async fn pause(&mut self) {
        self.process.as_mut().expect("a running hub").pause().await;
    }

    pub fn resume(&mut self) {
        self.process.as_mut().expect("a running hub").resume();
    }

    /// All that it has logged, over restarts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.command.log).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.command.log.clone()
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("--- {} ends with:\n{tail}", self.log_file().display());
        } else {
            let _ = std::fs::remove_file(self.log_file());
        }
    }
}
