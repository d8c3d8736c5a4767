//! Integration tests: the real program on a real nats-server and a real PostgreSQL, one room per feature.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod access;
mod ageing;
mod alerts;
mod ask;
mod bad_input;
mod certificates;
mod components;
mod config;
mod config_life;
mod config_schema;
mod consumer;
mod convergence;
mod crashes;
mod database_tls;
mod demo;
mod dependencies;
mod deploy;
mod deputies;
mod dev;
mod events;
mod fleet;
mod guard;
mod healing;
mod health_command;
mod heartbeats;
mod hub_settings;
mod idempotency;
mod identities;
mod layers;
mod liveness;
mod mass_expiry;
mod membership;
mod metrics;
mod model;
mod noise;
mod outages;
mod overload;
mod permissions;
mod private_servers;
mod probes;
mod proxy;
mod random_writes;
mod readme;
mod registry;
mod replay;
mod replicas;
mod replies;
mod restores;
mod retention;
mod schema;
mod secrets_wire;
mod shutdown;
mod sql_by_hand;
mod stack;
mod timeline;
mod traffic;
mod uptime;
mod vouched;
mod walk;
mod witness;
