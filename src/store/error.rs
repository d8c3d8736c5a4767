//! What can go wrong at Postgres, sorted by what a caller can do about it.

use std::error::Error as StdError;

use tokio_postgres::error::SqlState;

use crate::wire;

type Cause = Box<dyn StdError + Send + Sync>;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A rule of the hub refused the change; nothing was written.
    #[error("refused: {0}")]
    Refused(Box<wire::Error>),
    /// Postgres can't be reached, or isn't ready; nothing was written.
    #[error("PostgreSQL can't be reached")]
    Unavailable(#[source] Cause),
    /// No connection was free in time, while Postgres served others; nothing was written.
    #[error("no connection to PostgreSQL was free in time")]
    Busy,
    /// The connection broke while a statement ran, before COMMIT was sent; nothing was written.
    #[error("the connection to PostgreSQL broke")]
    Broken(#[source] Cause),
    /// Postgres gave no answer in time, before COMMIT was sent; nothing was written.
    #[error("PostgreSQL gave no answer in time")]
    TimedOut,
    /// Postgres undid the transaction for the sake of another; nothing was written.
    #[error("PostgreSQL undid the transaction for another's sake")]
    Conflict(#[source] Cause),
    /// The answer of a COMMIT was lost: it may have happened.
    #[error("the answer of a COMMIT was lost")]
    OutcomeUnknown(#[source] Option<Cause>),
    /// Postgres says that the hub is wrong.
    #[error("PostgreSQL refused a statement")]
    Defect(#[source] Cause),
}

/// What Postgres said, without the values that its texts may quote.
#[derive(Debug, thiserror::Error)]
#[error("SQLSTATE {code}: {message}")]
struct DatabaseSaid {
    code: String,
    message: String,
}

impl StoreError {
    /// Postgres isn't there.
    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// The hub is wrong.
    pub fn defect(cause: impl Into<Cause>) -> Self {
        Self::Defect(cause.into())
    }

    /// An error while a connection was opened. Whatever it is, there is no connection.
    pub(super) fn while_connecting(error: tokio_postgres::Error) -> Self {
        Self::Unavailable(cause_of(error))
    }

    /// An error as the answer of a COMMIT. Only when Postgres itself says so is it known that nothing happened.
    pub(super) fn while_committing(error: tokio_postgres::Error) -> Self {
        match Self::from(error) {
            Self::Unavailable(cause) | Self::Broken(cause) => Self::OutcomeUnknown(Some(cause)),
            other => other,
        }
    }

    /// Whether nothing was written and another try may do better at once.
    #[must_use]
    pub fn may_start_over(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Broken(_))
    }

    /// Whether Postgres is away, rather than that something is wrong with the request or the hub.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Broken(_) | Self::TimedOut | Self::OutcomeUnknown(_))
    }

    /// Whether it will pass by itself, and the same may be done later: Postgres is away, or has too much to do.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.is_outage() || matches!(self, Self::Busy | Self::Conflict(_))
    }

    /// The error with its causes, for a log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<wire::Error> for StoreError {
    fn from(error: wire::Error) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(code) = error.code().cloned() else {
            let local = error.source().is_some_and(|source| source.downcast_ref::<std::io::Error>().is_some());
            return if error.is_closed() || local {
                Self::Broken(Box::new(error))
            } else {
                Self::Defect(Box::new(error))
            };
        };
        let cause = cause_of(error);
        let class = code.code().get(..2).unwrap_or_default();
        if code == SqlState::T_R_SERIALIZATION_FAILURE || code == SqlState::T_R_DEADLOCK_DETECTED {
            Self::Conflict(cause)
        } else if code == SqlState::ADMIN_SHUTDOWN
            || code == SqlState::CRASH_SHUTDOWN
            || code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        {
            Self::Broken(cause)
        } else if class == "08"
            || class == "53"
            || class == "57"
            || code == SqlState::LOCK_NOT_AVAILABLE
            || code == SqlState::READ_ONLY_SQL_TRANSACTION
        {
            Self::Unavailable(cause)
        } else {
            Self::Defect(cause)
        }
    }
}

/// The cause as it may be logged. DETAIL never is: it quotes rows. Data exceptions (class 22) quote values in their
/// message as well.
fn cause_of(error: tokio_postgres::Error) -> Cause {
    match error.as_db_error() {
        Some(said) => {
            let code = said.code().code().to_owned();
            let message = if code.starts_with("22") { "data exception".into() } else { said.message().to_owned() };
            Box::new(DatabaseSaid { code, message })
        }
        None => Box::new(error),
    }
}
