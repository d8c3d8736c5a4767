//! The numbers, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::fleet::Fleet;
use crate::load::{Run, Work};
use crate::usage::Usage;
use crate::{Error, Plan};

/// What this project aims at; missing it is no error, since machines differ.
const GET_TO_ECHO: f64 = 0.7;
const HEARTBEAT_TO_ECHO: f64 = 0.25;
const AT_REST_MIB: f64 = 30.0;

/// In flight where the aims hold.
const AIM_IN_FLIGHT: usize = 256;

/// All that a run of the benchmark found.
#[derive(Serialize)]
pub struct Report {
    pub plan: Plan,
    pub machine: Machine,
    pub rounds: Vec<Round>,
    pub memory: HubMemory,
    /// Heartbeats that were answered with success since the start, those before the measurements included.
    pub heartbeats_acknowledged: u64,
    /// Rows that PostgreSQL has of them.
    pub heartbeat_rows: u64,
    /// Requests that failed while everything warmed up.
    pub warm_up_errors: u64,
    pub first_error: Option<String>,
}

#[derive(Serialize)]
pub struct Machine {
    pub cores: usize,
    pub nats_server: String,
    pub postgres: String,
}

/// The hub's resident memory, in bytes.
#[derive(Default, Serialize)]
pub struct HubMemory {
    pub at_rest: u64,
    /// With all instances registered.
    pub populated: u64,
    pub after_load: u64,
    pub peak: u64,
}

/// One measurement.
#[derive(Clone, Serialize)]
pub struct Round {
    pub work: Work,
    pub in_flight: usize,
    pub answered: u64,
    pub errors: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// CPU seconds in the time of the measurement.
    pub cpu_seconds: Usage,
    #[serde(skip)]
    first_error: Option<String>,
}

impl Round {
    pub fn new(work: Work, in_flight: usize, run: Run, cpu_seconds: Usage) -> Self {
        Self {
            work,
            in_flight,
            answered: run.answered,
            errors: run.errors,
            seconds: run.elapsed.as_secs_f64(),
            per_second: run.per_second(),
            p50_ms: run.latency_ms(0.5),
            p99_ms: run.latency_ms(0.99),
            max_ms: run.latency_ms(1.0),
            cpu_seconds,
            first_error: run.first_error,
        }
    }

    /// CPU seconds for 100,000 requests.
    fn per_100k(&self, seconds: f64) -> f64 {
        seconds * 1e5 / self.answered.max(1) as f64
    }
}

impl Report {
    pub fn new(plan: Plan, fleet: &Fleet) -> Self {
        let machine = Machine {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            nats_server: fleet.stack.nats.version().to_string(),
            postgres: fleet.stack.postgres.version().to_string(),
        };
        Self {
            // Each instance's first heartbeat.
            heartbeats_acknowledged: plan.instances.into(),
            plan,
            machine,
            rounds: Vec::new(),
            memory: HubMemory::default(),
            heartbeat_rows: 0,
            warm_up_errors: 0,
            first_error: None,
        }
    }

    pub fn note_warm_up(&mut self, work: Work, run: &Run) {
        self.warm_up_errors += run.errors;
        self.note(work, run.answered, run.first_error.as_ref());
    }

    pub fn note_round(&mut self, round: Round) {
        self.note(round.work, round.answered, round.first_error.as_ref());
        self.rounds.push(round);
    }

    fn note(&mut self, work: Work, answered: u64, error: Option<&String>) {
        if work == Work::Heartbeat {
            self.heartbeats_acknowledged += answered;
        }
        if self.first_error.is_none() {
            self.first_error = error.map(|error| format!("{}: {error}", work.name()));
        }
    }

    fn errors(&self) -> u64 {
        self.warm_up_errors + self.rounds.iter().map(|round| round.errors).sum::<u64>()
    }

    /// Whether every request was answered and every acknowledged heartbeat has its row.
    pub fn is_sound(&self) -> bool {
        self.errors() == 0 && self.heartbeat_rows == self.heartbeats_acknowledged
    }

