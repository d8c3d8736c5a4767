//! A server of a private stack: its process, which runs or doesn't, and its folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::folder::{self, Scratch};
use super::guarded::{GuardedCommand, GuardedProcess};
use super::{START_DEADLINE, StackError};
use crate::cli::servers::Version;

/// A server that runs, or was stopped or killed, with its data. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    command: GuardedCommand,
    process: Option<GuardedProcess>,
    /// Dropped after the process, so that a guard which still runs is the one to remove the folder.
    scratch: Option<Scratch>,
    folder: PathBuf,
    port: u16,
    version: Version,
}

impl Server {
    /// A server that messages call `name`, to be started by [`run`](Self::run).
    pub(super) fn new(name: &'static str, command: GuardedCommand, folder: &Path, port: u16, version: Version) -> Self {
        Self { name, command, process: None, scratch: None, folder: folder.to_path_buf(), port, version }
    }

    /// From now on its folder is removed with it, if it is to be.
    pub(super) fn remove_with_it(&mut self, scratch: Option<Scratch>) {
        self.scratch = scratch;
    }

    /// Starts its process and returns when it `answers`, or with what was wrong with the last answer.
    ///
    /// # Errors
    /// [`StackError::Failed`] with the end of its log, if it doesn't come up.
    pub(super) async fn run(&mut self, answers: impl AsyncFn() -> Result<(), String>) -> Result<(), StackError> {
        let process = self.process.insert(GuardedProcess::spawn(&self.command).await?);
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let Err(why) = answers().await else { return Ok(()) };
            if !process.is_running() {
                return Err(StackError::failed(self.name, "it ended while it started", &self.command.log));
            }
            if Instant::now() > deadline {
                let why = format!("it did not answer in time: {why}");
                return Err(StackError::failed(self.name, &why, &self.command.log));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same again, on the same port and data, after stopping it if it still runs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) async fn run_again(&mut self, answers: impl AsyncFn() -> Result<(), String>) -> Result<(), StackError> {
        self.stop().await;
        folder::wait_until_free(&self.folder).await?;
        self.run(answers).await
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The process id of the server's first process, `None` when it doesn't run.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(GuardedProcess::pid)
    }

    /// Its folder, with `server.log` in it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stops it in good order and returns when it is gone.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop().await;
        }
    }

    /// Kills all its processes with SIGKILL and returns when they are gone: what was not synced may be lost only if the
    /// machine goes down too.
    pub async fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9().await;
        }
    }

    /// Stops all its processes in their tracks: connections stay open and nothing answers.
    pub async fn pause(&mut self) {
        if let Some(process) = &mut self.process {
            process.pause().await;
        }
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&mut self) {
        if let Some(process) = &mut self.process {
            process.resume();
        }
    }

    /// Waits until it ends without having been stopped or killed here.
    pub async fn failure(&mut self) -> StackError {
        match &mut self.process {
            Some(process) => {
                process.ended().await;
                StackError::Ended { server: self.name, log_tail: super::last_lines(process.log()) }
            }
            None => std::future::pending().await,
        }
    }
}
