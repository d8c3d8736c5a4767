//! Where the hub's own log goes: stderr, as text for people or as JSON lines for programs.

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How the log looks.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Form of the log
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_LOG_FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// How much is logged
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_LOG_LEVEL", value_enum, default_value_t = Level::Info)]
    log_level: Level,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogArgs {
    /// Starts logging; at least at `floor` nothing above it is shown for commands that talk to people themselves.
    pub fn start(self, most: LevelFilter) {
        let level = match self.log_level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        };
        // Libraries speak up only when something is wrong.
        let libraries = LevelFilter::WARN.min(level);
        // What the client library of NATS calls errors are peers that refuse or hang up: the hub tells of its own connections
        // itself, and what a probe meets stands in its result.
        let nats = if level >= LevelFilter::DEBUG { libraries } else { LevelFilter::OFF };
        let filter = Targets::new()
            .with_default(libraries)
            .with_target("async_nats", nats)
            .with_target("central_hub", level.min(most));
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let registry = tracing_subscriber::registry().with(filter);
        match self.log_format {
            Format::Text => {
                registry.with(tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(std::io::stderr)).init()
            }
            Format::Json => registry
                .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
                .init(),
        }
    }
}
