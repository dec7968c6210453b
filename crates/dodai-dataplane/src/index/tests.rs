//! The index against the scan that it stands for: over generated rules and calls both name the same rule.

use dodai_core::call::Caller;
use dodai_core::head::{RawHeader, RawRequest, RequestHead};
use dodai_core::id::AppId;
use dodai_core::snapshot::{
    self, Action, CallPolicy, Match as Spec, PathMatch, SourceMatch, ValueMatch, ValuePattern, VirtualHost,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::route::Router;

fn rule(name: usize, matches: Vec<Spec>) -> snapshot::Rule {
    let action = Action::Respond { status: 200, body: String::new() };
    let policy = CallPolicy::default();
    snapshot::Rule { name: name.to_string(), matches, filters: vec![], action, policy }
}

/// What stands first is what the scan says.
fn scanned<'r>(rules: &'r [Arc<Rule>], seen: &Seen<'_>) -> Option<&'r Arc<Rule>> {
    rules.iter().find(|rule| rule.matches(seen))
}

const SEGMENTS: [&str; 9] = ["a", "b", "ab", "A", "", "a.b", "%61", "a%2Fb", "7"];

fn paths() -> impl Strategy<Value = String> {
    let whole =
        prop::collection::vec(select(&SEGMENTS), 0..5).prop_map(|list| format!("/{}", list.join("/")));
    let odd = select(&[
        "*", "", "/..", "/a/../b", "//a", "/./a", "/a/", "/a//b", "/%61/b", "/a;x=1/b", "/a%", "a/b",
    ]);
    prop_oneof![6 => whole, 2 => odd.prop_map(str::to_owned)]
}

fn parts() -> impl Strategy<Value = Vec<TemplatePart>> {
    let part = prop_oneof![
        3 => select(&SEGMENTS).prop_map(|text| TemplatePart::Literal(text.to_owned())),
        2 => select(&["", "b"]).prop_map(|end| TemplatePart::One(end.to_owned())),
    ];
    let rest = prop::option::of(select(&["", "b"]).prop_map(|end| TemplatePart::Rest(end.to_owned())));
    (prop::collection::vec(part, 1..4), rest).prop_map(|(mut parts, rest)| {
        parts.extend(rest);
        parts
    })
}

fn path_matches() -> impl Strategy<Value = PathMatch> {
    let expressions = select(&[
        "/a/.*",
        "/a[/]b",
        "/a|/b",
        "/a?/b",
        "/a*",
        ".*b",
        "/(a|ab)/.*",
        "/[a-z]+",
        "(?i)/a/b",
        "/a)|(?:/ab",
        "",
        "/a{0}b",
        "/ab/7",
        r"/a\.b(/.*)?",
        "^/a$",
        "(/a)?/b",
        r"/a/[0-9]+",
        r"/\w+/7",
    ]);
    prop_oneof![
        4 => paths().prop_map(PathMatch::Exact),
        4 => paths().prop_map(PathMatch::Prefix),
        3 => expressions.prop_map(|text| PathMatch::Regex(text.to_owned())),
        2 => parts().prop_map(PathMatch::Template),
    ]
}

fn named(names: &'static [&'static str]) -> impl Strategy<Value = Vec<ValueMatch>> {
    let pattern = prop_oneof![
        4 => select(&["1", "2", ""]).prop_map(|text| ValuePattern::Exact(text.to_owned())),
        1 => Just(ValuePattern::Present),
        1 => Just(ValuePattern::Regex("[12]".to_owned())),
    ];
    let one = (select(names), pattern).prop_map(|(name, value)| ValueMatch { name: name.to_owned(), value });
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(one, 1..3)]
}

/// More names than are looked up one by one.
const HEADERS: &[&str] = &["X-A", "x-b", "x-c", "x-d", "x-e", "X-F"];
const QUERY: &[&str] = &["p", "q", "r", "s", "t", "u"];

fn app(text: &str) -> AppId {
    AppId::parse(text).expect("valid")
}

fn matches() -> impl Strategy<Value = Spec> {
    let source = prop::option::weighted(
        0.2,
        prop_oneof![
            Just(SourceMatch::Apps(vec![app("store/shop")])),
            Just(SourceMatch::Namespace("store".to_owned())),
        ],
    );
    let cel =
        prop::option::weighted(0.1, Just("request.path.size() > 3 && request.query.p == '1'".to_owned()));
    let method = prop::option::weighted(0.2, select(&["GET", "POST"]).prop_map(str::to_owned));
    let path = prop::option::weighted(0.9, path_matches());
    let values = (named(HEADERS), named(QUERY), named(&["k", "l"]));
    (path, method, values, source, cel).prop_map(|(path, method, (headers, query, cookies), source, cel)| {
        Spec { path, method, headers, query, cookies, source, cel }
    })
}

fn rules() -> impl Strategy<Value = Vec<snapshot::Rule>> {
    let list = prop::collection::vec(prop::collection::vec(matches(), 0..3), SCANNED + 1..80);
    // A rule that takes everything must not stand before the others every time.
    list.prop_map(|list| {
        let (some, all): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|matches: &Vec<Spec>| !matches.is_empty());
        some.into_iter().chain(all).enumerate().map(|(name, matches)| rule(name, matches)).collect()
    })
}

