//! Witnesses of what a hub promises under faults: what Postgres says, what a watcher of KV saw, and whether they agree.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::kv::{self, Operation};
use bytes::Bytes;
use central_hub::domain::config::Position;
use central_hub::wire::bucket::Bucket;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};

use crate::stack::{HubOptions, HubProcess, eventually};

/// How long anything may take that a hub does by itself, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(15);

/// How soon after a fault KV must say what Postgres says.
pub const HEALED: Duration = Duration::from_secs(5);

/// A connection to NATS that is back soon after the server is.
pub async fn connect(url: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new()
        .reconnect_delay_callback(|_| Duration::from_millis(50))
        .skip_subject_validation(true);
    options.connect(url).await.expect("a connection to NATS")
}

/// What Postgres says. Each question has a connection of its own, so that the server may die between two.
#[derive(Clone)]
pub struct Truth {
    url: String,
}

/// An instance that a sweep marked down, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Down {
    pub of: (String, String),
    pub at: OffsetDateTime,
}

impl Truth {
    pub fn of(options: &HubOptions) -> Truth {
        Truth { url: options.database_url.clone() }
    }

    /// A connection to hold, for transactions that stand in somebody's way.
    pub async fn session(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn rows(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.session().await?.query(sql, params).await
    }

    /// The first column of the only row.
    pub async fn one<T>(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> T
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.rows(sql, params).await.expect("an answer of Postgres")[0].get(0)
    }

    /// All that a sweep ever marked down, in order.
    pub async fn downs(&self) -> Vec<Down> {
        let sql = "SELECT service_name, instance_id, at FROM hub_events
                   WHERE kind = 'down' AND details->>'reason' = 'silent' ORDER BY id";
        let rows = self.rows(sql, &[]).await.expect("an answer of Postgres");
        rows.iter().map(|row| Down { of: (row.get(0), row.get(1)), at: row.get(2) }).collect()
    }

    /// All `(service, instance)` that a sweep ever marked down, in order.
    pub async fn downed(&self) -> Vec<(String, String)> {
        self.downs().await.into_iter().map(|down| down.of).collect()
    }

    /// Who leads, and under which token; `None` while the lease has run out.
    pub async fn leader(&self) -> Option<(String, i64)> {
        let sql = "SELECT holder, token FROM hub_leadership WHERE expires_at > clock_timestamp()";
        self.rows(sql, &[]).await.ok()?.first().map(|row| (row.get(0), row.get(1)))
    }

    /// What is in force: service → (position, version, content, checksum).
    async fn configs(&self) -> Result<BTreeMap<String, (Position, Option<i64>, Value, Option<String>)>, String> {
        let sql = "SELECT h.service_name, m.epoch, h.revision, h.version, c.config_data, c.checksum
                   FROM config_heads h CROSS JOIN hub_meta m
                   LEFT JOIN service_configs c ON c.service_name = h.service_name AND c.version = h.version
                   WHERE h.revision > 0";
        let rows = self.rows(sql, &[]).await.map_err(|error| error.to_string())?;
        Ok(rows
            .iter()
            .map(|row| {
                let position = Position { epoch: row.get(1), revision: row.get(2) };
                let content = row.get::<_, Option<Value>>(4).unwrap_or_default();
                (row.get(0), (position, row.get(3), content, row.get(5)))
            })
            .collect())
    }

    /// The registry: `<service>.<instance>` → its record as KV must hold it, times left out.
    async fn instances(&self) -> Result<BTreeMap<String, Value>, String> {
        let sql = "SELECT service_name || '.' || instance_id, jsonb_build_object(
                       'service_name', service_name, 'instance_id', instance_id, 'incarnation', incarnation,
                       'status', status, 'draining', draining, 'version', version, 'host', host, 'port', port,
                       'dependencies', dependencies, 'metadata', metadata, 'config_revision', config_revision,
                       'config_version', config_version, 'config_error', config_error)
                   FROM service_registry";
        let rows = self.rows(sql, &[]).await.map_err(|error| error.to_string())?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

/// The values of a bucket, by key.
pub async fn values(nats: &async_nats::Client, bucket: &str) -> Result<BTreeMap<String, Value>, String> {
    let kv = jetstream::new(nats.clone()).get_key_value(bucket).await.map_err(|error| error.to_string())?;
    let keys: Vec<String> =
        kv.keys().await.map_err(|error| error.to_string())?.try_collect().await.map_err(|error| error.to_string())?;
    let mut values = BTreeMap::new();
    for key in keys {
        if let Some(value) = kv.get(&key).await.map_err(|error| error.to_string())? {
            let value = serde_json::from_slice(&value).map_err(|error| format!("{key}: {error}"))?;
            values.insert(key, value);
        }
    }
    Ok(values)
}

/// Whether both buckets say exactly what Postgres says; else the first differences.
pub async fn kv_agrees(nats: &async_nats::Client, options: &HubOptions) -> Result<(), String> {
    let truth = Truth::of(options);
    let mut differences = Vec::new();

    let (wanted, found) = (truth.configs().await?, values(nats, &Bucket::Config.name(&options.prefix)).await?);
    for (service, (position, version, content, checksum)) in &wanted {
        let value = found.get(service).unwrap_or(&Value::Null);
        let said = (value["epoch"].as_i64(), value["revision"].as_i64(), value["version"].as_i64());
        let fine = said == (Some(position.epoch), Some(position.revision), *version)
            && value["config"] == *content
            && value["checksum"].as_str() == checksum.as_deref()
            && value["service_name"] == **service;
        if !fine {
            differences.push(format!("config {service}: {position:?} version {version:?}, and KV has {value}"));
        }
    }
    differences.extend(found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| format!("config {key} in KV")));

    let (wanted, found) = (truth.instances().await?, values(nats, &Bucket::Services.name(&options.prefix)).await?);
    for (key, record) in &wanted {
        let value = found.get(key).unwrap_or(&Value::Null);
        let fine = record.as_object().unwrap().iter().all(|(name, wanted)| value[name] == *wanted)
            && value.get("last_heartbeat").is_none();
        if !fine {
            differences.push(format!("instance {key}: {record}, and KV has {value}"));
        }
    }
    differences
        .extend(found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| format!("instance {key} in KV")));

