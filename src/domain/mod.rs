//! The rules of the hub, pure: no clock, no I/O, no logging. Time is an argument and a decision is a value.

pub mod config;
pub mod heartbeat;
pub mod lease;
pub mod limits;
pub mod liveness;
pub mod name;
pub mod settings;
pub mod status;
