//! `central-hub top`: the fleet, live, in a terminal.
//!
//! [`feed`] turns KV watches, events and answers of the hub into [`Update`](model::Update)s; [`link`] tells whether they can
//! be live; [`model`] keeps what they say; [`view`] draws it; [`keys`] says what a key does. The hub is asked in a period
//! whether it is there, and by the screen of one service for the ages of heartbeats and for metrics, which no watch tells.

use std::io::IsTerminal as _;
use std::mem::ManuallyDrop;
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyEventKind};
use tokio::sync::mpsc;

use super::session::{Failure, HubArgs, Session};
use super::signals::{Received, Signals};
use crate::wire::config::{ConfigRollback, WriteOptions};
use crate::wire::registry::ServicesDrain;
use keys::Command;
use model::{Model, Update};

mod feed;
mod keys;
mod link;
mod model;
mod view;

/// How often the screen is drawn although nothing changed, so that ages go on.
const TICK: Duration = Duration::from_secs(1);

/// Changes that are waited for before the screen is drawn, at the most: a busy fleet costs ten drawings a second.
const FRAME: Duration = Duration::from_millis(100);

/// Updates and keys under way at the most.
const QUEUE: usize = 1_024;

/// The fleet, live, in this terminal
///
/// Keys: up and down select, Enter looks into a service, Esc goes back, / filters, d takes an instance out of use or back
/// in, r rolls the selected service's config back (both ask first), Tab goes to the next pane, ? helps, q quits.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// Only services whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// Shows it until `q`.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: TopArgs, hub: &HubArgs) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() {
        return Err(Failure::not_so("top needs a terminal; `central-hub status --json` is for programs"));
    }
    let session = hub.connect().await?;
    let (sender, updates) = mpsc::channel(QUEUE);
    let feeds = feed::start(&session, &sender);
    let mut signals = Signals::listen()?;
    // Never dropped: it would tell standard error that the cursor can't be shown, and panic, because that is the terminal
    // that went away.
    let mut terminal = ManuallyDrop::new(ratatui::try_init()?);
    read_keys(sender.clone());
    let shown = tokio::select! {
        shown = show(&session, &mut terminal, updates, sender, args.filter.unwrap_or_default()) => shown,
        signal = signals.next() => Err(Failure::Stopped { signal, text: "top was stopped".into() }),
    };
    // The terminal may be what went away.
    let _ = terminal.show_cursor();
    let _ = ratatui::try_restore();
    for feed in feeds {
        feed.abort();
    }
    shown
}

/// Reads the terminal on a thread of its own, which ends with the program.
fn read_keys(sender: mpsc::Sender<Update>) {
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            let update = match event {
                TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => Update::Key(key),
                TerminalEvent::Resize(..) => Update::Resized,
                _ => continue,
            };
            if sender.blocking_send(update).is_err() {
                return;
            }
        }
    });
}

async fn show(
    session: &Session,
    terminal: &mut ratatui::DefaultTerminal,
    mut updates: mpsc::Receiver<Update>,
    sender: mpsc::Sender<Update>,
    filter: String,
) -> Result<(), Failure> {
    let mut model = Model::new(filter);
    let mut detail: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        terminal.draw(|frame| view::draw(frame, &mut model)).map_err(|error| Failure::Stopped {
            // The signal that says so may come a moment later.
            signal: Received::Hangup,
            text: format!("the terminal went away: {error}"),
        })?;
        let Ok(first) = tokio::time::timeout(TICK, updates.recv()).await else { continue };
        let frame = tokio::time::Instant::now() + FRAME;
        let mut next = first;
        while let Some(update) = next {
            let at_once = matches!(update, Update::Key(_) | Update::Resized);
            match update {
                Update::Key(key) => match keys::press(&mut model, key) {
                    Some(Command::Quit) => return Ok(()),
                    Some(Command::LookInto(service)) => {
                        let looking = feed::detail(session, service, sender.clone());
                        if let Some(before) = detail.replace(looking) {
                            before.abort();
                        }
                    }
                    Some(Command::GoBack) => {
                        if let Some(before) = detail.take() {
                            before.abort();
                        }
                    }
                    Some(command) => act(session, command, sender.clone()),
                    None => {}
                },
                other => model.take(other),
            }
            if at_once {
                break;
            }
            next = tokio::time::timeout_at(frame, updates.recv()).await.ok().flatten();
        }
    }
}

/// Does what was confirmed, without holding up the screen; what came of it is told at its bottom.
fn act(session: &Session, command: Command, sender: mpsc::Sender<Update>) {
    let hub = session.hub.clone();
    tokio::spawn(async move {
        let told = match command {
            Command::Drain { service_name, instance_id, draining } => {
                let reason = Some("central-hub top".to_owned());
                let request = ServicesDrain { service_name, instance_id: Some(instance_id), draining, reason };
                hub.call(&request).await.map(|now| {
                    let state = if now.draining { "out of use" } else { "in use" };
                    format!("{}.{} is {state}", now.service_name, now.instance_id)
                })
            }
            Command::RollBack { service_name } => {
                let created_by = std::env::var("USER").ok();
                let comment = Some("central-hub top".to_owned());
                let options = WriteOptions { created_by, comment, ..WriteOptions::default() };
                hub.call(&ConfigRollback { service_name, to_version: None, options }).await.map(|change| {
                    let version = change.version.map_or_else(|| "no config".into(), |version| format!("v{version}"));
                    format!("{} has {version} again, revision {}", change.service_name, change.revision)
                })
            }
            Command::Quit | Command::LookInto(_) | Command::GoBack => return,
        };
        let text = told.unwrap_or_else(|error| super::chain(&error));
        let _ = sender.send(Update::Told(text)).await;
    });
}
