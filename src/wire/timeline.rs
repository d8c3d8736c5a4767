//! The timeline: events of all kinds in one order, the answer to "what changed just before it broke?".

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::event::{Event, Kind, Topic};
use super::{Endpoint, Fields, Request};
use crate::domain::name::ServiceName;

/// How far back unless the request says otherwise: a day, in seconds.
pub const DEFAULT_SINCE_SECONDS: f64 = 86_400.0;

/// How far back a request may ask at the most: a year, in seconds.
pub const MAX_SINCE_SECONDS: f64 = 366.0 * 86_400.0;

/// `hub.timeline`: what happened, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    /// Only what happened to this service or component.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<ServiceName>,
    /// How far back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<f64>,
    /// Only these: kinds of events (`down`, `published`, …) or whole topics (`service`, `config`, `infra`, `alert`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// Rows of the page.
    pub limit: Option<u32>,
    /// Where the page before ended: its `next_cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer to [`Timeline`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelinePage {
    /// Events, newest first.
    pub events: Vec<Event>,
    /// There when more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Request for Timeline {
    const ENDPOINT: Endpoint = Endpoint::Timeline;
    type Reply = TimelinePage;

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        Ok(Self {
            service_name: fields.parsed("service_name")?,
            since_seconds: fields.seconds("since_seconds", 1.0..=MAX_SINCE_SECONDS)?,
            kinds: kinds(fields)?,
            limit: Some(fields.page_limit()?),
            cursor: fields.text("cursor")?,
        })
    }
}

fn kinds(fields: &mut Fields<'_>) -> Result<Vec<String>, Error> {
    let rule = format!(
        "must be a list of topics ({}) or kinds ({})",
        Topic::ALL.map(Topic::as_str).join(", "),
        Kind::ALL.map(|(kind, _)| kind.as_str()).join(", ")
    );
    let known = |text: &str| Kind::from_text(text).is_some() || Topic::from_text(text).is_some();
    let kinds = fields.typed("kinds", &rule, |value| {
        let texts = value.as_array()?.iter().map(|item| item.as_str().filter(|text| known(text)).map(str::to_owned));
        texts.collect::<Option<Vec<_>>>()
    })?;
    Ok(kinds.unwrap_or_default())
}
