//! `central-hub config edit`: change a config in an editor, see the difference, publish it.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use tokio::process::Command;
use tokio::sync::oneshot;

use super::{WriteArgs, changed, diff, findings, pretty, pretty_json, strict};
use crate::cli::session::{Failure, HubArgs, Session};
use crate::cli::shown;
use crate::cli::signals::{Received, Signals};
use crate::domain::name::ServiceName;
use crate::nats::BadOption;
use crate::wire::ErrorCode;
use crate::wire::config::{ConfigChange, ConfigGet, ConfigSet, ConfigValidate, WriteOptions};

/// What `config edit` takes.
#[derive(Args, Clone, Debug)]
pub struct EditArgs {
    /// The service
    service: ServiceName,
    /// Publish without asking
    #[arg(long, short = 'y')]
    yes: bool,
    #[command(flatten)]
    options: WriteArgs,
}

/// What is active: its text, and the revision that it is published under; 0 when there is none.
struct Active {
    text: String,
    version: i64,
}

/// Opens the editor until the text is a config that would be taken, shows what changed, and publishes it, unless somebody
/// else was faster. What was written and not published is kept.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: EditArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let active = active(&session, &args.service).await?;
    let mut signals = Signals::listen()?;
    let draft = Draft::new(&args.service, &active.text)?;
    let dry_run = args.options.dry_run;
    match publish(&session, args, &active, &draft, &mut signals).await {
        Ok(change) => {
            // What was only tried is wanted again.
            match dry_run && change.is_some() {
                true => writeln!(std::io::stderr(), "your text is kept in {}", draft.file.display())?,
                false => draft.remove(),
            }
            match change {
                Some(change) => session.out.print(&change, |out| changed(dry_run)(&change, out)),
                None => session.out.print(&serde_json::json!({ "changed": false }), |_| "nothing changed".into()),
            }
        }
        Err(failure) if draft.is_worth_keeping(&active.text) => {
            Err(failure.with_note(&format!("your text is kept in {}", draft.file.display())))
        }
        Err(failure) => {
            draft.remove();
            Err(failure)
        }
    }
}

/// What the hub says to the new content; `None` when nothing changed.
async fn publish(
    session: &Session,
    args: EditArgs,
    active: &Active,
    draft: &Draft,
    signals: &mut Signals,
) -> Result<Option<ConfigChange>, Failure> {
    let Some(config) = edit(session, &args, active, &draft.file, signals).await? else { return Ok(None) };
    let options = args.options.options();
    let expected_version = options.expected_version.or(Some(active.version));
    let options = WriteOptions { expected_version, ..options };
    let request = ConfigSet { options, ..ConfigSet::new(args.service, config) };
    tokio::select! {
        change = session.call(&request) => change.map(Some),
        signal = signals.next() => {
            let text = "stopped while it was published; `central-hub config get` shows what is active now".into();
            Err(Failure::Stopped { signal, text })
        }
    }
}

/// The text that is edited, in a folder of its own.
struct Draft {
    folder: PathBuf,
    file: PathBuf,
}

impl Draft {
    /// In a folder of this user's own, that nobody else may look into.
    fn new(service: &ServiceName, text: &str) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let folder = std::env::temp_dir().join(format!("central-hub-edit-{}", nuid::next()));
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let draft = Self { file: folder.join(format!("{service}.json")), folder };
        match std::fs::write(&draft.file, text) {
            Ok(()) => Ok(draft),
            Err(error) => {
                draft.remove();
                Err(error)
            }
        }
    }

    /// Whether somebody wrote something into it.
    fn is_worth_keeping(&self, before: &str) -> bool {
        std::fs::read(&self.file).is_ok_and(|text| text != before.as_bytes())
    }

    fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn active(session: &Session, service: &ServiceName) -> Result<Active, Failure> {
    let request = ConfigGet { service_name: service.clone(), version: None, min_revision: None };
    match session.call(&request).await {
        Ok(config) => Ok(Active { text: pretty(&config), version: config.version }),
        Err(Failure::Refused(refusal)) if refusal.code == ErrorCode::NotFound => {
            Ok(Active { text: "{}\n".into(), version: 0 })
        }
        Err(other) => Err(other),
    }
}

