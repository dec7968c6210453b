//! The shim's loop: it reaps, obeys the lease, and ends everything when the lease is lost. The walk over
//! `/proc` only decides whom to signal; what decides that all are gone is the kernel saying "no child left",
//! because every orphan below is handed to this process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid};

use super::child::Ended;
use super::wire::{self, Decoder, FromShim, Program, Ran, Start, ToShim};
use super::{child, tree};

/// How often SIGKILL is repeated while something is left, at first and later.
const KILL_EVERY: Duration = Duration::from_millis(20);
const KILL_EVERY_WHEN_STUCK: Duration = Duration::from_secs(1);
/// When processes that survive SIGKILL are reported.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How many commands may run beside the app at once; more are refused.
const MAX_RUNS: usize = 8;

/// How descendants are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// This is process 1 of its own PID namespace.
    Namespace,
    /// This is a child subreaper.
    Subtree,
}

enum Phase {
    Running,
    /// Asked to end; killed at the deadline.
    Ending {
        deadline: Instant,
    },
    /// Killed again and again until nothing is left.
    Killing {
        since: Instant,
        again: Instant,
        reported: bool,
    },
}

struct Run {
    id: u64,
    deadline: Instant,
    timed_out: bool,
}

pub(super) struct Keeper {
    scope: Scope,
    lease: Option<UnixStream>,
    decoder: Decoder,
    main: Option<Pid>,
    runs: BTreeMap<Pid, Run>,
    phase: Phase,
    lease_grace: Duration,
    leftover_grace: Duration,
    oom_events: Option<PathBuf>,
    oom_kills_before: u64,
    groups: Vec<PathBuf>,
    oom_score: Option<i32>,
}

impl Keeper {
    pub(super) fn new(
        scope: Scope,
        lease: UnixStream,
        decoder: Decoder,
        start: Start,
        main: Pid,
        oom_score: Option<i32>,
    ) -> Keeper {
        // The start message (with the app's secrets) is dropped here; only what ends the app is kept.
        let Start { program, lease_grace_ms, leftover_grace_ms, oom_events, .. } = start;
        let oom_kills_before = oom_events.as_deref().map_or(0, oom_kills);
        Keeper {
            scope,
            lease: Some(lease),
            decoder,
            main: Some(main),
            runs: BTreeMap::new(),
            phase: Phase::Running,
            lease_grace: bounded(lease_grace_ms),
            leftover_grace: bounded(leftover_grace_ms),
            oom_events,
            oom_kills_before,
            groups: program.cgroups,
            oom_score,
        }
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        if let Some(main) = self.main {
            self.tell(&FromShim::Started { pid: main.as_raw(), isolated: self.scope == Scope::Namespace });
        }
        self.obey();
        loop {
            if !self.reap() {
                break;
            }
            self.expire(Instant::now());
            let readable = self.wait(&signals)?;
            while let Ok(Some(_)) = signals.read_signal() {}
            if readable {
                self.listen();
            }
        }
        remove_groups(&self.groups);
        Ok(())
    }

    /// Sleeps until something happens or the next deadline; says whether the lease has something to read.
    fn wait(&self, signals: &SignalFd) -> io::Result<bool> {
        let timeout = self.next_deadline().map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(lease) = &self.lease {
            fds.push(PollFd::new(lease.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(fds.get(1).and_then(PollFd::any).unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Running => None,
            Phase::Ending { deadline } => Some(deadline),
            Phase::Killing { again, .. } => Some(again),
        };
        let run = self.runs.values().filter(|run| !run.timed_out).map(|run| run.deadline).min();
        phase.into_iter().chain(run).min()
    }

    /// Collects every ended child; false when no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match child::reap() {
                Ok(Some(Ended { pid, code, signal })) => self.ended(pid, code, signal),
                Ok(None) => return true,
                Err(Errno::ECHILD) => return false,
                Err(_) => {}
            }
        }
    }

