//! Random calls by several writers at once, on two replicas, held against a [`model`](crate::model): in whatever order the
//! writes came to pass, each answer must be what the model gives at that point, and nothing else may have happened.
//!
//! The acknowledged changes tell their order by their revisions. Replayed in it they give all states that the config ever
//! had; of a refusal or a read, which leave no trace, it is checked that it was right at some moment between request and
//! answer. `MODEL_SEEDS=100..200` runs other seeds than the usual ones.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::ask::{Asker, Hub};
use crate::model::{Answer, Model, Operation, Write};
use crate::replay::{Attempt, Call, answer_in, replay, story};
use crate::stack::{HubOptions, eventually};
use crate::witness::{SOON, Truth, Watcher, healed_within};

/// Writers of one service.
const WRITERS: usize = 4;

/// Calls of each.
const CALLS: usize = 40;

/// Seeds, each with a service of its own, that run at the same time.
const AT_ONCE: usize = 4;

/// A service each.
const USUAL_SEEDS: Range<u64> = 0..20;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("MODEL_SEEDS") else { return USUAL_SEEDS };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("MODEL_SEEDS={text}: not of the form 0..20"))
}

#[tokio::test]
async fn random_writes_by_several_writers_do_what_a_model_says() {
    let one = Hub::start(HubOptions::fresh().await).await;
    let other = Hub::start(one.process.options().replica()).await;
    let options = one.process.options();
    let watcher = Watcher::start(options).await;
    let tallies = stream::iter(seeds()).map(|seed| Trial::run(seed, [&one, &other])).buffer_unordered(AT_ONCE);
    let tallies: Vec<Tally> = tallies.collect().await;

    let truth = Truth::of(options);
    healed_within(SOON, &one.nats, options).await;
    watcher.caught_up(SOON, &truth).await;
    watcher.never_went_back();
    assert_eq!((one.errors_logged(), other.errors_logged()), (vec![], vec![]));
    let sql = "SELECT count(DISTINCT origin) FROM hub_events WHERE topic = 'config'";
    assert_eq!(truth.one::<i64>(sql, &[]).await, 2, "both replicas took their part");
    let mut total = Tally::new();
    for (outcome, count) in tallies.into_iter().flatten() {
        *total.entry(outcome).or_default() += count;
    }
    println!("{} calls: {total:?}", total.values().sum::<u32>());
    let kinds = ["changed", "unchanged", "dry run", "repeated", "read", "version_conflict", "not_found", "bad_request"];
    let missing: Vec<_> = kinds.iter().filter(|kind| !total.contains_key(**kind)).collect();
    assert!(missing.is_empty() || seeds() != USUAL_SEEDS, "never happened: {missing:?}");
}

/// How many calls had which outcome.
type Tally = BTreeMap<String, u32>;

/// The calls of one seed, on a service that nobody else touches.
struct Trial<'a> {
    seed: u64,
    service: String,
    /// A connection for each writer to choose; any replica may answer on any.
    askers: [&'a Asker; 2],
    /// Puts what writers send and hear in one order.
    clock: AtomicU64,
    /// What writers heard last, from which they choose what to do next.
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    version: Option<i64>,
    revision: i64,
    /// Ids of sets that were acknowledged.
    used: Vec<String>,
}