/// The new content; `None` when nothing changed.
async fn edit(
    session: &Session,
    args: &EditArgs,
    active: &Active,
    file: &Path,
    signals: &mut Signals,
) -> Result<Option<Map<String, Value>>, Failure> {
    loop {
        open_editor(file, signals).await?;
        let problem = match strict::object("the config", &std::fs::read_to_string(file)?) {
            Ok(config) => {
                let text = pretty_json(&config);
                if text == active.text {
                    return Ok(None);
                }
                let not_secret = args.options.not_secret.clone();
                let service_name = args.service.clone();
                let request = ConfigValidate { service_name, config: config.clone(), not_secret };
                let found = session.call(&request).await?;
                let names = ("active", "edited");
                let shown = diff::unified((names.0, &active.text), (names.1, &text), &session.out);
                writeln!(std::io::stderr(), "{shown}")?;
                let forced = found.incompatible_instances.is_empty() || args.options.force;
                if found.violations.is_empty() && found.secrets.is_empty() && forced {
                    if args.yes || asked("publish it? [y/N] ", signals).await? {
                        return Ok(Some(config));
                    }
                    String::new()
                } else {
                    findings(&found)
                }
            }
            Err(BadOption(text)) => shown::escaped(&text),
        };
        if !problem.is_empty() {
            writeln!(std::io::stderr(), "{problem}")?;
        }
        if !std::io::stdin().is_terminal() || !asked("edit again? [y/N] ", signals).await? {
            return Err(Failure::not_so("nothing was published"));
        }
    }
}

/// Waits until the editor is closed. Ctrl-C and Ctrl-\\ reach it, too, and are its to understand.
async fn open_editor(file: &Path, signals: &mut Signals) -> Result<(), Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = match set("VISUAL").or_else(|| set("EDITOR")) {
        Some(editor) => editor,
        None if std::io::stdin().is_terminal() => "vi".into(),
        None => return Err(Failure::not_so("there is no terminal for vi: set EDITOR, or use `config set` or `patch`")),
    };
    // As git and others do: the variable may hold arguments, so a shell reads it.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file);
    let unusable = |error| Failure::not_so(format!("{editor} can't be run: {error}"));
    let mut running = command.spawn().map_err(unusable)?;
    let status = loop {
        tokio::select! {
            status = running.wait() => break status.map_err(unusable)?,
            signal = signals.next() => match signal {
                Received::Interrupt | Received::Quit => {}
                Received::Terminate | Received::Hangup => {
                    let pid = running.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                    if let Some(pid) = pid {
                        let _ = kill_process(pid, Signal::TERM);
                    }
                    return Err(stopped(signal));
                }
            },
        }
    };
    if status.success() { Ok(()) } else { Err(Failure::not_so(format!("{editor} failed: nothing was published"))) }
}

fn stopped(signal: Received) -> Failure {
    Failure::Stopped { signal, text: "stopped: nothing was published".into() }
}

/// A question on the terminal; without one nobody can say yes.
async fn asked(question: &str, signals: &mut Signals) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let text = "nothing was published: there is no terminal to ask on; --yes publishes without asking";
        return Err(Failure::not_so(text));
    }
    write!(std::io::stderr(), "{question}")?;
    std::io::stderr().flush()?;
    let (sender, answered) = oneshot::channel();
    // On a thread that ends with the program: nothing else can be done about a read that waits for a person.
    std::thread::spawn(move || {
        let mut answer = String::new();
        let _ = sender.send(std::io::stdin().read_line(&mut answer).map(|_| answer));
    });
    tokio::select! {
        answer = answered => {
            let answer = answer.map_err(std::io::Error::other)??;
            Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
        }
        signal = signals.next() => Err(stopped(signal)),
    }
}
