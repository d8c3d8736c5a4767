//! What a projector keeps count of: keys that are due, and KV revisions that are its own writes.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::wire::bucket::Key;

/// How many of our own writes a watch may lag behind before it has to look at them as at anybody's.
const MAX_UNSEEN: usize = 100_000;

/// Why a key is due.
#[derive(Debug, Default)]
pub struct Due {
    /// The newest KV revision that a watch told of: what is read must not be older, as a replica of the stream that lags
    /// behind would have it.
    pub seen: u64,
    /// Who waits for it.
    pub waiting: Vec<oneshot::Sender<bool>>,
}

/// Keys that are due.
#[derive(Debug, Default)]
pub struct DueKeys(Mutex<HashMap<Key, Due>>);

impl DueKeys {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Due>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds keys.
    pub fn add(&self, keys: impl IntoIterator<Item = Key>) {
        let mut due = self.lock();
        for key in keys {
            due.entry(key).or_default();
        }
    }

    /// Adds a key of which a watch told a KV revision.
    pub fn add_seen(&self, key: Key, revision: u64) {
        let mut due = self.lock();
        let due = due.entry(key).or_default();
        due.seen = due.seen.max(revision);
    }

    /// Adds a key; the receiver hears when it is done, and whether KV has what it should.
    pub fn add_awaited(&self, key: Key) -> oneshot::Receiver<bool> {
        let (done, receiver) = oneshot::channel();
        self.lock().entry(key).or_default().waiting.push(done);
        receiver
    }

    /// Takes `most` keys at the most.
    pub fn take(&self, most: usize) -> Vec<(Key, Due)> {
        let mut due = self.lock();
        let keys: Vec<Key> = due.keys().take(most).cloned().collect();
        keys.into_iter().filter_map(|key| due.remove_entry(&key)).collect()
    }

    /// Puts a key back that couldn't be done.
    pub fn put_back(&self, key: Key, undone: Due) {
        let mut due = self.lock();
        let due = due.entry(key).or_default();
        due.seen = due.seen.max(undone.seen);
        due.waiting.extend(undone.waiting.into_iter().filter(|waiter| !waiter.is_closed()));
    }

    /// Forgets the KV revisions: what was told of another stream says nothing of this one.
    pub fn forget_revisions(&self) {
        self.lock().values_mut().for_each(|due| due.seen = 0);
    }
}

/// KV revisions that this replica wrote.
#[derive(Debug, Default)]
pub struct OwnWrites(Mutex<Writes>);

#[derive(Debug, Default)]
struct Writes {
    /// Those that the watch hasn't delivered yet.
    unseen: HashSet<u64>,
    /// How far the watch is.
    delivered: u64,
    last: u64,
}

impl OwnWrites {
    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write.
    pub fn note(&self, revision: u64) {
        let mut writes = self.lock();
        writes.last = writes.last.max(revision);
        // The watch may have been faster than the acknowledgement.
        if revision > writes.delivered && writes.unseen.len() < MAX_UNSEEN {
            writes.unseen.insert(revision);
        }
    }

    /// Whether what the watch delivers is one of them.
    pub fn deliver(&self, revision: u64) -> bool {
        let mut writes = self.lock();
        writes.delivered = writes.delivered.max(revision);
        writes.unseen.remove(&revision)
    }

    /// The last one, of whatever stream; 0 when there was none.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// Begins with another watch.
    pub fn begin(&self) {
        let mut writes = self.lock();
        (writes.unseen, writes.delivered) = (HashSet::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_writes_are_known_once_whoever_is_faster() {
        let own = OwnWrites::default();
        own.note(5);
        assert!(own.deliver(5) && !own.deliver(5) && !own.deliver(6));
        own.note(6);
        assert_eq!(own.lock().unseen.len(), 0, "the watch had it already");
        own.note(7);
        own.begin();
        assert!(!own.deliver(7), "of another stream");
        assert_eq!(own.last(), 7);
    }
}
