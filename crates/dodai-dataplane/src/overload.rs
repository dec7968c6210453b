//! How many calls to a service may be under way from this base, fixed or found by how quick it answers, and which are
//! shed first when that is near.
//!
//! The found limit follows the gradient of latency: as long as answers come about as fast as they used to, it grows by
//! about its root; when they slow down, work is queueing there, and it shrinks in proportion. One call in a window does
//! the sums, without a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::snapshot::{Concurrency, Priority};
use http::HeaderName;

use crate::spine::Forward;
use crate::tally::{Event, Tally};

/// Answers that are looked at together.
const WINDOW: u32 = 50;
/// Where a limit begins that is to be found.
const FIRST: u32 = 20;
/// The least that a limit shrinks to: fewer calls would say nothing of how quick the service is.
const LEAST: f64 = 4.0;
/// The most it grows to where nothing else is said.
const MOST: u32 = 1000;
/// Latencies this much above the usual are noise.
const TOLERANCE: f64 = 1.5;

/// The limit of one service in live form.
#[derive(Debug)]
pub struct Overload {
    spec: Concurrency,
    /// The limit in force, in thousandths.
    limit: AtomicU64,
    /// The answers of the window under way, and their latencies in nanoseconds.
    count: AtomicU32,
    sum: AtomicU64,
    /// The usual latency in nanoseconds; 0 before the first window.
    usual: AtomicU64,
    /// The most calls that were under way in the window.
    peak: AtomicU32,
    learning: AtomicBool,
    /// What was shed.
    pub tally: Tally,
}

impl Overload {
    /// The limit that `spec` asks for.
    pub fn new(spec: &Concurrency) -> Overload {
        let most = spec.limit.unwrap_or(MOST);
        let first = if spec.adaptive { FIRST.min(most) } else { most };
        Overload {
            spec: spec.clone(),
            limit: AtomicU64::new(u64::from(first) * 1000),
            count: AtomicU32::new(0),
            sum: AtomicU64::new(0),
            usual: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            learning: AtomicBool::new(false),
            tally: Tally::default(),
        }
    }

    /// Whether it is what `spec` asks for.
    pub fn is_of(&self, spec: &Concurrency) -> bool {
        self.spec == *spec
    }

    /// The limit in force.
    pub fn limit(&self) -> u32 {
        u32::try_from(self.limit.load(Relaxed) / 1000).unwrap_or(u32::MAX).max(1)
    }

    /// Lets a call in beside `under_way` others, or sheds it. Those that matter less leave room for those that matter
    /// more.
    pub fn admit(&self, priority: Priority, under_way: u32, name: &str) -> Result<(), Failure> {
        if self.spec.adaptive {
            self.peak.fetch_max(under_way + 1, Relaxed);
        }
        let limit = u64::from(self.limit());
        let percent = match priority {
            Priority::High => 100,
            Priority::Normal => 90,
            Priority::Low => 70,
        };
        let room = (limit * percent / 100).max(1);
        if u64::from(under_way) < room {
            return Ok(());
        }
        self.tally.count(Event::Shed);
        let text = format!("{under_way} calls to {name} are under way, and {limit} are what it bears");
        Err(Failure::new(Kind::Shed, text))
    }

    /// An answer came `took` nanoseconds after its call went out.
    pub fn learn(&self, took: u64) {
        if !self.spec.adaptive {
            return;
        }
        self.sum.fetch_add(took, Relaxed);
        if self.count.fetch_add(1, Relaxed) + 1 < WINDOW || self.learning.swap(true, Relaxed) {
            return;
        }
        let (count, sum) = (self.count.swap(0, Relaxed), self.sum.swap(0, Relaxed));
        let peak = self.peak.swap(0, Relaxed);
        self.settle(sum as f64 / f64::from(count.max(1)), peak);
        self.learning.store(false, Relaxed);
    }

