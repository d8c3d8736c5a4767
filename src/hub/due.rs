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
    /// How far the stream is.
    last: u64,
    /// How far it was when the projector's pass began; `None` when the watch is another one since.
    before: Option<u64>,
    rewound: Option<u64>,
}

impl OwnWrites {
    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write.
    pub fn note(&self, revision: u64) {
        let mut writes = self.lock();
        let rewound = writes.before.filter(|before| revision <= *before);
        writes.rewound = writes.rewound.or(rewound);
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

    /// How far the stream is known to have come, of whatever stream; 0 when nothing is known.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// Begins a pass: what it writes comes after all that was written before.
    pub fn begin_pass(&self) {
        let mut writes = self.lock();
        writes.before = Some(writes.last);
    }

    /// How far the stream had come before something was written where it had been already: it was replaced by an older
    /// copy. `None` when that never was.
    pub fn rewound(&self) -> Option<u64> {
        self.lock().rewound
    }

    /// Begins with another watch, of a stream that has come as far as `last`.
    pub fn begin(&self, last: u64) {
        *self.lock() = Writes { last, ..Writes::default() };
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
        own.begin(7);
        assert!(!own.deliver(7), "of another stream");
        assert_eq!(own.last(), 7);
    }

    #[test]
    fn a_write_where_the_stream_had_been_tells_that_it_went_back() {
        let own = OwnWrites::default();
        own.begin(5);
        own.begin_pass();
        // Acknowledgements of one pass come in any order.
        [8, 6, 7].into_iter().for_each(|revision| own.note(revision));
        assert_eq!(own.rewound(), None);
        own.begin_pass();
        own.note(7);
        assert_eq!(own.rewound(), Some(8));
        own.begin(8);
        own.note(8);
        assert_eq!(own.rewound(), None, "the pass began before the stream was looked at");
    }
}
