//! What becomes of a service's config, in the plainest terms: a list of versions, a list of activations, a stack to undo
//! them. It shares nothing with the hub, so that the two can be compared.

use serde_json::{Map, Value};

/// What a write does to a config.
#[derive(Debug, Clone)]
pub enum Operation {
    Set(Value),
    Patch(Value),
    RollBack,
    RollBackTo(i64),
    Delete,
}

/// A write.
#[derive(Debug, Clone)]
pub struct Write {
    pub operation: Operation,
    pub expected_version: Option<i64>,
    pub expected_revision: Option<i64>,
    pub dry_run: bool,
    pub by: String,
    pub comment: String,
}

/// What a write must be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done { version: Option<i64>, revision: i64, changed: bool },
    Refused(String),
}

/// A version: its content, by whom, why.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub content: Value,
    pub by: String,
    pub comment: String,
}

/// An activation: the version that it put in force, how, by whom, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    pub version: Option<i64>,
    pub action: &'static str,
    pub by: String,
    pub comment: String,
}

/// A service's config and all of its past.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Version 1, 2, 3, …
    pub versions: Vec<Version>,
    /// Revision 1, 2, 3, …
    pub activations: Vec<Activation>,
    /// What was in force before each change that isn't taken back.
    pub undo: Vec<Option<i64>>,
}

/// What a write that isn't refused comes down to.
enum Effect {
    Nothing,
    NewVersion(Value),
    Activate(Option<i64>, &'static str),
    Undo(Option<i64>),
}

impl Model {
    pub fn revision(&self) -> i64 {
        self.activations.len() as i64
    }

    /// The version in force.
    pub fn active(&self) -> Option<i64> {
        self.activations.last().and_then(|newest| newest.version)
    }

    pub fn version(&self, number: i64) -> Option<&Version> {
        self.versions.get(usize::try_from(number - 1).ok()?)
    }

    /// What is in force.
    pub fn content(&self) -> Option<&Value> {
        Some(&self.version(self.active()?)?.content)
    }

    /// What a write must be answered now.
    pub fn answer(&self, write: &Write) -> Answer {
        let done = |version, revision, changed| Answer::Done { version, revision, changed };
        match self.decide(write) {
            Err(code) => Answer::Refused(code.to_owned()),
            Ok(Effect::Nothing) => done(self.active(), self.revision(), false),
            Ok(Effect::NewVersion(_)) => done(Some(self.versions.len() as i64 + 1), self.revision() + 1, true),
            Ok(Effect::Activate(version, _) | Effect::Undo(version)) => done(version, self.revision() + 1, true),
        }
    }

    /// Does a write, and gives what it must be answered.
    pub fn take(&mut self, write: &Write) -> Answer {
        let (answer, effect) = (self.answer(write), self.decide(write));
        if write.dry_run {
            return answer;
        }
        let before = (self.revision() > 0).then(|| self.active());
        let (version, action) = match effect {
            Err(_) | Ok(Effect::Nothing) => return answer,
            Ok(Effect::NewVersion(content)) => {
                self.versions.push(Version { content, by: write.by.clone(), comment: write.comment.clone() });
                self.undo.extend(before);
                (Some(self.versions.len() as i64), "published")
            }
            Ok(Effect::Activate(version, action)) => {
                self.undo.extend(before);
                (version, action)
            }
            Ok(Effect::Undo(version)) => {
                self.undo.pop();
                (version, "rolled_back")
            }
        };
        let (by, comment) = (write.by.clone(), write.comment.clone());
        self.activations.push(Activation { version, action, by, comment });
        answer
    }

    fn decide(&self, write: &Write) -> Result<Effect, &'static str> {
        let active = self.active();
        let version_holds = write.expected_version.is_none_or(|expected| expected == active.unwrap_or(0));
        let revision_holds = write.expected_revision.is_none_or(|expected| expected == self.revision());
        if !(version_holds && revision_holds) {
            return Err("version_conflict");
        }
        let publish = |content: Value| {
            if self.content() == Some(&content) { Effect::Nothing } else { Effect::NewVersion(content) }
        };
        match &write.operation {
            Operation::Set(content) => Ok(publish(content.clone())),
            Operation::Patch(patch) => {
                let before = self.content().ok_or("not_found")?;
                let after = merged(before.clone(), patch);
                let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
                if is_empty(&after) && !is_empty(before) { Err("bad_request") } else { Ok(publish(after)) }
            }
            Operation::RollBack => self.undo.last().map(|top| Effect::Undo(*top)).ok_or("not_found"),
            Operation::RollBackTo(version) if Some(*version) == active => Ok(Effect::Nothing),
            Operation::RollBackTo(version) => {
                self.version(*version).map(|_| Effect::Activate(Some(*version), "rolled_back")).ok_or("not_found")
            }
            Operation::Delete if self.revision() == 0 => Err("not_found"),
            Operation::Delete if active.is_none() => Ok(Effect::Nothing),
            Operation::Delete => Ok(Effect::Activate(None, "deleted")),
        }
    }
}

/// RFC 7396.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (name, change) in changes {
        let before = target.remove(name).unwrap_or_default();
        if !change.is_null() {
            target.insert(name.clone(), merged(before, change));
        }
    }
    Value::Object(target)
}
