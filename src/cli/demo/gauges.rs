//! Measurements of a simulated process: a queue whose utilization wanders around its usual value.

use serde::Deserialize;
use serde_json::{Map, Value};

/// How far the utilization is pulled back to its usual value, and how far it is pushed at the most, per measurement.
const PULL: f64 = 0.2;
const PUSH: f64 = 0.05;

/// A queue that is always full has no finite length.
const BUSIEST: f64 = 0.97;

/// How much memory a process takes up before it gives some back, as a share of its usual memory per measurement.
const MEMORY_GROWTH: f64 = 0.01;

/// How busy a process usually is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Share of its capacity in use, 0 to 1.
    utilization: f64,
    /// Milliseconds of work on one message.
    service_ms: f64,
    /// Messages a second at the most.
    capacity_per_second: f64,
    /// Usual memory in megabytes.
    memory_mb: f64,
}

/// The measurements of one process, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Gauges {
    usual: Load,
    utilization: f64,
    memory: f64,
    random: fastrand::Rng,
}

impl Gauges {
    /// Gauges of a process that is usually as busy as `usual`.
    #[must_use]
    pub fn new(usual: Load, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self { usual, utilization: usual.utilization, memory: 0.9 + 0.1 * random.f64(), random }
    }

    /// The next measurements.
    ///
    /// Latency and backlog are those of a queue with one server and random arrivals (M/M/1): service time / (1 - u) and
    /// u / (1 - u), so that all of them rise and fall together, as they do in life.
    pub fn read(&mut self) -> Map<String, Value> {
        let push = PUSH * (2.0 * self.random.f64() - 1.0);
        self.utilization += PULL * (self.usual.utilization - self.utilization) + push;
        self.utilization = self.utilization.clamp(0.01, BUSIEST);
        self.memory += MEMORY_GROWTH * self.random.f64();
        if self.memory > 1.1 {
            self.memory = 0.9;
        }
        let (busy, idle) = (self.utilization, 1.0 - self.utilization);
        let measured = [
            ("cpu_percent", 100.0 * busy),
            ("memory_mb", self.usual.memory_mb * self.memory),
            ("latency_ms", self.usual.service_ms / idle),
            ("throughput_per_second", self.usual.capacity_per_second * busy),
            ("queue_lag", busy / idle),
        ];
        measured.into_iter().map(|(name, value)| (name.to_owned(), ((value * 100.0).round() / 100.0).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Load = Load { utilization: 0.9, service_ms: 2.0, capacity_per_second: 1000.0, memory_mb: 300.0 };

    #[test]
    fn a_seed_gives_the_same_measurements_again() {
        let read = |seed| {
            let mut gauges = Gauges::new(BUSY, seed);
            (0..50).map(|_| gauges.read()).collect::<Vec<_>>()
        };
        assert_eq!(read(7), read(7));
        assert_ne!(read(7), read(8));
    }

    #[test]
    fn measurements_stay_within_reason() {
        let mut gauges = Gauges::new(BUSY, 1);
        for _ in 0..10_000 {
            let read = gauges.read();
            let value = |name: &str| read.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
            assert!((1.0..=97.0).contains(&value("cpu_percent")), "{read:?}");
            assert!((270.0..=333.1).contains(&value("memory_mb")), "{read:?}");
            assert!((2.0..=67.0).contains(&value("latency_ms")), "{read:?}");
            assert!((0.0..=33.0).contains(&value("queue_lag")), "{read:?}");
        }
    }
}
