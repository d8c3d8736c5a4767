//! Probes of infrastructure: one question to one component, answered or given up within its timeout.
//!
//! Each probe makes a connection of its own and leaves nothing behind: dropping it, which is also how a timeout ends
//! it, closes the connection. What it reads is bounded, and what it says is for people and holds no credential.

mod clickhouse;
mod dial;
mod http;
mod kafka;
mod nats;
mod postgresql;
mod redis;
mod target;
mod tcp;
mod tls;

use std::io;
use std::sync::Arc;

use futures_util::future::select_ok;
use tokio::time::{Instant, timeout_at};

use super::millis;
use super::options::Options;
use crate::domain::infra::{Component, Kind};
use crate::domain::status::Status;
use crate::domain::text;
use crate::nats::NatsOptions;
use crate::store::DatabaseOptions;
use crate::wire::registry::DependencyStatus;
use dial::Names;
pub use target::Environment;
use target::{Located, Place};
use tls::Tls;

/// The longest message, in characters.
const MAX_MESSAGE: usize = 200;

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How the component is; unknown when the hub doesn't know where it is.
    pub status: DependencyStatus,
    /// How long it took from the start of the connection to the answer, in milliseconds; `None` without an answer.
    pub response_time_ms: Option<f64>,
    /// What is wrong, for people; never a credential.
    pub error_message: Option<String>,
}

/// What probes need to know of the hub. Cheap to clone.
#[derive(Clone)]
pub struct ProbeContext(Arc<Shared>);

struct Shared {
    database: DatabaseOptions,
    nats: NatsOptions,
    environment: Environment,
    names: Names,
    tls: Tls,
    http: http::Http,
}

/// What a component answered.
enum Answer {
    /// As it should.
    Well,
    /// It answers, and says itself that it isn't well.
    Impaired(String),
}

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    /// The component is to blame.
    Down(String),
    /// What the hub was told about it can't be used: nobody knows how the component is.
    Unusable(String),
}

impl ProbeContext {
    /// What probes need: the hub's own database and NATS (as the user that may ask for JetStream's account), and the
    /// variables that tell targets and credentials.
    #[must_use]
    pub fn new(database: DatabaseOptions, nats: NatsOptions, environment: Environment) -> Self {
        let tls = Tls::trusting(environment.tls_ca());
        Self(Arc::new(Shared {
            database,
            nats,
            environment,
            names: Names::default(),
            tls,
            http: http::Http::default(),
        }))
    }

    /// The same for a hub with these options, in the environment of this process.
    #[must_use]
    pub fn of_hub(options: &Options) -> Self {
        let nats = options.nats_writer.as_ref().unwrap_or(&options.nats);
        Self::new(options.database.clone(), nats.clone(), Environment::of_process())
    }
}

/// Probes a component. Returns within its timeout, and may be dropped at any time.
pub async fn check(component: &Component, context: &ProbeContext) -> Outcome {
    let deadline = Instant::now() + component.timeout();
    let place = match timeout_at(deadline, context.0.environment.locate(component)).await {
        Ok(Ok(place)) => place,
        Ok(Err(message)) => return Outcome::unknown(message),
        Err(_) => return Outcome::unknown("the file with its target can't be read in time".into()),
    };
    let began = Instant::now();
    let answer = timeout_at(deadline, ask(component, &place, &context.0)).await;
    let took = began.elapsed();
    let answered = |status: Status, message| Outcome {
        status: Some(status).into(),
        response_time_ms: Some(millis(took)),
        error_message: message,
    };
    match answer {
        Ok(Ok(Answer::Well)) => match component.judge(took) {
            Status::Healthy => answered(Status::Healthy, None),
            slow => answered(slow, Some(format!("slower than {} ms", component.degraded_ms))),
        },
        Ok(Ok(Answer::Impaired(message))) => answered(Status::Degraded, Some(place.for_people(&message))),
        Ok(Err(Failure::Down(message))) => Outcome::down(place.for_people(&message)),
        Ok(Err(Failure::Unusable(message))) => Outcome::unknown(place.for_people(&message)),
        Err(_) => Outcome::down(format!("no answer within {} ms", component.timeout_ms)),
    }
}

async fn ask(component: &Component, place: &Place, hub: &Shared) -> Result<Answer, Failure> {
    let Located { text, .. } = match place {
        Place::Own if component.kind == Kind::Postgresql => return postgresql::probe_own(hub).await,
        Place::Own => return nats::probe_own(hub, component.timeout()).await,
        Place::At(located) => located,
    };
    match component.kind {
        Kind::Postgresql => postgresql::probe_at(text, hub).await,
        Kind::Nats => nats::probe_at(text, hub).await,
        Kind::Kafka => kafka::probe(text, hub).await,
        Kind::Clickhouse => clickhouse::probe(text, hub).await,
        Kind::Redis => redis::probe(text, hub).await,
        Kind::Http => http::probe(text, hub).await,
        Kind::Tcp => tcp::probe(text, hub).await,
    }
}

/// The first answer of several servers that are asked at once; when there is none, why the last one gave none.
async fn first_of<F>(asked: Vec<F>) -> Result<Answer, Failure>
where
    F: Future<Output = Result<Answer, Failure>> + Unpin,
{
    if asked.is_empty() {
        return Err(Failure::Unusable("its target names no server".into()));
    }
    select_ok(asked).await.map(|(answer, _)| answer)
}

impl Outcome {
    fn unknown(message: String) -> Self {
        Self { status: DependencyStatus::Unknown, response_time_ms: None, error_message: Some(message) }
    }

    fn down(message: String) -> Self {
        Self { status: DependencyStatus::Down, response_time_ms: None, error_message: Some(message) }
    }
}

impl Failure {
    fn down(message: impl Into<String>) -> Self {
        Self::Down(message.into())
    }

    /// The target isn't written as this kind needs it.
    fn form(kind: Kind) -> Self {
        Self::Unusable(format!("its target can't be read: it is {}", kind.form()))
    }

    /// A connection that couldn't be made or broke, without the address that some of the system's texts hold.
    fn io(error: &io::Error) -> Self {
        let mut innermost = error;
        // One may be wrapped in another.
        while let Some(cause) = innermost.get_ref() {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Down(format!("TLS: {tls}"));
            }
            let Some(inner) = cause.downcast_ref() else { break };
            innermost = inner;
        }
        Self::Down(match innermost.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".into(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => "it closed the connection".into(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                "its answer can't be understood: is this its port?".into()
            }
            kind => kind.to_string(),
        })
    }
}

/// A text on one line and of bounded length.
fn on_one_line(text: &str) -> String {
    let mut line: String = text::cleaned(text).replace(['\n', '\t'], " ").chars().take(MAX_MESSAGE + 1).collect();
    if line.chars().count() > MAX_MESSAGE {
        line.pop();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(on_one_line("a\r\nb\0c"), "a  b c");
        assert_eq!(on_one_line("\u{1b}[2Ja\u{202e}b"), " [2Ja b");
        assert_eq!(on_one_line(&"ä".repeat(200)), "ä".repeat(200));
        assert_eq!(on_one_line(&"ä".repeat(201)), format!("{}…", "ä".repeat(200)));
    }
}