    if differences.is_empty() { Ok(()) } else { Err(format!("{:.2000}", differences.join("; "))) }
}

/// Waits until KV agrees with Postgres.
#[track_caller]
pub fn healed(nats: &async_nats::Client, options: &HubOptions) -> impl Future<Output = ()> {
    healed_within(HEALED, nats, options)
}

/// Waits until KV agrees with Postgres.
#[track_caller]
pub fn healed_within(deadline: Duration, nats: &async_nats::Client, options: &HubOptions) -> impl Future<Output = ()> {
    let (nats, options) = (nats.clone(), options.clone());
    eventually(deadline, move || {
        let (nats, options) = (nats.clone(), options.clone());
        async move { kv_agrees(&nats, &options).await }
    })
}

/// Starts replicas of one hub, all at once, and returns when each serves.
pub async fn replicas(options: &HubOptions, count: usize) -> Vec<HubProcess> {
    let all = (0..count).map(|_| HubProcess::start(options.replica()));
    let mut hubs = futures_util::future::join_all(all).await;
    for hub in &mut hubs {
        hub.ready().await;
    }
    hubs
}

/// What a watcher of `hub_config` saw.
#[derive(Default)]
struct Seen {
    /// Whether it takes no notice of what is older than what it has, as clients do.
    orders: bool,
    newest: HashMap<String, (Position, Bytes)>,
    wrongs: Vec<String>,
    puts: u64,
}

/// A watcher of `hub_config` as a client would be one, which remembers each time that a key went back.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Watches from now on, over whatever happens to servers and bucket, with one watch of the client library.
    pub async fn start(options: &HubOptions) -> Watcher {
        Watcher::begin(options, false).await
    }

    /// Watches from now on as a program would that is started again several times a second: it finds what stands in the
    /// bucket each time, and takes what is newer than what it has.
    pub async fn ordering(options: &HubOptions) -> Watcher {
        Watcher::begin(options, true).await
    }

    async fn begin(options: &HubOptions, orders: bool) -> Watcher {
        let seen = Arc::new(Mutex::new(Seen { orders, ..Seen::default() }));
        let (nats, bucket) = (connect(&options.nats_url).await, Bucket::Config.name(&options.prefix));
        let life = if orders { Duration::from_millis(300) } else { Duration::MAX };
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let _ = tokio::time::timeout(life, watch(&nats, &bucket, &seen)).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        Watcher { seen, task }
    }

    /// The newest position it saw of a key.
    pub fn position(&self, key: &str) -> Option<Position> {
        self.seen.lock().unwrap().newest.get(key).map(|(position, _)| *position)
    }

    /// Panics if a key ever went back, or one position ever had two contents.
    pub fn never_went_back(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.wrongs.is_empty(), "{:#?}", seen.wrongs);
        assert!(seen.puts > 0, "the watcher saw nothing at all");
    }

    /// The newest position and content that it took of a key.
    fn newest(&self, key: &str) -> Option<(Position, Value)> {
        let (position, value) = self.seen.lock().unwrap().newest.get(key).cloned()?;
        let mut value: Value = serde_json::from_slice(&value).unwrap_or_default();
        Some((position, value["config"].take()))
    }

    /// Waits until it has what is in force, of every service.
    pub async fn caught_up(&self, deadline: Duration, truth: &Truth) {
        eventually(deadline, || async {
            for (key, (position, _, content, _)) in truth.configs().await? {
                let (found, wanted) = (self.newest(&key), Some((position, content)));
                if found != wanted {
                    return Err(format!("the watcher has {found:?} of {key}, not {wanted:?}"));
                }
            }
            Ok(())
        })
        .await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(nats: &async_nats::Client, bucket: &str, seen: &Mutex<Seen>) -> Result<(), async_nats::Error> {
    let kv = jetstream::new(nats.clone()).get_key_value(bucket).await?;
    let mut watch = kv.watch_with_history(">").await?;
    // A watch mends itself after an error; only its end calls for a new one.
    while let Some(entry) = watch.next().await {
        if let Ok(entry) = entry
            && entry.operation == Operation::Put
        {
            note(&entry, &mut seen.lock().unwrap());
        }
    }
    Ok(())
}

fn note(entry: &kv::Entry, seen: &mut Seen) {
    seen.puts += 1;
    let value: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    let (Some(epoch), Some(revision)) = (value["epoch"].as_i64(), value["revision"].as_i64()) else {
        seen.wrongs.push(format!("{}: no position in {value}", entry.key));
        return;
    };
    let position = Position { epoch, revision };
    match seen.newest.get(&entry.key) {
        Some((newest, _)) if *newest > position && seen.orders => {}
        Some((newest, _)) if *newest > position => {
            seen.wrongs.push(format!("{}: {position:?} after {newest:?}", entry.key));
        }
        Some((newest, content)) if *newest == position && *content != entry.value => {
            seen.wrongs.push(format!("{}: two contents of {position:?}", entry.key));
        }
        _ => {
            seen.newest.insert(entry.key.clone(), (position, entry.value.clone()));
        }
    }
}
