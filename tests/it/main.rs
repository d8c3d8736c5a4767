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
mod backups;
mod bad_input;
mod certificates;
mod client_access;
mod client_config;
mod client_discovery;
mod client_faults;
mod client_registration;
mod clock;
mod command_line;
mod components;
mod config;
mod config_life;
mod config_schema;
mod consumer;
mod convergence;
mod crashes;
mod dashboard;
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
mod infrastructure;
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
mod removal;
mod replay;
mod replicas;
mod replies;
mod restores;
mod retention;
mod schema;
mod secrets_wire;
mod service;
mod shutdown;
mod sql_by_hand;
mod stack;
mod storm;
mod timeline;
mod traffic;
mod uptime;
mod vouched;
mod walk;
mod witness;
