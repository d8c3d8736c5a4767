//! `redis`: `PING`, after `AUTH` where the target has credentials.

use std::pin::pin;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError};

use super::dial::{Stream, bounded};
use super::{Answer, Failure, Shared};
use crate::domain::infra::Kind;

pub(super) async fn probe(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    let form = || Failure::form(Kind::Redis);
    // TLS is ours, so the library is built without.
    let (plain, encrypted) = match text.strip_prefix("rediss://") {
        Some(rest) => (format!("redis://{rest}"), true),
        None => (text.to_owned(), false),
    };
    let info = plain.into_connection_info().map_err(|_| form())?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err(form()) };
    let stream = hub.names.dial(host, *port).await?;
    let stream: Box<dyn Stream> =
        if encrypted { Box::new(hub.tls.secure(host, stream).await?) } else { Box::new(stream) };

    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    // The probe has its own timeout.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&settings, bounded(stream), config).await.map_err(refused)?;
    let ping = redis::cmd("PING");
    let mut answer = pin!(ping.query_async::<redis::Value>(&mut connection));
    // The connection is driven here, so that nothing is left of it afterwards.
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The answer may have come with the end.
        () = driver => answer.await,
    };
    answer.map(|_| Answer::Well).map_err(refused)
}

fn refused(error: RedisError) -> Failure {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Failure::down("it refused the credentials"),
        ErrorKind::Io => Failure::down("it closed the connection"),
        ErrorKind::Parse => Failure::down("it answers, but not as Redis does"),
        _ => match (error.code(), error.detail()) {
            (Some("NOAUTH"), _) => Failure::down("it wants credentials"),
            (Some(code), Some(detail)) => Failure::Down(format!("{code} {detail}")),
            _ => Failure::down("it refused"),
        },
    }
}
