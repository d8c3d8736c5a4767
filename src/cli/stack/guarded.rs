//! A program under a guard, seen from the parent: start, stop, kill, pause.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use super::StackError;
use super::folder::Account;
use crate::cli::guard::{self, LOCK_PATIENCE, StopSignal};

/// What to start, and how it is stopped.
#[derive(Debug, Clone)]
pub struct GuardedCommand {
    /// The `central-hub` program, whose `guard` command is used.
    pub executable: PathBuf,
    /// The program, as an absolute path or a name on PATH.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables beside those of this process.
    pub env: Vec<(OsString, OsString)>,
    /// The signal that asks it to end.
    pub signal: StopSignal,
    /// How long it may take before it is killed.
    pub grace: Duration,
    /// The user to run it as, if not ours.
    pub account: Option<Account>,
    /// A folder that is locked while it runs.
    pub lock: Option<PathBuf>,
    /// Whether that folder is removed once this process is gone.
    pub scratch: bool,
    /// The file that its output is appended to.
    pub log: PathBuf,
}

impl GuardedCommand {
    /// A command that is stopped with SIGTERM and 5 s of grace, under our own user, without a lock.
    pub fn new(executable: &Path, program: &Path, log: &Path) -> GuardedCommand {
        GuardedCommand {
            executable: executable.to_path_buf(),
            program: program.to_path_buf(),
            args: Vec::new(),
            env: Vec::new(),
            signal: StopSignal::Term,
            grace: Duration::from_secs(5),
            account: None,
            lock: None,
            scratch: false,
            log: log.to_path_buf(),
        }
    }

    fn guard_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["guard".into(), "--signal".into(), self.signal.name().into()];
        args.extend(["--grace".into(), format!("{}ms", self.grace.as_millis()).into()]);
        if let Some(account) = &self.account {
            args.extend(["--uid".into(), account.uid.to_string().into()]);
            args.extend(["--gid".into(), account.gid.to_string().into()]);
        }
        if let Some(folder) = &self.lock {
            args.extend(["--lock".into(), folder.into()]);
            if self.scratch {
                args.push("--scratch".into());
            }
        }
        args.extend(["--".into(), self.program.clone().into()]);
        args.extend(self.args.iter().cloned());
        args
    }
}

/// A running program and its guard. Dropping it stops the program, in the background and whatever becomes of us.
#[derive(Debug)]
pub struct GuardedProcess {
    guard: Child,
    /// The pipe whose end tells the guard that we are gone.
    pipe: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl GuardedProcess {
    /// Starts the program and returns once it runs, which says nothing yet of whether it serves.
    ///
    /// # Errors
    /// [`StackError::Io`] if the guard can't be started, [`StackError::Failed`] with the log's end if the program can't.
    pub async fn spawn(command: &GuardedCommand) -> Result<GuardedProcess, StackError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&command.log)
            .map_err(|source| StackError::io(format!("open {}", command.log.display()), source))?;
        let mut guard = Command::new(&command.executable)
            .args(command.guard_args())
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            // Any user may stand here, and nothing below it keeps a folder from being removed.
            .current_dir("/")
            // Out of the terminal's group: Ctrl-C is for us, and we stop the program in our own order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|source| StackError::io(format!("start {}", command.executable.display()), source))?;
        let pipe = guard.stdin.take();
        let mut first_line = String::new();
        if let Some(stdout) = guard.stdout.take() {
            let mut stdout = BufReader::new(stdout);
            let _ = timeout(LOCK_PATIENCE + Duration::from_secs(10), stdout.read_line(&mut first_line)).await;
        }
        match first_line.trim_end().strip_prefix("pid ").and_then(|pid| pid.parse().ok()) {
            Some(pid) => Ok(GuardedProcess { guard, pipe, pid, log: command.log.clone() }),
            None => {
                drop(pipe);
                let _ = timeout(command.grace, guard.wait()).await;
                Err(StackError::failed(&command.program.display().to_string(), "it did not start", &command.log))
            }
        }
    }

    /// The process id of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that the program's output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the program still runs (a paused one does).
    pub fn is_running(&mut self) -> bool {
        matches!(self.guard.try_wait(), Ok(None))
    }

    /// Waits until the program has ended by itself, and gives its exit code: 128 + n if signal n ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        self.guard.wait().await.ok().and_then(|status| status.code())
    }

    /// Asks the program to end, lets the guard kill it after its grace, and returns when it and all that it started are
    /// gone. Nothing happens if it has ended already.
    pub async fn stop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"s").await;
        }
        let _ = self.guard.wait().await;
    }

    /// Kills the program and all that it started with SIGKILL, as a machine's sudden end would, and returns when they
    /// are gone.
    pub async fn kill9(&mut self) {
        // Frozen first: none of them can react to the end of another, or start one that would be missed.
        self.pause().await;
        self.signal_all(Signal::KILL);
        let _ = self.guard.wait().await;
    }

    /// Sends the program SIGTERM and does not wait.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Stops the program and all that it started in its tracks (SIGSTOP) until [`resume`](Self::resume), and returns
    /// when they stand still.
    pub async fn pause(&mut self) {
        let Some(pid) = self.target() else { return };
        self.signal(Signal::STOP);
        stand_still(pid).await;
        let family = guard::family(pid);
        self.signal_all(Signal::STOP);
        for pid in family {
            stand_still(pid).await;
        }
    }

    /// Lets a paused program go on.
    pub fn resume(&mut self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&mut self, signal: Signal) {
        let Some(pid) = self.target() else { return };
        // Listed before anything is sent: the children of one that is gone would be someone else's.
        let family = guard::family(pid);
        self.signal(signal);
        for pid in family {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(pid) = self.target() {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// The program's pid while its guard lives: after that the number may belong to another process.
    fn target(&mut self) -> Option<Pid> {
        if self.is_running() { Pid::from_raw(self.pid.cast_signed()) } else { None }
    }
}

/// Waits until every thread of the process is stopped: the signal's sender is told nothing of when it took effect.
/// Bounded, since a thread may be waiting for a disk. Where there is no `/proc`, returns at once.
async fn stand_still(pid: Pid) {
    let threads = format!("/proc/{}/task", pid.as_raw_pid());
    let stopped = || {
        std::fs::read_dir(&threads).into_iter().flatten().flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // `pid (name) state …`; one that ended meanwhile is as still as can be.
            stat.rsplit_once(')')
                .and_then(|(_, rest)| rest.trim_start().chars().next())
                .is_none_or(|state| "TtZX".contains(state))
        })
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !stopped() && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
}
