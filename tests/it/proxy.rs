//! A wire between a hub and PostgreSQL that can be cut, and mended.

use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on to a server, while the wire is whole.
pub struct Proxy {
    port: u16,
    wire: Arc<watch::Sender<Wire>>,
    task: JoinHandle<()>,
}

/// How the wire is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wire {
    Whole,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections stay open and nothing comes through.
    Stuck,
}

impl Proxy {
    /// A wire to this port of this machine.
    pub async fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(watch::Sender::new(Wire::Whole));
        let state = Arc::clone(&wire);
        let task = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(pass(inbound, target, state.subscribe()));
            }
        });
        Proxy { port, wire, task }
    }

    /// `url`, through this wire.
    pub fn through(&self, url: &str, target: u16) -> String {
        let through = url.replace(&format!(":{target}/"), &format!(":{}/", self.port));
        assert_ne!(through, url, "the port stands in it");
        through
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut inbound: TcpStream, target: u16, mut wire: watch::Receiver<Wire>) {
    let Ok(mut outbound) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let mut copying = std::pin::pin!(copy_bidirectional(&mut inbound, &mut outbound));
    loop {
        let now = *wire.borrow_and_update();
        match now {
            Wire::Cut => return,
            Wire::Whole => tokio::select! {
                _ = &mut copying => return,
                changed = wire.changed() => if changed.is_err() { return },
            },
            Wire::Stuck => {
                if wire.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}
