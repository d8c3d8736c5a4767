//! The tables of `tests/clients/cases`: what every client does, in whatever language.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::cache::{self, CacheFile};
use super::entry::{Entry, Offer};
use super::follow::ConfigKey;
use super::follower::{Follower, Outcome};
use super::layers::{Environment, Unresolved, Why, fill_in};
use super::watch::{Fold as _, News};
use crate::domain::config::Position;
use crate::domain::name::{InstanceId, ServiceName};

/// The cases of one list of a table.
fn cases(table: &str, list: &str) -> Vec<Value> {
    let Value::Object(mut table) = serde_json::from_str(table).unwrap() else { panic!("a table is an object") };
    let Some(Value::Array(cases)) = table.remove(list) else { panic!("no list {list}") };
    assert!(!cases.is_empty(), "{list} is empty");
    let mut names: Vec<_> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "each case of {list} has a name of its own");
    cases
}

fn object(value: &Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object.clone(),
        Value::Null => Map::new(),
        other => panic!("no object: {other}"),
    }
}

fn tick() -> ServiceName {
    "tick".parse().unwrap()
}

fn instance(case: &Value) -> Option<InstanceId> {
    case["instance_id"].as_str().map(|id| id.parse().unwrap())
}

/// `env` and `allow` of a case.
fn environment(case: &Value) -> Environment {
    let variables: HashMap<String, String> =
        object(&case["env"]).into_iter().map(|(name, value)| (name, value.as_str().unwrap().to_owned())).collect();
    let names = |names: &Vec<Value>| names.iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    Environment { allow: case["allow"].as_array().map(names), read: Arc::new(move |name| variables.get(name).cloned()) }
}

/// An offer as the tables show it.
fn shown(offer: &Offer) -> Value {
    let Offer { position, version, checksum, config, .. } = offer;
    json!({"epoch": position.epoch, "revision": position.revision, "version": version, "checksum": checksum, "config": config})
}

/// The bytes that a case holds as `text`, or as a JSON `value`.
fn bytes(case: &Value) -> Vec<u8> {
    match case.get("text") {
        Some(text) => text.as_str().unwrap().into(),
        None => case["value"].to_string().into(),
    }
}

#[test]
fn merging() {
    for case in cases(include_str!("../../tests/clients/cases/merge.json"), "cases") {
        let mut config = object(&case["config"]);
        fill_in(&mut config, &object(&case["defaults"]));
        assert_eq!(Value::Object(config), case["expect"], "{}", case["name"]);
    }
}

#[test]
fn references() {
    for case in cases(include_str!("../../tests/clients/cases/references.json"), "cases") {
        let mut config = object(&case["config"]);
        match environment(&case).resolve(&mut config) {
            Ok(_) => assert_eq!(Some(&Value::Object(config)), case.get("expect"), "{}", case["name"]),
            Err(unresolved) => {
                let shown = |Unresolved { path, name, why }| {
                    let why = if why == Why::Unset { "unset" } else { "not_allowed" };
                    json!({"path": path, "name": name, "why": why})
                };
                let found: Vec<Value> = unresolved.into_iter().map(shown).collect();
                assert_eq!(Some(&Value::Array(found)), case.get("unresolved"), "{}", case["name"]);
            }
        }
    }
}

#[test]
fn entries() {
    for case in cases(include_str!("../../tests/clients/cases/entries.json"), "cases") {
        let entry = Entry::read(&bytes(&case), &tick());
        let found = entry.map_or(Value::Null, |entry| {
            let offer = entry.offer(instance(&case).as_ref());
            let mut found = shown(offer);
            found["canary"] = offer.is_canary.into();
            found
        });
        assert_eq!(found, case["expect"], "{}", case["name"]);
    }
}

#[test]
fn cache_files_are_read() {
    for case in cases(include_str!("../../tests/clients/cases/cache.json"), "read") {
        let found = cache::parse(&bytes(&case), &tick());
        let found = found.map_or(Value::Null, |offer| shown(&offer));
        assert_eq!(found, case["expect"], "{}", case["name"]);
    }
}

#[test]
fn cache_files_are_written() {
    for case in cases(include_str!("../../tests/clients/cases/cache.json"), "write") {
        let offer = Offer::of(&mut object(&case["taken"])).unwrap();
        let at = OffsetDateTime::parse(case["at"].as_str().unwrap(), &Rfc3339).unwrap();
        let found = cache::render(&offer, &tick(), at);
        assert_eq!(found, case["expect"], "{}", case["name"]);
        assert_eq!(cache::parse(found.to_string().as_bytes(), &tick()).unwrap(), offer, "{}", case["name"]);
    }
}

#[test]
fn folders_of_cache_files() {
    for case in cases(include_str!("../../tests/clients/cases/cache.json"), "folder") {
        let chosen = case["argument"].as_str().map(Path::new);
        let found = cache::folder(chosen, |name| case["env"].get(name)?.as_str().map(str::to_owned));
        assert_eq!(found.as_deref(), case["expect"].as_str().map(Path::new), "{}", case["name"]);
    }
}

#[tokio::test]
async fn stories() {
    for story in cases(include_str!("../../tests/clients/cases/stories.json"), "stories") {
        Told::begin(&story).await.run(&story).await;
    }
}

