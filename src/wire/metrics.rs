//! Metrics messages: what instances measured, over time.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::error::Error;
use super::{Endpoint, Fields, Request};
use crate::domain::name::{InstanceId, ServiceName, check_metric_name};

/// How far back metrics are asked for unless the request says otherwise, in seconds.
pub const DEFAULT_SINCE_SECONDS: f64 = 3_600.0;

/// How far back a request may ask at the most: a year, in seconds.
pub const MAX_SINCE_SECONDS: f64 = 366.0 * 86_400.0;

/// Points of one series at the most.
pub const MAX_POINTS: f64 = 1_000.0;

/// Series of one answer at the most, whatever `limit` says.
pub const MAX_SERIES: u32 = 128;

/// `hub.metrics.<service>`: what a service's instances measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// The service.
    #[serde(skip)]
    pub service_name: ServiceName,
    /// Only this metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_type: Option<String>,
    /// Only what this instance measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// How far back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<f64>,
    /// Length of a bucket, in seconds; left out, a sixtieth of `since_seconds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_seconds: Option<f64>,
    /// Metrics of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended: its `next_cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Metrics {
    /// All that a service measured within the last hour.
    #[must_use]
    pub fn new(service_name: ServiceName) -> Self {
        Self {
            service_name,
            metric_type: None,
            instance_id: None,
            since_seconds: None,
            bucket_seconds: None,
            limit: None,
            cursor: None,
        }
    }

    /// How far back, and how long a bucket is, in seconds.
    #[must_use]
    pub fn window(&self) -> (f64, f64) {
        let since = self.since_seconds.unwrap_or(DEFAULT_SINCE_SECONDS);
        (since, self.bucket_seconds.unwrap_or((since / 60.0).max(1.0)))
    }
}

/// What was measured within one bucket of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where the bucket begins.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The smallest value.
    pub min: f64,
    /// The mean of all values.
    pub avg: f64,
    /// The largest value.
    pub max: f64,
    /// How many values there were.
    pub count: u32,
}

/// One metric over time. Buckets in which nothing was measured are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The metric's name.
    pub metric_type: String,
    /// Buckets, oldest first.
    pub points: Vec<Point>,
}

/// Answer to [`Metrics`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSeries {
    /// One series per metric, by name.
    pub series: Vec<Series>,
    /// There when more follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Request for Metrics {
    const ENDPOINT: Endpoint = Endpoint::Metrics;
    type Reply = MetricSeries;

    fn service(&self) -> Option<&ServiceName> {
        Some(&self.service_name)
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error> {
        let request = Self {
            service_name: fields.service()?,
            metric_type: fields.text("metric_type")?,
            instance_id: fields.parsed("instance_id")?,
            since_seconds: fields.seconds("since_seconds", 1.0..=MAX_SINCE_SECONDS)?,
            bucket_seconds: fields.seconds("bucket_seconds", 0.1..=MAX_SINCE_SECONDS)?,
            limit: Some(fields.page_limit()?),
            cursor: fields.text("cursor")?,
        };
        if let Some(metric) = &request.metric_type {
            check_metric_name(metric).map_err(|rule| Error::field("metric_type", rule))?;
        }
        let (since, bucket) = request.window();
        if since / bucket > MAX_POINTS {
            let least = since / MAX_POINTS;
            let rule = format!("must be {least} or more: a series has {MAX_POINTS} points at the most");
            return Err(Error::field("bucket_seconds", rule));
        }
        Ok(request)
    }
}
