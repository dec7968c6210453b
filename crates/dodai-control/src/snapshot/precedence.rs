//! Which of two rules goes first: the Gateway API's order, extended to what it has no words for.
//!
//! The path decides, then method, headers and query parameters, as the Gateway API says; after them what narrows a
//! match further: cookies, the source, an expression. Between equals the older route wins, then the smaller name, then
//! the earlier rule.

use std::cmp::Reverse;

use dodai_api::{self as api, PathMatchKind, Route};

use super::policy::age;

/// The place of a rule among others: the smaller goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    path: (Path, Reverse<Specific>),
    any_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    cookies: Reverse<usize>,
    /// Whether an app is named, how many labels are, and whether a namespace is.
    source: Reverse<(bool, usize, bool)>,
    no_expression: bool,
    age: (Option<String>, String),
    index: usize,
}

/// How a path is matched, the narrower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    Exact,
    Template,
    Expression,
    Prefix,
}

/// How much of the path a match says: for templates the texts in it, then whether it has an end; then the length.
type Specific = (usize, bool, usize);

impl Order {
    /// The place of rule `index` of `route` with that match; `None` matches everything.
    pub fn of(wanted: Option<&api::Match>, route: &Route, index: usize) -> Order {
        let empty = api::Match::default();
        let wanted = wanted.unwrap_or(&empty);
        let (kind, specific) = path(wanted);
        let source = wanted.source.as_ref();
        Order {
            path: (kind, Reverse(specific)),
            any_method: wanted.method.is_none() && wanted.grpc.is_none(),
            headers: Reverse(wanted.headers.len()),
            query: Reverse(wanted.query_params.len()),
            cookies: Reverse(wanted.cookies.len()),
            source: Reverse(source.map_or((false, 0, false), |source| {
                (source.app.is_some(), source.labels.len(), source.namespace.is_some())
            })),
            no_expression: wanted.cel.is_none(),
            age: age(&route.metadata),
            index,
        }
    }
}

fn path(wanted: &api::Match) -> (Path, Specific) {
    let long = |length: usize| (length, true, 0);
    if let Some(path) = &wanted.path {
        return match path.kind {
            PathMatchKind::Exact => (Path::Exact, long(path.value.len())),
            PathMatchKind::RegularExpression => (Path::Expression, long(path.value.len())),
            PathMatchKind::PathPrefix => (Path::Prefix, long(path.value.trim_end_matches('/').len())),
            PathMatchKind::Template => {
                let read: Option<api::Template> = path.value.parse().ok();
                let (texts, ends) = read.map_or((0, false), |template| template.rank());
                (Path::Template, (texts, ends, path.value.len()))
            }
        };
    }
    // A gRPC method is a path of two segments.
    match wanted.grpc.as_ref().map(|grpc| (&grpc.service, &grpc.method)) {
        Some((Some(service), Some(method))) => (Path::Exact, long(service.len() + method.len() + 2)),
        Some((None, Some(method))) => (Path::Template, (1, true, method.len() + 3)),
        Some((Some(service), None)) => (Path::Prefix, long(service.len() + 1)),
        Some((None, None)) | None => (Path::Prefix, long(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> api::Match {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn route(name: &str, created: &str) -> Route {
        let metadata = serde_json::json!({"name": name, "creationTimestamp": created});
        let document = serde_json::json!({
            "metadata": metadata,
            "spec": {"parentRefs": [{"name": "front"}], "rules": [{"backendRefs": [{"name": "shop"}]}]},
        });
        serde_json::from_value(document).expect("a route")
    }

    /// Each goes before all that follow it.
    #[test]
    fn the_narrower_match_goes_first() {
        let ladder = [
            r#"{"path": {"type": "Exact", "value": "/a/b"}, "method": "GET"}"#,
            r#"{"path": {"type": "Exact", "value": "/a/b"}}"#,
            r#"{"grpc": {"service": "a", "method": ""}}"#,
            r#"{"path": {"type": "Exact", "value": "/a"}}"#,
            r#"{"path": {"type": "Template", "value": "/a/{x}/b"}}"#,
            r#"{"path": {"type": "Template", "value": "/a/b/**"}}"#,
            r#"{"path": {"type": "Template", "value": "/a/{x}"}}"#,
            r#"{"grpc": {"method": "b"}}"#,
            r#"{"path": {"type": "RegularExpression", "value": "/abc.*"}}"#,
            r#"{"path": {"type": "RegularExpression", "value": "/a.*"}}"#,
            r#"{"path": {"value": "/long"}}"#,
            r#"{"grpc": {"service": "abc"}}"#,
            r#"{"path": {"value": "/a"}, "method": "GET"}"#,
            r#"{"path": {"value": "/a/"}, "headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]}"#,
            r#"{"path": {"value": "/a"}, "headers": [{"name": "x", "value": "1"}], "queryParams": [{"name": "q", "value": "1"}]}"#,
            r#"{"path": {"value": "/a"}, "headers": [{"name": "x", "value": "1"}], "cookies": [{"name": "c", "value": "1"}]}"#,
            r#"{"path": {"value": "/a"}, "headers": [{"name": "x", "value": "1"}]}"#,
            r#"{"path": {"value": "/a"}, "queryParams": [{"name": "q", "value": "1"}]}"#,
            r#"{"path": {"value": "/a"}, "cookies": [{"name": "c", "value": "1"}]}"#,
            r#"{"path": {"value": "/a"}, "source": {"app": "x"}}"#,
            r#"{"path": {"value": "/a"}, "source": {"namespace": "n", "labels": {"a": "1", "b": "2"}}}"#,
            r#"{"path": {"value": "/a"}, "source": {"labels": {"a": "1"}}}"#,
            r#"{"path": {"value": "/a"}, "source": {"namespace": "n"}, "cel": "true"}"#,
            r#"{"path": {"value": "/a"}, "source": {"namespace": "n"}}"#,
            r#"{"path": {"value": "/a"}, "cel": "true"}"#,
            r#"{"path": {"value": "/a"}}"#,
            r#"{"grpc": {}}"#,
            r#"{"headers": [{"name": "x", "value": "1"}]}"#,
            r#"{}"#,
        ];
        let route = route("r", "2026-01-01T00:00:00Z");
        let orders: Vec<Order> =
            ladder.iter().map(|text| Order::of(Some(&wanted(text)), &route, 0)).collect();
        for (at, order) in orders.iter().enumerate() {
            for (later, other) in orders.iter().enumerate().skip(at + 1) {
                assert!(order < other, "{} against {}", ladder[at], ladder[later]);
            }
        }
        assert_eq!(Order::of(None, &route, 0), *orders.last().expect("some"));
    }

    #[test]
    fn between_equals_age_name_and_place_decide() {
        let order = |name: &str, created: &str, index| Order::of(None, &route(name, created), index);
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        assert!(order("z", early, 1) < order("a", late, 0));
        assert!(order("a", early, 1) < order("z", early, 0));
        assert!(order("a", early, 0) < order("a", early, 1));
    }
}
