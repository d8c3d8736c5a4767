//! What services and tools link to talk to a hub: typed calls over a NATS connection that they own.

use std::time::Duration;

use async_nats::RequestErrorKind;

use crate::domain::name::ServiceName;
use crate::wire::error::ErrorBody;
use crate::wire::{self, Request};

/// How long a call waits for its answer unless it is told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call has no answer of success.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The hub refused it.
    #[error(transparent)]
    Refused(#[from] wire::Error),
    /// No hub listens on this subject.
    #[error("no hub listens on {subject}: is it running, and is the subject prefix right?")]
    NoHub {
        /// Where the request went.
        subject: String,
    },
    /// No answer came in time; the request may have been served all the same.
    #[error("no answer on {subject} within {timeout:?}; the request may have been served all the same")]
    TimedOut {
        /// Where the request went.
        subject: String,
        /// How long the call waited.
        timeout: Duration,
    },
    /// NATS failed.
    #[error("NATS failed")]
    Nats(#[source] async_nats::RequestError),
    /// What came isn't an answer of this protocol.
    #[error("the answer on {subject} can't be read: another version of the hub?")]
    BadReply {
        /// Where the request went.
        subject: String,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
}

/// Typed calls to a hub.
#[derive(Clone, Debug)]
pub struct HubClient {
    nats: async_nats::Client,
    prefix: String,
    timeout: Duration,
}

impl HubClient {
    /// Calls over `nats` to the hub whose subjects begin with `hub`.
    #[must_use]
    pub fn new(nats: async_nats::Client) -> Self {
        Self { nats, prefix: "hub".into(), timeout: TIMEOUT }
    }

    /// Calls the hub with another subject prefix.
    #[must_use]
    pub fn with_prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Waits this long for an answer.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The connection.
    #[must_use]
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, CallError> {
        let subject = R::ENDPOINT.subject(&self.prefix, request.service().map(ServiceName::as_str));
        let bad_reply = |cause| CallError::BadReply { subject: subject.clone(), cause };
        let body = serde_json::to_vec(request).map_err(bad_reply)?;
        let timed = async_nats::Request::new().payload(body.into()).timeout(Some(self.timeout));
        let message = self.nats.send_request(subject.clone(), timed).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => CallError::NoHub { subject: subject.clone() },
            RequestErrorKind::TimedOut => CallError::TimedOut { subject: subject.clone(), timeout: self.timeout },
            _ => CallError::Nats(error),
        })?;
        if message.headers.as_ref().is_some_and(|headers| headers.get("Nats-Service-Error-Code").is_some()) {
            let body: ErrorBody = serde_json::from_slice(&message.payload).map_err(bad_reply)?;
            return Err(body.error.into());
        }
        serde_json::from_slice(&message.payload).map_err(bad_reply)
    }
}
