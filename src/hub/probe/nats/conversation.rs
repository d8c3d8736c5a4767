//! The few lines that a probe and another NATS exchange.
//!
//! The client library reads lines of any length, and searches all that it holds after each read: with a peer that never
//! ends its line it takes memory and time without a bound, and no timeout comes through to it. Here all that a peer may
//! send is counted, and dropping the conversation ends it.

use async_nats::jetstream::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use url::Url;

use super::super::dial::{MAX_RECEIVED, Stream, bounded, host_of};
use super::super::{Answer, Failure, Shared};
use super::{Account, Credentials};
use crate::domain::infra::Kind;

/// The port of a server that is named without one.
const PORT: u16 = 4222;

/// What a server tells of itself first, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    jetstream: bool,
    tls_required: bool,
}

/// What a server says later, as far as it matters.
#[derive(Debug, PartialEq)]
enum Said {
    Ping,
    Pong,
    Error(String),
    /// A message, of so many bytes, the first ones of which are headers.
    Message {
        headers: usize,
        total: usize,
    },
    /// News of itself.
    Other,
}

/// An open connection.
struct Link(BufReader<Box<dyn Stream>>);

/// Connects to a server, which is a round trip, and asks JetStream for the account where the server has one.
pub(super) async fn ask(address: &Url, credentials: &Credentials, hub: &Shared) -> Result<Answer, Failure> {
    let form = || Failure::form(Kind::Nats);
    let must_encrypt = match address.scheme() {
        "nats" => false,
        "tls" => true,
        _ => return Err(form()),
    };
    let host = host_of(address).ok_or_else(form)?;
    let mut plain = hub.names.dial(&host, address.port().unwrap_or(PORT)).await?;
    let info = introduction(&mut plain).await?;
    let encrypted = info.tls_required || must_encrypt;
    let stream: Box<dyn Stream> =
        if encrypted { Box::new(bounded(hub.tls.secure(&host, plain).await?)) } else { Box::new(bounded(plain)) };
    let mut link = Link(BufReader::new(stream));
    link.log_in(credentials, encrypted).await?;
    if !info.jetstream {
        return Ok(Answer::Well);
    }
    link.account().await?.of_others()
}

/// The first line, which comes in clear. Nothing may follow it before the server has heard something.
async fn introduction(stream: &mut TcpStream) -> Result<Info, Failure> {
    let mut lines = BufReader::new(stream.take(MAX_RECEIVED));
    let line = read_line(&mut lines).await?;
    if let Some(Said::Error(text)) = Said::read(&line) {
        return Err(refused(&text));
    }
    let info = line.strip_prefix("INFO ").and_then(|info| serde_json::from_str(info).ok()).ok_or_else(nonsense)?;
    if lines.buffer().is_empty() { Ok(info) } else { Err(nonsense()) }
}

impl Link {
    async fn log_in(&mut self, credentials: &Credentials, encrypted: bool) -> Result<(), Failure> {
        let mut connect = json!({
            "verbose": false, "pedantic": false, "echo": false, "protocol": 1, "headers": true, "no_responders": true,
            "tls_required": encrypted, "name": super::NAME, "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
        });
        match credentials {
            Credentials::None => {}
            Credentials::Token(token) => connect["auth_token"] = token.as_str().into(),
            Credentials::Password(user, password) => {
                connect["user"] = user.as_str().into();
                connect["pass"] = password.as_str().into();
            }
        }
        self.send(&format!("CONNECT {connect}\r\nPING\r\n")).await?;
        loop {
            match self.hear().await? {
                Said::Pong => return Ok(()),
                Said::Error(text) => return Err(refused(&text)),
                _ => {}
            }
        }
    }

