//! `nats`: connects, which is a round trip, and asks JetStream for the account.
//!
//! The hub itself can't work without JetStream. Another NATS may do without, and is healthy then.

use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use url::Url;

use super::dial::{Names, host_of};
use super::{Answer, Failure, Shared, first_of};
use crate::domain::infra::Kind;
use crate::nats::explain;

/// Whose NATS it is.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Hub,
    Others,
}

/// A server to ask.
struct Server<'a> {
    owner: Owner,
    address: Url,
    connect: ConnectOptions,
    names: &'a Names,
    limit: Duration,
}

/// The hub's own NATS, as the hub's own user, on a new connection.
pub(super) async fn probe_own(hub: &Shared, limit: Duration) -> Result<Answer, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::Unusable(format!("its credentials can't be read: {}", error.kind()));
    let connect = hub.nats.connect_options().await.map_err(unreadable)?;
    let mut asked = Vec::new();
    for url in &hub.nats.urls {
        // As on the hub's own connections: credentials inside a URL count for nothing.
        let (address, _) = address_of(url)?;
        let server = Server { owner: Owner::Hub, address, connect: connect.clone(), names: &hub.names, limit };
        asked.push(Box::pin(server.ask()));
    }
    first_of(asked).await
}

/// Another NATS.
pub(super) async fn probe_at(text: &str, hub: &Shared, limit: Duration) -> Result<Answer, Failure> {
    let tls = hub.tls.config().await?;
    let mut asked = Vec::new();
    for url in text.split(',') {
        let (address, credentials) = address_of(url)?;
        let connect = match credentials {
            Credentials::None => ConnectOptions::new(),
            Credentials::Token(token) => ConnectOptions::with_token(token),
            Credentials::Password(user, password) => ConnectOptions::with_user_and_password(user, password),
        };
        let connect = connect.tls_client_config((*tls).clone());
        asked.push(Box::pin(Server { owner: Owner::Others, address, connect, names: &hub.names, limit }.ask()));
    }
    first_of(asked).await
}

/// What stands before the host in an address.
enum Credentials {
    None,
    Token(String),
    Password(String, String),
}

/// A server's address without credentials, and the credentials that stood in it.
fn address_of(text: &str) -> Result<(Url, Credentials), Failure> {
    let form = || Failure::form(Kind::Nats);
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("nats://{text}") };
    let mut url = Url::parse(&with_scheme).map_err(|_| form())?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = (decoded(url.username()), url.password().map(decoded));
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| form())?;
    let credentials = match password {
        Some(password) => Credentials::Password(user, password),
        None if user.is_empty() => Credentials::None,
        None => Credentials::Token(user),
    };
    Ok((url, credentials))
}

impl Server<'_> {
    async fn ask(self) -> Result<Answer, Failure> {
        // The client library looks the name up by itself: only one that is found here is let through to it.
        self.names.lookup(&host_of(&self.address).ok_or_else(|| Failure::form(Kind::Nats))?).await?;
        // The probe's own timeout comes first; this is for a connection task that nobody listens to any more.
        let limit = self.limit * 2;
        let (refusals, mut refused) = mpsc::channel(1);
        let connect = self
            .connect
            .name("central-hub probe")
            .connection_timeout(limit)
            .ignore_discovered_servers()
            // Its task would try for ever, even after the probe has gone.
            .max_reconnects(1)
            .event_callback(move |event| {
                // A right that is missing shows here only; the request itself would just wait.
                if let Event::ServerError(ServerError::Other(_)) = event {
                    let _ = refusals.try_send(());
                }
                std::future::ready(())
            });
        let client = connect.connect(self.address.as_str()).await.map_err(not_connected)?;
        if self.owner == Owner::Others && !client.server_info().jetstream {
            return Ok(Answer::Well);
        }
        let jetstream = ContextBuilder::new().timeout(limit).build(client);
        tokio::select! {
            account = account_of(&jetstream) => match account {
                Ok(Response::Ok(_)) => Ok(Answer::Well),
                Ok(Response::Err { error }) => {
                    let none = [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];
                    without_jetstream(none.contains(&error.error_code()), self.owner)
                }
                Err(error) => without_jetstream(error.kind() == RequestErrorKind::NoResponders, self.owner),
            },
            Some(()) = refused.recv() => Ok(match self.owner {
                Owner::Hub => Answer::Impaired(
                    "it answers, but the hub's user may not ask for JetStream's account: allow it $JS.API.INFO".into(),
                ),
                Owner::Others => Answer::Well,
            }),
        }
    }
}

/// The account, whatever its fields: those that the client library wants are more than an older server has.
async fn account_of(jetstream: &Context) -> Result<Response<Map<String, Value>>, RequestError> {
    jetstream.request("INFO", &Map::<String, Value>::new()).await
}

fn without_jetstream(none: bool, owner: Owner) -> Result<Answer, Failure> {
    match (none, owner) {
        (true, Owner::Others) => Ok(Answer::Well),
        (true, Owner::Hub) => Err(Failure::down("it answers, but JetStream is not enabled for the hub's account")),
        (false, _) => Err(Failure::down("it answers, but JetStream does not")),
    }
}

fn not_connected(error: ConnectError) -> Failure {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Failure::down("it refused the credentials")
        }
        ConnectErrorKind::Dns => Failure::down("its host name can't be resolved"),
        // The peer's own words stay out: it may be anything that listens there.
        kind => {
            let io = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
            let inner = io.and_then(std::io::Error::get_ref);
            match io {
                Some(io) if inner.is_none() => Failure::io(io),
                Some(_) if inner.is_some_and(|inner| inner.is::<rustls::Error>()) => {
                    Failure::Down(explain(error).to_string())
                }
                _ if kind == ConnectErrorKind::Tls => Failure::down("TLS can't be set up with it"),
                _ if std::error::Error::source(&error).is_some_and(|cause| cause.is::<ServerError>()) => {
                    Failure::down("it refuses the connection")
                }
                _ => Failure::down("it hangs up, or answers not as NATS does: is this its port?"),
            }
        }
    }
}
