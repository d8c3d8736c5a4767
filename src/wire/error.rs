//! Error codes and the error body that travels with them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::heartbeat::Refusal;
use crate::domain::name::InstanceId;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $number:literal, $when:literal;)*) => {
        /// Why a request was refused: stable names that programs match on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $(#[doc = $when] $name,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &'static [ErrorCode] = &[$(Self::$name,)*];

            /// The code as it stands in an error body.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The number in the header `Nats-Service-Error-Code`.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// When it is given, for the reference.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$name => $when,)* }
            }
        }
    };
}

error_codes! {
    BadRequest = "bad_request", 400, "Not JSON, a wrong type, a bad name, an unknown or missing field; `details.field` names it.";
    Forbidden = "forbidden", 403, "The subject and the body name different services.";
    NotFound = "not_found", 404, "No such service, instance, config or version.";
    NotRegistered = "not_registered", 404, "The instance is unknown: register again.";
    Expired = "expired", 408, "The `deadline` has passed; nothing was done. `details.now` is the hub's time.";
    StaleIncarnation = "stale_incarnation", 409, "A newer registration replaced the speaker's.";
    AmbiguousInstance = "ambiguous_instance", 409, "The service has several instances and none was named; `details.instances` lists them.";
    VersionConflict = "version_conflict", 409, "The active config isn't the expected one; `details.active_version` tells which is, `details.field` which expectation doesn't hold.";
    DependencyUnavailable = "dependency_unavailable", 409, "`require_dependencies` was set and one is missing or down; `details.dependencies` lists them, each with its status.";
    TooLarge = "too_large", 413, "Over a size limit; `details.field` and `details.limit`.";
    SchemaViolation = "schema_violation", 422, "The config doesn't satisfy its schema; `details.violations`.";
    SecretDetected = "secret_detected", 422, "The config, a schema or a text carries a secret; `details.paths`, never the value.";
    Incompatible = "incompatible", 422, "A live instance declared that it can't read this config; `details.instances`.";
    Overloaded = "overloaded", 429, "Too much in flight; try again after `details.retry_after_ms`.";
    Internal = "internal", 500, "A defect of the hub; its log has the cause under `details.request_id`.";
    Unavailable = "unavailable", 503, "Postgres or JetStream can't be reached; try again after `details.retry_after_ms`. With `details.outcome: \"unknown\"` the change may have happened: look before trying again.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal, as it travels in an error body. It never holds a cause: causes are logged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// What programs match on.
    pub code: ErrorCode,
    /// What people read: the rule that was broken and the next step.
    pub message: String,
    /// Facts by name, such as `field`.
    #[serde(default)]
    pub details: Map<String, Value>,
}

/// The body of a failed request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The refusal.
    pub error: Error,
}

/// When to try again after [`ErrorCode::Overloaded`] or [`ErrorCode::Unavailable`], in milliseconds.
const RETRY_AFTER_MS: u64 = 500;

/// How much of a caller's own text a refusal repeats, in characters.
const SHOWN_CHARS: usize = 100;

impl Error {
    /// A refusal without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Map::new() }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// As much of a caller's own text as a refusal repeats: the beginning.
    #[must_use]
    pub fn shown(text: &str) -> String {
        text.chars().take(SHOWN_CHARS).collect()
    }

    /// A field that breaks a rule. Of a very long name the beginning is shown.
    #[must_use]
    pub fn field(field: &str, rule: impl fmt::Display) -> Self {
        let shown = Self::shown(field);
        Self::new(ErrorCode::BadRequest, format!("{shown}: {rule}")).with("field", shown)
    }

    /// Points to the place inside a field. Of a very long path the beginning is shown.
    #[must_use]
    pub fn at(self, path: &str) -> Self {
        self.with("path", path.chars().take(10 * SHOWN_CHARS).collect::<String>())
    }

    /// The refusal without its details, for a message that couldn't carry them.
    #[must_use]
    pub fn without_details(&self) -> Self {
        Self::new(self.code, self.header_text())
    }

    /// A field over its size limit.
    #[must_use]
    pub fn too_large(field: &str, limit: usize, unit: &str) -> Self {
        Self::new(ErrorCode::TooLarge, format!("{field}: at most {limit} {unit}"))
            .with("field", field)
            .with("limit", limit)
    }

    /// A field carries secrets, at these JSON pointers; `next` is what to do about it.
    #[must_use]
    pub fn secret_detected(field: &str, next: &str, paths: Vec<String>) -> Self {
        Self::new(ErrorCode::SecretDetected, format!("{field}: it carries secrets; {next}"))
            .with("field", field)
            .with("paths", paths)
    }

    /// Something the hub needs can't be reached.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message).with("retry_after_ms", RETRY_AFTER_MS)
    }

    /// The answer of a COMMIT was lost.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Self::unavailable(
            "Postgres went away while it committed: the change may have happened, look before trying again",
        )
        .with("outcome", "unknown")
    }

    /// Too much is in flight.
    #[must_use]
    pub fn overloaded() -> Self {
        Self::new(ErrorCode::Overloaded, "the hub has too many requests in flight; try again shortly")
            .with("retry_after_ms", RETRY_AFTER_MS)
    }

    /// The message as a NATS header value: one line of printable ASCII, 200 characters at most. (A line break in a
    /// header value would end the header, and async-nats panics on it.)
    #[must_use]
    pub fn header_text(&self) -> String {
        self.message.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).take(200).collect()
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotRegistered => Self::new(ErrorCode::NotRegistered, "this instance is not registered: register it again"),
            Refusal::StaleIncarnation { current } => Self::new(
                ErrorCode::StaleIncarnation,
                "incarnation: a newer registration replaced yours; if both processes are meant to run, register under an instance_id of your own",
            )
            .with("field", "incarnation")
            .with("current_incarnation", current),
            Refusal::Ambiguous { instances } => {
                let ids: Vec<&str> = instances.iter().map(InstanceId::as_str).collect();
                Self::new(ErrorCode::AmbiguousInstance, "instance_id: the service has several instances, name one")
                    .with("field", "instance_id")
                    .with("instances", ids)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_text_is_one_safe_line() {
        let error = Error::new(ErrorCode::BadRequest, format!("a\r\nX: y\0{}", "ü".repeat(500)));
        let text = error.header_text();
        assert!(text.len() <= 200 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{text}");
    }

    #[test]
    fn the_name_on_the_wire_is_the_name_in_rust() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).ok(), Some(Value::from(code.as_str())));
        }
    }
}
