//! When a replica takes part in the queue groups of the hub.
//!
//! One that can't reach Postgres would only refuse its share of the requests. It leaves them to the others, but only
//! when another one is known to have Postgres: somebody must say `unavailable`, and answer from memory what memory knows.

use std::time::Duration;

/// How often a replica makes sure of Postgres, and tells the others that it serves.
pub const PERIOD: Duration = Duration::from_millis(400);

/// Silence of Postgres for which a replica counts as having lost it.
pub const LOST: Duration = Duration::from_secs(2);

/// Silence of Postgres beyond which a replica no longer tells that it serves. So much shorter than [`LOST`] that, when
/// Postgres is lost to all of them at once, none hears another one after it noticed.
pub const SERVES: Duration = Duration::from_millis(800);

/// How long the word of another replica counts.
pub const FRESH: Duration = Duration::from_secs(2);

/// Whether a replica that hasn't heard Postgres for `silence` takes part. `peers`: how long ago each of the others said
/// that it serves.
#[must_use]
pub fn takes_part(silence: Duration, peers: impl IntoIterator<Item = Duration>) -> bool {
    // What was said before this one noticed may have been said before Postgres was lost to both.
    let noticed = silence.saturating_sub(LOST);
    !peers.into_iter().any(|ago| ago < noticed && ago < FRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_when_it_lost_postgres_and_another_one_has_not() {
        let ms = Duration::from_millis;
        for (silence, peers, takes) in [
            (0, vec![0], true),
            (1_999, vec![0], true),
            (2_300, vec![], true),
            (2_300, vec![400], true),
            (2_300, vec![200], false),
            (2_300, vec![1_400, 200], false),
            (60_000, vec![1_999], false),
            (60_000, vec![2_000], true),
        ] {
            let peers: Vec<_> = peers.into_iter().map(ms).collect();
            assert_eq!(takes_part(ms(silence), peers.iter().copied()), takes, "{silence} {peers:?}");
        }
    }

    /// Postgres goes away for two replicas at the same moment, whenever each asked it last.
    #[test]
    fn when_all_lost_postgres_none_leaves() {
        let ms = Duration::from_millis;
        for asked in (0..=400).step_by(50) {
            // The other one says that it serves for the last time when SERVES have passed since Postgres last spoke to it.
            let last_word = SERVES.as_millis() as u64;
            for now in (0..20_000).step_by(50) {
                let silence = ms(asked + now);
                let ago = now.checked_sub(last_word).map_or(ms(0), ms);
                assert!(takes_part(silence, [ago]), "{now} ms after, {asked}");
            }
        }
    }
}
