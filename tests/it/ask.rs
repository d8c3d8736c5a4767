//! Asking a hub as any program would: raw subjects and bodies through NATS, and what must hold of every answer.

use std::ops::Deref;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use central_hub::wire::{ErrorCode, event};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::stack::{HubOptions, HubProcess, eventually};

/// How long anything may take that the hub does by itself: far more than it needs, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(15);

/// A hub that serves, and a connection to ask it.
pub struct Hub {
    pub process: HubProcess,
    asker: Asker,
}

impl Deref for Hub {
    type Target = Asker;
    fn deref(&self) -> &Asker {
        &self.asker
    }
}

impl Hub {
    /// A hub on the shared servers, with a database and a prefix of its own.
    pub async fn fresh() -> Hub {
        Hub::start(HubOptions::fresh().await).await
    }

    pub async fn start(options: HubOptions) -> Hub {
        let asker = Asker::of(&options).await;
        let mut process = HubProcess::start(options).await;
        process.ready().await;
        Hub { process, asker }
    }

    /// Lines that the hub logged at error level.
    pub fn errors_logged(&self) -> Vec<String> {
        self.process.log().lines().filter(|line| line.contains(" ERROR ")).map(str::to_owned).collect()
    }
}

/// A connection to the servers of a hub: it asks the hub, and looks at what the hub left in KV, events and Postgres.
pub struct Asker {
    pub nats: async_nats::Client,
    pub prefix: String,
    database_url: String,
}

impl Asker {
    pub async fn of(options: &HubOptions) -> Asker {
        // Tests also publish what no well-behaved program would.
        let connect = async_nats::ConnectOptions::new().skip_subject_validation(true);
        Asker {
            nats: connect.connect(&options.nats_url).await.expect("a connection to NATS"),
            prefix: options.prefix.clone(),
            database_url: options.database_url.clone(),
        }
    }

    /// A subject of the hub: `subject("health")` is `<prefix>.health`.
    pub fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    /// Sends any bytes to a subject of the hub and gives the answer, which must come.
    pub async fn send(&self, subject: &str, body: impl Into<Bytes>) -> Answer {
        let message = self.nats.request(self.subject(subject), body.into()).await;
        Answer::of(message.unwrap_or_else(|error| panic!("{subject} got no answer: {error}")))
    }

    /// Asks what must succeed.
    pub async fn ask(&self, subject: &str, body: impl ToString) -> Value {
        let body = body.to_string();
        match self.send(subject, body.clone()).await.result() {
            Ok(answer) => answer,
            Err(refusal) => panic!("{subject} {body:.500} was refused: {refusal:?}"),
        }
    }

