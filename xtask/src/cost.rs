//! What work cost: wall time, and the CPU seconds of every child that has ended.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// A running measurement.
pub struct Meter {
    started: Instant,
    cpu: Duration,
}

/// What was spent between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub wall: Duration,
    pub cpu: Duration,
}

impl Meter {
    pub fn start() -> Self {
        Self { started: Instant::now(), cpu: children() }
    }

    pub fn spent(&self) -> Cost {
        Cost { wall: self.started.elapsed(), cpu: children().saturating_sub(self.cpu) }
    }
}

/// User and system time of all ended children and theirs.
fn children() -> Duration {
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map(|usage| duration(usage.user_time()) + duration(usage.system_time()))
        .unwrap_or_default()
}

fn duration(time: TimeVal) -> Duration {
    let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Tool;

    #[test]
    fn a_busy_child_is_counted() {
        let meter = Meter::start();
        Tool::new("sh", std::path::Path::new("/"))
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
            .output()
            .expect("sh runs");
        let spent = meter.spent();
        assert!(spent.cpu > Duration::from_millis(5), "{spent:?}");
        assert!(spent.wall > Duration::ZERO);
    }
}
