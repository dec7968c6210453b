//! The end of a long-running command: SIGINT, SIGTERM, or SIGHUP of a terminal that closes, and a second one of the first
//! two for those in a hurry.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Output;

/// What a shell says of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// SIGINT, SIGTERM and SIGHUP from one moment on. None is lost between two waits, and none of them ends the process
/// by itself any more.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started the process had it ignore them (`nohup`), which holds.
    hang_up: Option<Signal>,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// The operating system refuses it.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// Waits for the next one. Cancel safe.
    pub async fn next(&mut self) {
        let Signals { interrupt, terminate, hang_up } = self;
        let hung_up = async {
            match hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // All only wait.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
    }

    /// Waits for one of somebody who asks. A terminal that closes sends SIGHUP more than once: by itself, and by its shell.
    async fn hurried(&mut self) {
        tokio::select! {
            // Both only wait.
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Lets an orderly stop run to its end, or to the next signal. The process then ends without it: the shims
    /// of supervised processes see that and take these along, so that none is left behind.
    pub async fn unless_hurried(&mut self, stop: impl Future<Output = ()>, output: &Output) -> ExitCode {
        tokio::select! {
            // What a cut stop left undone is what a crash would leave, which the next start mends.
            () = stop => ExitCode::SUCCESS,
            () = self.hurried() => {
                output.warn("stopped at once: what was under way was cut");
                ExitCode::from(INTERRUPTED)
            }
        }
    }
}

/// Whether the process came to be with SIGHUP ignored.
fn ignores_hang_up() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, 1))
}

/// Whether the signal of a number is among those that `/proc/PID/status` (proc_pid_status(5)) says are ignored.
fn is_ignored(status: &str, signal: u32) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_known() {
        let status = "Name:\tdodai\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, 1) && is_ignored(status, 13) && !is_ignored(status, 2));
        assert!(!is_ignored("SigIgn:\t0000000000001000\n", 1) && !is_ignored("", 1));
    }
}
