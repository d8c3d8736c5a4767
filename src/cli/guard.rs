//! `central-hub guard`: keeps one program running exactly as long as its parent lives.
//!
//! The parent holds the write end of a pipe that is the guard's stdin. However the parent ends, `kill -9` included, the
//! kernel closes that pipe, and the guard stops its program. So private servers never outlive who started them.
//!
//! What the two say to each other: the guard writes `pid <n>` as its first line on stdout once the program runs; the
//! parent writes one byte to ask for a stop, or closes the pipe.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long a guard waits for a folder that another server still holds: longer than any grace used here, because the
/// guards of a parent that was killed need that long to stop their servers.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// `central-hub guard --signal TERM [--grace 5s] [--uid N --gid N] [--lock FOLDER [--scratch]] -- program args…`
#[derive(Debug, Clone, clap::Args)]
pub struct GuardArgs {
    /// The signal that asks the program to end
    #[arg(long, value_enum, default_value_t = StopSignal::Term)]
    pub signal: StopSignal,
    /// How long the program may take to end before it is killed
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub grace: Duration,
    /// Run the program as this user id
    #[arg(long, requires = "gid")]
    pub uid: Option<u32>,
    /// Run the program as this group id
    #[arg(long, requires = "uid")]
    pub gid: Option<u32>,
    /// Lock this folder while the program or any process it started lives
    #[arg(long, value_name = "FOLDER")]
    pub lock: Option<PathBuf>,
    /// Remove the locked folder, and its parent if that is empty then, when the parent process is gone
    #[arg(long, requires = "lock")]
    pub scratch: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// The signals by which servers are asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum StopSignal {
    /// PostgreSQL: roll back what runs, write a checkpoint, end.
    Int,
    /// The usual one.
    Term,
    /// PostgreSQL: end at once, recover at the next start.
    Quit,
}

impl StopSignal {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            StopSignal::Int => "INT",
            StopSignal::Term => "TERM",
            StopSignal::Quit => "QUIT",
        }
    }

    fn number(self) -> Signal {
        match self {
            StopSignal::Int => Signal::INT,
            StopSignal::Term => Signal::TERM,
            StopSignal::Quit => Signal::QUIT,
        }
    }
}

/// Why the program could not be guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The program didn't start.
    #[error("{} doesn't start: {source}", .program.to_string_lossy())]
    Spawn {
        /// What was to be started.
        program: OsString,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another server still runs in the folder.
    #[error("{} is still in use by another server", .folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// A call to the system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What came through the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// It asks for a stop, and lives on.
    AskedToStop,
    /// It ended or let go of the program.
    Gone,
}

/// Runs the program until it ends or the parent is gone. Returns the program's exit code, 128 + n if signal n ended it.
///
/// Must be called inside a tokio runtime with signals and time.
///
/// # Errors
/// [`GuardError`] if the program never ran or couldn't be waited for.
pub async fn run(args: GuardArgs) -> Result<u8, GuardError> {
    let system = |what| move |source| GuardError::System { what, source };
    let mut parent = listen_to_parent();
    // A guard that dies of a stray signal would leave its program behind.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("handle SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("handle SIGTERM"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(system("handle SIGHUP"))?;
    adopt_orphans();

    let lock = match &args.lock {
        Some(folder) => tokio::select! {
            lock = lock(folder) => Some(lock?),
            _ = &mut parent => return Ok(0),
        },
        None => None,
    };
    if let Some(lock) = &lock {
        // The program inherits the lock: it is free again when the last process below us is gone, even if we are killed.
        rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())
            .map_err(|error| GuardError::System { what: "share the lock", source: error.into() })?;
    }

    let mut child = spawn(&args).await?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    // If nobody reads this any more, the pipe tells so at once.
    let _ = writeln!(std::io::stdout(), "pid {}", child.id().unwrap_or_default());

    let (ended, why) = tokio::select! {
        status = child.wait() => (Some(status.map_err(system("wait for the program"))?), None),
        word = &mut parent => (None, Some(word.unwrap_or(Parent::Gone))),
        _ = interrupt.recv() => (None, None),
        _ = terminate.recv() => (None, None),
        _ = hangup.recv() => (None, None),
    };
    let status = match ended {
        Some(status) => status,
        None => stop(&mut child, pid, args.signal, args.grace).await.map_err(system("wait for the program"))?,
    };
    leave_no_orphans(pid, args.grace).await;
    if let (true, Some(Parent::Gone), Some(folder)) = (args.scratch, why, &args.lock) {
        remove_scratch(folder);
    }
    Ok(exit_code(status))
}

