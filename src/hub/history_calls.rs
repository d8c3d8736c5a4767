//! What the calls about the past do: metrics, uptime, the timeline, the fleet at a glance.

use time::OffsetDateTime;

use super::Hub;
use super::calls::PAGE_MARGIN;
use super::cursor::List;
use super::serve::explain;
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::fleet::{Fleet, FleetStatus};
use crate::wire::metrics::{MAX_SERIES, MetricSeries, Metrics};
use crate::wire::timeline::{Timeline, TimelinePage};
use crate::wire::uptime::{DEFAULT_WINDOW_SECONDS, Uptime, UptimeKind, UptimeOf, UptimeOfAll, Uptimes};
use crate::wire::{Error, ErrorCode};

impl Hub {
    pub(super) async fn fleet_status(&self, _: FleetStatus) -> Result<Fleet, Error> {
        let failed = |error| explain(&error, "status", None);
        let fleet = self.store.fleet().await.map_err(failed)?;
        Ok(Fleet { infra: self.with_uptimes(fleet.infra).await.map_err(failed)?, ..fleet })
    }

    pub(super) async fn metrics(&self, mut request: Metrics) -> Result<MetricSeries, Error> {
        request.cursor = List::Metrics.place(request.cursor.take().as_deref(), |metric| Some(metric.to_owned()))?;
        let service = &request.service_name;
        let failed = |error| explain(&error, "metrics", Some(service.as_str()));
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default).min(MAX_SERIES);
        let (series, cut) = self.store.metrics(&request, limit as usize).await.map_err(failed)?;
        if series.is_empty() && !self.store.is_known(service, request.instance_id.as_ref()).await.map_err(failed)? {
            return Err(unknown(service, request.instance_id.as_ref()));
        }
        let (series, more) = self.page(series, limit);
        let last = series.last().map(|last| List::Metrics.cursor(&last.metric_type));
        Ok(MetricSeries { next_cursor: last.filter(|_| cut || more), series })
    }

    pub(super) async fn uptime_of(&self, request: UptimeOf) -> Result<Uptime, Error> {
        let name = &request.service_name;
        let failed = |error| explain(&error, "uptime", Some(name.as_str()));
        let seconds = request.window_seconds.unwrap_or(DEFAULT_WINDOW_SECONDS);
        let kinds: &[UptimeKind] = match request.instance_id {
            Some(_) => &[UptimeKind::Instance],
            None => &[UptimeKind::Service, UptimeKind::Component],
        };
        for kind in kinds {
            let found = self.store.uptime(*kind, name, request.instance_id.as_ref(), seconds).await.map_err(failed)?;
            if let Some(found) = found {
                return Ok(self.newest_transitions(found));
            }
        }
        Err(unknown(name, request.instance_id.as_ref()))
    }

    /// Leaves out the oldest transitions where a message couldn't carry all.
    fn newest_transitions(&self, mut uptime: Uptime) -> Uptime {
        let mut newest = uptime.transitions.take().unwrap_or_default();
        newest.reverse();
        let (mut kept, more) = self.page(newest, u32::MAX);
        kept.reverse();
        Uptime { transitions: Some(kept), truncated: uptime.truncated || more, ..uptime }
    }

    pub(super) async fn uptime(&self, request: UptimeOfAll) -> Result<Uptimes, Error> {
        let failed = |error| explain(&error, "uptime", None);
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default);
        let window_seconds = request.window_seconds.unwrap_or(DEFAULT_WINDOW_SECONDS);
        // Services come first: a page that ended among the components has none left.
        let cursor = request.cursor.as_deref();
        let (service, component) = match cursor {
            Some(cursor) if List::Components.gave(cursor) => (None, List::Components.place(Some(cursor), Some)?),
            cursor => (Some(List::Services.place(cursor, Some)?.unwrap_or_default()), None),
        };
        let component = component.unwrap_or_default();
        // One more than asked for, to tell whether more follow: services first, then components.
        let (mut rows, mut cut) = (Vec::new(), false);
        if let Some(after) = service {
            (rows, cut) =
                self.store.uptimes(UptimeKind::Service, after, limit + 1, window_seconds).await.map_err(failed)?;
        }
        let room = (limit + 1).saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        if room > 0 && !cut {
            let found = self.store.uptimes(UptimeKind::Component, component, room, window_seconds).await;
            let (components, cut_there) = found.map_err(failed)?;
            rows.extend(components);
            cut = cut_there;
        }
        let (rows, more) = self.page(rows, limit);
        let last = rows.last().filter(|_| cut || more).map(|last| match last.kind {
            UptimeKind::Component => List::Components.cursor(&last.service_name),
            UptimeKind::Service | UptimeKind::Instance => List::Services.cursor(&last.service_name),
        });
        let (components, services) = rows.into_iter().partition(|row| row.kind == UptimeKind::Component);
        Ok(Uptimes { window_seconds, services, components, next_cursor: last })
    }

    pub(super) async fn timeline(&self, request: Timeline) -> Result<TimelinePage, Error> {
        let service = request.service_name.as_ref().map(ServiceName::as_str);
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default);
        let before = List::Events.place(request.cursor.as_deref(), position)?;
        let rows = self.store.timeline(&request, before, limit).await;
        let rows = rows.map_err(|error| explain(&error, "timeline", service))?;
        // An event that no message can carry in full would end the list.
        let room = self.requests.client.max_payload().saturating_sub(PAGE_MARGIN);
        let rows = rows.into_iter().map(|event| event.fitting(room)).collect();
        let (events, more) = self.page(rows, limit);
        Ok(TimelinePage {
            next_cursor: events.last().filter(|_| more).map(|last| List::Events.cursor(&last.id)),
            events,
        })
    }
}

/// Where an event stands in the timeline, from its id: its time in microseconds, and its row.
fn position(cursor: &str) -> Option<(OffsetDateTime, i64)> {
    let (at, row) = cursor.split_once('-')?;
    let (at, row) = (at.parse::<i64>().ok()?, row.parse().ok().filter(|row| *row > 0)?);
    Some((OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000).ok()?, row))
}

fn unknown(name: &ServiceName, instance: Option<&InstanceId>) -> Error {
    let next = "hub.services.list tells who is registered, hub.uptime who was";
    match instance {
        None => Error::new(ErrorCode::NotFound, format!("nothing is known of {name}: {next}")),
        Some(instance) => {
            Error::new(ErrorCode::NotFound, format!("nothing is known of an instance {instance} of {name}: {next}"))
                .with("field", "instance_id")
        }
    }
}