    /// What JetStream tells of the account.
    async fn account(&mut self) -> Result<Account, Failure> {
        let inbox = format!("_INBOX.{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        self.send(&format!("SUB {inbox} 1\r\nPUB $JS.API.INFO {inbox} 2\r\n{{}}\r\n")).await?;
        loop {
            match self.hear().await? {
                Said::Message { headers, total } => {
                    let message = self.message(total).await?;
                    let (headers, body) = message.split_at_checked(headers).ok_or_else(nonsense)?;
                    if headers.starts_with(b"NATS/1.0 503") {
                        return Ok(Account::NobodyAnswers);
                    }
                    return Ok(match serde_json::from_slice::<Response<Map<String, Value>>>(body) {
                        Ok(response) => Account::of(&response),
                        Err(_) => Account::Unwell,
                    });
                }
                // A right that is missing shows here only: no answer would come.
                Said::Error(text) if is_about(&text, "permissions violation") => return Ok(Account::Hidden),
                Said::Error(text) => return Err(refused(&text)),
                _ => {}
            }
        }
    }

    async fn send(&mut self, text: &str) -> Result<(), Failure> {
        let sent = async {
            self.0.write_all(text.as_bytes()).await?;
            self.0.flush().await
        };
        sent.await.map_err(|error| Failure::io(&error))
    }

    /// The next line; what asks for an answer gets it.
    async fn hear(&mut self) -> Result<Said, Failure> {
        let line = read_line(&mut self.0).await?;
        let said = Said::read(&line).ok_or_else(nonsense)?;
        if said == Said::Ping {
            self.send("PONG\r\n").await?;
        }
        Ok(said)
    }

    /// A message of so many bytes. Memory is set aside as it comes, not as it is announced.
    async fn message(&mut self, total: usize) -> Result<Vec<u8>, Failure> {
        let mut message = Vec::new();
        let length = u64::try_from(total).unwrap_or(u64::MAX);
        (&mut self.0).take(length).read_to_end(&mut message).await.map_err(|error| Failure::io(&error))?;
        if message.len() == total { Ok(message) } else { Err(nonsense()) }
    }
}

/// A line without its end. Streams end at the bound of what a peer may send.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<String, Failure> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.map_err(|error| Failure::io(&error))?;
    let line = String::from_utf8(line).map_err(|_| nonsense())?;
    line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(nonsense)
}

impl Said {
    /// What a line says; `None` when no NATS says so.
    fn read(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut numbers = rest.rsplit(' ').map(|number| number.parse().ok());
        Some(match word {
            "PING" => Self::Ping,
            "PONG" => Self::Pong,
            "+OK" | "INFO" => Self::Other,
            "-ERR" => Self::Error(rest.trim_matches([' ', '\'']).to_owned()),
            "MSG" => Self::Message { headers: 0, total: numbers.next()?? },
            "HMSG" => {
                let total = numbers.next()??;
                Self::Message { headers: numbers.next()??, total }
            }
            _ => return None,
        })
    }
}

fn is_about(error: &str, what: &str) -> bool {
    error.to_ascii_lowercase().starts_with(what)
}

/// The peer's own words stay out: it may be anything that listens there.
fn refused(error: &str) -> Failure {
    if is_about(error, "authorization violation") {
        Failure::down("it refused the credentials")
    } else {
        Failure::down("it refuses the connection")
    }
}

fn nonsense() -> Failure {
    Failure::down("it hangs up, or answers not as NATS does: is this its port?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_says() {
        for (line, said) in [
            ("PING", Some(Said::Ping)),
            ("PONG", Some(Said::Pong)),
            ("+OK", Some(Said::Other)),
            ("INFO {}", Some(Said::Other)),
            ("-ERR 'Authorization Violation'", Some(Said::Error("Authorization Violation".into()))),
            ("MSG a 1 5", Some(Said::Message { headers: 0, total: 5 })),
            ("HMSG a 1 16 20", Some(Said::Message { headers: 16, total: 20 })),
            ("MSG a 1 -5", None),
            ("MSG", None),
            ("HMSG a", None),
            ("HTTP/1.1 200 OK", None),
            ("", None),
        ] {
            assert_eq!(Said::read(line), said, "{line:?}");
        }
    }
}
