//! What tells that Postgres went back: somebody has a newer config than it has. Then the epoch is raised, so that what is
//! in force becomes newer than all that anybody has.

use bytes::Bytes;

use crate::domain::config::Position;
use crate::wire::bucket::ConfigEntry;

/// Where a value that stands in KV claims to be, when clients that took it wouldn't take what is in force in `epoch`,
/// which is `truth`: it is newer, or as new and something else. Of a service without a config all of this epoch is newer.
#[must_use]
pub fn against(epoch: i64, truth: Option<&Bytes>, found: &Bytes) -> Option<Position> {
    // What is forged is no evidence.
    let claimed = position(found).filter(|claimed| claimed.epoch < Position::FORGED)?;
    let contradicts = match truth {
        None => claimed.epoch >= epoch,
        Some(truth) => {
            let actual = position(truth)?;
            claimed > actual || claimed == actual && found != truth && content(found) != content(truth)
        }
    };
    contradicts.then_some(claimed)
}

fn position(value: &Bytes) -> Option<Position> {
    serde_json::from_slice(value).ok()
}

/// What a client puts in force. How the rest is written may differ from one version of the hub to another.
fn content(value: &Bytes) -> Option<(Option<i64>, Option<String>, Option<String>)> {
    let entry: ConfigEntry = serde_json::from_slice(value).ok()?;
    Some((entry.version, entry.checksum, entry.config.map(|config| config.get().to_owned())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn value(epoch: i64, revision: i64, config: &str, by: &str) -> Bytes {
        format!(
            r#"{{"service_name":"a","epoch":{epoch},"revision":{revision},"version":1,"checksum":"c","config":{config},
                "created_by":"{by}","updated_at":"2024-02-29T12:00:00Z"}}"#
        )
        .into()
    }

    #[test]
    fn what_is_newer_or_as_new_and_different_contradicts() {
        let truth = value(5, 5, "{}", "ann");
        let claim = |found: &Bytes| against(5, Some(&truth), found).map(|claimed| (claimed.epoch, claimed.revision));
        assert_eq!(claim(&truth), None);
        assert_eq!(claim(&value(5, 5, "{}", "bob")), None, "another author is no other config");
        assert_eq!(claim(&value(5, 5, r#"{"a":1}"#, "ann")), Some((5, 5)));
        assert_eq!(claim(&value(5, 6, "{}", "ann")), Some((5, 6)));
        assert_eq!(claim(&value(6, 1, "{}", "ann")), Some((6, 1)));
        assert_eq!(claim(&value(5, 4, r#"{"a":1}"#, "ann")), None);
        assert_eq!(claim(&value(4, 9, "{}", "ann")), None);
        assert_eq!(claim(&r#"{"epoch":5,"revision":5}"#.into()), Some((5, 5)), "without a config");
        assert_eq!(claim(&"nonsense".into()), None);
        assert_eq!(claim(&value(i64::MAX, 1, "{}", "ann")), None, "nothing can be newer than that");
        let unknown = |epoch| against(5, None, &value(epoch, 1, "{}", "ann")).map(|claimed| claimed.epoch);
        assert_eq!(
            (unknown(4), unknown(5), unknown(6)),
            (None, Some(5), Some(6)),
            "a config that Postgres doesn't know"
        );
    }
}
