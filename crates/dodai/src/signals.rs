//! The end of a long-running command: SIGINT or SIGTERM, and a second one for those in a hurry.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Output;

/// What a shell says of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// SIGINT and SIGTERM from one moment on. None is lost between two waits, and none of them ends the process
/// by itself any more.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
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
        })
    }

    /// Waits for the next one. Cancel safe.
    pub async fn next(&mut self) {
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
            () = self.next() => {
                output.warn("stopped at once: what was under way was cut");
                ExitCode::from(INTERRUPTED)
            }
        }
    }
}
