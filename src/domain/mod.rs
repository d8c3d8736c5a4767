//! The rules of the hub, pure: no clock, no I/O, no logging. Time is an argument and a decision is a value.

pub mod alert;
pub mod config;
#[cfg(feature = "server")]
pub mod dependency;
#[cfg(feature = "server")]
pub mod gate;
pub mod heartbeat;
pub mod infra;
pub mod lease;
pub mod limits;
pub mod liveness;
pub mod mass_expiry;
pub mod membership;
pub mod metrics;
pub mod name;
pub mod overheard;
#[cfg(feature = "server")]
pub mod schema;
#[cfg(feature = "server")]
pub mod schema_steps;
#[cfg(feature = "server")]
pub mod secrets;
pub mod settings;
pub mod status;
pub mod target;
pub mod uptime;
