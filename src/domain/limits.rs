//! How much of anything the hub takes.

use serde::{Deserialize, Serialize};

/// Bounds on what a request may carry. All sizes are bytes of JSON text unless a field says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// A request's whole body.
    pub body_bytes: usize,
    /// A config, as PostgreSQL normalises its text. A KV value may hold two (the active one and a canary).
    pub config_bytes: usize,
    /// Keys of a config, counted at every depth.
    pub config_keys: usize,
    /// Nesting of any one field of a request; an object or a list adds one.
    pub depth: usize,
    /// An instance's metadata, and likewise its dependencies.
    pub metadata_bytes: usize,
    /// Dependencies of one instance.
    pub dependencies: usize,
    /// Metrics of one heartbeat.
    pub metrics: usize,
    /// Characters of a text field.
    pub text_chars: usize,
    /// Rows of a list page when the request names no `limit`.
    pub page_default: u32,
    /// Rows of a list page at the most.
    pub page_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1024 * 1024,
            config_bytes: 400 * 1024,
            config_keys: 20_000,
            depth: 64,
            metadata_bytes: 32 * 1024,
            dependencies: 256,
            metrics: 64,
            text_chars: 1_000,
            page_default: 100,
            page_max: 1_000,
        }
    }
}

/// Heartbeat intervals that an instance may ask for, in seconds, both ends included.
pub const HEARTBEAT_INTERVAL_SECONDS: std::ops::RangeInclusive<f64> = 0.1..=3600.0;
