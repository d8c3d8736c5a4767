//! `tcp`: a connection, and nothing more.

use super::dial::host_and_port;
use super::{Answer, Failure, Shared};
use crate::domain::infra::Kind;

pub(super) async fn probe(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    let address = text.strip_prefix("tcp://").unwrap_or(text);
    let (host, port) = host_and_port(address, None).ok_or_else(|| Failure::form(Kind::Tcp))?;
    hub.names.dial(&host, port).await?;
    Ok(Answer::Well)
}
