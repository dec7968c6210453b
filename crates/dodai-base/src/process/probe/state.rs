//! The pure part of probing: which check is due when, and what its result changes.

use tokio::time::Instant;

use super::{Probe, Probes};

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Startup,
    Readiness,
    Liveness,
}

impl Which {
    fn as_str(self) -> &'static str {
        match self {
            Which::Startup => "startup",
            Which::Readiness => "readiness",
            Which::Liveness => "liveness",
        }
    }
}

/// What is known after a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The startup probe has not succeeded yet.
    Starting,
    /// May be called.
    Ready,
    /// May not be called; the reason of the last failure.
    Unready(Option<String>),
    /// Must be restarted.
    Dead(String),
}

#[derive(Debug)]
struct Track<C> {
    probe: Probe<C>,
    /// When the next check is due; nothing while one is under way or when it is over.
    due: Option<Instant>,
    passed: bool,
    /// Results in a row that speak against `passed`.
    against: u32,
    /// The last failure.
    failure: Option<String>,
}

impl<C: Clone> Track<C> {
    fn new(probe: &Probe<C>, passed: bool, due: Option<Instant>) -> Track<C> {
        Track { probe: probe.clone(), due, passed, against: 0, failure: None }
    }

    fn observe(&mut self, began: Instant, result: Result<(), String>) {
        self.due = Some(began + self.probe.period);
        let ok = result.is_ok();
        self.failure = result.err();
        if ok == self.passed {
            self.against = 0;
            return;
        }
        self.against += 1;
        let threshold = if ok { self.probe.success_threshold } else { self.probe.failure_threshold };
        if self.against >= threshold {
            (self.passed, self.against) = (ok, 0);
        }
    }
}

/// The probes of one run of a process.
#[derive(Debug)]
pub(super) struct State<C> {
    started: Instant,
    startup: Option<Track<C>>,
    startup_failures: u32,
    readiness: Option<Track<C>>,
    liveness: Option<Track<C>>,
    dead: Option<String>,
}

impl<C: Clone> State<C> {
    pub(super) fn new(probes: &Probes<C>, started: Instant) -> State<C> {
        let begin = |probe: &Probe<C>| started + probe.initial_delay;
        let wait = probes.startup.is_some();
        let later = |probe: &Probe<C>| (!wait).then(|| begin(probe));
        State {
            started,
            startup: probes.startup.as_ref().map(|probe| Track::new(probe, false, Some(begin(probe)))),
            startup_failures: 0,
            readiness: probes.readiness.as_ref().map(|probe| Track::new(probe, false, later(probe))),
            liveness: probes.liveness.as_ref().map(|probe| Track::new(probe, true, later(probe))),
            dead: None,
        }
    }

    /// The check that is due next.
    pub(super) fn next_due(&self) -> Option<(Instant, Which)> {
        let tracks = [
            (Which::Startup, &self.startup),
            (Which::Readiness, &self.readiness),
            (Which::Liveness, &self.liveness),
        ];
        tracks.into_iter().filter_map(|(which, track)| Some((track.as_ref()?.due?, which))).min()
    }

    /// Notes that a check is under way; it is not due again before its result.
    pub(super) fn begin(&mut self, which: Which) -> Option<Probe<C>> {
        let track = self.track(which)?;
        track.due = None;
        Some(track.probe.clone())
    }

