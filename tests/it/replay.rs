//! Calls that several made at once, and whether their answers can all be right: the acknowledged changes are replayed in
//! the order of their revisions through a [`Model`], which gives every state that the config ever had; each other answer
//! must be that of a state between its request and itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::ask::Refusal;
use crate::model::{Answer, Model, Operation, Write};

#[derive(Debug, Clone)]
pub enum Call {
    Write {
        write: Write,
        request_id: Option<String>,
    },
    /// A set of other content under an id that was acknowledged before.
    Misuse {
        request_id: String,
    },
    Read {
        min_revision: Option<i64>,
    },
}

/// A call and its answer.
#[derive(Debug)]
pub struct Attempt {
    pub call: Call,
    /// When, on a clock that all callers share.
    pub sent: u64,
    /// When the answer was there.
    pub answered: u64,
    pub answer: Result<Value, Refusal>,
}

impl Call {
    /// Its verb and body on the wire.
    pub fn message(&self) -> (&'static str, Value) {
        let (write, request_id) = match self {
            Call::Read { min_revision: None } => return ("get", json!({})),
            Call::Read { min_revision } => return ("get", json!({ "min_revision": min_revision })),
            Call::Misuse { request_id } => return ("set", json!({ "config": { "x": "x" }, "request_id": request_id })),
            Call::Write { write, request_id } => (write, request_id),
        };
        let (verb, mut body) = match &write.operation {
            Operation::Set(content) => ("set", json!({ "config": content })),
            Operation::Patch(patch) => ("patch", json!({ "patch": patch })),
            Operation::RollBack => ("rollback", json!({})),
            Operation::RollBackTo(version) => ("rollback", json!({ "to_version": version })),
            Operation::Delete => ("delete", json!({})),
        };
        let options = [
            ("created_by", Some(json!(write.by))),
            ("comment", Some(json!(write.comment))),
            ("expected_version", write.expected_version.map(Value::from)),
            ("expected_revision", write.expected_revision.map(Value::from)),
            ("dry_run", write.dry_run.then_some(Value::Bool(true))),
            ("request_id", request_id.as_ref().map(|id| json!(id))),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        (verb, body)
    }
}

/// The answer to a write, in the model's terms.
pub fn answer_in(answer: &Result<Value, Refusal>) -> Answer {
    match answer {
        Ok(done) => Answer::Done {
            version: done["version"].as_i64(),
            revision: done["revision"].as_i64().unwrap(),
            changed: done["changed"].as_bool().unwrap(),
        },
        Err(refusal) => Answer::Refused(refusal.code.clone()),
    }
}

/// All states that a config ever had, and when each change was asked for and acknowledged.
pub struct Replay {
    /// By revision.
    pub states: Vec<Model>,
    /// `(sent, acknowledged)` of revision 1, 2, 3, …
    changes: Vec<(u64, u64)>,
}

/// Replays the acknowledged changes and holds every answer against them; panics with `name` and the shortest useful
/// account at the first one that can't be right.
pub fn replay(name: &str, attempts: &[Attempt]) -> Replay {
    let firsts = first_answers(name, attempts);
    let mut replay = Replay { states: vec![Model::default()], changes: Vec::new() };
    let mut changes: BTreeMap<i64, &First> = BTreeMap::new();
    for first in &firsts {
        if let Answer::Done { revision, changed: true, .. } = first.answer
            && !first.write.dry_run
            && let Some(other) = changes.insert(revision, first)
        {
            panic!("{name}: revision {revision} was acknowledged twice: {:?} and {:?}", other.write, first.write);
        }
    }
    for (revision, change) in changes {
        let mut state = replay.states.last().unwrap().clone();
        let next = state.revision() + 1;
        assert_eq!(revision, next, "{name}: {next} was acknowledged to nobody\n{}", story(&state));
        let wanted = state.take(change.write);
        assert!(
            change.answer == wanted,
            "{name}: {:?}\nwas answered {:?}\nand should {wanted:?} at {}",
            change.write,
            change.answer,
            story(replay.states.last().unwrap())
        );
        replay.states.push(state);
        replay.changes.push((change.sent, change.answered));
    }
    for first in &firsts {
        let base = match first.answer {
            Answer::Done { revision, changed, .. } => revision - i64::from(changed),
            Answer::Refused(_) => unreachable!("only what was done is here"),
        };
        replay.one_of(replay.newest_between(first.sent, first.answered), name, first, |state| {
            state.revision() == base && state.answer(first.write) == first.answer
        });
    }
    let epoch = firsts.first().map(|first| &first.epoch);
    for attempt in attempts {
        if let Ok(answer) = &attempt.answer {
            assert_eq!(Some(&answer["epoch"]), epoch, "{name}: another epoch in {attempt:?}");
        }
        replay.check_attempt(name, attempt, &firsts);
    }
    replay
}

/// A write that was done, with its first answer.
#[derive(Debug)]
struct First<'a> {
    write: &'a Write,
    request_id: Option<&'a str>,
    answer: Answer,
    epoch: Value,
    sent: u64,
    answered: u64,
}

