//! Background tasks: each lives as long as its owner, and is started anew when it panics.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

/// How long a task that died stays down.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A running task. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    /// Starts `work`; when that panics, starts it again.
    pub(super) fn supervised<F, Fut>(name: &'static str, mut work: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self(tokio::spawn(async move {
            while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task of the hub's client died; it is started anew");
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        }))
    }

    /// Returns when the work has ended by itself.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.0).await;
    }
}

/// Does what may block, perhaps for ever, on a thread of its own: no runtime waits for that. The receiver hears of a
/// dropped sender when no thread can be had, or when the work panics.
pub(super) fn on_a_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        let _ = sender.send(work());
    };
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
        tracing::warn!(thread = name, cause = %error, "no thread can be started");
    }
    receiver
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
