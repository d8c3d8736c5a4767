//! central-hub: one place that knows who is running, how healthy each process is and which configuration is in force.
//!
//! # Code map
//!
//! A request flows one way: subject → decode → decide → one transaction → reply → push.
//!
//! - [`domain`]: the rules, pure: names, statuses, liveness, config versions. No clock, no I/O.
//! - [`wire`]: what travels: subjects and routes in one table, requests, replies, events, error codes, KV buckets.
//! - [`store`]: PostgreSQL, the truth. The only room that knows SQL.
//! - [`nats`]: how to reach NATS and as whom.
//! - [`hub`]: the daemon: serving requests, background passes, the projection of Postgres to KV.
//! - [`client`]: what services and tools link to talk to a hub.
//! - [`cli`]: the command line, with the private servers that `dev`, `demo` and the tests run on.
//!
//! Imports go one way: `domain` ← `wire` ← `store` ← `hub` ← `cli`, and `wire` ← `client` ← `cli`; `nats` lies beside
//! `store`.
//!
//! # Invariants
//!
//! - A reply of success means committed to Postgres.
//! - KV says what Postgres says: each put reads the key's revision, then Postgres, then compares and sets.
//! - Within one service, `(epoch, revision)` only grows.
//! - Every change of state writes its event in the same transaction; what is unsent is sent after a crash.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
pub mod domain;
#[cfg(feature = "server")]
pub mod hub;
#[cfg(feature = "client")]
pub mod nats;
#[cfg(feature = "server")]
pub mod store;
pub mod wire;

/// The examples in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
