//! What a heartbeat does to the record it speaks for.

use super::name::InstanceId;
use super::status::Status;

/// What an instance says of itself in a heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Which instance speaks; `None` when it relies on being the only one of its service.
    pub instance_id: Option<InstanceId>,
    /// The incarnation that the speaker got when it registered.
    pub incarnation: Option<i64>,
    /// How well it is.
    pub status: Status,
    /// The config it runs; a field left out is unchanged.
    pub applied: Applied,
}

/// Which config an instance says that it runs. A field left out means unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Revision in force.
    pub revision: Option<i64>,
    /// Version in force.
    pub version: Option<i64>,
    /// Why the newest config was refused.
    pub error: Option<String>,
}

/// The part of an instance's record that heartbeats change.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which instance.
    pub instance_id: InstanceId,
    /// Its newest registration.
    pub incarnation: i64,
    /// Its status.
    pub status: Status,
    /// The config it said that it runs.
    pub applied: Applied,
}

/// A heartbeat that can't be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such instance: register again.
    NotRegistered,
    /// A newer registration replaced the speaker's.
    StaleIncarnation {
        /// The incarnation in force.
        current: i64,
    },
    /// The service has several instances and the heartbeat named none.
    Ambiguous {
        /// Those instances.
        instances: Vec<InstanceId>,
    },
}

/// The instance a call speaks of: the one it names, or the only one of its service.
///
/// # Errors
/// [`Refusal::NotRegistered`] and [`Refusal::Ambiguous`].
pub fn resolve<'a, T>(
    named: Option<&InstanceId>,
    records: &'a [T],
    id_of: impl Fn(&T) -> &InstanceId,
) -> Result<&'a T, Refusal> {
    match (named, records) {
        (Some(id), _) => records.iter().find(|record| id_of(record) == id).ok_or(Refusal::NotRegistered),
        (None, []) => Err(Refusal::NotRegistered),
        (None, [only]) => Ok(only),
        (None, several) => {
            Err(Refusal::Ambiguous { instances: several.iter().map(|record| id_of(record).clone()).collect() })
        }
    }
}

/// Whether a caller that names `spoken` may act for the registration `current`.
///
/// # Errors
/// An older incarnation is [`Refusal::StaleIncarnation`]; an unknown, higher one is [`Refusal::NotRegistered`]: its
/// registration is not the one that Postgres has (it may have been lost with a restored database).
pub fn check_incarnation(spoken: Option<i64>, current: i64) -> Result<(), Refusal> {
    match spoken {
        Some(spoken) if spoken < current => Err(Refusal::StaleIncarnation { current }),
        Some(spoken) if spoken > current => Err(Refusal::NotRegistered),
        _ => Ok(()),
    }
}

/// The record after an accepted heartbeat.
///
/// `config_revision` without `config_error` clears the error: the instance took the new config.
///
/// # Errors
/// As [`check_incarnation`].
pub fn apply(report: &Report, record: &Record) -> Result<Record, Refusal> {
    check_incarnation(report.incarnation, record.incarnation)?;
    let said = &report.applied;
    let error = match (&said.error, said.revision) {
        (Some(error), _) => Some(error.clone()),
        (None, Some(_)) => None,
        (None, None) => record.applied.error.clone(),
    };
    Ok(Record {
        instance_id: record.instance_id.clone(),
        incarnation: record.incarnation,
        status: report.status,
        applied: Applied {
            revision: said.revision.or(record.applied.revision),
            version: said.version.or(record.applied.version),
            error,
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(incarnation: i64) -> Record {
        Record {
            instance_id: "i".parse().unwrap(),
            incarnation,
            status: Status::Down,
            applied: Applied { revision: Some(1), version: Some(1), error: Some("bad".into()) },
        }
    }

    fn report(incarnation: Option<i64>) -> Report {
        Report { instance_id: None, incarnation, status: Status::Healthy, applied: Applied::default() }
    }

    proptest! {
        #[test]
        fn only_the_incarnation_in_force_speaks(spoken in proptest::option::of(1i64..9), current in 1i64..9) {
            match apply(&report(spoken), &record(current)) {
                Ok(after) => {
                    prop_assert!(spoken.is_none_or(|spoken| spoken == current));
                    prop_assert_eq!(after.incarnation, current);
                    prop_assert_eq!(after.status, Status::Healthy);
                }
                Err(Refusal::StaleIncarnation { current: said }) => {
                    prop_assert_eq!(said, current);
                    prop_assert!(spoken.is_some_and(|spoken| spoken < current));
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::NotRegistered);
                    prop_assert!(spoken.is_some_and(|spoken| spoken > current));
                }
            }
        }
    }

    #[test]
    fn what_is_left_out_is_unchanged_and_a_new_revision_clears_the_error() {
        let kept = apply(&report(None), &record(3)).unwrap();
        assert_eq!(kept.applied, record(3).applied);
        let mut said = report(None);
        said.applied.revision = Some(2);
        let cleared = apply(&said, &record(3)).unwrap();
        assert_eq!(cleared.applied, Applied { revision: Some(2), version: Some(1), error: None });
    }

    #[test]
    fn an_unnamed_heartbeat_speaks_for_the_only_instance() {
        let ids: Vec<InstanceId> = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        assert_eq!(resolve(None, &ids[..1], |id| id), Ok(&ids[0]));
        assert_eq!(resolve(None, &ids[..0], |id| id), Err(Refusal::NotRegistered));
        assert_eq!(resolve(None, &ids, |id| id), Err(Refusal::Ambiguous { instances: ids.clone() }));
        assert_eq!(resolve(Some(&ids[1]), &ids, |id| id), Ok(&ids[1]));
    }
}
