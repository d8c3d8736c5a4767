//! The graph of dependencies, read for all who ask at the same time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::time::timeout;

use crate::store::dependencies::Dependencies;
use crate::store::{Store, StoreError};
use crate::wire::Error;

/// How long a caller waits for a read that others began before it came, or for its turn to walk the graph. Together with a
/// read of its own that is shorter than callers wait (5 s).
const PATIENCE: Duration = Duration::from_secs(2);

/// How many walk through a graph at once: a walk takes a core.
const WALKS: usize = 2;

/// Reads the graph, one read at a time: whoever asks while one runs shares the next, so that what it tells is never older
/// than the question. The fleet decides how large a graph is; this bounds how many of them are in memory.
pub struct GraphReader {
    store: Store,
    newest: Mutex<Option<(Instant, Arc<Read>)>>,
    walks: Semaphore,
}

/// A graph as it was read.
pub struct Read {
    /// The graph, and how those in it are.
    pub dependencies: Dependencies,
    /// The answer that tells all of it, made when somebody wants it.
    pub whole: OnceCell<Bytes>,
}

impl GraphReader {
    /// Reads from `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, newest: Mutex::default(), walks: Semaphore::new(WALKS) }
    }

    /// The graph as it is now, or was after this was called.
    ///
    /// # Errors
    /// What Postgres says; [`crate::wire::ErrorCode::Overloaded`] when too many ask.
    pub async fn read(&self) -> Result<Arc<Read>, StoreError> {
        let asked = Instant::now();
        let mut newest = timeout(PATIENCE, self.newest.lock()).await.map_err(|_| Error::overloaded())?;
        if let Some((began, read)) = newest.as_ref()
            && *began >= asked
        {
            return Ok(Arc::clone(read));
        }
        // What it takes the place of isn't kept meanwhile.
        *newest = None;
        let began = Instant::now();
        let dependencies = self.store.dependencies().await?;
        let read = Arc::new(Read { dependencies, whole: OnceCell::new() });
        *newest = Some((began, Arc::clone(&read)));
        Ok(read)
    }

    /// Walks through a graph, beside what must go on meanwhile.
    ///
    /// # Errors
    /// [`crate::wire::ErrorCode::Overloaded`] when too many do.
    pub async fn walk<T: Send + 'static>(
        &self,
        read: &Arc<Read>,
        walk: impl FnOnce(&Dependencies) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = timeout(PATIENCE, self.walks.acquire()).await.map_err(|_| Error::overloaded())?;
        let _turn = turn.map_err(StoreError::defect)?;
        let read = Arc::clone(read);
        tokio::task::spawn_blocking(move || walk(&read.dependencies)).await.map_err(StoreError::defect)
    }
}
