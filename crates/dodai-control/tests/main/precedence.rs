//! Which rule takes a call, against a naive reading of the written order: from documents over what a base is told to
//! the compiled table. The reading knows every document and compares two matches at a time, with ranks set by hand.

use std::cmp::Ordering;
use std::sync::Arc;

use dodai_api::{App, Document, Gateway, Route};
use dodai_control::documents::Documents;
use dodai_control::records::{Observed, Records};
use dodai_control::snapshot::{BaseSettings, Input, build};
use dodai_core::call::Caller;
use dodai_core::head::{RawHeader, RawRequest, RequestHead};
use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot::{Resource, ResourceKind};
use dodai_dataplane::route::Router;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

/// A way to ask for a path: its rank among the others (greater goes first), and what it takes by hand.
struct PathRow {
    kind: &'static str,
    value: &'static str,
    rank: u8,
    takes: fn(&str) -> bool,
}

const fn row(kind: &'static str, value: &'static str, rank: u8, takes: fn(&str) -> bool) -> PathRow {
    PathRow { kind, value, rank, takes }
}

/// The rows before the last four are of paths; those are of gRPC, by service and method, and take a POST only.
const PATHS: [PathRow; 20] = [
    row("Exact", "/a/b/c", 60, |path| path == "/a/b/c"),
    row("Exact", "/a/b", 59, |path| path == "/a/b"),
    row("Exact", "/a", 58, |path| path == "/a"),
    row("Template", "/a/{x}/c", 50, |path| ["/a/b/c", "/a/x/c"].contains(&path)),
    row("Template", "/a/b/**", 49, |path| ["/a/b/", "/a/b/c"].contains(&path)),
    row("Template", "/a/{x}", 48, |path| ["/a/b", "/a/x"].contains(&path)),
    row("Template", "/{x}/b", 48, |path| ["/a/b", "/x/b"].contains(&path)),
    row("Template", "/a/**", 46, |path| path.starts_with("/a/")),
    row("RegularExpression", "/a/[a-z]+", 40, |path| ["/a/b", "/a/x"].contains(&path)),
    row("RegularExpression", "/.*/c", 39, |path| ["/a/b/c", "/a/x/c"].contains(&path)),
    row("RegularExpression", "/a.*", 38, |path| path.starts_with("/a")),
    row("PathPrefix", "/a/b", 30, |path| path == "/a/b" || path.starts_with("/a/b/")),
    row("PathPrefix", "/a", 29, |path| path == "/a" || path.starts_with("/a/")),
    row("PathPrefix", "/a/", 29, |path| path == "/a" || path.starts_with("/a/")),
    row("PathPrefix", "/", 28, |_| true),
    row("PathPrefix", "", 28, |_| true),
    row("Grpc", "a b", 59, |path| path == "/a/b"),
    row("Grpc", " b", 47, |path| ["/a/b", "/x/b"].contains(&path)),
    row("Grpc", "a ", 29, |path| path == "/a" || path.starts_with("/a/")),
    row("Grpc", " ", 28, |_| true),
];

/// Apps with their labels.
const APPS: [(&str, &str, &[&str]); 4] = [
    ("default", "front", &["tier"]),
    ("default", "back", &["tier", "zone"]),
    ("other", "front", &[]),
    ("other", "back", &["tier"]),
];

/// A way to ask for the caller: the document's words, its rank among the others, and the apps that it takes.
struct SourceRow {
    document: &'static str,
    rank: u8,
    takes: &'static [usize],
}

