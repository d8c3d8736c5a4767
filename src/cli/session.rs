//! What every command that asks a hub shares: how it reaches one, how it prints, and what its exit code tells.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{ConnectError, ConnectErrorKind, Event};
use clap::Args;
use serde::Serialize;

use super::options::NatsArgs;
use super::serve::{FleetArgs, ServeError};
use super::signals::Received;
use super::{context, grammar, shown};
use crate::client::{CallError, HubClient};
use crate::nats::{self, BadOption, NatsOptions};
use crate::store::migrate::SchemaError;
use crate::wire::route::ROUTES;
use crate::wire::{self, ErrorCode, Request};

/// Exit code when the hub refused, or what was asked for isn't so.
pub const NOT_SO: u8 = 1;

/// Exit code when there is no answer: no hub, no NATS, wrong credentials; or an option that can't be used.
pub const NO_ANSWER: u8 = 2;

/// How long an answer may take, unless --timeout says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a command reaches the hub, and how it prints.
#[derive(Args, Clone, Debug)]
pub struct HubArgs {
    #[command(flatten)]
    pub(super) nats: NatsArgs,
    #[command(flatten)]
    pub(super) fleet: FleetArgs,
    /// Take address and credentials from this context of the nats command line
    #[arg(long, global = true, env = "NATS_CONTEXT", value_name = "NAME", help_heading = "NATS")]
    context: Option<String>,
    /// How long to wait for one answer [default: 5s; `health`: 3s for everything together]
    #[arg(long, global = true, value_name = "DURATION", value_parser = patience, help_heading = "Hub")]
    pub(super) timeout: Option<Duration>,
    /// Print JSON, for programs: what the hub replies, or an object with `error`
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
}

fn patience(text: &str) -> Result<Duration, String> {
    match grammar::duration(text)? {
        Duration::ZERO => Err("no answer comes in no time".into()),
        patience => Ok(patience),
    }
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
    /// What was asked for isn't so, and the answer that was printed says so to programs.
    #[error("{0}")]
    Told(String),
    /// An option can't be used.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// What was to run on ended.
    #[error("{}", super::chain(.0.as_ref()))]
    Ended(Box<dyn std::error::Error + Send + Sync>),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A signal ended it.
    #[error("{text}")]
    Stopped {
        /// Which.
        signal: Received,
        /// What it ended.
        text: String,
    },
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(refusal) => Self::Refused(Box::new(refusal)),
            other => Self::NoAnswer(super::chain(&other)),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Option(option) => Self::Option(option),
            ServeError::ReplicaId(_) => Self::Option(BadOption(error.to_string())),
            other => Self::Ended(other.into()),
        }
    }
}

impl Failure {
    /// What a command that asks the database itself ends with.
    pub fn of_database(error: ServeError) -> Self {
        match error {
            ServeError::Schema(SchemaError::Store(cause)) if cause.is_outage() => Self::NoAnswer(format!(
                "{}; --db-host and so on, or CENTRAL_HUB_DATABASE_URL, say where it is",
                cause.chain()
            )),
            other => other.into(),
        }
    }

    /// Something that a person must know, with the next step in it.
    pub fn not_so(text: impl Into<String>) -> Self {
        Self::NotSo(text.into())
    }

    /// The same, with something more to know.
    #[must_use]
    pub fn with_note(self, note: &str) -> Self {
        let noted = |text: String| format!("{text}; {note}");
        match self {
            Self::Refused(mut refusal) => {
                refusal.message = noted(refusal.message);
                Self::Refused(refusal)
            }
            Self::NotSo(text) => Self::NotSo(noted(text)),
            Self::NoAnswer(text) => Self::NoAnswer(noted(text)),
            Self::Told(text) => Self::Told(noted(text)),
            Self::Option(BadOption(text)) => Self::Option(BadOption(noted(text))),
            Self::Ended(error) => Self::Ended(noted(super::chain(error.as_ref())).into()),
            Self::Io(error) => Self::Io(io::Error::new(error.kind(), noted(error.to_string()))),
            Self::Stopped { signal, text } => Self::Stopped { signal, text: noted(text) },
        }
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
        if json && !matches!(self, Self::Told(_)) {
            let error = match self {
                Self::Refused(refusal) => serde_json::json!({ "error": refusal }),
                other => serde_json::json!({ "error": { "message": other.to_string() } }),
            };
            let _ = writeln!(io::stdout(), "{}", shown::escaped(&error.to_string()));
        }
        let text = match self {
            Self::Refused(refusal) => in_commands(&refusal.to_string()),
            other => other.to_string(),
        };
        let _ = writeln!(io::stderr(), "central-hub: {}", shown::escaped(&text));
        if let Some(hint) = self.hint() {
            let _ = writeln!(io::stderr(), "{hint}");
        }
        ExitCode::from(match self {
            Self::Refused(_) | Self::NotSo(_) | Self::Told(_) | Self::Ended(_) => NOT_SO,
            Self::NoAnswer(_) | Self::Option(_) | Self::Io(_) => NO_ANSWER,
            Self::Stopped { signal, .. } => signal.exit_code(),
        })
    }

