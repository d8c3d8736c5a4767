//! A question to a PostgreSQL, ours or another's, on a connection that lives as long as the question.

use std::error::Error as _;
use std::io;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Connection};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::options::{DatabaseOptions, Purpose};
use super::{StoreError, sql};

/// Why a PostgreSQL didn't answer.
#[derive(Debug)]
pub enum ProbeError {
    /// The connection couldn't be made, or broke.
    Io(io::Error),
    /// What answers doesn't speak PostgreSQL's protocol.
    Protocol,
    /// It refused, or something about the connection can't be used; in words for people, without credentials.
    Refused(String),
}

impl DatabaseOptions {
    /// The hosts to look up before a connection can be made: neither addresses that were given as such, nor sockets.
    #[must_use]
    pub fn host_names(&self) -> Vec<&str> {
        if !self.config.get_hostaddrs().is_empty() {
            return Vec::new();
        }
        let hosts = self.config.get_hosts().iter();
        hosts
            .filter_map(|host| match host {
                Host::Tcp(name) => Some(name.as_str()),
                #[cfg(unix)]
                Host::Unix(_) => None,
            })
            .collect()
    }

    /// Connects, asks `SELECT 1`, and leaves. `tls` holds the settings of TLS, should the options ask for it; `None`:
    /// what the options say. The caller sets the time; dropping this closes the connection.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub async fn probe(&self, tls: Option<&rustls::ClientConfig>) -> Result<(), ProbeError> {
        let unusable = |_: StoreError| ProbeError::Refused("the hub's settings of TLS can't be used".into());
        let config = self.postgres_config(Purpose::Probe).map_err(unusable)?;
        let tls = match tls {
            _ if !self.wants_tls() => None,
            Some(given) => Some(MakeRustlsConnect::new(given.clone())),
            None => {
                // Reads the certificates.
                let options = self.clone();
                let made = tokio::task::spawn_blocking(move || options.tls()).await;
                made.map_err(StoreError::defect).flatten().map_err(unusable)?
            }
        };
        match tls {
            Some(tls) => {
                let (client, connection) = config.connect(tls).await.map_err(ProbeError::from)?;
                ask(client, connection).await
            }
            None => {
                let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(ProbeError::from)?;
                ask(client, connection).await
            }
        }
    }
}

/// Drives the connection here instead of in a task of its own, so that nothing is left when this is dropped.
async fn ask<S, T>(client: Client, mut connection: Connection<S, T>) -> Result<(), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    {
        // A simple query: no prepared statement, which poolers in front of a server may not know.
        let mut answer = pin!(client.simple_query(sql::PROBE));
        tokio::select! {
            answer = &mut answer => answer?,
            ended = &mut connection => {
                ended?;
                // The answer may have come with the end.
                drop(connection);
                return Ok(answer.await.map(|_| ())?);
            }
        };
    }
    // A goodbye, so that the server doesn't log a connection that broke. The answer counts either way.
    drop(client);
    let _ = connection.await;
    Ok(())
}

impl From<tokio_postgres::Error> for ProbeError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(said) = error.as_db_error() {
            return Self::Refused(said.message().to_owned());
        }
        let io = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match io {
            Some(io) => match io.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
                Some(tls) => Self::Refused(format!("TLS: {tls}")),
                // What can't be read as the protocol's messages.
                None if [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput, io::ErrorKind::Other]
                    .contains(&io.kind()) =>
                {
                    Self::Protocol
                }
                None => Self::Io(io.kind().into()),
            },
            None if error.is_closed() => Self::Io(io::ErrorKind::UnexpectedEof.into()),
            None => match error.source() {
                // The password never stands in the cause, only that it is missing.
                Some(cause) => Self::Refused(format!("{error}: {cause}")),
                // A message that has no place there.
                None => Self::Protocol,
            },
        }
    }
}