const SOURCES: [SourceRow; 6] = [
    SourceRow { document: r#"{"namespace": "default"}"#, rank: 1, takes: &[0, 1] },
    SourceRow { document: r#"{"labels": {"tier": "1"}}"#, rank: 2, takes: &[0, 1, 3] },
    SourceRow { document: r#"{"labels": {"tier": "1"}, "namespace": "other"}"#, rank: 3, takes: &[3] },
    SourceRow { document: r#"{"labels": {"tier": "1", "zone": "1"}}"#, rank: 4, takes: &[1] },
    SourceRow { document: r#"{"app": "front"}"#, rank: 5, takes: &[0] },
    SourceRow { document: r#"{"app": "other/front"}"#, rank: 5, takes: &[2] },
];

const ASKED: [&str; 11] =
    ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x", "/a/x/c", "/ab", "/x/b", "/x"];

/// Host names of listeners and routes, the wider first, and the hosts that each takes of those that are asked for.
const HOSTS: [(&str, &[&str]); 5] = [
    ("*", &["shop.example.com", "x.shop.example.com", "y.example.com", "example.org"]),
    ("*.example.com", &["shop.example.com", "x.shop.example.com", "y.example.com"]),
    ("*.shop.example.com", &["x.shop.example.com"]),
    ("shop.example.com", &["shop.example.com"]),
    ("x.shop.example.com", &["x.shop.example.com"]),
];

/// One match: everything in it must hold.
#[derive(Clone, Debug)]
struct Wanted {
    path: usize,
    method: bool,
    headers: Vec<&'static str>,
    query: Vec<&'static str>,
    cookies: Vec<&'static str>,
    source: Option<usize>,
    expression: bool,
}

/// A route: where it hangs by place in `HOSTS`, when it was made, and the matches of its rules.
#[derive(Clone, Debug)]
struct Written {
    hosts: Vec<usize>,
    day: u8,
    rules: Vec<Vec<Wanted>>,
}

/// A call.
#[derive(Clone, Debug)]
struct Asked {
    host: &'static str,
    path: &'static str,
    method: &'static str,
    caller: Option<usize>,
    headers: Vec<&'static str>,
    query: Vec<&'static str>,
    cookies: Vec<&'static str>,
}

fn names() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => Just(vec![]), 2 => subsequence(vec!["m", "n"], 1..=2)]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let source = prop::option::weighted(0.3, 0..SOURCES.len());
    let expression = prop::bool::weighted(0.2);
    (0..PATHS.len(), prop::bool::weighted(0.3), names(), names(), names(), source, expression).prop_map(
        |(path, method, headers, query, cookies, source, expression)| {
            let method = method && PATHS[path].kind != "Grpc";
            Wanted { path, method, headers, query, cookies, source, expression }
        },
    )
}

fn written() -> impl Strategy<Value = Written> {
    let hosts = subsequence((1..HOSTS.len()).collect::<Vec<_>>(), 0..3);
    let rules = prop::collection::vec(prop::collection::vec(wanted(), 0..3), 1..4);
    (hosts, 1..3_u8, rules).prop_map(|(hosts, day, rules)| Written { hosts, day, rules })
}

fn asked() -> impl Strategy<Value = Asked> {
    let all = || subsequence(vec!["m", "n"], 0..=2);
    let method = select(&["GET", "PUT", "POST"]);
    let caller = prop::option::of(0..APPS.len());
    (select(HOSTS[0].1), select(&ASKED), method, caller, all(), all(), all()).prop_map(
        |(host, path, method, caller, headers, query, cookies)| Asked {
            host,
            path,
            method,
            caller,
            headers,
            query,
            cookies,
        },
    )
}

fn values(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "value": "1"})).collect()
}

fn document(wanted: &Wanted) -> Value {
    let mut document = json!({
        "headers": values(&wanted.headers),
        "queryParams": values(&wanted.query),
        "cookies": values(&wanted.cookies),
    });
    let path = &PATHS[wanted.path];
    if let Some((service, method)) = path.value.split_once(' ') {
        let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        document["grpc"] = json!({"service": named(service), "method": named(method)});
    } else if !path.value.is_empty() {
        document["path"] = json!({"type": path.kind, "value": path.value});
    }
    if wanted.method {
        document["method"] = json!("GET");
    }
    if let Some(source) = wanted.source {
        document["source"] = serde_json::from_str(SOURCES[source].document).expect("JSON");
    }
    if wanted.expression {
        document["cel"] = json!("'m' in request.query");
    }
    document
}

fn route(name: &str, written: &Written) -> Route {
    let answer = json!([{"type": "DirectResponse", "directResponse": {"statusCode": 200}}]);
    let rules: Vec<Value> = written
        .rules
        .iter()
        .map(
            |matches| json!({"matches": matches.iter().map(document).collect::<Vec<_>>(), "filters": answer}),
        )
        .collect();
    let hosts: Vec<&str> = written.hosts.iter().map(|at| HOSTS[*at].0).collect();
    let created = format!("2026-01-0{}T00:00:00Z", written.day);
    serde_json::from_value(json!({
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"parentRefs": [{"name": "front"}], "hostnames": hosts, "rules": rules},
    }))
    .expect("a route")
}

fn gateway(listener: usize) -> Gateway {
    let mut one = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    if listener > 0 {
        one["hostname"] = json!(HOSTS[listener].0);
    }
    serde_json::from_value(json!({"metadata": {"name": "front"}, "spec": {"listeners": [one]}}))
        .expect("a gateway")
}

fn app(at: usize) -> App {
    let (namespace, name, labels) = APPS[at];
    let labels: Value = labels.iter().map(|label| ((*label).to_owned(), json!("1"))).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"external": {"addresses": ["127.0.0.1:1"]}},
    }))
    .expect("an app")
}

fn app_id(at: usize) -> AppId {
    let (namespace, name, _) = APPS[at];
    AppId::parse(&format!("{namespace}/{name}")).expect("an id")
}

/// What the product makes of the documents.
fn compiled(listener: usize, routes: &[Written]) -> Arc<Router> {
    let mut documents = Documents::default();
    documents.insert(Arc::new(Document::Gateway(Box::new(gateway(listener)))));
    for at in 0..APPS.len() {
        documents.insert(Arc::new(Document::App(Box::new(app(at)))));
    }
    for (at, written) in routes.iter().enumerate() {
        documents.insert(Arc::new(Document::Route(Box::new(route(&format!("r{at}"), written)))));
    }
    // Labels are known of the apps that are on the base.
    let attached = (0..APPS.len()).map(app_id).collect();
    let settings = BaseSettings { attached, ..BaseSettings::default() };
    let (records, observed) = (Records::default(), Observed::default());
    let base = BaseId::new("one");
    let input = Input {
        documents: &documents,
        records: &records,
        observed: &observed,
        base: &base,
        settings: &settings,
    };
    let snapshot = build(&input, 1);
    let resource = snapshot.of_kind(ResourceKind::Routes).next().expect("the routes of the gateway");
    let Resource::Routes(routes) = resource.as_ref() else { panic!("{resource:?}") };
    Router::compile(routes, resource, None).expect("compiles")
}