    /// What to try next, where the hub's own words don't say it in terms of this command line.
    fn hint(&self) -> Option<String> {
        let Self::Refused(refusal) = self else { return None };
        let list = |name: &str| {
            let items = refusal.details.get(name)?.as_array()?;
            let lines = items.iter().map(|item| {
                let member = |name: &str| item.get(name).and_then(serde_json::Value::as_str);
                let line = match (
                    item.as_str(),
                    member("path").zip(member("message")),
                    member("name").zip(member("status")),
                ) {
                    (Some(text), ..) => format!("  {text}"),
                    (_, Some((path, message)), _) => {
                        format!("  {}: {message}", if path.is_empty() { "/" } else { path })
                    }
                    (.., Some((name, status))) => format!("  {name}: {status}"),
                    _ => format!("  {item}"),
                };
                shown::line(&line)
            });
            Some(lines.collect::<Vec<_>>().join("\n"))
        };
        match refusal.code {
            ErrorCode::SchemaViolation => list("violations"),
            ErrorCode::SecretDetected => list("paths"),
            ErrorCode::Incompatible => Some(format!("{}\n  --force publishes it all the same", list("instances")?)),
            ErrorCode::AmbiguousInstance => Some(format!("{}\n  --instance names one", list("instances")?)),
            ErrorCode::DependencyUnavailable => list("dependencies"),
            ErrorCode::NotRegistered => {
                Some("  `central-hub services list` shows who is; `central-hub services register` registers one".into())
            }
            ErrorCode::VersionConflict => Some("  `central-hub config get` shows what is active now".into()),
            _ => None,
        }
    }
}

/// A text of the hub in terms of this command line: `hub.services.list` is `central-hub services list`.
fn in_commands(text: &str) -> String {
    let is_of_subject = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let mut said = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("hub.") {
        let (before, from_here) = rest.split_at(at);
        let end = from_here.find(|c| !is_of_subject(c)).unwrap_or(from_here.len());
        let (subject, after) = from_here.split_at(end);
        said.push_str(before);
        let begins_word = !before.ends_with(|c: char| is_of_subject(c) || matches!(c, '-' | '_' | '/' | '`'));
        match command_of(subject).filter(|_| begins_word) {
            Some(command) => said.extend(["`central-hub ", &command, "`"]),
            None => said.push_str(subject),
        }
        rest = after;
    }
    (said + rest).replace("to_version", "--to")
}

/// The words of the command for a subject that is named without its service.
fn command_of(subject: &str) -> Option<String> {
    let pattern = subject.strip_prefix("hub.")?;
    let route = ROUTES.iter().find(|route| route.pattern.trim_end_matches(".*") == pattern)?;
    // What follows them is a service, whose name has a dash in the examples, or an option.
    let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase());
    Some(route.command.split(' ').take_while(is_word).collect::<Vec<_>>().join(" "))
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

    /// Where NATS is, and as whom: as the options say, or the context.
    ///
    /// # Errors
    /// When something of it can't be used.
    pub fn nats_options(&self) -> Result<NatsOptions, BadOption> {
        let mut options = self.nats.options("CENTRAL_HUB_NATS")?;
        if let Some(name) = &self.context {
            context::read(name)?.apply(&mut options)?;
            options.check()?;
        }
        Ok(options)
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn connect(&self) -> Result<Session, Failure> {
        let options = self.nats_options()?;
        let timeout = self.timeout.unwrap_or(PATIENCE);
        let refused = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&refused);
        let connect = options.connect_options().await?;
        let connect = connect.name("central-hub").connection_timeout(timeout).event_callback(move |event| {
            if let Event::ServerError(error) = event {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            std::future::ready(())
        });
        let client = connect.connect(options.urls.clone()).await.map_err(|error| unusable(&options, error))?;
        let hub = HubClient::new(client).with_prefix(&self.fleet.subject_prefix).with_timeout(timeout);
        Ok(Session {
            hub,
            bucket_prefix: self.fleet.bucket_prefix.clone(),
            subject_prefix: self.fleet.subject_prefix.clone(),
            out: Out::stdout(self.json),
            refused,
        })
    }
}

/// Why NATS can't be used, and what to try.
pub fn unusable(options: &NatsOptions, error: ConnectError) -> Failure {
    let urls = options.urls.join(",");
    let kind = error.kind();
    let reason = super::chain(nats::explain(error).as_ref());
    let next = match kind {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "CENTRAL_HUB_NATS_USER and _PASSWORD (or _TOKEN, or _NKEY_SEED), --nats-creds or --context say who you are"
        }
        _ => "--nats-url names another",
    };
    Failure::NoAnswer(format!("NATS at {urls} can't be used: {reason}; {next}"))
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
        let mut text = if self.json {
            shown::escaped(&serde_json::to_string(value).map_err(io::Error::from)?)
        } else {
            render(self)
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hubs_hints_name_commands() {
        for (said, shown) in [
            ("no instance; hub.services.list tells who is", "no instance; `central-hub services list` tells who is"),
            ("hub.config.set gives it one", "`central-hub config set` gives it one"),
            ("nobody: hub.uptime who was", "nobody: `central-hub uptime` who was"),
            ("no hub listens on prefix.hub.status", "no hub listens on prefix.hub.status"),
            ("hub.nonsense", "hub.nonsense"),
            ("the hub. What then?", "the hub. What then?"),
        ] {
            assert_eq!(in_commands(said), shown);
        }
    }
}
