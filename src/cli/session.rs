//! What every command that asks a hub shares: how it reaches one, how it prints, and what its exit code tells.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Event;
use clap::Args;
use serde::Serialize;

use super::context;
use super::options::NatsArgs;
use super::serve::FleetArgs;
use crate::client::{CallError, HubClient};
use crate::nats::{self, BadOption};
use crate::wire::{self, ErrorCode, Request};

/// Exit code when the hub refused, or what was asked for isn't so.
pub const NOT_SO: u8 = 1;

/// Exit code when there is no answer: no hub, no NATS, wrong credentials; or an option that can't be used.
pub const NO_ANSWER: u8 = 2;

/// How a command reaches the hub, and how it prints.
#[derive(Args, Clone, Debug)]
pub struct HubArgs {
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    /// Take address and credentials from this context of the nats command line
    #[arg(long, env = "NATS_CONTEXT", value_name = "NAME", help_heading = "NATS")]
    context: Option<String>,
    /// How long to wait for one answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration, help_heading = "Hub")]
    timeout: Duration,
    /// Print what the hub says as JSON, for programs
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Why a command didn't do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The hub refused.
    #[error("{0}")]
    Refused(Box<wire::Error>),
    /// What was asked for isn't so.
    #[error("{0}")]
    NotSo(String),
    /// There is no answer.
    #[error("{0}")]
    NoAnswer(String),
    /// An option can't be used.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(Box::new(refusal)),
            other => Self::NoAnswer(super::chain(&other)),
        }
    }
}

impl Failure {
    /// Something that a person must know, with the next step in it.
    pub fn not_so(text: impl Into<String>) -> Self {
        Self::NotSo(text.into())
    }

    /// Tells it on stderr (and, for programs, as JSON on stdout), and gives the exit code. A reader that has gone away is
    /// no failure: it had enough.
    #[must_use]
    pub fn tell(&self, json: bool) -> ExitCode {
        if let Self::Io(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        if json {
            let error = match self {
                Self::Refused(refusal) => serde_json::json!({ "error": refusal }),
                other => serde_json::json!({ "error": { "message": other.to_string() } }),
            };
            let _ = writeln!(io::stdout(), "{error}");
        }
        let _ = writeln!(io::stderr(), "central-hub: {self}");
        if let Some(hint) = self.hint() {
            let _ = writeln!(io::stderr(), "{hint}");
        }
        ExitCode::from(match self {
            Self::Refused(_) | Self::NotSo(_) => NOT_SO,
            Self::NoAnswer(_) | Self::Option(_) | Self::Io(_) => NO_ANSWER,
        })
    }

    /// What to try next, where the hub's own words don't say it in terms of this command line.
    fn hint(&self) -> Option<String> {
        let Self::Refused(refusal) = self else { return None };
        let list = |name: &str| {
            let items = refusal.details.get(name)?.as_array()?;
            let lines = items.iter().map(|item| match (item.as_str(), item.get("path"), item.get("message")) {
                (Some(text), ..) => format!("  {text}"),
                (None, Some(path), Some(message)) => {
                    let path = path.as_str().filter(|path| !path.is_empty()).unwrap_or("/");
                    format!("  {path}: {}", message.as_str().unwrap_or_default())
                }
                _ => format!("  {item}"),
            });
            Some(lines.collect::<Vec<_>>().join("\n"))
        };
        match refusal.code {
            ErrorCode::SchemaViolation => list("violations"),
            ErrorCode::SecretDetected => list("paths"),
            ErrorCode::Incompatible => Some(format!("{}\n  --force publishes it all the same", list("instances")?)),
            ErrorCode::AmbiguousInstance => Some(format!("{}\n  --instance names one", list("instances")?)),
            ErrorCode::DependencyUnavailable => list("dependencies"),
            ErrorCode::VersionConflict => Some("  `central-hub config get` shows what is active now".into()),
            _ => None,
        }
    }
}

/// A connection to the hub, and where answers are printed.
pub struct Session {
    /// Calls.
    pub hub: HubClient,
    /// Start of all bucket names.
    pub bucket_prefix: String,
    /// First tokens of all subjects.
    pub subject_prefix: String,
    /// Where answers are printed.
    pub out: Out,
    /// What the server refused last: a right that is missing shows there and nowhere else.
    refused: Arc<Mutex<Option<String>>>,
}

impl HubArgs {
    /// Whether the answers are for programs.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn connect(&self) -> Result<Session, Failure> {
        let mut options = self.nats.options("CENTRAL_HUB_NATS")?;
        if let Some(name) = &self.context {
            context::read(name)?.apply(&mut options)?;
            options.check()?;
        }
        let refused = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&refused);
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            let urls = options.urls.join(",");
            let reason = super::chain(error.as_ref());
            Failure::NoAnswer(format!("NATS at {urls} can't be used: {reason}; --nats-url names another"))
        };
        let connect = options.connect_options().await.map_err(|error| unusable(error.into()))?;
        let connect = connect.name("central-hub").connection_timeout(self.timeout).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            std::future::ready(())
        });
        let client = connect.connect(options.urls.clone()).await.map_err(|error| unusable(nats::explain(error)))?;
        let hub = HubClient::new(client).with_prefix(&self.fleet.subject_prefix).with_timeout(self.timeout);
        Ok(Session {
            hub,
            bucket_prefix: self.fleet.bucket_prefix.clone(),
            subject_prefix: self.fleet.subject_prefix.clone(),
            out: Out::stdout(self.json),
            refused,
        })
    }
}

impl Session {
    /// Asks the hub.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Reply, Failure> {
        self.hub.call(request).await.map_err(|error| {
            let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            match (Failure::from(error), refused) {
                (Failure::NoAnswer(text), Some(refused)) => {
                    Failure::NoAnswer(format!("{text}; NATS refused: {refused}"))
                }
                (failure, _) => failure,
            }
        })
    }

    /// Asks, and prints the answer: as it came, for programs; else as `render` puts it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn show<R: Request>(
        &self,
        request: &R,
        render: impl FnOnce(&R::Reply, &Out) -> String,
    ) -> Result<(), Failure> {
        let reply = self.call(request).await?;
        self.out.print(&reply, |out| render(&reply, out))
    }
}

/// Where and how answers are printed.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    json: bool,
    /// Whether colours are shown: on a terminal only, and not where `NO_COLOR` is set.
    pub colour: bool,
}

impl Out {
    /// Standard output.
    #[must_use]
    pub fn stdout(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: !json && !plain && io::stdout().is_terminal() }
    }

    /// Without colours.
    #[must_use]
    pub fn plain() -> Self {
        Self { json: false, colour: false }
    }

    /// Whether the answers are for programs.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints a value as one line of JSON, or as `render` puts it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn print<T: Serialize>(&self, value: &T, render: impl FnOnce(&Self) -> String) -> Result<(), Failure> {
        let mut text = if self.json { serde_json::to_string(value).map_err(io::Error::from)? } else { render(self) };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }
}

/// A text from a file, or from standard input for `-`.
///
/// # Errors
/// When it can't be read.
pub fn read_text(path: &PathBuf) -> Result<String, Failure> {
    let read = if path.as_os_str() == "-" { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
    read.map_err(|error| Failure::NoAnswer(format!("{} can't be read: {error}", path.display())))
}
