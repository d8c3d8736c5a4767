//! `nats`: connects, which is a round trip, and asks JetStream for the account.
//!
//! The hub itself can't work without JetStream. Another NATS may do without, and is healthy then. It may also be anything
//! that listens there, so the client library asks the hub's own NATS only: see [`conversation`].

mod conversation;

use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use url::Url;

use super::dial::host_of;
use super::{Answer, Failure, Shared, first_of};
use crate::domain::infra::Kind;
use crate::nats::explain;

/// Under which name a server lists a probe.
const NAME: &str = "central-hub probe";

/// What JetStream tells of the account.
enum Account {
    /// It has JetStream.
    Well,
    /// It has none.
    WithoutJetStream,
    /// Nobody is there to ask: the server has no JetStream for it.
    NobodyAnswers,
    /// The user may not ask.
    Hidden,
    /// It can't be told.
    Unwell,
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
        asked.push(Box::pin(ask_own(address, connect.clone(), hub, limit)));
    }
    first_of(asked).await
}

/// Another NATS.
pub(super) async fn probe_at(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    // What TLS needs is told even if no server asks for TLS.
    hub.tls.config().await?;
    let servers = text.split(',').map(address_of).collect::<Result<Vec<_>, _>>()?;
    let asked = servers.iter().map(|(address, credentials)| Box::pin(conversation::ask(address, credentials, hub)));
    first_of(asked.collect()).await
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

async fn ask_own(address: Url, connect: ConnectOptions, hub: &Shared, limit: Duration) -> Result<Answer, Failure> {
    // The client library looks the name up by itself: only one that is found here is let through to it.
    hub.names.lookup(&host_of(&address).ok_or_else(|| Failure::form(Kind::Nats))?).await?;
    let (refusals, mut refused) = mpsc::channel(1);
    let connect = connect
        .name(NAME)
        // Longer than the probe has, so that it is the probe that ends; this is for a connection task that nobody listens
        // to any more.
        .connection_timeout(limit * 2)
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
    let client = connect.connect(address.as_str()).await.map_err(not_connected)?;
    let jetstream = ContextBuilder::new().timeout(limit * 2).build(client);
    let account = tokio::select! {
        account = account_of(&jetstream) => match account {
            Ok(response) => Account::of(&response),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Account::NobodyAnswers,
            Err(_) => Account::Unwell,
        },
        Some(()) = refused.recv() => Account::Hidden,
    };
    account.of_the_hub()
}

/// The account, whatever its fields: those that the client library wants are more than an older server has.
async fn account_of(jetstream: &Context) -> Result<Response<Map<String, Value>>, RequestError> {
    jetstream.request("INFO", &Map::<String, Value>::new()).await
}

impl Account {
    fn of(response: &Response<Map<String, Value>>) -> Self {
        let none = [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];
        match response {
            Response::Ok(_) => Self::Well,
            Response::Err { error } if none.contains(&error.error_code()) => Self::WithoutJetStream,
            Response::Err { .. } => Self::Unwell,
        }
    }

    fn of_the_hub(self) -> Result<Answer, Failure> {
        match self {
            Self::Well => Ok(Answer::Well),
            Self::WithoutJetStream | Self::NobodyAnswers => {
                Err(Failure::down("it answers, but JetStream is not enabled for the hub's account"))
            }
            Self::Hidden => Ok(Answer::Impaired(
                "it answers, but the hub's user may not ask for JetStream's account: allow it $JS.API.INFO".into(),
            )),
            Self::Unwell => Err(Failure::down("it answers, but JetStream does not")),
        }
    }

    fn of_others(self) -> Result<Answer, Failure> {
        match self {
            Self::Well | Self::WithoutJetStream | Self::NobodyAnswers | Self::Hidden => Ok(Answer::Well),
            Self::Unwell => Err(Failure::down("it answers, but JetStream does not")),
        }
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
