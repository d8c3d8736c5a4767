//! The requests, and what keeps exactly so many of them in flight.

use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Message, Subject};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::StreamExt as _;
use serde::Serialize;

use crate::Error;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// The body comes back, from a process of the hub's shape.
    Echo,
    /// `hub.config.get` of the active config.
    Get,
    /// `hub.heartbeat`, which is in Postgres when it is answered.
    Heartbeat,
}

impl Work {
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Get => "config.get",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// A request that is sent again and again.
#[derive(Clone)]
pub struct Request {
    pub subject: Subject,
    pub body: Bytes,
}

/// What the requests in flight are taken from, in turn.
pub struct Requests {
    pub echo: Vec<Request>,
    pub get: Vec<Request>,
    pub heartbeat: Vec<Request>,
}

impl Requests {
    pub fn of(&self, work: Work) -> &[Request] {
        match work {
            Work::Echo => &self.echo,
            Work::Get => &self.get,
            Work::Heartbeat => &self.heartbeat,
        }
    }
}

/// What a measurement gave.
#[derive(Default)]
pub struct Run {
    /// Requests that were answered as they should.
    pub answered: u64,
    /// Those that weren't.
    pub errors: u64,
    /// What went wrong first.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Nanoseconds from each request to its answer, ascending.
    pub latencies: Vec<u64>,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency, in milliseconds, that the given share of requests stayed within.
    pub fn latency_ms(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).map_or(0.0, |nanos| *nanos as f64 / 1e6)
    }
}

/// The load generator: its connections and requests.
pub struct Load {
    clients: Vec<Client>,
    requests: Requests,
}

impl Load {
    pub async fn connect(url: &str, connections: u16, requests: Requests) -> Result<Self, Error> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(connect(url).await?);
        }
        Ok(Self { clients, requests })
    }

    /// Keeps `in_flight` requests under way for `time`: as many tasks, each of which sends its next request when the
    /// last one was answered. No two tasks send the same request while there are enough of them, so that an instance
    /// has one heartbeat under way, as a real one would.
    pub async fn run(&self, work: Work, in_flight: usize, time: Duration) -> Run {
        let started = Instant::now();
        let tasks: Vec<_> = (0..in_flight)
            .map(|task| {
                let all = self.requests.of(work);
                let mut mine: Vec<_> = all.iter().skip(task).step_by(in_flight).cloned().collect();
                if mine.is_empty() {
                    mine.extend(all.get(task % all.len().max(1)).cloned());
                }
                let client = self.clients[task % self.clients.len()].clone();
                tokio::spawn(one_at_a_time(client, work, mine, started + time))
            })
            .collect();
        let mut sum = Run::default();
        for task in tasks {
            match task.await {
                Ok(run) => {
                    sum.answered += run.answered;
                    sum.errors += run.errors;
                    sum.first_error = sum.first_error.or(run.first_error);
                    sum.latencies.extend(run.latencies);
                }
                Err(error) => {
                    sum.errors += 1;
                    sum.first_error.get_or_insert(error.to_string());
                }
            }
        }
        sum.elapsed = started.elapsed();
        sum.latencies.sort_unstable();
        sum
    }
}

async fn one_at_a_time(client: Client, work: Work, requests: Vec<Request>, until: Instant) -> Run {
    let mut run = Run::default();
    for request in requests.iter().cycle() {
        let asked = Instant::now();
        if asked >= until {
            break;
        }
        let answer = client.request(request.subject.clone(), request.body.clone()).await;
        let wrong = match &answer {
            Ok(answer) => flaw(work, request, answer),
            Err(error) => Some(error.to_string()),
        };
        match wrong {
            None => {
                run.answered += 1;
                run.latencies.push(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            Some(wrong) => {
                run.errors += 1;
                run.first_error.get_or_insert(wrong);
            }
        }
    }
    run
}

/// What is wrong with an answer.
fn flaw(work: Work, request: &Request, answer: &Message) -> Option<String> {
    let refused = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error"));
    let fine = match work {
        Work::Echo => answer.payload == request.body,
        Work::Get | Work::Heartbeat => answer.payload.starts_with(b"{\"service_name\":"),
    };
    match (refused, fine) {
        (Some(refused), _) => Some(refused.to_string()),
        (None, false) => Some(format!("{}: not the answer expected", request.subject)),
        (None, true) => None,
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    // As the hub does: subjects are known to be fine.
    Ok(ConnectOptions::new().skip_subject_validation(true).connect(url).await?)
}

/// The echo: what a process costs that has the hub's shape (the same runtime, client library and kind of subscription)
/// and does nothing.
pub async fn echo(url: &str, subject: &str) -> Result<(), Error> {
    let client = connect(url).await?;
    let mut requests = client.queue_subscribe(subject.to_owned(), "echo".to_owned()).await?;
    while let Some(request) = requests.next().await {
        if let Some(reply) = request.reply {
            client.publish(reply, request.payload).await?;
        }
    }
    Ok(())
}
