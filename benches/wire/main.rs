//! `make bench`: raw NATS echo, `hub.config.get` and `hub.heartbeat` side by side, on private servers. What is measured
//! and how to read it: `benches/README.md`.

mod fleet;
mod load;
mod report;
mod usage;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use fleet::Fleet;
use load::{Load, Work};
use report::{Report, Round};
use usage::Usage;

/// Any failure; its text is for a person.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Between two runs: what the one before left behind (WAL to write, answers to flush) isn't charged to the next.
const PAUSE: Duration = Duration::from_millis(300);

/// Before memory is read: connections settle, freed pages go back.
const REST: Duration = Duration::from_secs(2);

/// Measure raw NATS echo, hub.config.get and hub.heartbeat side by side
#[derive(Parser)]
struct Args {
    /// A short run: one round of a second each; noisier
    #[arg(long)]
    quick: bool,
    /// Write the numbers as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each is measured at each number in flight
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long each measurement takes
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
    /// How many requests are in flight
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 64, 256])]
    in_flight: Vec<usize>,
    /// What is measured; without echo there are no ratios
    #[arg(long, value_delimiter = ',', default_values = ["echo", "get", "heartbeat"])]
    only: Vec<Work>,
    /// Connections that share the requests in flight
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Registered instances
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    instances: u32,
    /// Services that the instances belong to, each with a config
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    services: u32,
    /// The central-hub to measure; left out, the one that was built with this
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// A setting of PostgreSQL to try
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pg_setting: Vec<(String, String)>,
    /// Answer requests on this subject with what they bring: the echo's own process
    #[arg(long, hide = true, requires = "nats")]
    echo: Option<String>,
    /// Where the echo listens
    #[arg(long, hide = true)]
    nats: Option<String>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// How a run is laid out.
#[derive(Clone, Debug, Serialize)]
struct Plan {
    rounds: u32,
    seconds: f64,
    in_flight: Vec<usize>,
    works: Vec<Work>,
    connections: u16,
    instances: u32,
    services: u32,
}

impl Args {
    fn plan(&self) -> Plan {
        let (rounds, time) = if self.quick { (1, Duration::from_secs(1)) } else { (3, Duration::from_secs(3)) };
        Plan {
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.time.unwrap_or(time).as_secs_f64(),
            in_flight: self.in_flight.clone(),
            works: Work::value_variants().iter().copied().filter(|work| self.only.contains(work)).collect(),
            connections: self.connections,
            instances: self.instances,
            services: self.services.min(self.instances),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match (&args.echo, &args.nats) {
        (Some(subject), Some(url)) => load::echo(url, subject).await.map(|()| true),
        _ => measure(&args).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports; whether all requests were answered and every heartbeat is in Postgres.
async fn measure(args: &Args) -> Result<bool, Error> {
    let plan = args.plan();
    say("starting nats-server, PostgreSQL and a hub …");
    let built = Path::new(env!("CARGO_BIN_EXE_central-hub"));
    let fleet = Fleet::start(args.program.as_deref().unwrap_or(built), &args.pg_setting).await?;
    let mut report = Report::new(plan.clone(), &fleet);
    tokio::time::sleep(REST).await;
    report.memory.at_rest = fleet.hub_memory()?.now;
    say(&format!("registering {} instances of {} services …", plan.instances, plan.services));
    let requests = fleet.populate(&plan).await?;
    tokio::time::sleep(REST).await;
    report.memory.populated = fleet.hub_memory()?.now;
    say(&fleet.processes());

    let load = Load::connect(&fleet.nats_url(), plan.connections, requests).await?;
    for &in_flight in &plan.in_flight {
        for &work in &plan.works {
            let warm_up = load.run(work, in_flight, Duration::from_secs_f64(plan.seconds / 3.0)).await;
            report.note_warm_up(work, &warm_up);
        }
        for _ in 0..plan.rounds {
            for &work in &plan.works {
                tokio::time::sleep(PAUSE).await;
                let before = Usage::read(&fleet)?;
                let run = load.run(work, in_flight, Duration::from_secs_f64(plan.seconds)).await;
                let usage = Usage::read(&fleet)?.since(&before);
                report.note_round(Round::new(work, in_flight, run, usage));
            }
        }
    }
    tokio::time::sleep(REST).await;
    let memory = fleet.hub_memory()?;
    (report.memory.after_load, report.memory.peak) = (memory.now, memory.peak);
    report.heartbeat_rows = fleet.heartbeat_rows().await?;
    fleet.stop().await;

    write!(std::io::stdout().lock(), "{}", report.table())?;
    if let Some(file) = &args.json {
        std::fs::write(file, report.json()? + "\n").map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(report.is_sound())
}

/// Tells a person how it goes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
