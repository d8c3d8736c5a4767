//! Uptime messages: for how much of a window something was up, computed from its status transitions.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::name::{InstanceId, ServiceName};
use crate::domain::status::Status;
use crate::domain::uptime::DAYS_KEPT;

/// The window unless the request says otherwise: a day, in seconds.
pub const DEFAULT_WINDOW_SECONDS: f64 = 86_400.0;

/// The longest window: as long as transitions are kept, in seconds.
pub const MAX_WINDOW_SECONDS: f64 = DAYS_KEPT as f64 * 86_400.0;

/// Transitions of one answer at the most: the newest ones.
pub const MAX_TRANSITIONS: usize = 1_000;

/// `hub.uptime.<name>`: of one service, one of its instances, or an infrastructure component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UptimeOf {
    /// The service or component. A service takes precedence.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Only this instance of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// How far back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<f64>,
}

/// `hub.uptime`: of all services and components, without their transitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UptimeOfAll {
    /// How far back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<f64>,
    /// Services and components of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended: its `next_cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What an [`Uptime`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UptimeKind {
    /// A service: up while any of its instances is healthy or degraded.
    Service,
    /// One instance: up while it is healthy or degraded.
    Instance,
    /// An infrastructure component: up while it is healthy or degraded.
    Component,
}

/// A change of status within the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What it, as a whole, became; `None`: nothing was known of it from then on.
    pub status: Option<Status>,
}

/// Answer to [`UptimeOf`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uptime {
    /// The service or component.
    pub service_name: ServiceName,
    /// The instance, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Of what.
    pub kind: UptimeKind,
    /// Share of `covered_seconds` in which it was up; `None` when nothing of the window is covered.
    pub uptime_pct: Option<f64>,
    /// The window that was asked for.
    pub window_seconds: f64,
    /// How much of the window is known: not what lies before the first registration or check, nor of an instance the time in
    /// which it was not registered, nor of a component that in which nobody could check it.
    pub covered_seconds: f64,
    /// Where what is known begins.
    #[serde(with = "time::serde::rfc3339::option")]
    pub covered_since: Option<OffsetDateTime>,
    /// How long it was down within what is known.
    pub down_seconds: f64,
    /// Changes within the window, oldest first, the newest 1,000; left out in the answer for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transitions: Option<Vec<Transition>>,
    /// There when there were more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Answer to [`UptimeOfAll`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uptimes {
    /// The window that was asked for.
    pub window_seconds: f64,
    /// Services of which an instance was there within the window, by name.
    pub services: Vec<Uptime>,
    /// Components that were known within the window, by name; they follow the last service.
    pub components: Vec<Uptime>,
    /// There when more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Request for UptimeOf {
    const ENDPOINT: Endpoint = Endpoint::UptimeOf;
    type Reply = Uptime;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.service()?,
            instance_id: fields.parsed("instance_id")?,
            window_seconds: fields.seconds("window_seconds", 1.0..=MAX_WINDOW_SECONDS)?,
        })
    }
}

impl Request for UptimeOfAll {
    const ENDPOINT: Endpoint = Endpoint::Uptime;
    type Reply = Uptimes;

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            window_seconds: fields.seconds("window_seconds", 1.0..=MAX_WINDOW_SECONDS)?,
            limit: Some(fields.page_limit()?),
            cursor: fields.text("cursor")?,
        })
    }
}
