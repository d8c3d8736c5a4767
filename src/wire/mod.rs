//! What travels between the hub and everyone else: subjects, requests, replies, events, error codes, KV buckets.
//!
//! Hub, client and command line share these types; each message's struct, decode and encode stand together.

pub mod alert;
pub mod bucket;
pub mod config;
pub mod dependency;
pub mod error;
pub mod event;
pub mod fields;
pub mod fleet;
pub mod health;
pub mod infra;
pub mod json;
pub mod metrics;
pub mod micro;
pub mod reference;
pub mod registry;
pub mod route;
pub mod subject;
pub mod timeline;
pub mod uptime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::name::ServiceName;
pub use error::{Error, ErrorCode};
pub use fields::Fields;
pub use route::Endpoint;

/// A request of the protocol: what the hub decodes, and what a client sends.
///
/// Serialized it is the body without the service, which travels as the last token of the subject.
pub trait Request: Serialize + Sized {
    /// Where it is sent.
    const ENDPOINT: Endpoint;
    /// What a successful answer holds.
    type Reply: Serialize + DeserializeOwned;

    /// The service that the subject names, on subjects that end in one.
    fn service(&self) -> Option<&ServiceName> {
        None
    }

    /// Reads the request from the fields of a body.
    ///
    /// # Errors
    /// The first field that breaks a rule.
    fn decode(fields: &mut Fields<'_>) -> Result<Self, Error>;
}
