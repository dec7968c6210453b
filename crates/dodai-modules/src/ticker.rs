//! The clock that lets the host interrupt running guests: one thread that raises the engine's epoch.
//!
//! It ticks only while calls run, and for a short while after the last one, so that a quiet base is not
//! woken two hundred times a second. A guest notices a tick at its next loop or call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::EngineWeak;

/// The time between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// After so many ticks without a call the thread goes to sleep.
const LINGER_TICKS: u32 = 100;

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    asleep: bool,
    stop: bool,
}

/// The running clock. Dropping it ends its thread.
pub(crate) struct Ticker(Arc<Shared>);

/// Keeps the clock ticking while a call runs.
pub(crate) struct Running(Arc<Shared>);

impl Ticker {
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        std::thread::Builder::new().name("module-ticker".to_owned()).spawn(move || run(&thread, &engine))?;
        Ok(Ticker(shared))
    }

    /// Says that a call begins.
    pub(crate) fn begin(&self) -> Running {
        if self.0.running.fetch_add(1, Ordering::SeqCst) == 0 {
            let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.asleep {
                self.0.wake.notify_one();
            }
        }
        Running(self.0.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stop = true;
        self.0.wake.notify_one();
    }
}

fn run(shared: &Shared, engine: &EngineWeak) {
    let idle = || shared.running.load(Ordering::SeqCst) == 0;
    let mut quiet_ticks = 0;
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    while !state.stop {
        if quiet_ticks >= LINGER_TICKS {
            state.asleep = true;
            while idle() && !state.stop {
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.asleep = false;
            quiet_ticks = 0;
        }
        state = shared.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        quiet_ticks = if idle() { quiet_ticks + 1 } else { 0 };
    }
}
