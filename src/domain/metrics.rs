//! What instances measured, in buckets of time.

use std::collections::BTreeMap;

/// The values of one metric in one bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// Their mean.
    pub avg: f64,
    /// The largest.
    pub max: f64,
    /// How many there are.
    pub count: u32,
}

impl Summary {
    fn of(value: f64) -> Self {
        Self { min: value, avg: value, max: value, count: 1 }
    }

    fn add(&mut self, value: f64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.count += 1;
        // Not a sum, which two of the largest values would overflow.
        let share = 1.0 / f64::from(self.count);
        self.avg = (self.avg + (value * share - self.avg * share)).clamp(self.min, self.max);
    }
}

/// Values by metric and bucket: of the first metrics by name, however many there are.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// Length of a bucket, in microseconds.
    length: i64,
    /// Metrics up to this name were told before.
    after: String,
    most: usize,
    series: BTreeMap<String, BTreeMap<i64, Summary>>,
    more: bool,
}

impl Buckets {
    /// Buckets of `length` microseconds, for the first `most` metrics after the name `after`.
    #[must_use]
    pub fn new(length: i64, after: &str, most: usize) -> Self {
        Self { length: length.max(1), after: after.to_owned(), most, series: BTreeMap::new(), more: false }
    }

    /// Adds what was measured at `at`, in microseconds.
    pub fn add(&mut self, metric: &str, at: i64, value: f64) {
        if metric <= self.after.as_str() {
            return;
        }
        let begins = at.div_euclid(self.length) * self.length;
        let Some(series) = self.series(metric) else { return };
        series.entry(begins).and_modify(|summary| summary.add(value)).or_insert_with(|| Summary::of(value));
    }

    /// The series of a metric, unless it lies behind the last one that there is room for. One that was put out for another
    /// never comes back: there are only more before it.
    fn series(&mut self, metric: &str) -> Option<&mut BTreeMap<i64, Summary>> {
        if !self.series.contains_key(metric) {
            if self.series.len() >= self.most {
                self.more = true;
                if self.series.last_key_value().is_none_or(|(last, _)| metric > last.as_str()) {
                    return None;
                }
                self.series.pop_last();
            }
            self.series.insert(metric.to_owned(), BTreeMap::new());
        }
        self.series.get_mut(metric)
    }

    /// Metrics with their buckets, by the microseconds at which they begin, and whether there are metrics behind them.
    #[must_use]
    pub fn finish(self) -> (BTreeMap<String, BTreeMap<i64, Summary>>, bool) {
        (self.series, self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<(String, i64, f64)>> {
        proptest::collection::vec(("[a-e]", -50i64..50, proptest::num::f64::NORMAL | proptest::num::f64::ZERO), 0..80)
    }

    proptest! {
        #[test]
        fn each_value_counts_once_in_its_bucket(values in values(), length in 1i64..30) {
            let mut buckets = Buckets::new(length, "", 100);
            values.iter().for_each(|(metric, at, value)| buckets.add(metric, *at, *value));
            let (series, more) = buckets.finish();
            prop_assert!(!more);
            for (metric, points) in &series {
                for (begins, summary) in points {
                    let fits = |(other, at, _): &&(String, i64, f64)| {
                        other == metric && begins.rem_euclid(length) == 0 && (*begins..begins + length).contains(at)
                    };
                    let inside: Vec<f64> = values.iter().filter(fits).map(|(.., value)| *value).collect();
                    prop_assert_eq!(summary.count as usize, inside.len());
                    prop_assert_eq!(summary.min, inside.iter().copied().fold(f64::INFINITY, f64::min));
                    prop_assert_eq!(summary.max, inside.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                    let mean: f64 = inside.iter().map(|value| value / inside.len() as f64).sum();
                    let scale = inside.iter().copied().map(f64::abs).fold(0.0, f64::max);
                    prop_assert!((summary.avg - mean).abs() <= scale * 1e-12, "{} is not {}", summary.avg, mean);
                }
            }
            let counted: u32 = series.values().flat_map(BTreeMap::values).map(|summary| summary.count).sum();
            prop_assert_eq!(counted as usize, values.len());
        }

        /// Pages of metrics, put together, are all metrics.
        #[test]
        fn pages_leave_nothing_out(values in values(), most in 1usize..4) {
            let page = |after: &str, most| {
                let mut buckets = Buckets::new(10, after, most);
                values.iter().for_each(|(metric, at, value)| buckets.add(metric, *at, *value));
                buckets.finish()
            };
            let (mut together, mut after) = (BTreeMap::new(), String::new());
            loop {
                let (series, more) = page(&after, most);
                prop_assert!(series.len() <= most);
                after = series.last_key_value().map(|(last, _)| last.clone()).unwrap_or_default();
                together.extend(series);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(together, page("", 100).0);
        }
    }
}
