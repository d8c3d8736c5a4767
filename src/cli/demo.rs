//! `central-hub demo`: a simulated fleet that shows a hub at work, on private servers that leave nothing behind.
//!
//! - [`fleet`]: the services, as `fleet.json` describes them; [`gauges`]: what their processes measure.
//! - [`process`]: one process, which speaks to the hub as any service does.
//! - [`story`]: the steps in order; `membership`, `configs`, `alerts` and `chronicle` hold them.
//! - [`report`]: what is told of them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::CliError;
use super::dev::{self, Addresses, HubError};
use super::stack::{Stack, StackOptions};

mod alerts;
mod chronicle;
mod configs;
mod fleet;
mod gauges;
mod membership;
mod process;
mod report;
mod story;

use report::{Findings, Mismatch, Report, check};
use story::Story;

/// How long the hub may take to serve, and to stop.
const HUB_PATIENCE: Duration = Duration::from_secs(20);

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// This program, as it was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "central-hub".into())
}

/// How to go on after the demo, as it can be typed where this was.
fn advice() -> String {
    let (dev, demo) = (format!("{} dev", program()), format!("{} demo --keep", program()));
    let width = demo.len();
    format!(
        "Nothing is left running or on disk.\n\n  \
         {dev:<width$}   a NATS, PostgreSQL and hub of your own, to try it by hand\n  \
         {demo}   leaves the fleet running until Ctrl-C\n  \
         {:<width$}   a tour with the nats command line\n",
        "README.md"
    )
}

/// Show a hub at work with a simulated fleet, on private servers
///
/// 18 services of a trading system register, beat, get a config change while they run, lose a process and recover. Each
/// step is verified against the hub's own answers and told with the time it took. Nothing is left running or on disk.
///
/// Exit code: 0 when each step was verified, 1 when one failed, 130 when it was told to stop.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// The seed of the fleet's measurements, and of which process is lost
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Tell each step as a line of JSON
    #[arg(long)]
    pub json: bool,
    /// Before the goodbye, let the fleet run until Ctrl-C, to look around
    #[arg(long, conflicts_with = "json")]
    pub keep: bool,
    /// The nats-server to run [default: the one in .tools/bin, else on PATH, 2.10 or newer]
    #[arg(long, value_name = "PROGRAM", env = super::servers::NATS_SERVER_VARIABLE)]
    pub nats_server: Option<PathBuf>,
    /// The folder with PostgreSQL's initdb and postgres [default: the one on PATH, else the newest installed]
    #[arg(long, value_name = "DIR", env = super::servers::PG_BIN_VARIABLE)]
    pub pg_bin: Option<PathBuf>,
}

