//! `postgresql`: `SELECT 1` on a connection of its own.

use super::dial::Names;
use super::{Answer, Failure, Shared};
use crate::domain::infra::Kind;
use crate::store::DatabaseOptions;
use crate::store::probe::ProbeError;

/// The hub's own database.
pub(super) async fn probe_own(hub: &Shared) -> Result<Answer, Failure> {
    resolved(&hub.database, &hub.names).await?;
    answer(hub.database.probe(None).await)
}

/// Another one.
pub(super) async fn probe_at(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    let options = DatabaseOptions::from_url(text).map_err(|_| Failure::form(Kind::Postgresql))?;
    resolved(&options, &hub.names).await?;
    let tls = hub.tls.config().await?;
    answer(options.probe(Some(&tls)).await)
}

/// The client library looks names up by itself: only those that are found here are let through to it.
async fn resolved(options: &DatabaseOptions, names: &Names) -> Result<(), Failure> {
    let mut last = Ok(());
    for host in options.host_names() {
        last = names.lookup(host).await.map(|_| ());
        if last.is_ok() {
            break;
        }
    }
    last
}

fn answer(result: Result<(), ProbeError>) -> Result<Answer, Failure> {
    match result {
        Ok(()) => Ok(Answer::Well),
        Err(ProbeError::Io(error)) => Err(Failure::io(&error)),
        Err(ProbeError::Protocol) => {
            Err(Failure::down("it answered with something that isn't PostgreSQL's protocol: is this its port?"))
        }
        Err(ProbeError::Refused(message)) => Err(Failure::Down(message)),
    }
}