/// A call's method, target, headers.
type Asked = (&'static str, String, Vec<(&'static str, &'static str)>);

fn calls() -> impl Strategy<Value = Asked> {
    let pairs = prop::collection::vec((select(QUERY), select(&["1", "2", ""])), 0..4);
    let target = (paths(), pairs).prop_map(|(path, pairs)| {
        let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    });
    let header = prop_oneof![
        4 => (select(HEADERS), select(&["1", "2", ""])),
        1 => (Just("cookie"), select(&["k=1", "k=2; l=1", "l;k=", "x=1"])),
    ];
    (select(&["GET", "POST"]), target, prop::collection::vec(header, 0..5))
}

fn with_head<T>(call: &Asked, host: &str, ask: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let headers: Vec<RawHeader<'_>> =
        call.2.iter().map(|(name, value)| RawHeader { name, value: value.as_bytes() }).collect();
    ask(&RequestHead::Raw(RawRequest { method: call.0, target: &call.1, authority: host, headers: &headers }))
}

const HOSTS: [&str; 8] =
    ["a.example", "b.example", "x.a.example", "*.example", "*.a.example", "*", "example", "*.x.a.example"];

proptest! {
    #[test]
    fn the_index_finds_what_the_scan_finds(rules in rules(), calls in prop::collection::vec(calls(), 1..12), known: bool) {
        let rules = Rule::compile_all(&rules, []).expect("compiles");
        prop_assert!(rules.index.is_some());
        let caller = if known { Caller::App(app("store/shop")) } else { Caller::Outside };
        for call in &calls {
            let (found, expect) = with_head(call, "a", |head| {
                let seen = Seen::new(head, &caller);
                let name = |rule: Option<&Arc<Rule>>| rule.map(|rule| rule.name.clone());
                (name(rules.find(&seen)), name(scanned(rules.list(), &seen)))
            });
            prop_assert_eq!(found, expect, "{:?}", call);
        }
    }

    #[test]
    fn hosts_are_asked_from_the_narrowest(
        hosts in prop::sample::subsequence(&HOSTS, 0..8),
        only in prop::collection::vec(select(&["/", "/a", "/b"]), 8),
        host in select(&["a.example", "b.example", "x.a.example", "y.x.a.example", "example", "other", "A.Example", ""]),
        path in select(&["/", "/a", "/b"]),
    ) {
        let spec = |(at, (name, only)): (usize, (&&str, &&str))| {
            let wanted = Spec { path: Some(PathMatch::Prefix((*only).to_owned())), ..Spec::default() };
            VirtualHost { names: vec![(*name).to_owned()], rules: vec![rule(at, vec![wanted])] }
        };
        let hosts: Vec<VirtualHost> = hosts.iter().zip(&only).enumerate().map(spec).collect();
        let lower = host.to_ascii_lowercase();
        let width = |name: &str| match name.strip_prefix('*') {
            None => (name == lower).then_some(usize::MAX),
            Some(suffix) => (lower.len() > suffix.len() && lower.ends_with(suffix) || suffix.is_empty()).then_some(suffix.len()),
        };
        let mut fit: Vec<(usize, &VirtualHost)> =
            hosts.iter().filter_map(|host| Some((width(&host.names[0])?, host))).collect();
        fit.sort_by_key(|(width, _)| std::cmp::Reverse(*width));
        let takes = |host: &VirtualHost| match &host.rules[0].matches[0].path {
            Some(PathMatch::Prefix(prefix)) => prefix == "/" || prefix == path,
            _ => false,
        };
        let expect = fit.iter().find(|(_, host)| takes(host)).map(|(_, host)| host.rules[0].name.clone());
        let routes = snapshot::Routes { name: "r".to_owned(), hosts: hosts.clone(), trusted: false };
        let resource = Arc::new(snapshot::Resource::Routes(routes.clone()));
        let router = Router::compile(&routes, &resource, None).expect("compiles");
        let call = ("GET", path.to_owned(), Vec::new());
        let found = with_head(&call, host, |head| router.route(head, &Caller::Outside).map(|rule| rule.name.to_string()));
        prop_assert_eq!(found, expect);
    }
}

#[test]
fn expressions_are_found_by_how_they_begin() {
    for (pattern, expect) in [
        ("/users/[0-9]+", "/users/"),
        ("/users|/groups", "/"),
        ("/a)|(?:/ab", ""),
        (".*", ""),
        ("(?i)/users", "/"),
        ("/users/?", "/users"),
    ] {
        assert_eq!(literal_start(&format!("^(?:{pattern})$")), expect, "{pattern}");
    }
}

#[test]
fn a_rule_of_two_places_is_in_both() {
    let spec = |path: &str| Spec { path: Some(PathMatch::Exact(path.to_owned())), ..Spec::default() };
    let mut sources: Vec<_> =
        (0..20).map(|at| rule(at, vec![spec(&format!("/{at}")), spec("/all")])).collect();
    sources.push(rule(20, vec![]));
    let rules = Rule::compile_all(&sources, []).expect("compiles");
    let find = |path: &str| {
        let call = ("GET", path.to_owned(), Vec::new());
        with_head(&call, "a", |head| {
            rules.find(&Seen::new(head, &Caller::Outside)).map(|rule| rule.name.to_string())
        })
    };
    assert_eq!(find("/17").as_deref(), Some("17"));
    assert_eq!(find("/all").as_deref(), Some("0"));
    assert_eq!(find("/other").as_deref(), Some("20"));
}