/// Waits for the parent's byte or its end in a thread of its own, since a read of stdin can't be given up.
fn listen_to_parent() -> oneshot::Receiver<Parent> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        let word = loop {
            match std::io::stdin().read(&mut byte) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(1) => break Parent::AskedToStop,
                _ => break Parent::Gone,
            }
        };
        let _ = sender.send(word);
    });
    receiver
}

/// Takes the folder's lock, waiting up to [`LOCK_PATIENCE`].
async fn lock(folder: &Path) -> Result<std::fs::File, GuardError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        if let Some(lock) = try_lock(folder).map_err(|source| GuardError::System { what: "lock the folder", source })? {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            return Err(GuardError::Locked { folder: folder.to_path_buf() });
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Takes a folder's lock if it is free. The lock ends when the file, and every copy a child inherited, is closed.
///
/// # Errors
/// What the system says if the folder can't be opened or locked.
pub fn try_lock(folder: &Path) -> std::io::Result<Option<std::fs::File>> {
    let file = std::fs::File::open(folder)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn spawn(args: &GuardArgs) -> Result<Child, GuardError> {
    let program = args.program.first().cloned().unwrap_or_default();
    let failed = |source| GuardError::Spawn { program: program.clone(), source };
    // A program copied a moment ago may look busy while another thread of the parent forks.
    for _ in 0..50 {
        let mut command = Command::new(&program);
        command.args(&args.program[1..]).stdin(Stdio::null());
        // Our stdout is the parent's pipe, and not for the program.
        command.stdout(log().map_err(failed)?).stderr(log().map_err(failed)?);
        command.process_group(0);
        if let (Some(uid), Some(gid)) = (args.uid, args.gid) {
            command.uid(uid).gid(gid);
        }
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                sleep(Duration::from_millis(20)).await;
            }
            result => return result.map_err(failed),
        }
    }
    Err(failed(std::io::ErrorKind::ExecutableFileBusy.into()))
}

/// Where our own errors go: the log that the parent opened for us.
fn log() -> std::io::Result<Stdio> {
    Ok(Stdio::from(std::io::stderr().as_fd().try_clone_to_owned()?))
}

/// Asks the program to end, and kills it with all that it started when the grace is over.
async fn stop(child: &mut Child, pid: Option<Pid>, signal: StopSignal, grace: Duration) -> std::io::Result<ExitStatus> {
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal.number());
        // One that is paused must wake up to hear it.
        send_to_family(rustix::process::getpid(), Signal::CONT);
        let _ = rustix::process::kill_process(pid, Signal::CONT);
    }
    if let Ok(status) = timeout(grace, child.wait()).await {
        return status;
    }
    send_to_family(rustix::process::getpid(), Signal::KILL);
    child.start_kill()?;
    child.wait().await
}

/// Sends a signal to every process below `root`, not to `root` itself. Where there is no `/proc`, to none.
fn send_to_family(root: Pid, signal: Signal) {
    for pid in family(root) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The processes below `root`, parents before children. PostgreSQL gives each of its processes a session of its own, so
/// a process group doesn't reach them. Empty where there is no `/proc`.
pub(crate) fn family(root: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parents: Vec<(i32, i32)> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // `pid (name) state parent …`; the name may hold spaces and brackets.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root.as_raw_pid()];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

/// Makes us the parent of every process below us whose own parent ends, where the system can do that.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Waits for what the program left behind, and kills what is still there after the grace.
async fn leave_no_orphans(group: Option<Pid>, grace: Duration) {
    let deadline = Instant::now() + grace;
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => break,
        }
        if Instant::now() > deadline {
            send_to_family(rustix::process::getpid(), Signal::KILL);
        }
        sleep(Duration::from_millis(10)).await;
    }
    // Elsewhere orphans aren't ours to wait for; those that stayed in the program's group are reached by it.
    #[cfg(not(target_os = "linux"))]
    if let Some(group) = group {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    #[cfg(target_os = "linux")]
    let _ = group;
}

/// Removes a scratch folder; the last server's guard takes the folder of the whole stack with it.
pub(crate) fn remove_scratch(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
    if let Some(parent) = folder.parent() {
        let _ = std::fs::remove_dir(parent);
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