    /// Takes the result of a check that began at a time.
    pub(super) fn observe(&mut self, which: Which, began: Instant, now: Instant, result: Result<(), String>) {
        let Some(track) = self.track(which) else { return };
        let failed = result.is_err();
        track.observe(began, result);
        let (passed, threshold) = (track.passed, track.probe.failure_threshold);
        let failure = track.failure.clone().unwrap_or_default();
        match which {
            // It begins as failed, so failures do not speak against it and are counted apart.
            Which::Startup if failed => {
                self.startup_failures += 1;
                if self.startup_failures >= threshold {
                    self.die(which, &failure);
                }
            }
            Which::Startup => self.release(now),
            Which::Liveness if !passed => self.die(which, &failure),
            Which::Readiness | Which::Liveness => {}
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        if let Some(reason) = &self.dead {
            return Verdict::Dead(reason.clone());
        }
        if self.startup.as_ref().is_some_and(|track| !track.passed) {
            return Verdict::Starting;
        }
        match &self.readiness {
            Some(track) if !track.passed => {
                let reason = track.failure.as_ref().map(|failure| format!("readiness probe: {failure}"));
                Verdict::Unready(reason)
            }
            _ => Verdict::Ready,
        }
    }

    /// The startup probe succeeded: it is over, and the others begin.
    fn release(&mut self, now: Instant) {
        if let Some(startup) = &mut self.startup {
            startup.due = None;
        }
        for track in [&mut self.readiness, &mut self.liveness].into_iter().flatten() {
            track.due = Some((self.started + track.probe.initial_delay).max(now));
        }
    }

    fn die(&mut self, which: Which, failure: &str) {
        self.dead = Some(format!("{} probe failed: {failure}", which.as_str()));
        for track in [&mut self.startup, &mut self.readiness, &mut self.liveness].into_iter().flatten() {
            track.due = None;
        }
    }

    fn track(&mut self, which: Which) -> Option<&mut Track<C>> {
        match which {
            Which::Startup => self.startup.as_mut(),
            Which::Readiness => self.readiness.as_mut(),
            Which::Liveness => self.liveness.as_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Check;
    use std::time::Duration;

    fn probe(failures: u32, successes: u32) -> Probe {
        let check = Check::TcpSocket { address: ([127, 0, 0, 1], 1).into() };
        let (failure_threshold, success_threshold) = (failures, successes);
        Probe { failure_threshold, success_threshold, ..Probe::new(check) }
    }

    fn feed(state: &mut State<Check>, which: Which, results: &str) -> String {
        let now = state.started;
        results
            .chars()
            .map(|result| {
                state.begin(which);
                state.observe(which, now, now, if result == '+' { Ok(()) } else { Err("no".into()) });
                match state.verdict() {
                    Verdict::Starting => 'S',
                    Verdict::Ready => 'R',
                    Verdict::Unready(_) => 'U',
                    Verdict::Dead(_) => 'D',
                }
            })
            .collect()
    }

    #[test]
    fn thresholds() {
        #[track_caller]
        fn check(probes: Probes, which: Which, results: &str, expect: &str) {
            let mut state = State::new(&probes, Instant::now());
            assert_eq!(feed(&mut state, which, results), expect, "{which:?} {results}");
        }
        let readiness = |f, s| Probes { readiness: Some(probe(f, s)), ..Probes::default() };
        check(readiness(1, 1), Which::Readiness, "+-+", "RUR");
        check(readiness(3, 1), Which::Readiness, "--+--+---+", "UURRRRRRUR");
        check(readiness(2, 2), Which::Readiness, "+-++--++", "UUURRUUR");
        let liveness = |f| Probes { liveness: Some(probe(f, 1)), ..Probes::default() };
        check(liveness(3), Which::Liveness, "--+---", "RRRRRD");
        let startup = |f| Probes { startup: Some(probe(f, 1)), ..Probes::default() };
        check(startup(3), Which::Startup, "--+", "SSR");
        check(startup(3), Which::Startup, "---", "SSD");
    }

    #[test]
    fn the_others_wait_for_startup_and_for_their_own_delay() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let late = Probe { initial_delay: second * 30, ..probe(3, 1) };
        let probes =
            Probes { startup: Some(probe(3, 1)), readiness: Some(probe(3, 1)), liveness: Some(late) };
        let mut state = State::new(&probes, start);
        assert_eq!(state.next_due(), Some((start, Which::Startup)));
        state.begin(Which::Startup);
        assert_eq!(state.next_due(), None, "one check at a time");
        state.observe(Which::Startup, start, start + second, Err("no".into()));
        assert_eq!(state.next_due(), Some((start + second * 10, Which::Startup)));
        state.begin(Which::Startup);
        state.observe(Which::Startup, start + second * 10, start + second * 11, Ok(()));
        assert_eq!(state.next_due(), Some((start + second * 11, Which::Readiness)));
        state.begin(Which::Readiness);
        assert_eq!(state.next_due(), Some((start + second * 30, Which::Liveness)));
    }

    #[test]
    fn a_dead_process_is_not_probed_any_more_and_the_reason_is_told() {
        let probes = Probes { liveness: Some(probe(1, 1)), readiness: Some(probe(1, 1)), startup: None };
        let mut state = State::new(&probes, Instant::now());
        feed(&mut state, Which::Liveness, "-");
        assert_eq!(state.verdict(), Verdict::Dead("liveness probe failed: no".into()));
        assert_eq!(state.next_due(), None);
    }

    #[test]
    fn without_probes_it_is_ready_at_once() {
        let state = State::new(&Probes::<Check>::default(), Instant::now());
        assert_eq!(state.verdict(), Verdict::Ready);
        assert_eq!(state.next_due(), None);
    }
}
