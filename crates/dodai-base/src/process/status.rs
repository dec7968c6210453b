//! What is known of an instance at a moment.

use std::fmt;
use std::time::SystemTime;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With an exit code.
    Code(i32),
    /// Killed by a signal (its number).
    Signal(i32),
    /// Killed by the kernel because its control group ran out of memory.
    OutOfMemory,
    /// Unknown: its shim was lost.
    Lost,
}

impl Exit {
    /// Whether this is success.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Exit::OutOfMemory => f.write_str("killed for going over its memory limit"),
            Exit::Lost => f.write_str("lost: its shim was killed"),
        }
    }
}

/// The phase of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being started, or its startup probe has not succeeded yet.
    Starting,
    /// Runs and may be called.
    Ready,
    /// Runs but its readiness probe fails.
    Unready,
    /// Ended; starts again at a time.
    BackingOff {
        /// When.
        until: SystemTime,
        /// The how-manieth restart in a row this will be, from 1.
        attempt: u32,
    },
    /// Asked to end.
    Stopping,
    /// Ended for good, as it should. The code is absent when a signal ended it.
    Exited {
        /// The exit code.
        code: Option<i32>,
    },
    /// Ended for good, as it should not.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Phase {
    /// Whether nothing will happen any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Phase::Exited { .. } | Phase::Failed { .. })
    }
}

/// The state of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The phase.
    pub phase: Phase,
    /// The id of the main process while it runs, as the base sees it.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// When the current or last process started.
    pub started_at: Option<SystemTime>,
    /// How the last process ended.
    pub last_exit: Option<Exit>,
    /// Why it is in this phase, where that is not plain: a failed probe, a refused start.
    pub reason: Option<String>,
    /// What does not hold here although the spec asks for it.
    pub conditions: Vec<String>,
}

impl Status {
    pub(super) fn new() -> Status {
        Status {
            phase: Phase::Starting,
            pid: None,
            restarts: 0,
            started_at: None,
            last_exit: None,
            reason: None,
            conditions: Vec::new(),
        }
    }
}
