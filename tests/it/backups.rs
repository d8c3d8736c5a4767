//! A hub's world whose servers can be put back to old copies of their data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::connection::State;
use central_hub::cli::stack::Stack;
use serde_json::{Value, json};

use crate::ask::Asker;
use crate::stack::{HubOptions, HubProcess, eventually, private_stack};
use crate::witness::{Truth, Watcher, connect, healed_within, replicas};

/// How long anything may take: far more than it needs, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Services with a config from the beginning on: `config-0`, …
const SERVICES: usize = 5;

/// A folder of a server that is stopped, and a copy of it.
pub struct Backup {
    folder: PathBuf,
    copy: PathBuf,
}

impl Backup {
    pub fn of(folder: PathBuf) -> Backup {
        let copy = folder.with_extension("old");
        copy_folder(&folder, &copy);
        Backup { folder, copy }
    }

    pub fn put_back(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy_folder(&self.copy, &self.folder);
    }
}

/// With owners and modes.
pub fn copy_folder(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// What comes back old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    Nats,
    Postgres,
    Both,
}

impl Old {
    pub fn has_nats(self) -> bool {
        self != Old::Postgres
    }

    pub fn has_postgres(self) -> bool {
        self != Old::Nats
    }
}

/// Hubs on servers of their own, and clients that watch from before any trouble to its end.
pub struct World {
    pub hubs: Vec<HubProcess>,
    pub options: HubOptions,
    pub nats: async_nats::Client,
    watchers: [Watcher; 2],
    pub truth: Truth,
    // Last, so that the servers outlive the hubs.
    pub stack: Stack,
}

impl World {
    /// Some configs, some instances, all of them in KV and seen.
    pub async fn new(hubs: usize) -> World {
        let stack = private_stack().await;
        let options = HubOptions::on(&stack.nats_url(), &stack.database_url());
        let hubs = replicas(&options, hubs).await;
        let nats = connect(&options.nats_url).await;
        let watchers = [Watcher::start(&options).await, Watcher::ordering(&options).await];
        let world = World { hubs, nats, watchers, truth: Truth::of(&options), stack, options };
        for service in 0..SERVICES {
            for number in 0..2 {
                world.ask(&format!("config.set.config-{service}"), json!({ "config": { "number": number } })).await;
            }
        }
        for service in ["service-0", "service-1"] {
            world.ask(&format!("register.{service}"), json!({ "instance_id": "only" })).await;
        }
        world.is_well().await;
        world
    }

    /// What an old copy of this moment lacks.
    pub async fn go_on(&self) {
        for number in 2..6 {
            self.ask("config.set.config-0", json!({ "config": { "number": number } })).await;
        }
        let settings = json!({ "operational": { "service_discovery": { "heartbeat_interval_seconds": 7 } } });
        self.ask("config.set.central-hub", json!({ "config": settings })).await;
        self.ask("config.delete.config-1", json!({})).await;
        self.ask("config.rollback.config-2", json!({})).await;
        self.ask("config.set.config-new", json!({ "config": { "number": 1 } })).await;
        self.ask("register.service-2", json!({ "instance_id": "only" })).await;
        self.ask("deregister.service-0", json!({})).await;
        self.is_well().await;
    }

    pub async fn ask(&self, subject: &str, body: Value) -> Value {
        Asker::of(&self.options).await.ask(subject, body).await
    }

    pub async fn epoch(&self) -> i64 {
        self.truth.one("SELECT epoch FROM hub_meta", &[]).await
    }

    /// KV says what PostgreSQL says, and watchers know.
    pub async fn is_well(&self) {
        healed_within(PATIENCE, &self.nats, &self.options).await;
        for watcher in &self.watchers {
            watcher.caught_up(PATIENCE, &self.truth).await;
            watcher.never_went_back();
        }
    }

    /// Stops a server for a copy of its data.
    pub async fn copy(&mut self, old: Old) -> Vec<Backup> {
        let mut copies = Vec::new();
        if old.has_nats() {
            self.stack.nats.stop().await;
            copies.push(Backup::of(self.stack.nats.folder().join("store")));
            self.stack.nats.restart().await.unwrap();
        }
        if old.has_postgres() {
            self.stack.postgres.stop().await;
            copies.push(Backup::of(self.stack.postgres.folder().join("data")));
            self.stack.postgres.restart().await.unwrap();
        }
        self.is_connected().await;
        for hub in &mut self.hubs {
            hub.ready().await;
        }
        self.is_well().await;
        copies
    }

    /// Puts the copies in the place of what there is.
    pub async fn restore(&mut self, old: Old, copies: &[Backup]) {
        let stack = &mut self.stack;
        if old.has_nats() {
            stack.nats.stop().await;
        }
        if old.has_postgres() {
            stack.postgres.stop().await;
        }
        copies.iter().for_each(Backup::put_back);
        if old.has_nats() {
            stack.nats.restart().await.unwrap();
        }
        if old.has_postgres() {
            stack.postgres.restart().await.unwrap();
        }
        self.is_connected().await;
    }

    pub async fn is_connected(&self) {
        eventually(PATIENCE, || async { self.nats.connection_state() == State::Connected }).await;
    }

    /// All is well, for those who watched and for those who ask; and what is changed now arrives.
    pub async fn ends_well(&self) {
        self.is_well().await;
        for service in 0..SERVICES {
            self.ask(&format!("config.set.config-{service}"), json!({ "config": { "at": "the end" } })).await;
        }
        self.is_well().await;
        let sql = "SELECT service_name, revision FROM config_heads h
                   WHERE revision > 0 AND version IS NOT NULL AND service_name LIKE 'config-%'";
        let rows = self.truth.rows(sql, &[]).await.unwrap();
        let in_force: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let sql =
            "SELECT coalesce(max(config_data #>> '{operational,service_discovery,heartbeat_interval_seconds}'), '30')
                   FROM service_configs WHERE service_name = 'central-hub' AND active";
        let interval: f64 = self.truth.one::<String>(sql, &[]).await.parse().unwrap();
        let asker = Asker::of(&self.options).await;
        eventually(PATIENCE, || async {
            // Each replica takes its share of the questions.
            for _ in 0..8 {
                for service in ["config-0", "config-new"] {
                    let answer = asker.send(&format!("config.get.{service}"), "").await.result();
                    let found = answer.ok().map(|config| config["revision"].as_i64().unwrap());
                    if found != in_force.get(service).copied() {
                        return Err(format!("{found:?} of {service}, not {in_force:?}"));
                    }
                }
                let told = asker.ask("register.service-1", json!({ "instance_id": "only" })).await;
                if told["heartbeat_interval_seconds"] != interval {
                    return Err(format!("{told}, and the hub's own settings say {interval}"));
                }
            }
            Ok(())
        })
        .await;
    }
}
