//! Rows as they are read: what Postgres holds and the hub can't take is an error, never a panic.
//!
//! The hub writes only what it can read. A hand at the SQL prompt can write more: `infinity` for a time, a name that is none.

use std::error::Error as StdError;
use std::sync::Mutex;
use std::time::{Duration as Wait, Instant};

use serde_json::Value;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::StoreError;

/// The first and the last time that RFC 3339 can say: `-infinity` and `infinity` are told as these.
const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

/// From when Postgres counts the microseconds of a time.
const ORIGIN: OffsetDateTime = datetime!(2000-01-01 00:00:00 UTC);

/// How often it is said that rows can't be read.
const COMPLAINT: Wait = Wait::from_secs(60);

/// A row whose columns can be read.
pub(super) trait Columns {
    /// The value of a column.
    ///
    /// # Errors
    /// [`StoreError::Defect`] when there is no such column, or it holds what the hub can't take.
    fn read<'r, T: Column<'r>>(&'r self, name: &str) -> Result<T, StoreError>;
}

impl Columns for Row {
    fn read<'r, T: Column<'r>>(&'r self, name: &str) -> Result<T, StoreError> {
        T::read(self, name).map_err(StoreError::from)
    }
}

/// What a column can hold. Times among it are read by the rule of this room, which is why it isn't just [`FromSql`].
pub(super) trait Column<'r>: Sized {
    fn read(row: &'r Row, name: &str) -> Result<Self, tokio_postgres::Error>;
}

macro_rules! columns {
    ($($type:ty),*) => {
        $(impl<'r> Column<'r> for $type {
            fn read(row: &'r Row, name: &str) -> Result<Self, tokio_postgres::Error> {
                row.try_get(name)
            }
        })*
    };
}

columns!(bool, i32, i64, f64, &'r str, String, Value, Vec<String>);
columns!(Option<bool>, Option<i32>, Option<i64>, Option<f64>, Option<&'r str>, Option<String>, Option<Value>);
columns!(Option<Vec<String>>);

impl<'r> Column<'r> for OffsetDateTime {
    fn read(row: &'r Row, name: &str) -> Result<Self, tokio_postgres::Error> {
        row.try_get::<_, Moment>(name).map(|moment| moment.0)
    }
}

impl<'r> Column<'r> for Option<OffsetDateTime> {
    fn read(row: &'r Row, name: &str) -> Result<Self, tokio_postgres::Error> {
        Ok(row.try_get::<_, Option<Moment>>(name)?.map(|moment| moment.0))
    }
}

/// A `timestamptz`, moved to the nearest time that can be told.
struct Moment(OffsetDateTime);

impl<'a> FromSql<'a> for Moment {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(nearest(i64::from_be_bytes(raw.try_into()?))))
    }

    fn accepts(wanted: &Type) -> bool {
        *wanted == Type::TIMESTAMPTZ
    }
}

/// The time so many microseconds after Postgres' origin. The two infinities are the ends of what 64 bits hold.
fn nearest(micros: i64) -> OffsetDateTime {
    let end = if micros < 0 { FIRST } else { LAST };
    ORIGIN.checked_add(Duration::microseconds(micros)).unwrap_or(end).clamp(FIRST, LAST)
}

/// What can be read of these rows, for work that many wait for: what can't is left out, so that the others have their turn,
/// and said once a minute.
pub(super) fn readable<T>(what: &'static str, rows: &[Row], read: impl Fn(&Row) -> Result<T, StoreError>) -> Vec<T> {
    static SAID: Mutex<Option<Instant>> = Mutex::new(None);
    let read = |row| match read(row) {
        Ok(value) => Some(value),
        Err(error) => {
            let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if said.is_none_or(|at| at.elapsed() > COMPLAINT) {
                *said = Some(Instant::now());
                tracing::error!(what, cause = %error.chain(), "a row can't be read and is left out: correct it by SQL");
            }
            None
        }
    };
    rows.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_cannot_be_told_is_the_nearest_that_can() {
        for (micros, time) in [
            (i64::MAX, LAST),
            (i64::MIN, FIRST),
            // 294276-12-31 and 4713-01-01 BC, the ends of what Postgres takes for times.
            (9_223_371_331_200_000_000 - 1, LAST),
            (-211_813_488_000_000_000, FIRST),
            (0, ORIGIN),
            (-1, ORIGIN - Duration::microseconds(1)),
            (820_540_800_000_001, datetime!(2026-01-01 00:00:00.000001 UTC)),
        ] {
            assert_eq!(nearest(micros), time, "{micros}");
        }
    }
}