impl Trial<'_> {
    async fn run(seed: u64, [one, other]: [&Hub; 2]) -> Tally {
        let trial = Trial {
            seed,
            service: format!("seed-{seed}"),
            askers: [one, other],
            clock: AtomicU64::new(0),
            heard: Mutex::default(),
        };
        let writers = (0..WRITERS).map(|writer| trial.write(writer));
        let attempts: Vec<Attempt> = join_all(writers).await.into_iter().flatten().collect();
        let replay = replay(&format!("seed {seed}"), &attempts);
        let state = trial.take_back_everything(replay.states.into_iter().next_back().unwrap()).await;
        trial.history_is_that_of(&state).await;
        tally(&attempts)
    }

    /// What one writer does, call after call.
    async fn write(&self, writer: usize) -> Vec<Attempt> {
        let mut random = fastrand::Rng::with_seed(self.seed * 1_000 + writer as u64);
        let mut attempts = Vec::new();
        for number in 0..CALLS {
            let call = self.choose(&mut random, writer, number);
            let repeats = match &call {
                Call::Write { request_id: Some(_), .. } => random.usize(1..=3),
                _ => 1,
            };
            // Some at the same time, so that they meet; the last one when the first was answered.
            let at_once = join_all((0..repeats.min(2)).map(|index| self.ask(&call, (writer + index) % 2))).await;
            attempts.extend(at_once);
            if repeats > 2 {
                attempts.push(self.ask(&call, random.usize(..2)).await);
            }
        }
        attempts
    }

    fn choose(&self, random: &mut fastrand::Rng, writer: usize, number: usize) -> Call {
        let heard = self.heard.lock().unwrap();
        let chance = |random: &mut fastrand::Rng, percent: u8| random.u8(..100) < percent;
        if chance(random, 15) {
            return Call::Read { min_revision: chance(random, 60).then_some(heard.revision) };
        }
        if chance(random, 5)
            && let Some(request_id) = random.choice(&heard.used).cloned()
        {
            return Call::Misuse { request_id };
        }
        let operation = match random.u8(..100) {
            0..35 => Operation::Set(content(random)),
            35..60 => Operation::Patch(patch(random)),
            60..78 => Operation::RollBack,
            78..88 => Operation::RollBackTo(random.i64(1..=heard.revision + 2)),
            _ => Operation::Delete,
        };
        // What was heard may be outdated by the time it counts.
        let expected_version = chance(random, 20).then(|| heard.version.unwrap_or(0));
        let expected_revision = chance(random, 8).then_some(heard.revision);
        let write = Write {
            operation,
            expected_version,
            expected_revision,
            dry_run: chance(random, 12),
            by: format!("writer-{writer}"),
            comment: format!("call {number} of writer {writer}"),
        };
        let request_id = chance(random, 35).then(|| format!("{}-{writer}-{number}", self.seed));
        Call::Write { write, request_id }
    }

    /// Makes a call, again while the hub is too busy for it.
    async fn ask(&self, call: &Call, asker: usize) -> Attempt {
        let (verb, body) = call.message();
        let subject = format!("config.{verb}.{}", self.service);
        let mut tries = 0;
        let (sent, answer) = loop {
            let sent = self.tick();
            let answer = self.askers[asker].send(&subject, body.to_string()).await.result();
            match &answer {
                Err(refusal) if ["unavailable", "overloaded"].contains(&refusal.code.as_str()) && tries < 20 => {
                    let repeatable = refusal.details.get("outcome").is_none() || body.get("request_id").is_some();
                    assert!(repeatable, "seed {}: nobody knows the outcome of {call:?}", self.seed);
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50 * tries)).await;
                }
                _ => break (sent, answer),
            }
        };
        if let (Ok(answer), Call::Write { write, request_id }) = (&answer, call)
            && !write.dry_run
        {
            let mut heard = self.heard.lock().unwrap();
            let revision = answer["revision"].as_i64().unwrap();
            if revision >= heard.revision {
                (heard.version, heard.revision) = (answer["version"].as_i64(), revision);
            }
            if let (Some(id), Operation::Set(_)) = (request_id, &write.operation) {
                heard.used.push(id.clone());
            }
        }
        Attempt { call: call.clone(), sent, answered: self.tick(), answer }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Takes back one change after the other until none is left: the undo stack is the model's.
    async fn take_back_everything(&self, mut state: Model) -> Model {
        loop {
            let write = Write {
                operation: Operation::RollBack,
                expected_version: None,
                expected_revision: Some(state.revision()),
                dry_run: false,
                by: "undo".to_owned(),
                comment: format!("back from {}", state.revision()),
            };
            let attempt = self.ask(&Call::Write { write: write.clone(), request_id: None }, 0).await;
            let before = story(&state);
            let wanted = state.take(&write);
            assert_eq!(answer_in(&attempt.answer), wanted, "seed {}: a rollback at {before}", self.seed);
            if let Answer::Refused(_) = wanted {
                return state;
            }
        }
    }

    /// The history, page by page, and each version are those of the model: all of them, and nothing else.
    async fn history_is_that_of(&self, state: &Model) {
        let (asker, service, seed) = (self.askers[1], &self.service, self.seed);
        let (mut activations, mut versions) = (Vec::new(), BTreeMap::new());
        let mut request = json!({ "limit": 40 });
        loop {
            let page = asker.ask(&format!("config.history.{service}"), &request).await;
            versions.extend(page["versions"].as_array().unwrap().iter().map(|v| (v["version"].as_i64(), v.clone())));
            let page = page["activations"].as_array().unwrap();
            let Some(last) = page.last() else { break };
            request["before_revision"] = last["revision"].clone();
            activations
                .extend(page.iter().map(|a| json!([a["revision"], a["version"], a["action"], a["by"], a["comment"]])));
        }
        let wanted = state.activations.iter().zip(1i64..);
        let mut wanted: Vec<Value> =
            wanted.map(|(a, revision)| json!([revision, a.version, a.action, a.by, a.comment])).collect();
        wanted.reverse();
        if let Some((found, wanted)) = activations.iter().zip(&wanted).find(|(found, wanted)| found != wanted) {
            panic!("seed {seed}: the history of {service} has {found} instead of {wanted}");
        }
        assert_eq!(activations.len(), wanted.len(), "seed {seed}: activations of {service}");

        let numbers: Vec<i64> = (1..=state.versions.len() as i64).collect();
        assert_eq!(versions.keys().map(|number| number.unwrap()).collect::<Vec<_>>(), numbers, "seed {seed}");
        for number in numbers {
            let (version, row) = (state.version(number).unwrap(), &versions[&Some(number)]);
            let latest = state.activations.iter().rposition(|activation| activation.version == Some(number)).unwrap();
            let is_active = state.active() == Some(number);
            let got = asker.ask(&format!("config.get.{service}"), json!({ "version": number })).await;
            let found = json!([got["config"], got["created_by"], got["comment"], got["revision"], got["active"]]);
            let wanted = json!([version.content, version.by, version.comment, latest + 1, is_active]);
            assert_eq!(found, wanted, "seed {seed}: version {number} of {service}");
            assert_eq!((&row["active"], &row["created_by"]), (&json!(is_active), &json!(version.by)), "seed {seed}");
        }
        // And so say both replicas' memories, when they had the time to hear of it; each takes its share of the questions.
        let wanted = (state.active(), state.content().cloned());
        eventually(SOON, || async {
            for _ in 0..8 {
                let found = match asker.send(&format!("config.get.{service}"), "").await.result() {
                    Ok(got) => (got["version"].as_i64(), Some(got["config"].clone())),
                    Err(refusal) if refusal.code == "not_found" => (None, None),
                    Err(refusal) => return Err(format!("{refusal:?}")),
                };
                if found != wanted {
                    return Err(format!("seed {seed}: {found:?} is in force instead of {wanted:?}"));
                }
            }
            Ok(())
        })
        .await;
    }
}

