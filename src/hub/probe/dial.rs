//! Connections to hosts by name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::Failure;

/// What a peer may send in one probe, in bytes: far more than any answer has.
pub(super) const MAX_RECEIVED: u64 = 64 * 1024;

/// A connection, plain or encrypted.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A lookup that is under way: the addresses, or `None`.
type Lookup = Shared<BoxFuture<'static, Option<Arc<[IpAddr]>>>>;

/// Looks names up, one lookup per name at a time. The system's resolver can't be interrupted: with a name server that
/// hangs, each probe would leave another thread waiting.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<String, Lookup>>>);

impl Names {
    fn under_way(&self) -> MutexGuard<'_, HashMap<String, Lookup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a host.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let lookup = self.under_way().entry(host.to_owned()).or_insert_with(|| self.start(host)).clone();
        match lookup.await {
            Some(found) if !found.is_empty() => Ok(found.to_vec()),
            _ => Err(Failure::down("its host name can't be resolved")),
        }
    }

    fn start(&self, host: &str) -> Lookup {
        let (names, host) = (self.clone(), host.to_owned());
        let task = tokio::task::spawn_blocking(move || {
            let found = (host.as_str(), 0).to_socket_addrs();
            names.under_way().remove(&host);
            found.ok().map(|found| found.map(|address| address.ip()).collect())
        });
        async { task.await.ok().flatten() }.boxed().shared()
    }

    /// Connects to a host.
    pub async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, Failure> {
        let addresses: Vec<_> = self.lookup(host).await?.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(|error| Failure::io(&error))?;
        stream.set_nodelay(true).map_err(|error| Failure::io(&error))?;
        Ok(stream)
    }
}

/// Reads `host:port`, `[::1]:port`, or a host alone where there is a usual port.
pub(super) fn host_and_port(text: &str, usual_port: Option<u16>) -> Option<(String, u16)> {
    let url = Url::parse(&format!("tcp://{text}")).ok()?;
    let bare = url.username().is_empty() && url.password().is_none() && url.path().is_empty() && url.query().is_none();
    let port = url.port().or(usual_port)?;
    bare.then_some(())?;
    Some((host_of(&url)?, port))
}

/// The host of a URL, an IPv6 address without its brackets.
pub(super) fn host_of(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain(name) => Some(name.to_owned()),
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(address.to_string()),
    }
}

/// The same connection, which ends after [`MAX_RECEIVED`].
pub(super) fn bounded(stream: impl Stream + 'static) -> impl Stream + 'static {
    let (read, write) = tokio::io::split(stream);
    tokio::io::join(read.take(MAX_RECEIVED), write)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, usual, expected) in [
            ("a:1", None, Some(("a", 1))),
            ("a.b-c.example:65535", None, Some(("a.b-c.example", 65_535))),
            ("127.0.0.1:1", None, Some(("127.0.0.1", 1))),
            ("[::1]:1", None, Some(("::1", 1))),
            ("a", Some(9092), Some(("a", 9092))),
            ("a:1", Some(9092), Some(("a", 1))),
            ("a", None, None),
            ("", Some(1), None),
            (":1", None, None),
            ("a:65536", None, None),
            ("a:x", None, None),
            ("u:p@a:1", None, None),
            ("a:1/x", None, None),
            ("a:1?x", None, None),
            ("::1", None, None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(text, usual), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn names_are_looked_up_once_at_a_time() {
        let names = Names::default();
        assert_eq!(names.lookup("127.0.0.1").await.unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        let both = tokio::join!(names.lookup("localhost"), names.lookup("localhost"));
        assert_eq!(both.0.unwrap(), both.1.unwrap());
        assert!(matches!(names.lookup("no-such-host.invalid").await, Err(Failure::Down(_))));
        assert!(names.under_way().is_empty(), "what has ended is forgotten");
    }
}