    /// The end of a window of this latency, in which at most `peak` calls were under way.
    fn settle(&self, latency: f64, peak: u32) {
        let limit = self.limit.load(Relaxed) as f64 / 1000.0;
        let usual = match self.usual.load(Relaxed) {
            0 => latency,
            // What is quicker is believed at once, what is slower only if it stays.
            usual if latency < usual as f64 => latency,
            usual => usual as f64 * 0.98 + latency * 0.02,
        };
        self.usual.store(usual.max(1.0) as u64, Relaxed);
        let gradient = (TOLERANCE * usual / latency.max(1.0)).clamp(0.5, 1.0);
        // A limit that nothing comes near has not been tried.
        if gradient >= 1.0 && f64::from(peak) < limit / 2.0 {
            return;
        }
        let wanted = limit * gradient + if gradient >= 1.0 { limit.sqrt() } else { 0.0 };
        let most = f64::from(self.spec.limit.unwrap_or(MOST));
        let next = (limit * 0.8 + wanted * 0.2).clamp(LEAST.min(most), most);
        self.limit.store((next * 1000.0) as u64, Relaxed);
    }
}

/// How much a call matters: what its head says where its service asks for that, else what its rule says. A caller may
/// say that it matters less than its way makes it, not more: then the next hop is told what holds.
pub fn priority(
    forward: &Forward,
    overload: &Overload,
    head: &RequestHead<'_>,
    outside: bool,
    edits: &mut Edits,
) -> Priority {
    let name = overload.spec.priority_header.as_deref();
    let told = match name.and_then(|name| head.header(name)) {
        Some(b"high") => Some(Priority::High),
        Some(b"normal") => Some(Priority::Normal),
        Some(b"low") => Some(Priority::Low),
        Some(_) | None => None,
    };
    let rule = forward.rule.as_ref().and_then(|rule| rule.policy.priority);
    let most = rule.or(outside.then_some(Priority::Normal));
    let (Some(told), Some(most)) = (told, most) else { return told.or(most).unwrap_or(Priority::Normal) };
    if told > most
        && let Some(name) = name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok())
    {
        edits.push(Edit::Set(name, Short::from_slice(text(most).as_bytes())));
    }
    told.min(most)
}

fn text(priority: Priority) -> &'static str {
    match priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(most: Option<u32>) -> Overload {
        Overload::new(&Concurrency { limit: most, adaptive: true, priority_header: None })
    }

    /// So many windows in which as many calls were under way as the limit lets in, each of this latency.
    fn run(overload: &Overload, windows: usize, latency: u64) -> u32 {
        for _ in 0..windows * WINDOW as usize {
            let admitted = overload.admit(Priority::High, overload.limit() - 1, "a");
            admitted.expect("there is room");
            overload.learn(latency);
        }
        overload.limit()
    }

    #[test]
    fn the_limit_grows_while_answers_are_quick_and_shrinks_when_they_slow_down() {
        let overload = found(None);
        assert_eq!(overload.limit(), FIRST);
        let grown = run(&overload, 60, 1_000_000);
        assert!(grown > 60, "{grown}");
        let shrunk = run(&overload, 10, 20_000_000);
        assert!(shrunk < grown / 2, "{shrunk} of {grown}");
        assert!(run(&overload, 200, 20_000_000) >= LEAST as u32);
        assert!(run(&overload, 60, 1_000_000) > shrunk, "it recovers");
        let bounded = found(Some(30));
        assert_eq!(run(&bounded, 200, 1_000_000), 30);
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let overload = found(None);
        for _ in 0..50 * WINDOW {
            overload.admit(Priority::High, 0, "a").expect("there is room");
            overload.learn(1_000_000);
        }
        assert_eq!(overload.limit(), FIRST);
    }

    #[test]
    fn what_matters_less_is_shed_first() {
        let overload =
            Overload::new(&Concurrency { limit: Some(10), adaptive: false, priority_header: None });
        let most = |priority| (0..20).take_while(|n| overload.admit(priority, *n, "a").is_ok()).count();
        assert_eq!([Priority::High, Priority::Normal, Priority::Low].map(most), [10, 9, 7]);
        let one = Overload::new(&Concurrency { limit: Some(1), adaptive: false, priority_header: None });
        assert!(one.admit(Priority::Low, 0, "a").is_ok() && one.admit(Priority::High, 1, "a").is_err());
    }
}