/// What the application's check says: a refusal, of one config only or of any.
type Refusal = Arc<Mutex<Option<(String, Option<Value>)>>>;

/// A client in a story.
struct Told {
    name: String,
    folder: tempfile::TempDir,
    kv: ConfigKey,
    follower: Follower<Map<String, Value>>,
    instance: Option<InstanceId>,
    refusal: Refusal,
}

impl Told {
    async fn begin(story: &Value) -> Told {
        let folder = tempfile::tempdir().unwrap();
        let refusal = Refusal::default();
        let mut follower = Follower::new(tick(), object(&story["defaults"]), environment(story));
        let says = Arc::clone(&refusal);
        follower.hook = Some(Arc::new(move |config: &Map<String, Value>| match &*says.lock().unwrap() {
            Some((text, None)) => Err(text.clone()),
            Some((text, Some(only))) if *only == Value::Object(config.clone()) => Err(text.clone()),
            _ => Ok(()),
        }));
        follower.cache = Some(CacheFile::new(folder.path().to_owned(), tick()));
        let name = story["name"].as_str().unwrap().to_owned();
        let (kv, instance) = (ConfigKey::new(tick()), instance(story));
        let mut told = Told { name, folder, kv, follower, instance, refusal };
        if let Some(file) = story.get("file_before") {
            told.put_file(file);
        }
        if let Some(text) = story["refuse_file"].as_str() {
            let mut config = object(&story["file_before"]["config"]);
            fill_in(&mut config, &object(&story["defaults"]));
            *told.refusal.lock().unwrap() = Some((text.to_owned(), Some(config.into())));
        }
        told.follower.begin().await;
        told
    }

    async fn run(mut self, story: &Value) {
        assert_eq!(self.in_force(), story["start"], "{}: the start", self.name);
        if let Some(file) = story.get("file_appears") {
            self.put_file(file);
        }
        for (number, step) in story["steps"].as_array().unwrap().iter().enumerate() {
            let place = format!("{}: step {number}", self.name);
            *self.refusal.lock().unwrap() = step["refuse"].as_str().map(|text| (text.to_owned(), None));
            assert_eq!(self.see(&step["see"]).await, step["outcome"], "{place}");
            assert_eq!(self.in_force(), step["in_force"], "{place}");
            let error = self.follower.report.borrow().error.clone();
            assert_eq!(Value::from(error.is_some()), step["error"], "{place}: {error:?}");
            assert!(!error.is_some_and(|error| error.contains("s3cret")), "{place}");
            let revision = &step["in_force"]["revision"];
            assert_eq!(json!(self.follower.report.borrow().revision), *revision, "{place}: as heartbeats say it");
        }
        assert_eq!(self.file(), story["file"], "{}: the file", self.name);
    }

    fn put_file(&self, content: &Value) {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        std::fs::write(self.folder.path().join("tick.json"), text).unwrap();
    }

    fn file(&self) -> Value {
        match std::fs::read(self.folder.path().join("tick.json")) {
            Ok(text) => shown(&cache::parse(&text, &tick()).unwrap()),
            Err(_) => Value::Null,
        }
    }

    fn in_force(&self) -> Value {
        let in_force = self.follower.in_force.borrow().clone().expect("something is always in force");
        let (epoch, revision) = in_force.position.map(|Position { epoch, revision }| (epoch, revision)).unzip();
        json!({"source": in_force.source.as_str(), "epoch": epoch, "revision": revision, "version": in_force.version,
            "config": *in_force.value()})
    }

    /// Shows it one thing, through what folds the news of a watch, and tells the outcome in the table's word.
    async fn see(&mut self, see: &Value) -> &'static str {
        let key = || "tick".to_owned();
        let news = match (see.get("value"), see["marker"].as_str(), see["missing"].as_str()) {
            (Some(value), None, None) => {
                // As text: a value that was told already is told again, as by a watch that was opened anew.
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return self.read(text.as_bytes()).await;
            }
            (None, Some("delete" | "purge"), None) => vec![News::Removed { key: key() }],
            (None, None, Some("key")) => vec![News::Opened, News::Current, News::Settled],
            (None, None, Some("bucket")) => vec![News::Lost],
            // Nothing reaches the follower of an answer that there is none.
            (None, None, Some("config")) => vec![],
            other => panic!("{}: what is to be seen? {other:?}", self.name),
        };
        for news in news {
            self.kv.take(news);
        }
        assert!(self.kv.newest().is_none_or(|newest| Some(newest.position()) <= self.follower.newest()));
        "nothing"
    }

    async fn read(&mut self, value: &[u8]) -> &'static str {
        let Some(entry) = Entry::read(value, &tick()) else {
            assert!(!self.kv.take(News::Put { key: "tick".into(), value: value.to_owned().into() }));
            return "unreadable";
        };
        self.kv.take(News::Put { key: "tick".into(), value: value.to_owned().into() });
        let outcome = self.follower.see(&entry, self.instance.as_ref()).await;
        while let Some(saving) = self.follower.save() {
            assert!(self.follower.saved(saving.await.unwrap()), "{}", self.name);
        }
        match outcome {
            Outcome::Taken => "taken",
            Outcome::Confirmed => "confirmed",
            Outcome::Older => "older",
            Outcome::Refused => "refused",
            Outcome::AlreadyRefused => "seen",
        }
    }
}
