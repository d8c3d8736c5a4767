//! `central-hub config edit`: change a config in an editor, see the difference, publish it.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::Command;

use clap::Args;
use serde_json::{Map, Value};

use super::{WriteArgs, changed, diff, findings, pretty, pretty_json};
use crate::cli::session::{Failure, HubArgs, Session};
use crate::domain::name::ServiceName;
use crate::wire::ErrorCode;
use crate::wire::config::{ConfigGet, ConfigSet, ConfigValidate, WriteOptions};

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
/// else was faster.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: EditArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let active = active(&session, &args.service).await?;
    let folder = tempdir()?;
    let file = folder.join(format!("{}.json", args.service));
    let written = edit(&session, &args, &active, &file).await;
    let _ = std::fs::remove_dir_all(&folder);
    let Some(config) = written? else {
        return session.out.print(&serde_json::json!({ "changed": false }), |_| "nothing changed".into());
    };
    let dry_run = args.options.dry_run;
    let options = args.options.options();
    let expected_version = options.expected_version.or(Some(active.version));
    let options = WriteOptions { expected_version, ..options };
    session.show(&ConfigSet { options, ..ConfigSet::new(args.service, config) }, changed(dry_run)).await
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

/// A folder of this user's own, that nobody else may look into.
fn tempdir() -> std::io::Result<std::path::PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let folder = std::env::temp_dir().join(format!("central-hub-edit-{}", nuid::next()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// The new content; `None` when nothing changed.
async fn edit(
    session: &Session,
    args: &EditArgs,
    active: &Active,
    file: &Path,
) -> Result<Option<Map<String, Value>>, Failure> {
    std::fs::write(file, &active.text)?;
    loop {
        open_editor(file)?;
        let problem = match serde_json::from_str::<Value>(&std::fs::read_to_string(file)?) {
            Ok(Value::Object(config)) => {
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
                    if args.yes || asked("publish it? [y/N] ")? {
                        return Ok(Some(config));
                    }
                    String::new()
                } else {
                    findings(&found)
                }
            }
            Ok(_) => "a config must be a JSON object".to_owned(),
            Err(error) => format!("this is no JSON: {error}"),
        };
        if !problem.is_empty() {
            writeln!(std::io::stderr(), "{problem}")?;
        }
        if !std::io::stdin().is_terminal() || !asked("edit again? [y/N] ")? {
            return Err(Failure::not_so("nothing was published"));
        }
    }
}

fn open_editor(file: &Path) -> Result<(), Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = match set("VISUAL").or_else(|| set("EDITOR")) {
        Some(editor) => editor,
        None if std::io::stdin().is_terminal() => "vi".into(),
        None => return Err(Failure::not_so("there is no terminal for vi: set EDITOR, or use `config set` or `patch`")),
    };
    // As git and others do: the variable may hold arguments, so a shell reads it.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file);
    let status = command.status().map_err(|error| Failure::not_so(format!("{editor} can't be run: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::not_so(format!("{editor} failed: nothing was published"))) }
}

/// A question on the terminal; without one nobody can say yes.
fn asked(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let text = "nothing was published: there is no terminal to ask on; --yes publishes without asking";
        return Err(Failure::not_so(text));
    }
    write!(std::io::stderr(), "{question}")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
