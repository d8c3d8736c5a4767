//! The command line.

pub mod dev;
pub mod guard;
pub mod servers;
pub mod stack;
