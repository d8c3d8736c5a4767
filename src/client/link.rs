//! Whether the connection to NATS is up, and whether it is still the one from before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::task::Task;

/// How often the connection is looked at. The client library tells news of a connection to one listener only, which
/// belongs to whoever made the connection.
const LOOK: Duration = Duration::from_millis(100);

/// How often a call that waits for a connection looks for it.
const LOOK_SOON: Duration = Duration::from_millis(10);

/// A connection at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Connection {
    /// Whether the server can be talked to, as far as this side knows.
    pub(super) is_up: bool,
    /// How many times it was made; grows with each reconnect.
    pub(super) made: u64,
}

impl Connection {
    fn of(nats: &Client) -> Self {
        Self { is_up: is_up(nats), made: nats.statistics().connects.load(Ordering::Relaxed) }
    }
}

fn is_up(nats: &Client) -> bool {
    nats.connection_state() == State::Connected
}

/// Waits for the connection to be up; tells whether it was in time.
pub(super) async fn up_by(nats: &Client, deadline: Instant) -> bool {
    let waiting = async {
        while !is_up(nats) {
            sleep(LOOK_SOON).await;
        }
    };
    timeout_at(deadline, waiting).await.is_ok()
}

/// What happens to a connection, for as long as this lives.
#[derive(Debug)]
pub(super) struct Link {
    connection: watch::Receiver<Connection>,
    _look: Task,
}

impl Link {
    pub(super) fn of(nats: &Client) -> Self {
        let (sender, connection) = watch::channel(Connection::of(nats));
        let nats = nats.clone();
        let look = Task::supervised("link", move || {
            let (nats, sender) = (nats.clone(), sender.clone());
            async move {
                loop {
                    sleep(LOOK).await;
                    let now = Connection::of(&nats);
                    sender.send_if_modified(|known| std::mem::replace(known, now) != now);
                }
            }
        });
        Self { connection, _look: look }
    }

    /// The connection now and each time that it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }
}