/// Starts private servers and a hub, tells the story, and stops everything, also when a step fails or on Ctrl-C. If this
/// process is killed, the guards of the servers stop them and remove their data.
///
/// `run_hub` runs a hub on the addresses until the token is cancelled, and sends on the channel once it serves.
///
/// # Errors
/// When it can't begin at all; what happens later is told in the report, and by the exit code.
pub async fn run<F, Fut>(args: DemoArgs, run_hub: F) -> Result<ExitCode, CliError>
where
    F: FnOnce(Addresses, CancellationToken, oneshot::Sender<()>) -> Fut,
    Fut: Future<Output = Result<(), HubError>> + Send + 'static,
{
    // From the first moment: Ctrl-C while the servers start ends in the same good order.
    let asked_to_stop = dev::cancelled_by_signals()?;
    let fleet = fleet::services()?;
    let folder = std::env::temp_dir().join(format!("central-hub-demo-{}", nuid::next()));
    let options = StackOptions {
        nats_server: args.nats_server.clone(),
        pg_bin: args.pg_bin.clone(),
        ..StackOptions::scratch(&std::env::current_exe()?, &folder)
    };

    let mut report = Report::new(args.json);
    report.say(&format!("{} services of a trading system, on private servers (seed {})\n\n", fleet.len(), args.seed));
    report.begin("start", "NATS, PostgreSQL and the hub start");
    let stack = match Stack::start(options).await {
        Ok(stack) => stack,
        Err(error) => {
            // What started stops by itself and takes its data along; a folder where nothing started is still empty.
            let _ = std::fs::remove_dir(&folder);
            report.end(Err(Mismatch::new("private servers", error)));
            report.close("");
            return Ok(ExitCode::FAILURE);
        }
    };
    let (mut servers, ready) = Servers::start(stack, folder, run_hub);
    match perform(&mut servers, ready, fleet, &args, &mut report, &asked_to_stop).await {
        Ok(()) => {}
        Err(End::Broken(why)) => drop(report.end(Err(why))),
        Err(End::Interrupted) => {
            report.interrupted();
            match servers.stop().await {
                Ok(_) => report.say("Stopped before the end. Nothing is left running or on disk.\n"),
                Err(Mismatch { found, .. }) => report.say(&format!("Stopped before the end, and {found}.\n")),
            }
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    if report.is_good() {
        report.step("cleanup", "Everything stops", servers.stop()).await;
    } else {
        // The report ends with the step that failed.
        let _ = servers.stop().await;
    }
    report.close(&advice());
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why the story wasn't told to its end.
enum End {
    /// A server or the hub ended.
    Broken(Mismatch),
    /// It was told to stop.
    Interrupted,
}

/// Tells the story, from the start of the hub to the goodbye. `Ok` says only that it came to an end: the report knows
/// whether to a good one.
async fn perform(
    servers: &mut Servers,
    ready: oneshot::Receiver<()>,
    fleet: Vec<fleet::Service>,
    args: &DemoArgs,
    report: &mut Report,
    asked_to_stop: &CancellationToken,
) -> Result<(), End> {
    let versions = servers.versions();
    let nats_url = servers.stack.nats_url();
    let opening = async {
        let served = timeout(HUB_PATIENCE, ready).await.is_ok_and(|served| served.is_ok());
        check(served, format!("a hub that serves within {HUB_PATIENCE:?}"), "it doesn't")?;
        let story = Story::new(&nats_url, fleet, args.seed).await?;
        let health = story.healthy_hub().await?;
        let findings = Findings::new(format!("{versions}, central-hub {}", health.version))
            .fact("nats_server", health.nats.server_version)
            .fact("hub", health.version);
        Ok((story, findings))
    };
    let mut story = match servers.attend(asked_to_stop, opening).await? {
        Ok((story, findings)) => {
            report.end(Ok(findings));
            story
        }
        Err(mismatch) => {
            report.end(Err(mismatch));
            return Ok(());
        }
    };
    if !servers.attend(asked_to_stop, story.tell(report)).await? {
        return Ok(());
    }
    let never = CancellationToken::new();
    let mut interrupt = asked_to_stop;
    if args.keep {
        let program = program();
        report.say(&format!(
            "\nThe fleet runs until Ctrl-C. Look around:\n\n  {program} --nats-url {nats_url} top\n  \
             nats -s {nats_url} req hub.services.list ''\n\n"
        ));
        if let Err(End::Broken(why)) = servers.attend(asked_to_stop, std::future::pending::<()>()).await {
            return Err(End::Broken(why));
        }
        // This time Ctrl-C was the way to go on.
        interrupt = &never;
    }
    servers.attend(interrupt, story.end(report)).await?;
    Ok(())
}

/// What runs below the story, to be stopped in the end.
struct Servers {
    stack: Stack,
    folder: PathBuf,
    /// `None` once it has ended.
    hub: Option<JoinHandle<Result<(), HubError>>>,
    shutdown: CancellationToken,
}

impl Servers {
    /// Starts the hub on the stack; the channel hears when it serves.
    fn start<F, Fut>(stack: Stack, folder: PathBuf, run_hub: F) -> (Servers, oneshot::Receiver<()>)
    where
        F: FnOnce(Addresses, CancellationToken, oneshot::Sender<()>) -> Fut,
        Fut: Future<Output = Result<(), HubError>> + Send + 'static,
    {
        let addresses = Addresses { nats_url: stack.nats_url(), database_url: stack.database_url() };
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let hub = Some(tokio::spawn(run_hub(addresses, shutdown.clone(), ready)));
        (Servers { stack, folder, hub, shutdown }, is_ready)
    }

    fn versions(&self) -> String {
        format!("nats-server {}, PostgreSQL {}", self.stack.nats.version(), self.stack.postgres.version())
    }

    /// Does something as long as the servers run and nobody asks to stop.
    async fn attend<T>(&mut self, asked_to_stop: &CancellationToken, doing: impl Future<Output = T>) -> Result<T, End> {
        tokio::select! {
            done = doing => Ok(done),
            () = asked_to_stop.cancelled() => Err(End::Interrupted),
            why = self.failure() => Err(End::Broken(why)),
        }
    }

    /// Waits until a server or the hub ends by itself.
    async fn failure(&mut self) -> Mismatch {
        let hub_ends = async {
            match &mut self.hub {
                Some(hub) => hub.await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = hub_ends => ended,
            error = self.stack.failure() => return Mismatch::new("servers that go on", error),
        };
        self.hub = None;
        let why = match ended {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => super::chain(error.as_ref()),
            Err(error) => super::chain(&error),
        };
        Mismatch::new("a hub that goes on", why)
    }

    /// Stops the hub, NATS and PostgreSQL, in that order, and looks whether anything is left.
    async fn stop(self) -> Result<Findings, Mismatch> {
        let Servers { stack, folder, hub, shutdown } = self;
        shutdown.cancel();
        let hub_ended = match hub {
            Some(hub) => matches!(timeout(HUB_PATIENCE, hub).await, Ok(Ok(Ok(())))),
            None => true,
        };
        let pids = [stack.nats.pid(), stack.postgres.pid()];
        stack.stop().await;
        let alive = pids
            .into_iter()
            .flatten()
            .filter(|pid| Pid::from_raw(pid.cast_signed()).is_some_and(|pid| test_kill_process(pid).is_ok()));
        let alive: Vec<u32> = alive.collect();
        check(hub_ended, "the hub ends", "the hub didn't end in good order")?;
        check(alive.is_empty(), "both servers are gone", format!("processes {alive:?} still run"))?;
        check(!folder.exists(), "their data is gone", format!("{} is still there", folder.display()))?;
        Ok(Findings::new("the hub, NATS and PostgreSQL have ended, their data is removed"))
    }
}
