//! What instances measured, put into buckets as it arrives from Postgres.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::row::Columns as _;
use super::{Store, StoreError, sql};
use crate::domain::metrics::{Buckets, Summary};
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::metrics::{Metrics, Point, Series};
use crate::wire::{Error, ErrorCode};

/// Values that are read for one answer at the most: about what can be read before Postgres is given up. A heartbeat counts
/// as one value at least.
const MAX_READ: usize = 500_000;

impl Store {
    /// Up to `most` metrics of a service in buckets, by name, and whether more follow.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`] when there are too many values; what Postgres says.
    pub async fn metrics(&self, request: &Metrics, most: usize) -> Result<(Vec<Series>, bool), StoreError> {
        let (since, bucket) = request.window();
        let instance = request.instance_id.as_ref().map(InstanceId::as_str);
        let params: super::Params<'_> = &[
            &request.service_name.as_str(),
            &request.metric_type,
            &instance,
            &since,
            &i64::try_from(MAX_READ + 1).map_err(StoreError::defect)?,
        ];
        #[allow(clippy::cast_possible_truncation, reason = "the request's bounds keep it far below")]
        let length = (bucket * 1e6).round() as i64;
        let after = request.cursor.as_deref().unwrap_or_default();
        let _turn = self.turn().await?;
        let start = || (Buckets::new(length, after, most), 0);
        let (buckets, _) = self.fold(sql::METRICS, params, start, take).await?;
        let (metrics, more) = buckets.finish();
        let series = metrics.into_iter().map(|(metric_type, buckets)| {
            let points = buckets.into_iter().map(point).collect::<Result<_, _>>()?;
            Ok(Series { metric_type, points })
        });
        Ok((series.collect::<Result<_, StoreError>>()?, more))
    }

    /// Whether anything is known of a service, or of one of its instances: records, history, heartbeats, configs.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn is_known(&self, service: &ServiceName, instance: Option<&InstanceId>) -> Result<bool, StoreError> {
        let instance = instance.map(InstanceId::as_str);
        let rows = self.query(sql::SERVICE_KNOWN, &[&service.as_str(), &instance]).await?;
        rows.first().map_or(Ok(false), |row| row.read("known"))
    }
}

fn point((begins, summary): (i64, Summary)) -> Result<Point, StoreError> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(begins) * 1_000).map_err(StoreError::defect)?;
    Ok(Point { at, min: summary.min, avg: summary.avg, max: summary.max, count: summary.count })
}

fn take((buckets, read): &mut (Buckets, usize), row: &Row) -> Result<(), StoreError> {
    let at: OffsetDateTime = row.read("timestamp")?;
    let at = i64::try_from(at.unix_timestamp_nanos() / 1_000).map_err(StoreError::defect)?;
    // What isn't an object of numbers, only a hand at the SQL prompt could write.
    let metrics: Map<String, Value> = serde_json::from_str(row.read("metrics")?).unwrap_or_default();
    *read += metrics.len().max(1);
    if *read > MAX_READ {
        let next = "ask for a shorter time, for one metric_type, or for one instance_id";
        let rule = format!("since_seconds: more than {MAX_READ} values lie within it; {next}");
        let error = Error::new(ErrorCode::TooLarge, rule).with("field", "since_seconds");
        return Err(error.with("limit", MAX_READ).into());
    }
    for (metric, value) in &metrics {
        if let Some(value) = value.as_f64().filter(|value| value.is_finite()) {
            buckets.add(metric, at, value);
        }
    }
    Ok(())
}
