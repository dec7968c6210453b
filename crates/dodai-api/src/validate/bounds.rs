//! Bounds of processes and probes: what a base would refuse at the start is refused here, where it is written.

use std::time::Duration;

use super::Findings;
use crate::app::{AppSpec, Probe};
use crate::quantity::TimeSpan;
use crate::read::Code;

/// The least memory that anything starts in.
const MIN_MEMORY: u64 = 1 << 20;
/// The least share of a processor that the kernel takes, in thousandths.
const MIN_CPU: u32 = 10;
/// The fewest open files that anything starts with.
const MIN_FILES: u32 = 8;
/// The smallest log file.
const MIN_LOG: u64 = 4096;
/// The longest that a base waits for anything of a process.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The greatest age that a connection may be bounded to.
const OLDEST: Duration = Duration::from_secs(12 * 3600);

/// The age that connections are bounded to.
pub(super) fn connection_age(path: String, age: TimeSpan, found: &mut Findings) {
    if age.get() < Duration::from_secs(10) || age.get() > OLDEST {
        let message = format!("{age} is out of range");
        found.error(Code::InvalidValue, path, message, "write a time from `10s` to `12h`, or leave it out");
    }
}

pub(super) fn check(spec: &AppSpec, found: &mut Findings) {
    if let Some(process) = &spec.process {
        span("spec.process.stop.grace", process.stop.grace, found);
        span("spec.process.restart.backoff.max", process.restart.backoff.max, found);
        if (1..MIN_LOG).contains(&process.logs.max_size.bytes()) {
            least("spec.process.logs.maxSize", "a log file this small holds next to nothing", "4Ki", found);
        }
    }
    if spec.limits.memory.is_some_and(|memory| (1..MIN_MEMORY).contains(&memory.bytes())) {
        least("spec.limits.memory", "nothing starts in so little memory", "1Mi", found);
    }
    if spec.limits.cpu.is_some_and(|cpu| cpu.millis() < MIN_CPU) {
        least("spec.limits.cpu", "the kernel takes no smaller share", "10m", found);
    }
    if spec.limits.open_files.is_some_and(|files| (1..MIN_FILES).contains(&files)) {
        least("spec.limits.openFiles", "nothing starts with so few", "8", found);
    }
    let probes = &spec.probes;
    for (name, probe) in
        [("readiness", &probes.readiness), ("liveness", &probes.liveness), ("startup", &probes.startup)]
    {
        if let Some(probe) = probe {
            check_probe(name, probe, found);
        }
    }
}

fn check_probe(name: &str, probe: &Probe, found: &mut Findings) {
    let path = format!("spec.probes.{name}");
    for (key, value) in
        [("period", probe.period), ("timeout", probe.timeout), ("initialDelay", probe.initial_delay)]
    {
        span(&format!("{path}.{key}"), value, found);
    }
    if name != "readiness" && probe.success_threshold > 1 {
        let message = "only readiness may need several successes";
        let remedy = "leave it out, or put it on `readiness`";
        found.error(Code::InvalidValue, format!("{path}.successThreshold"), message, remedy);
    }
    let plain = |c: char| !c.is_ascii_control() && c != ' ';
    if let Some(get) = probe.http_get.as_ref().filter(|get| !get.path.chars().all(plain)) {
        let message = format!("`{}` is not a path", crate::Invalid::shorten(&get.path));
        let remedy = "write a space as `%20`, and nothing that is not printed";
        found.error(Code::InvalidValue, format!("{path}.httpGet.path"), message, remedy);
    }
}

fn span(path: &str, value: TimeSpan, found: &mut Findings) {
    if value.get() > LONGEST {
        found.error(Code::InvalidValue, path, format!("{value} is more than a day"), "write `24h` or less");
    }
}

fn least(path: &str, message: &str, bound: &str, found: &mut Findings) {
    found.error(Code::InvalidValue, path, message, format!("write `{bound}` or more, or leave it out"));
}
