//! Typed calls.

use std::time::Duration;

use async_nats::RequestErrorKind;
use tokio::time::{Instant, timeout_at};

use super::{HubClient, link};
use crate::domain::name::ServiceName;
use crate::wire::error::ErrorBody;
use crate::wire::{self, ErrorCode, Request};

/// Why a call has no answer of success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The hub refused it.
    #[error(transparent)]
    Refused(#[from] wire::Error),
    /// There was no connection to NATS in time: nothing was sent.
    #[error("no connection to NATS within {timeout:?}; nothing was sent")]
    NotConnected {
        /// How long the call waited.
        timeout: Duration,
    },
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

impl CallError {
    /// The code of a refusal; `None` when the hub didn't answer.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later: there was no answer, or the hub has too much to do, or lacks something.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.code().is_none_or(is_passing)
    }
}

/// Whether a refusal is of the moment.
pub(super) fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Overloaded | ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::DependencyUnavailable
    )
}

impl HubClient {
    /// Sends a request and waits for its answer. While there is no connection nothing is sent: the client library would
    /// keep it, and the hub would serve it long after its caller gave up.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, CallError> {
        self.send(self.timeout, async_nats::Request::new(), request).await
    }

    /// As [`HubClient::call`], for what goes on for as long as a process lives. The client library never forgets a request
    /// that got no answer, unless it has an inbox of its own, which costs a subscription.
    pub(super) async fn call_within<R: Request>(&self, timeout: Duration, request: &R) -> Result<R::Reply, CallError> {
        self.send(timeout, async_nats::Request::new().inbox(self.nats.new_inbox()), request).await
    }

    async fn send<R: Request>(
        &self,
        timeout: Duration,
        raw: async_nats::Request,
        request: &R,
    ) -> Result<R::Reply, CallError> {
        let deadline = Instant::now() + timeout;
        let subject = R::ENDPOINT.subject(&self.prefix, request.service().map(ServiceName::as_str));
        let bad_reply = |cause| CallError::BadReply { subject: subject.clone(), cause };
        let timed_out = || CallError::TimedOut { subject: subject.clone(), timeout };
        let body = serde_json::to_vec(request).map_err(bad_reply)?;
        if !link::up_by(&self.nats, deadline).await {
            return Err(CallError::NotConnected { timeout });
        }
        let raw = raw.payload(body.into()).timeout(None);
        let answer = timeout_at(deadline, self.nats.send_request(subject.clone(), raw)).await;
        let message = answer.map_err(|_| timed_out())?.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => CallError::NoHub { subject: subject.clone() },
            RequestErrorKind::TimedOut => timed_out(),
            _ => CallError::Nats(error),
        })?;
        if message.headers.as_ref().is_some_and(|headers| headers.get("Nats-Service-Error-Code").is_some()) {
            let body: ErrorBody = serde_json::from_slice(&message.payload).map_err(bad_reply)?;
            return Err(body.error.into());
        }
        serde_json::from_slice(&message.payload).map_err(bad_reply)
    }
}
