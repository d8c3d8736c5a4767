//! Uptime, added up from status transitions as they arrive from Postgres.

use time::{Duration, OffsetDateTime};
use tokio_postgres::Row;

use super::row::Columns as _;
use super::{Store, StoreError, sql};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::domain::uptime::{Change, Tally, Window};
use crate::wire::uptime::{MAX_TRANSITIONS, Transition, Uptime, UptimeKind};
use crate::wire::{Error, ErrorCode};

/// Transitions that are read for one answer at the most: what Postgres sorts and sends well before it is given up.
const MAX_READ: i64 = 50_000;

impl Store {
    /// For how much of the last `seconds` something was up; `None` when it was never known. A service's uptime, or that of
    /// one of its `instance`s, or a component's.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`] when there are too many transitions; what Postgres says.
    pub async fn uptime(
        &self,
        kind: UptimeKind,
        name: &ServiceName,
        instance: Option<&InstanceId>,
        seconds: f64,
    ) -> Result<Option<Uptime>, StoreError> {
        let question = Question { kind, instance, seconds, kept: MAX_TRANSITIONS };
        let tallies = self.tally(&question, &[name.as_str()]).await?;
        Ok(tallies.found.into_iter().next().filter(|found| found.known).map(|found| found.uptime))
    }

    /// The uptimes, by name, of up to `limit` services or components after the name `after` that were there within the last
    /// `seconds`; fewer where they changed too often to be added up at once, and whether they did.
    ///
    /// # Errors
    /// As [`Store::uptime`], of the first.
    pub async fn uptimes(
        &self,
        kind: UptimeKind,
        after: &str,
        limit: u32,
        seconds: f64,
    ) -> Result<(Vec<Uptime>, bool), StoreError> {
        let turn = self.turn().await?;
        let rows = self.query(sql::UPTIME_NAMES, &[&subject(kind), &after, &seconds, &i64::from(limit)]).await?;
        drop(turn);
        let names: Vec<&str> = rows.iter().map(|row| row.read("name")).collect::<Result<_, _>>()?;
        self.uptimes_of(kind, &names, seconds).await
    }

    /// The uptimes of these services or components within the last `seconds`, in the order given, as far as they are known,
    /// without their transitions; cut as [`Store::uptimes`] is.
    ///
    /// # Errors
    /// As [`Store::uptimes`].
    pub async fn uptimes_of(
        &self,
        kind: UptimeKind,
        names: &[&str],
        seconds: f64,
    ) -> Result<(Vec<Uptime>, bool), StoreError> {
        let question = Question { kind, instance: None, seconds, kept: 0 };
        let tallies = self.tally(&question, names).await?;
        let without = |found: Found| Uptime { transitions: None, truncated: false, ..found.uptime };
        let known = tallies.found.into_iter().filter(|found| found.known);
        Ok((known.map(without).collect(), tallies.read > MAX_READ))
    }

    async fn tally<'q>(&self, question: &'q Question<'_>, names: &[&str]) -> Result<Tallies<'q>, StoreError> {
        let instance = question.instance.map(InstanceId::as_str);
        let params: super::Params<'_> =
            &[&subject(question.kind), &names, &question.seconds, &instance, &(MAX_READ + 1)];
        let _turn = self.turn().await?;
        let start = || Tallies { question, current: None, found: Vec::new(), read: 0 };
        let mut tallies = self.fold(sql::UPTIME_TRANSITIONS, params, start, Tallies::take).await?;
        tallies.finish()?;
        Ok(tallies)
    }
}

fn too_many() -> StoreError {
    let rule =
        format!("more than {MAX_READ} changes of status lie within it; ask for a shorter one, or for one instance_id");
    let error = Error::new(ErrorCode::TooLarge, format!("window_seconds: {rule}"));
    error.with("field", "window_seconds").with("limit", MAX_READ).into()
}

/// What transitions call it.
fn subject(kind: UptimeKind) -> &'static str {
    match kind {
        UptimeKind::Service | UptimeKind::Instance => "instance",
        UptimeKind::Component => "component",
    }
}

struct Question<'a> {
    kind: UptimeKind,
    instance: Option<&'a InstanceId>,
    seconds: f64,
    kept: usize,
}

struct Found {
    uptime: Uptime,
    /// Whether there ever was a transition.
    known: bool,
}

/// Adds up one name after the other, in the order of the rows.
struct Tallies<'a> {
    question: &'a Question<'a>,
    current: Option<(String, Tally, bool)>,
    found: Vec<Found>,
    read: i64,
}

impl Tallies<'_> {
    fn take(&mut self, row: &Row) -> Result<(), StoreError> {
        self.read += 1;
        if self.read > MAX_READ {
            // The last row, and perhaps not the last one of its name: that one is for the next page.
            self.current = None;
            return if self.found.is_empty() { Err(too_many()) } else { Ok(()) };
        }
        let name: &str = row.read("name")?;
        if self.current.as_ref().is_none_or(|(current, ..)| current != name) {
            self.finish()?;
            let known: bool = row.read("known")?;
            self.current = Some((name.to_owned(), self.tally(row.read("now")?, known), known));
        }
        if let Some((_, tally, known)) = &mut self.current
            && let Some(at) = row.read::<Option<OffsetDateTime>>("at")?
        {
            // Anything else is no status that counts: gone, or a component that can't be checked.
            let status = row.read::<&str>("status")?.parse::<Status>().ok();
            tally.change(row.read("instance_id")?, at, status);
            *known = true;
        }
        Ok(())
    }

    fn tally(&self, now: OffsetDateTime, known: bool) -> Tally {
        let Question { kind, seconds, kept, .. } = *self.question;
        let window = Window { since: now - Duration::seconds_f64(seconds), until: now };
        match kind {
            UptimeKind::Service => Tally::of_service(window, known, kept),
            UptimeKind::Instance | UptimeKind::Component => Tally::of_one(window, kept),
        }
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        let Some((name, tally, known)) = self.current.take() else { return Ok(()) };
        let total = tally.total();
        let transition = |change: &Change| Transition { at: change.at, status: change.status };
        let uptime = Uptime {
            service_name: name.try_into().map_err(StoreError::defect)?,
            instance_id: self.question.instance.cloned(),
            kind: self.question.kind,
            uptime_pct: total.up_percent(),
            window_seconds: self.question.seconds,
            covered_seconds: total.covered.as_seconds_f64(),
            covered_since: total.covered_since,
            down_seconds: total.down.as_seconds_f64(),
            truncated: total.changed > total.changes.len(),
            transitions: Some(total.changes.iter().map(transition).collect()),
        };
        self.found.push(Found { uptime, known });
        Ok(())
    }
}
