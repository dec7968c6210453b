//! Counters become rates and latencies, and rings stay within their bounds.

use super::*;

fn traffic(calls: u64, errors: u64) -> Traffic {
    let stream = Pair {
        caller: "outside".to_owned(),
        app: "default/shop".to_owned(),
        calls,
        errors,
        buckets: vec![calls - errors, errors, 0],
    };
    let revision = Pair { caller: "r1".to_owned(), ..stream.clone() };
    let base = Pair { caller: "one".to_owned(), app: "two".to_owned(), ..stream.clone() };
    Traffic { bounds_s: vec![0.001, 0.01], pairs: vec![stream], revisions: vec![revision], bases: vec![base] }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn counters_become_rates_and_latencies_and_a_silent_second_takes_no_room() {
    let mut history = History::default();
    let none = BTreeMap::new();
    for (second, calls, errors) in [(100, 5, 0), (101, 105, 50), (102, 105, 50), (103, 4, 0), (104, 6, 0)] {
        history.step(second, SECOND, Some(&traffic(calls, errors)), Some(&none));
    }
    let apps = history.apps(history.range(60), None);
    let points: Vec<_> = apps["default/shop"].iter().map(|p| (p.second, p.calls, p.errors)).collect();
    // The first reading has nothing before it, and counters that went back begin anew.
    assert_eq!(points, [(101, 100, 50), (104, 2, 0)]);
    let edge = &history.edges(history.range(60), Some("default/shop"))[0];
    assert_eq!((edge.sum.calls, edge.sum.errors, edge.points.len()), (102, 50, 2));
    assert_eq!(history.latest_edges(), [LiveEdge("outside", "default/shop", 2, 0, 500, 990)]);
    for only in [None, Some("default/shop")] {
        let revisions = history.revisions(history.range(60), only);
        let rows = revisions.iter().map(|one| (one.app.as_str(), one.revision.as_str(), one.sum));
        assert_eq!(rows.collect::<Vec<_>>(), [("default/shop", "r1", edge.sum)]);
    }
    assert!(history.revisions(history.range(60), Some("default/other")).is_empty());
    let bases = history.bases(history.range(60));
    assert_eq!(
        bases.iter().map(|one| (one.from.as_str(), one.to.as_str(), one.sum)).collect::<Vec<_>>(),
        [("one", "two", edge.sum)]
    );
}

#[test]
fn a_quantile_lies_straight_within_its_bucket() {
    let check = |buckets: &[u64], share, expect: f32| {
        let found = quantile(buckets, &[0.001, 0.002], share);
        assert!((found - expect).abs() < 0.5, "{buckets:?} {share}: {found}");
    };
    check(&[0, 0, 0], 0.5, 0.0);
    check(&[100, 0, 0], 0.5, 500.0);
    check(&[50, 50, 0], 0.99, 1980.0);
    check(&[0, 0, 10], 0.5, 2000.0);
}

#[test]
fn what_is_used_is_a_share_of_the_time_between_two_looks() {
    let mut history = History::default();
    let look = |cpu_ms| BTreeMap::from([("default/a".to_owned(), Use { cpu_ms, memory_bytes: 10 })]);
    let none = Traffic::default();
    for (second, cpu_ms) in [(100, Some(1000)), (101, None), (102, Some(500)), (103, None), (104, Some(0))] {
        history.step(second, SECOND, Some(&none), cpu_ms.map(look).as_ref());
    }
    let apps = history.apps(history.range(60), None);
    let shares: Vec<f32> = apps["default/a"].iter().map(|point| point.cpu_milli).collect();
    // Before the first look there is no time to spend it in; between looks the share of before goes on.
    assert_eq!(shares, [0.0, 0.0, 250.0, 250.0, 0.0]);
    assert!(apps["default/a"].iter().all(|point| point.memory_bytes == 10));
}

#[test]
fn rings_are_bounded_in_time_and_number() {
    let mut history = History::default();
    let uses = BTreeMap::from([("default/shop".to_owned(), Use { cpu_ms: 1, memory_bytes: 10 })]);
    for second in 0..5000 {
        let uses = (second % STEP_SECONDS == 0).then_some(&uses);
        history.step(second, SECOND, Some(&traffic(second * 10 + 1, 0)), uses);
    }
    let track = &history.apps["default/shop"];
    assert!(track.fine.len() as u64 <= FINE_SECONDS + 1 && track.coarse.len() as u64 <= 242);
    assert_eq!(history.range(3600).step, STEP_SECONDS);
    let hour = history.apps(history.range(3600), None);
    assert!(hour["default/shop"].iter().all(|point| point.calls == 150), "{hour:?}");
    let many = |from: u64, calls| Traffic {
        pairs: (from..from + 3000)
            .map(|at| Pair { caller: at.to_string(), app: "default/a".to_owned(), calls, ..Pair::default() })
            .collect(),
        ..Traffic::default()
    };
    history.step(5000, SECOND, Some(&many(0, 1)), Some(&uses));
    assert_eq!(history.edges.len(), MAX_TRACKS);
    history.step(5001, SECOND, Some(&many(0, 1)), None);
    history.step(5000 + QUIET_SECONDS, SECOND, Some(&many(10_000, 1)), None);
    let lately = history.edges.values().filter(|track| track.seen == 5000 + QUIET_SECONDS).count();
    assert_eq!((history.edges.len(), lately), (MAX_TRACKS, MAX_TRACKS), "the quietest made room");
    let none = Traffic::default();
    history.step(5000 + COARSE_SECONDS * 2, SECOND, Some(&none), Some(&BTreeMap::new()));
    history.step(5000 + COARSE_SECONDS * 4, SECOND, Some(&none), None);
    assert!(history.edges.is_empty() && history.apps.is_empty());
}

#[test]
fn a_late_reading_says_how_long_it_was_and_a_new_pair_counts_from_zero() {
    let mut history = History::default();
    history.step(100, SECOND, Some(&Traffic::default()), None);
    history.step(101, SECOND, Some(&traffic(7, 0)), None);
    history.step(104, SECOND * 3, Some(&traffic(37, 0)), None);
    let apps = history.apps(history.range(60), None);
    let points: Vec<_> = apps["default/shop"].iter().map(|p| (p.second, p.calls, p.covered_ms)).collect();
    assert_eq!(points, [(101, 7, 1000), (104, 30, 3000)]);
    // The beat at the end of a coarse step did not come: the next one ends it, with all that it had.
    history.step(107, SECOND * 3, Some(&traffic(57, 0)), None);
    let apps = history.apps(Range { step: STEP_SECONDS, ..history.range(60) }, None);
    let points: Vec<_> = apps["default/shop"].iter().map(|p| (p.second, p.calls, p.covered_ms)).collect();
    assert_eq!(points, [(90, 57, 7000)]);
}

#[test]
fn the_quantile_of_a_range_is_that_of_all_its_calls() {
    let mut history = History::default();
    let slow = |calls, errors| Some(traffic(calls, errors));
    // Ninety fast calls in one second, ten slow ones in another: the median is fast, whatever the seconds say.
    for (second, told) in [(100, slow(0, 0)), (101, slow(90, 0)), (102, slow(100, 10))] {
        history.step(second, SECOND, told.as_ref(), None);
    }
    let sum = history.sums(history.range(60), None)["default/shop"];
    assert_eq!((sum.calls, sum.errors, sum.p50_us), (100, 10, 556));
    assert_eq!(sum.p99_us, 9100);
}

#[test]
fn where_calls_are_not_known_nothing_is_said_of_them() {
    let mut history = History::default();
    history.step(100, SECOND, None, None);
    assert!(!history.knows_calls());
    history.step(101, SECOND, Some(&Traffic::default()), None);
    assert!(history.knows_calls());
}