fn found(router: &Router, asked: &Asked) -> Option<String> {
    let query: Vec<String> = asked.query.iter().map(|name| format!("{name}=1")).collect();
    let target = format!("{}?{}", asked.path, query.join("&"));
    let cookies: Vec<String> = asked.cookies.iter().map(|name| format!("{name}=1")).collect();
    let cookies = cookies.join("; ");
    let mut headers: Vec<RawHeader<'_>> =
        asked.headers.iter().map(|name| RawHeader { name, value: b"1" }).collect();
    if !cookies.is_empty() {
        headers.push(RawHeader { name: "cookie", value: cookies.as_bytes() });
    }
    let caller = asked.caller.map_or(Caller::Outside, |at| Caller::App(app_id(at)));
    let head = RawRequest { method: asked.method, target: &target, authority: asked.host, headers: &headers };
    router.route(&RequestHead::Raw(head), &caller).map(|rule| rule.name.to_string())
}

fn holds(wanted: &Wanted, asked: &Asked) -> bool {
    let all = |names: &[&str], had: &[&str]| names.iter().all(|name| had.contains(name));
    let method = if PATHS[wanted.path].kind == "Grpc" { "POST" } else { "GET" };
    let from = |source: usize| asked.caller.is_some_and(|caller| SOURCES[source].takes.contains(&caller));
    (PATHS[wanted.path].takes)(asked.path)
        && (asked.method == method || !asks_method(wanted))
        && wanted.source.is_none_or(from)
        && all(&wanted.headers, &asked.headers)
        && all(&wanted.query, &asked.query)
        && all(&wanted.cookies, &asked.cookies)
        && (!wanted.expression || asked.query.contains(&"m"))
}

fn asks_method(wanted: &Wanted) -> bool {
    wanted.method || PATHS[wanted.path].kind == "Grpc"
}

/// A match that takes the call, and what decides between it and others.
struct Candidate<'a> {
    host: usize,
    wanted: &'a Wanted,
    written: &'a Written,
    route: String,
    rule: usize,
}

/// The sentences of docs/documents.md, one after the other.
fn first_of_two(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let more = |a: usize, b: usize| b.cmp(&a);
    let narrow = |wanted: &Wanted| wanted.source.map_or(0, |source| SOURCES[source].rank);
    more(a.host, b.host)
        .then(PATHS[b.wanted.path].rank.cmp(&PATHS[a.wanted.path].rank))
        .then(asks_method(b.wanted).cmp(&asks_method(a.wanted)))
        .then(more(a.wanted.headers.len(), b.wanted.headers.len()))
        .then(more(a.wanted.query.len(), b.wanted.query.len()))
        .then(more(a.wanted.cookies.len(), b.wanted.cookies.len()))
        .then(narrow(b.wanted).cmp(&narrow(a.wanted)))
        .then(b.wanted.expression.cmp(&a.wanted.expression))
        .then(a.written.day.cmp(&b.written.day))
        .then(a.route.cmp(&b.route))
        .then(a.rule.cmp(&b.rule))
}

/// The rule that the written order says.
fn expected(listener: usize, routes: &[Written], asked: &Asked) -> Option<String> {
    let everything = Wanted {
        path: 15,
        method: false,
        headers: vec![],
        query: vec![],
        cookies: vec![],
        source: None,
        expression: false,
    };
    let takes = |host: usize| HOSTS[host].1.contains(&asked.host);
    let mut candidates = Vec::new();
    for (at, written) in routes.iter().enumerate() {
        let hosts = if written.hosts.is_empty() { &[0][..] } else { &written.hosts };
        let Some(host) = hosts.iter().filter(|host| takes(**host)).max().filter(|_| takes(listener)) else {
            continue;
        };
        for (rule, matches) in written.rules.iter().enumerate() {
            let all = if matches.is_empty() { std::slice::from_ref(&everything) } else { matches };
            for wanted in all.iter().filter(|wanted| holds(wanted, asked)) {
                let (host, route) = ((*host).max(listener), format!("r{at}"));
                candidates.push(Candidate { host, wanted, written, route, rule });
            }
        }
    }
    let first = candidates.iter().min_by(|a, b| first_of_two(a, b))?;
    Some(format!("default/{}/{}", first.route, first.rule))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_rule_that_takes_a_call_is_the_one_that_the_written_order_names(
        listener in 0..2_usize,
        routes in prop::collection::vec(written(), 1..5),
        calls in prop::collection::vec(asked(), 40),
    ) {
        let router = compiled(listener, &routes);
        for asked in &calls {
            prop_assert_eq!(
                found(&router, asked),
                expected(listener, &routes, asked),
                "{:?} under {}",
                asked,
                HOSTS[listener].0
            );
        }
    }
}
