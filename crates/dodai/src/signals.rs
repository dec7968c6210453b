//! The end of a long-running command: SIGINT or SIGTERM, and a second one for those in a hurry.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT or SIGTERM. Cancel safe.
pub async fn asked_to_stop() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        // Both only wait.
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
