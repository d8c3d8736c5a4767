//! `http`: a GET. Any status from 200 to 399 is healthy; a redirect is an answer and is not followed, and the body is
//! not read.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::OnceCell;

use super::dial::Names;
use super::{Answer, Failure, Shared};
use crate::domain::infra::Kind;

/// The client, made when it is first needed.
#[derive(Default)]
pub(super) struct Http(OnceCell<Client>);

pub(super) async fn probe(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    let url = Url::parse(text).map_err(|_| Failure::form(Kind::Http))?;
    let status = get(url, Kind::Http, hub).await?.status();
    if status.is_success() || status.is_redirection() { Ok(Answer::Well) } else { Err(refused(status)) }
}

/// What a status that tells of a failure means.
pub(super) fn refused(status: StatusCode) -> Failure {
    Failure::Down(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!("it refused the credentials: HTTP {}", status.as_u16())
        }
        _ => format!("HTTP {}", status.as_u16()),
    })
}

/// Sends a GET and returns when the head of the answer is there.
pub(super) async fn get(url: Url, kind: Kind, hub: &Shared) -> Result<Response, Failure> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::form(kind));
    }
    let client = hub.http.0.get_or_try_init(|| async {
        let tls = hub.tls.config().await?;
        Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .dns_resolver(hub.names.clone())
            .redirect(Policy::none())
            // Each probe has a connection of its own: an old one that still lives would say less.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .user_agent(concat!("central-hub/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| Failure::Unusable("the HTTP client can't be set up".into()))
    });
    client.await?.get(url).send().await.map_err(failed)
}

/// A failure in words without the URL, which the library's own would hold.
pub(super) fn failed(error: reqwest::Error) -> Failure {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Unresolved) = inner.downcast_ref() {
            return Failure::down(Unresolved.to_string());
        }
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Failure::io(io);
        }
        if let Some(hyper) = inner.downcast_ref::<reqwest::Error>().and_then(|error| error.source()) {
            cause = Some(hyper);
            continue;
        }
        cause = inner.source();
    }
    Failure::down(if error.is_connect() { "it can't be connected to" } else { "its answer is no HTTP" })
}

/// A name without addresses.
#[derive(Debug, thiserror::Error)]
#[error("its host name can't be resolved")]
struct Unresolved;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let found = names.lookup(name.as_str()).await.map_err(|_| Unresolved)?;
            Ok(Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}
