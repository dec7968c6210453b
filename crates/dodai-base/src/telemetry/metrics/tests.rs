use std::collections::BTreeSet;
use std::time::Duration;

use dodai_core::failure::Kind;
use dodai_dataplane::stats::{Direction, Ended, Labels, Stats};
use dodai_dataplane::survey::{EndpointView, State};
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

fn service() -> ServiceView {
    let one = |id, state, in_flight| EndpointView {
        id,
        label: "cart-1".into(),
        place: "address",
        address: "10.0.0.1:80".into(),
        revision: dodai_core::id::RevisionId::new("r1"),
        weight: 1,
        tier: 0,
        state,
        in_flight,
        latency: None,
        failures: 0,
        open_for: None,
        ejected_for: None,
        ejections: 0,
        age: Duration::ZERO,
    };
    ServiceView {
        label: "shop/cart/http".into(),
        endpoints: vec![one(1, State::Ready, 2), one(2, State::Ejected, 1), one(3, State::Ready, 0)],
        panics: Some(false),
        retry_budget: 12.5,
        retries_refused: 3,
        concurrency_limit: Some(40),
    }
}

fn readings() -> Readings {
    let stats = Stats::default();
    let series = stats.series(labels("outside"));
    let ok = Ended { status: 200, took: Duration::from_micros(200), ..Ended::default() };
    series.record(&Ended { grpc_status: Some(0), received: 5, sent: 1000, ..ok });
    series.record(&Ended { took: Duration::from_millis(2), retries: 1, sent: 24, ..ok });
    let (failure, took) = (Some(Kind::Timeout), Duration::from_secs(60));
    series.record(&Ended { status: 504, failure, took, retries: 2, ..ok });
    let (failure, took) = (Some(Kind::ClientGone), Duration::from_millis(500));
    series.record(&Ended { status: 0, failure, took, ..ok });
    series.record(&Ended { status: 299, took: Duration::from_millis(2), ..ok });
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
        not_open: 1,
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
        arrivals: vec![arrivals::Reading {
            listener: "web".into(),
            open: 3,
            accepted: 9,
            handshakes: [1, 4],
            failures: vec![(dodai_transport::tls::Why::NotTls, 2)],
            peers: vec![("spiffe://cluster.local/ns/shop/front".into(), 4)],
        }],
        dialled: ([0, 5], 1),
        services: vec![(service(), gauges::Pool { busy: 1, idle: 2, waiting: 3, shared: 4, streams: 5 })],
        certificates: vec![CertificateReading {
            kind: "listener",
            name: "web".into(),
            file: "certs/web.pem".into(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        }],
        connected: Some(true),
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
        series.record(&Ended::default());
    }
    let text = render(&Readings { calls: stats.read(), ..Readings::default() }, Format::Prometheus);
    assert_eq!(text.lines().filter(|line| line.starts_with("dodai_calls_total{")).count(), MAX_CALL_SERIES);
    assert!(text.contains("dodai_metrics_series_omitted{of=\"calls\"} 5\n"));
}

/// Names of metrics in a text: words that begin as ours do.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("dodai_") || word.starts_with("process_")).collect()
}

/// What the server tells of its bases, which is not told here.
const OF_THE_SERVER: [&str; 2] = ["dodai_bases", "dodai_placed_instances"];

#[test]
fn rules_and_docs_ask_only_for_what_there_is() {
    let text = render(&readings(), Format::Prometheus);
    let families = families(&text);
    let is_known = |name: &str| {
        let ends = ["", "_bucket", "_sum", "_count"];
        OF_THE_SERVER.contains(&name)
            || ends.iter().any(|end| name.strip_suffix(end).is_some_and(|name| families.contains(name)))
    };
    let rules = include_str!("../../../../../packaging/prometheus/alerts.yaml");
    let asked = named(rules);
    assert!(asked.len() > 15, "{asked:?}");
    let unknown: Vec<&&str> = asked.iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "the rules ask for {unknown:?}");
    // A rule that stands on another's result names it with a colon, and that one is there.
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
    let used: BTreeSet<&str> = words.filter(|word| word.starts_with("service:dodai_")).collect();
    assert_eq!(used, recorded);
    let docs = include_str!("../../../../../docs/telemetry.md");
    let unknown: Vec<&str> = named(docs).into_iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "docs/telemetry.md names {unknown:?}");
}

/// Labels that a rule or the docs select by are labels of that family.
#[test]
fn rules_select_by_labels_that_there_are() {
    let text = render(&readings(), Format::Prometheus);
    let rules = include_str!("../../../../../packaging/prometheus/alerts.yaml");
    let mut selected = 0;
    for (name, labels) in rules.lines().flat_map(selectors) {
        if OF_THE_SERVER.contains(&name) {
            continue;
        }
        let sample = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        let line = text.lines().find(sample).unwrap_or_else(|| panic!("no sample of {name}"));
        for label in labels {
            assert!(line.contains(&format!("{label}=\"")), "{name} has no label {label}: {line}");
            selected += 1;
        }
    }
    assert!(selected > 8, "{selected}");
}

/// The selectors of a line: `name{label="value",...}`.
fn selectors(line: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('{') {
        let start = before.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
        let Some((inside, behind)) = after.split_once('}') else { break };
        let name = &before[start..];
        if name.starts_with("dodai_") {
            let pairs = inside.split("\",").filter_map(|pair| pair.split(['=', '!']).next());
            found.push((name, pairs.map(str::trim).collect()));
        }
        rest = behind;
    }
    found
}
