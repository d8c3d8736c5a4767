//! The signals by which a person or a system ends a program, for commands that have to tidy up first.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears them from when it is made; the program isn't ended by them any more.
pub struct Signals {
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// One that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-\\.
    Quit,
    /// What `kill` sends.
    Terminate,
    /// The terminal went away.
    Hangup,
}

impl Received {
    /// The exit code that tells of it, as shells do: 128 + n.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Quit => 131,
            Self::Terminate => 143,
        }
    }
}

impl Signals {
    /// # Errors
    /// When they can't be handled.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.interrupt.recv() => Received::Interrupt,
            _ = self.quit.recv() => Received::Quit,
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.hangup.recv() => Received::Hangup,
        }
    }
}