/// The writes that were done, those that were sent several times under one id once: all got the same answer.
fn first_answers<'a>(name: &str, attempts: &'a [Attempt]) -> Vec<First<'a>> {
    let mut firsts: Vec<First> = Vec::new();
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for attempt in attempts {
        let (Call::Write { write, request_id }, Ok(done)) = (&attempt.call, &attempt.answer) else { continue };
        let answer = answer_in(&attempt.answer);
        // A dry run keeps no answer, so each is decided by itself.
        let request_id = request_id.as_deref().filter(|_| !write.dry_run);
        if let Some(first) = request_id.and_then(|id| by_id.get(id)) {
            let first = &mut firsts[*first];
            assert_eq!(answer, first.answer, "{name}: {request_id:?} again got another answer: {write:?}");
            first.sent = first.sent.min(attempt.sent);
            first.answered = first.answered.min(attempt.answered);
            continue;
        }
        by_id.extend(request_id.map(|id| (id, firsts.len())));
        let (sent, answered) = (attempt.sent, attempt.answered);
        firsts.push(First { write, request_id, answer, epoch: done["epoch"].clone(), sent, answered });
    }
    firsts
}

impl Replay {
    /// The revisions that were the newest at some moment from `sent` to `answered`.
    fn newest_between(&self, sent: u64, answered: u64) -> RangeInclusive<usize> {
        let acknowledged_before = |(_, acknowledged): &(u64, u64)| *acknowledged < sent;
        let oldest = self.changes.iter().rposition(acknowledged_before).map_or(0, |index| index + 1);
        let sent_after = |(sent, _): &(u64, u64)| *sent > answered;
        let newest = self.changes.iter().position(sent_after).unwrap_or(self.changes.len());
        oldest..=newest
    }

    /// Checks that `right` holds of one of these states.
    fn one_of(&self, revisions: RangeInclusive<usize>, name: &str, what: &dyn Debug, right: impl Fn(&Model) -> bool) {
        let possible = self.states.get(revisions.clone()).unwrap_or_default();
        assert!(
            possible.iter().any(right),
            "{name}: at none of the revisions {revisions:?} was this right: {what:#?}\n{}",
            possible.last().map(story).unwrap_or_default()
        );
    }

    fn check_attempt(&self, name: &str, attempt: &Attempt, firsts: &[First]) {
        let between = self.newest_between(attempt.sent, attempt.answered);
        match (&attempt.call, &attempt.answer) {
            (Call::Write { .. }, Ok(_)) => {}
            (Call::Write { write, request_id }, Err(refusal)) => {
                let done =
                    firsts.iter().find(|first| request_id.is_some() && first.request_id == request_id.as_deref());
                let repeated = done.is_some_and(|done| done.answered < attempt.sent);
                assert!(!repeated, "{name}: what was acknowledged was refused when it was sent again: {attempt:?}");
                self.one_of(between, name, attempt, |state| {
                    let details = &refusal.details;
                    let conflict = json!([state.active(), state.revision()]);
                    state.answer(write) == Answer::Refused(refusal.code.clone())
                        && (refusal.code != "version_conflict"
                            || json!([details["active_version"], details["revision"]]) == conflict)
                });
            }
            (Call::Misuse { .. }, answer) => {
                let refusal = answer.as_ref().expect_err("an id that was used");
                let found = (refusal.code.as_str(), refusal.details["field"].as_str());
                assert_eq!(found, ("bad_request", Some("request_id")), "{name}: {attempt:?}");
            }
            // What memory says may be older than what another replica acknowledged, but for a wish.
            (Call::Read { min_revision }, answer) => {
                self.one_of(0..=*between.end(), name, attempt, |state| {
                    let recent = min_revision.is_none_or(|least| state.revision() >= least);
                    let right = match answer {
                        Err(refusal) => refusal.code == "not_found" && state.active().is_none(),
                        Ok(read) => state.active().and_then(|active| state.version(active)).is_some_and(|version| {
                            json!([read["revision"], read["version"]]) == json!([state.revision(), state.active()])
                                && (&read["config"], read["created_by"].as_str(), read["comment"].as_str())
                                    == (&version.content, Some(&version.by), Some(&version.comment))
                        }),
                    };
                    recent && right
                });
            }
        }
    }
}

/// The end of a config's history, for people.
pub fn story(state: &Model) -> String {
    let newest = state.activations.iter().zip(1..).skip(state.activations.len().saturating_sub(6));
    let newest: Vec<String> = newest
        .map(|(a, revision)| format!("  {revision}: {} {:?}, by {}, {}", a.action, a.version, a.by, a.comment))
        .collect();
    let undo = &state.undo[state.undo.len().saturating_sub(4)..];
    format!(
        "revision {} in the model:\n{}\n  in force: {:?}; undo stack: … {undo:?}",
        state.revision(),
        newest.join("\n"),
        state.content()
    )
}
