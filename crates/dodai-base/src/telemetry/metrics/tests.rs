use std::collections::BTreeSet;
use std::time::Duration;

use dodai_core::failure::Kind;
use dodai_dataplane::stats::{Direction, Labels, Stats};
use dodai_dataplane::tally;

use super::*;
use crate::telemetry::SinkReading;

fn labels(caller: &str) -> Labels {
    Labels {
        direction: Direction::Gateway,
        caller: caller.into(),
        service: "shop/cart/http".into(),
        route: "carts".into(),
    }
}

fn readings() -> Readings {
    let stats = Stats::default();
    let series = stats.series(labels("outside"));
    series.record(200, None, Duration::from_micros(200), 0);
    series.record(200, None, Duration::from_millis(2), 1);
    series.record(504, Some(Kind::Timeout), Duration::from_secs(60), 2);
    series.record(0, Some(Kind::ClientGone), Duration::from_millis(500), 0);
    let app = AppId::parse("shop/cart").unwrap();
    let metrics = Metrics {
        calls: 9,
        answered: 7,
        traps: 2,
        cpu_ns: 1_500_000_000,
        memory_peak: 65_536,
        ..Metrics::default()
    };
    Readings {
        base: "b\"1".into(),
        version: "1.2.3".into(),
        calls: stats.read(),
        modules: vec![ModuleReading { app: app.clone(), instance: InstanceId::new("cart-m"), metrics }],
        processes: vec![ProcessReading {
            app: app.clone(),
            instance: InstanceId::new("cart-p"),
            up: true,
            restarts: 3,
            cpu_seconds: Some(0.25),
            memory_bytes: Some(1024),
        }],
        instances: vec![(app.clone(), Phase::Ready), (app.clone(), Phase::Ready), (app, Phase::BackingOff)],
        components: BTreeMap::from([("shop/store".to_owned(), true), ("shop/bus".to_owned(), false)]),
        applied: 7,
        refused: Some(8),
        listeners: 2,
        plane: gauges::Reading {
            clients: 3,
            clients_limit: 40_000,
            endpoints_busy: 1,
            endpoints_idle: 4,
            endpoints_h2: 2,
            endpoints_waiting: 5,
            door_queued: 6,
            door_capacity: 2048,
            mirrors: 7,
            endpoints_ejected: 8,
            endpoints_unwell: 9,
            mesh_let_in: [10, 11],
            datagrams: dodai_dataplane::udp::Reading {
                open: 2,
                sessions: 11,
                refused: 1,
                dropped: 3,
                datagrams: [12, 13],
                bytes: [1200, 1300],
            },
            captured: dodai_dataplane::captures::Counts([[10, 0, 11, 0, 0], [0, 0, 0, 0, 12]]),
        },
        shares: vec![("default/api".into(), 0.25)],
        rate_stores: BTreeMap::from([("redis:6379/0".into(), true)]),
        filters: vec![tally::Reading { rule: "carts".into(), event: tally::Event::Preflight, count: 4 }],
        sinks: vec![SinkReading { sink: "otlp", written: 5, dropped: 1, queued: 2, capacity: 2048 }],
        own: Some(OwnUse {
            resident_bytes: 9_000_000,
            cpu_seconds: 1.5,
            threads: 6,
            open_files: 20,
            start_seconds: 1.7e9,
        }),
    }
}

/// Bucket counts, sums and labels in the golden text were checked by hand against `readings`.
#[test]
fn the_text_is_as_agreed() {
    assert_eq!(render(&readings(), Format::Prometheus), include_str!("golden.txt"));
}

#[test]
fn a_base_without_anything_still_answers() {
    let text = render(&Readings::default(), Format::OpenMetrics);
    assert!(text.contains("dodai_snapshot_applied_version 0\n") && text.ends_with("# EOF\n"));
}

/// Names of families, as their samples are called.
fn families(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[test]
fn every_family_is_documented_once_and_nothing_else_is() {
    let text = render(&readings(), Format::Prometheus);
    let docs = include_str!("../../../../../docs/telemetry.md");
    let documented: Vec<&str> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| name.starts_with("dodai_") || name.starts_with("process_"))
        .collect();
    let set: BTreeSet<&str> = documented.iter().copied().collect();
    assert_eq!(set.len(), documented.len(), "a family is documented twice");
    assert_eq!(set, families(&text));
}

#[test]
fn families_are_not_split_and_samples_are_unique() {
    let text = render(&readings(), Format::OpenMetrics);
    let names: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .collect();
    assert_eq!(samples.len(), samples.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn the_text_is_bounded_and_says_what_it_leaves_out() {
    let stats = Stats::default();
    let held: Vec<_> = (0..MAX_CALL_SERIES + 5).map(|n| stats.series(labels(&format!("c{n:05}")))).collect();
    for series in &held {
        series.record(200, None, Duration::ZERO, 0);
    }
    let text = render(&Readings { calls: stats.read(), ..Readings::default() }, Format::Prometheus);
    assert_eq!(text.lines().filter(|line| line.starts_with("dodai_calls_total{")).count(), MAX_CALL_SERIES);
    assert!(text.contains("dodai_metrics_series_omitted{of=\"calls\"} 5\n"));
}