    /// Asks what must be refused, with this code and `details.field`; gives the details.
    pub async fn refused<'a>(
        &self,
        subject: &str,
        body: impl ToString,
        code: &str,
        field: impl Into<Option<&'a str>>,
    ) -> Value {
        let body = body.to_string();
        match self.send(subject, body.clone()).await.result() {
            Ok(answer) => panic!("{subject} {body:.500} was taken: {answer}"),
            Err(refusal) => {
                let expected = (code, field.into());
                let got = (refusal.code.as_str(), refusal.details["field"].as_str());
                assert_eq!(got, expected, "{subject} {body:.500}: {}", refusal.message);
                refusal.details
            }
        }
    }

    /// A connection to the hub's database.
    pub async fn database(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls).await.expect("Postgres");
        tokio::spawn(connection);
        client
    }

    /// The hub's bucket `<prefix>_<name>`, which it may still be making.
    pub async fn bucket(&self, name: &str) -> kv::Store {
        let jetstream = jetstream::new(self.nats.clone());
        eventually(SOON, || jetstream.get_key_value(format!("{}_{name}", self.prefix))).await
    }

    /// The value of a key, once it is as it should be.
    pub async fn value_once(&self, bucket: &str, key: &str, fine: impl Fn(&Value) -> bool) -> Value {
        let bucket = self.bucket(bucket).await;
        eventually(SOON, || async {
            let value = bucket.get(key).await.map_err(|error| error.to_string())?.ok_or("no such key")?;
            let value: Value = serde_json::from_slice(&value).expect("a value of JSON");
            if fine(&value) { Ok(value) } else { Err(value.to_string()) }
        })
        .await
    }

    /// Waits until a bucket has no such key.
    pub async fn value_gone(&self, bucket: &str, key: &str) {
        let bucket = self.bucket(bucket).await;
        eventually(SOON, || async {
            match bucket.get(key).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// The stream of events, which the hub may still be making.
    pub async fn event_stream(&self) -> jetstream::stream::Stream {
        let jetstream = jetstream::new(self.nats.clone());
        eventually(SOON, || jetstream.get_stream(event::stream_name(&self.prefix))).await
    }

    /// The first `count` events whose subject, after `events.`, matches `filter`, once there are so many.
    pub async fn events(&self, filter: &str, count: usize) -> Vec<Event> {
        self.sent(&format!("events.{filter}"), count).await
    }

    /// The first `count` messages on the stream of events whose subject, without the prefix, matches `filter`, once there
    /// are so many.
    pub async fn sent(&self, filter: &str, count: usize) -> Vec<Event> {
        let stream = self.event_stream().await;
        let consumer = stream
            .create_consumer(jetstream::consumer::pull::OrderedConfig {
                filter_subject: self.subject(filter),
                ..Default::default()
            })
            .await
            .expect("a consumer");
        let messages = consumer.messages().await.expect("messages").take(count).map_ok(|message| {
            let (message, _) = message.split();
            Event {
                subject: message.subject[self.prefix.len() + 1..].to_owned(),
                id: header(message.headers.as_ref(), "Nats-Msg-Id").expect("each event has an id"),
                body: serde_json::from_slice(&message.payload).expect("an event of JSON"),
            }
        });
        let collected = tokio::time::timeout(SOON, messages.try_collect::<Vec<_>>()).await;
        collected.unwrap_or_else(|_| panic!("not {count} events {filter} in time")).expect("events")
    }
}

/// An event as it lies on the stream.
#[derive(Debug)]
pub struct Event {
    /// Without the prefix.
    pub subject: String,
    /// The header `Nats-Msg-Id`.
    pub id: String,
    pub body: Value,
}

/// What the hub answered.
#[derive(Debug)]
pub struct Answer {
    headers: Option<HeaderMap>,
    pub body: Bytes,
}

/// A refusal that is well formed: headers and body say the same.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub details: Value,
}

fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    headers.and_then(|headers| headers.get(name)).map(|value| value.to_string())
}

impl Answer {
    pub fn of(message: Message) -> Answer {
        Answer { headers: message.headers, body: message.payload }
    }

    /// The answer, with the form of both kinds checked: of a success, that it is a JSON object without error headers;
    /// of a refusal, that its code is a documented one, that header and body agree, and that no value is missing.
    pub fn result(&self) -> Result<Value, Refusal> {
        let body: Value = serde_json::from_slice(&self.body).expect("an answer of JSON");
        let number = header(self.headers.as_ref(), "Nats-Service-Error-Code");
        let text = header(self.headers.as_ref(), "Nats-Service-Error");
        if number.is_none() && text.is_none() {
            assert!(body.is_object() && body.get("error").is_none(), "{body}");
            return Ok(body);
        }
        let error = &body["error"];
        assert_eq!(body.as_object().map(|body| body.len()), Some(1), "{body}");
        assert_eq!(error.as_object().map(|error| error.len()), Some(3), "code, message, details: {body}");
        let code = error["code"].as_str().expect("a code");
        let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code);
        let known = known.unwrap_or_else(|| panic!("{code} is no documented code"));
        assert_eq!(number, Some(known.number().to_string()), "{body}");
        let message = error["message"].as_str().expect("a message");
        assert!(!message.is_empty() && text.is_some_and(|text| !text.is_empty()), "{body}");
        assert!(error["details"].is_object(), "{body}");
        Err(Refusal { code: code.to_owned(), message: message.to_owned(), details: error["details"].clone() })
    }
}