/// How many calls had which outcome.
fn tally(attempts: &[Attempt]) -> Tally {
    let mut tally = Tally::new();
    let mut ids = HashSet::new();
    for attempt in attempts {
        let outcome = match (&attempt.call, &attempt.answer) {
            (_, Err(refusal)) => &refusal.code,
            (Call::Write { write, .. }, _) if write.dry_run => "dry run",
            (Call::Write { request_id: Some(id), .. }, _) if !ids.insert(id) => "repeated",
            (Call::Write { .. }, Ok(done)) if done["changed"] == true => "changed",
            (Call::Write { .. }, _) => "unchanged",
            (Call::Read { .. } | Call::Misuse { .. }, _) => "read",
        };
        *tally.entry(outcome.to_owned()).or_default() += 1;
    }
    tally
}

fn content(random: &mut fastrand::Rng) -> Value {
    match random.u8(..10) {
        0 => json!({}),
        1..6 => json!({ "n": random.u8(..4) }),
        _ => json!({ "n": random.u8(..3), "m": { "x": random.u8(..3), "y": [1, null, "é"] } }),
    }
}

fn patch(random: &mut fastrand::Rng) -> Value {
    match random.u8(..10) {
        0..4 => json!({ "n": random.u8(..4) }),
        4..6 => json!({ "m": { "x": random.u8(..3), "y": null } }),
        6 => json!({ "m": null }),
        7 => json!({ "n": null }),
        8 => json!({ "n": null, "m": null }),
        _ => json!({}),
    }
}