    fn ended(&mut self, pid: Pid, code: Option<i32>, signal: Option<i32>) {
        if let Some(run) = self.runs.remove(&pid) {
            // What the command left behind goes with its group.
            let _ = killpg(pid, Signal::SIGKILL);
            let outcome = match (run.timed_out, code, signal) {
                (true, ..) => Ran::TimedOut,
                (false, Some(code), _) => Ran::Exited { code },
                (false, None, signal) => Ran::Signaled { signal: signal.unwrap_or(0) },
            };
            self.tell(&FromShim::Ran { id: run.id, outcome });
        }
        if self.main != Some(pid) {
            return;
        }
        self.main = None;
        let oom = self.oom_events.as_deref().is_some_and(|file| oom_kills(file) > self.oom_kills_before);
        self.tell(&FromShim::Exited { code, signal, oom });
        self.signal_all(Signal::SIGTERM);
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Ending { deadline: Instant::now() + self.leftover_grace };
        }
    }

    fn expire(&mut self, now: Instant) {
        for (pid, run) in &mut self.runs {
            if !run.timed_out && run.deadline <= now {
                run.timed_out = true;
                let _ = killpg(*pid, Signal::SIGKILL);
            }
        }
        match self.phase {
            Phase::Running => {}
            Phase::Ending { deadline } if deadline <= now => self.kill_all(now),
            Phase::Ending { .. } => {}
            Phase::Killing { since, again, reported } => {
                // Also before its time, after a child was reaped: its children have only now become ours.
                self.signal_all(Signal::SIGKILL);
                let stuck = now.saturating_duration_since(since) >= STUCK_AFTER;
                if stuck && !reported {
                    self.tell(&FromShim::Stuck { pids: tree::descendants(getpid().as_raw()) });
                }
                let every = if stuck { KILL_EVERY_WHEN_STUCK } else { KILL_EVERY };
                let again = if again <= now { now + every } else { again };
                self.phase = Phase::Killing { since, again, reported: reported || stuck };
            }
        }
    }

    fn kill_all(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Killing { .. }) {
            self.phase = Phase::Killing { since: now, again: now + KILL_EVERY, reported: false };
        }
        self.signal_all(Signal::SIGKILL);
    }

    fn signal_all(&self, signal: Signal) {
        match self.scope {
            Scope::Namespace => {
                let _ = kill(Pid::from_raw(-1), signal);
            }
            Scope::Subtree => {
                for pid in tree::descendants(getpid().as_raw()) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
                if let Some(main) = self.main {
                    let _ = kill(main, signal);
                }
            }
        }
        if signal == Signal::SIGKILL {
            self.groups.iter().for_each(|group| kill_group(group));
        }
    }

    fn listen(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        let mut chunk = [0; 4096];
        match lease.read(&mut chunk) {
            Ok(0) => self.lose_lease(),
            Ok(n) => {
                self.decoder.push(&chunk[..n]);
                self.obey();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.lose_lease(),
        }
    }

    fn obey(&mut self) {
        loop {
            match self.decoder.next::<ToShim>() {
                Ok(Some(ToShim::Stop { signal, grace_ms })) => self.stop(signal, bounded(grace_ms)),
                Ok(Some(ToShim::Kill)) => self.kill_all(Instant::now()),
                Ok(Some(ToShim::Run { id, program, timeout_ms })) => {
                    self.run_beside(id, &program, bounded(timeout_ms));
                }
                // Only the first message starts something.
                Ok(Some(ToShim::Start(_))) => {}
                Ok(None) => return,
                // A base that talks nonsense cannot be obeyed any more: as if it were gone.
                Err(_) => return self.lose_lease(),
            }
        }
    }

    fn stop(&mut self, signal: i32, grace: Duration) {
        let deadline = Instant::now() + grace;
        if let (Some(main), Ok(signal)) = (self.main, Signal::try_from(signal)) {
            let _ = kill(main, signal);
            // A stopped process could not even begin to end.
            let _ = kill(main, Signal::SIGCONT);
        }
        self.end_by(deadline);
    }

    fn lose_lease(&mut self) {
        self.lease = None;
        self.signal_all(Signal::SIGTERM);
        self.signal_all(Signal::SIGCONT);
        self.end_by(Instant::now() + self.lease_grace);
    }

    fn end_by(&mut self, deadline: Instant) {
        match &mut self.phase {
            Phase::Running => self.phase = Phase::Ending { deadline },
            Phase::Ending { deadline: earlier } => *earlier = deadline.min(*earlier),
            Phase::Killing { .. } => {}
        }
    }

    fn run_beside(&mut self, id: u64, program: &Program, timeout: Duration) {
        let started = match (&self.phase, self.runs.len()) {
            (Phase::Running, n) if n < MAX_RUNS => {
                child::spawn(program, child::Output::Discard, self.oom_score)
            }
            (Phase::Running, n) => Err(format!("{n} commands run already")),
            _ => Err("the app is being stopped".into()),
        };
        match started {
            Ok(pid) => {
                let deadline = Instant::now() + timeout;
                self.runs.insert(pid, Run { id, deadline, timed_out: false });
            }
            Err(reason) => self.tell(&FromShim::Ran { id, outcome: Ran::Refused { reason } }),
        }
    }

    fn tell(&mut self, message: &FromShim) {
        // A failure here shows as the end of the lease on the next read.
        if let Some(lease) = &mut self.lease {
            let _ = wire::send(lease, message);
        }
    }
}

/// A duration that can be added to any moment.
fn bounded(ms: u64) -> Duration {
    Duration::from_millis(ms.min(7 * 24 * 3600 * 1000))
}

/// Kills what is in a control group, also what no walk over parents would find.
fn kill_group(group: &Path) {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let Ok(list) = fs::read_to_string(group.join("cgroup.procs")) else { return };
    // 0 stands for a process outside this PID namespace; kill(0) would be our own group.
    let me = getpid().as_raw();
    for pid in list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1 && *pid != me) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes the control groups of an app that has ended, so that none is left when the base is gone.
pub(super) fn remove_groups(groups: &[PathBuf]) {
    for group in groups {
        let _ = fs::remove_dir(group);
    }
}

/// The count in `memory.events` (v2) or `memory.oom_control` (v1).
fn oom_kills(file: &Path) -> u64 {
    fs::read_to_string(file).map_or(0, |text| parse_oom_kills(&text))
}

pub(crate) fn parse_oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_counters_of_both_versions() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 12\noom 5\noom_kill 4\noom_group_kill 0\n";
        assert_eq!(parse_oom_kills(v1), 3);
        assert_eq!(parse_oom_kills(v2), 4);
        assert_eq!(parse_oom_kills(""), 0);
    }
}