    fn rounds_of(&self, work: Work, in_flight: usize) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |round| round.work == work && round.in_flight == in_flight)
    }

    /// The median of the ratios to the echo of the same round.
    fn ratio(&self, work: Work, in_flight: usize) -> Option<f64> {
        let pairs = self.rounds_of(work, in_flight).zip(self.rounds_of(Work::Echo, in_flight));
        median(pairs.map(|(round, echo)| round.per_second / echo.per_second))
    }

    pub fn json(&self) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Ratio {
            work: Work,
            in_flight: usize,
            to_echo: Option<f64>,
        }
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            ratios: Vec<Ratio>,
        }
        let works = self.plan.works.iter().copied().filter(|work| *work != Work::Echo);
        let ratios = works.flat_map(|work| {
            self.plan.in_flight.iter().map(move |&in_flight| Ratio {
                work,
                in_flight,
                to_echo: self.ratio(work, in_flight),
            })
        });
        Ok(serde_json::to_string_pretty(&Whole { report: self, ratios: ratios.collect() })?)
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        let Plan { rounds, seconds, connections, instances, services, .. } = &self.plan;
        let Machine { cores, nats_server, postgres } = &self.machine;
        let _ = writeln!(
            text,
            "\n{cores} cores, nats-server {nats_server}, PostgreSQL {postgres}; {rounds} rounds of {seconds} s over \
             {connections} connections,\n{instances} instances of {services} services. CPU: seconds per 100,000 requests.\n"
        );
        let _ = writeln!(
            text,
            "in flight  request       per second   to echo   p50 ms   p99 ms   max ms      load    nats    echo     hub  \
             postgres  others"
        );
        for &in_flight in &self.plan.in_flight {
            for &work in &self.plan.works {
                self.row(&mut text, work, in_flight);
            }
        }
        self.summary(&mut text);
        text
    }

    fn row(&self, text: &mut String, work: Work, in_flight: usize) {
        let of = |value: &dyn Fn(&Round) -> f64| median(self.rounds_of(work, in_flight).map(value)).unwrap_or(0.0);
        let cpu = |part: fn(&Usage) -> f64| of(&|round| round.per_100k(part(&round.cpu_seconds)));
        let ratio = self.ratio(work, in_flight).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let max = self.rounds_of(work, in_flight).map(|round| round.max_ms).fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "{in_flight:>9}  {:<12} {:>11.0} {ratio:>9} {:>8.2} {:>8.2} {max:>8.1}  {:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>10.2}{:>8.2}",
            work.name(),
            of(&|round| round.per_second),
            of(&|round| round.p50_ms),
            of(&|round| round.p99_ms),
            cpu(|usage| usage.load),
            cpu(|usage| usage.nats),
            cpu(|usage| usage.echo),
            cpu(|usage| usage.hub),
            cpu(|usage| usage.postgres),
            cpu(|usage| usage.others),
        );
    }

    fn summary(&self, text: &mut String) {
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        let HubMemory { at_rest, populated, after_load, peak } = &self.memory;
        let _ = writeln!(
            text,
            "\nThe hub's memory: {:.1} MiB at rest, {:.1} with all instances registered, {:.1} after the load, {:.1} at \
             the most.",
            mib(*at_rest),
            mib(*populated),
            mib(*after_load),
            mib(*peak),
        );
        let (acknowledged, rows) = (self.heartbeats_acknowledged, self.heartbeat_rows);
        let _ = writeln!(text, "Heartbeats: {acknowledged} acknowledged, {rows} rows in health_metrics.");
        let _ = write!(text, "Errors: {}", self.errors());
        let _ = writeln!(
            text,
            "{}",
            self.first_error.as_ref().map_or_else(String::new, |error| format!(", first {error}"))
        );
        let mut aim = |what: &str, found: Option<f64>, aim: f64, more: bool| {
            let Some(found) = found else { return };
            let (sign, well) = if more { ("≥", found >= aim) } else { ("<", found < aim) };
            let word = if well { "reached" } else { "missed" };
            let _ = writeln!(text, "Aim {what} {sign} {aim}: {word} with {found:.2}.");
        };
        aim("config.get / echo at 256 in flight", self.ratio(Work::Get, AIM_IN_FLIGHT), GET_TO_ECHO, true);
        aim("heartbeat / echo at 256 in flight", self.ratio(Work::Heartbeat, AIM_IN_FLIGHT), HEARTBEAT_TO_ECHO, true);
        aim("MiB at rest", Some(mib(*at_rest)), AT_REST_MIB, false);
        if !self.is_sound() {
            let _ = writeln!(text, "FAILED: a request failed, or rows and acknowledgements differ.");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
