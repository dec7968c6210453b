//! That the API is as its description says: every answer of every test here is compared with it, and every operation has
//! to be answered once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use dodai_admin::description::description;
use dodai_admin::operations::{Access, EVERY, Operation, Reason, list};
use http::StatusCode;
use serde_json::{Value, json};

use super::fake::{Answer, World};

static DESCRIPTION: LazyLock<Value> = LazyLock::new(description);

/// The operation that a request is for: of those whose path fits, the one that says the most of it.
fn operation(method: &str, path: &str) -> Option<Operation> {
    let path = path.split('?').next().unwrap();
    let fits = |one: &Operation| {
        let (mut template, mut segments) = (one.path.split('/'), path.split('/'));
        loop {
            match (template.next(), segments.next()) {
                (None, None) => return true,
                (Some(rest), Some(_)) if rest.starts_with("{*") => return true,
                (Some(place), Some(_)) if place.starts_with('{') => {}
                (Some(same), Some(segment)) if same == segment => {}
                _ => return false,
            }
        }
    };
    let own = list().into_iter().filter(|one| one.method.as_str() == method).filter(fits);
    own.min_by_key(|one| one.path.matches('{').count())
}

fn described(operation: &Operation) -> &'static Value {
    &DESCRIPTION["paths"][operation.described_path()][operation.method.as_str().to_lowercase()]
}

/// Compares an answer with what is said of its operation.
pub fn answer(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = operation(method, path) else { return };
    let at = format!("{method} {path}: {} {}", answer.status, answer.text);
    if answer.status == StatusCode::OK {
        let kind = answer.headers["content-type"].to_str().unwrap().split(';').next().unwrap();
        let content = &described(&operation)["responses"]["200"]["content"][kind];
        assert!(content.is_object(), "{at}: {kind} is not described");
        match kind {
            "application/json" => conforms(&answer.json(), &content["schema"]).expect(&at),
            "text/event-stream" => {
                for data in answer.text.lines().filter_map(|line| line.strip_prefix("data: ")) {
                    conforms(&serde_json::from_str(data).unwrap(), &content["schema"]).expect(&at);
                }
            }
            _ => {}
        }
        return;
    }
    let refusal = answer.json();
    conforms(&refusal, &json!({ "$ref": "#/components/schemas/Refusal" })).expect(&at);
    // A failure of the call itself has a code of its own.
    let is_told = |Reason(status, code): &Reason| *status == answer.status && refusal["code"] == *code;
    let is_failure = answer.headers.contains_key("dodai-failure");
    assert!(is_failure || EVERY.iter().chain(operation.refuses).any(is_told), "{at}: is not in the table");
}

/// Compares one event of an answer without end.
pub fn event(path: &str, event: &Value) {
    let operation = operation("GET", path).unwrap();
    let content = &described(&operation)["responses"]["200"]["content"]["text/event-stream"];
    conforms(event, &content["schema"]).expect(path);
}

/// Whether a value is as a schema says, which may have no word that is not known here. What an object has beside its
/// properties has to be described, too.
fn conforms(value: &Value, schema: &Value) -> Result<(), String> {
    let Some(schema) = schema.as_object() else {
        return if *schema == json!(true) { Ok(()) } else { Err(format!("{schema} is no schema")) };
    };
    for (word, wanted) in schema {
        let holds = match word.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                conforms(value, DESCRIPTION.pointer(pointer).ok_or(format!("{pointer} is not there"))?)?;
                true
            }
            "type" => wanted
                .as_array()
                .map_or_else(|| is(value, wanted), |many| many.iter().any(|one| is(value, one))),
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "anyOf" => choices(value, wanted) > 0,
            "oneOf" => choices(value, wanted) == 1,
            "minimum" => value.as_f64().is_none_or(|value| value >= wanted.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|value| value <= wanted.as_f64().unwrap()),
            "minItems" => value.as_array().is_none_or(|all| all.len() as u64 >= wanted.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|all| all.len() as u64 <= wanted.as_u64().unwrap()),
            "uniqueItems" => {
                let all = value.as_array().unwrap();
                all.iter().enumerate().all(|(at, one)| !all[..at].contains(one))
            }
            "items" => each(value.as_array().into_iter().flatten().map(|one| (one, wanted)))?,
            "prefixItems" => each(value.as_array().into_iter().flatten().zip(wanted.as_array().unwrap()))?,
            "required" => {
                let mut names = wanted.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                names.all(|name| value.get(name).is_some())
            }
            // Below, together.
            "properties" | "additionalProperties" => true,
            "description" | "format" | "default" => true,
            unknown => return Err(format!("`{unknown}` is not known to this test")),
        };
        if !holds {
            return Err(format!("{value} is not as {word} says: {wanted}"));
        }
    }
    if schema.get("type") == Some(&json!("object")) {
        let none = json!({});
        for (name, one) in value.as_object().unwrap() {
            let own = schema.get("properties").unwrap_or(&none).get(name);
            let described = own.or(schema.get("additionalProperties")).filter(|one| **one != json!(false));
            let described = described.ok_or(format!("{name} is not described in {value}"))?;
            conforms(one, described).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    Ok(())
}

fn each<'a>(mut all: impl Iterator<Item = (&'a Value, &'a Value)>) -> Result<bool, String> {
    all.try_for_each(|(value, schema)| conforms(value, schema)).map(|()| true)
}

fn choices(value: &Value, schemas: &Value) -> usize {
    schemas.as_array().unwrap().iter().filter(|schema| conforms(value, schema).is_ok()).count()
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn what_is_not_as_it_is_described_is_found() {
    let own = |value: Value| conforms(&value, &json!({ "$ref": "#/components/schemas/Stopping" }));
    assert_eq!(own(json!({ "stopping": true, "pid": 7 })), Ok(()));
    for wrong in [
        json!(null),
        json!({ "stopping": true }),
        json!({ "stopping": "yes", "pid": 7 }),
        json!({ "stopping": true, "pid": -7 }),
        json!({ "stopping": true, "pid": 7, "more": 1 }),
    ] {
        assert!(own(wrong.clone()).is_err(), "{wrong}");
    }
    assert!(conforms(&json!(1), &json!({ "multipleOf": 2 })).is_err(), "a word that is not known");
}

/// Every path of the router with the methods that it takes.
pub async fn methods(world: &World) -> BTreeMap<&'static str, Vec<String>> {
    let mut routed = BTreeMap::new();
    for path in list().into_iter().map(|one| one.path) {
        // A method that nothing takes is answered with those that are taken.
        let answer = world.send("TRACE", &filled(path), &[], "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = answer.headers["allow"].to_str().unwrap();
        let mut methods: Vec<String> =
            allow.split(',').filter(|one| *one != "HEAD").map(str::to_owned).collect();
        methods.sort();
        routed.insert(path, methods);
    }
    routed
}

/// A path with something in each of its places.
pub fn filled(path: &str) -> String {
    path.replace(['{', '}', '*'], "")
}

#[tokio::test]
async fn the_description_has_every_path_and_method_of_the_router() {
    let world = World::new().await;
    let mut described: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, methods) in DESCRIPTION["paths"].as_object().unwrap() {
        let mut methods: Vec<String> =
            methods.as_object().unwrap().keys().map(|one| one.to_uppercase()).collect();
        methods.sort();
        described.insert(path.clone(), methods);
    }
    let routed: BTreeMap<String, Vec<String>> =
        methods(&world).await.into_iter().map(|(path, methods)| (path.replace("{*", "{"), methods)).collect();
    assert_eq!(routed, described);
}

#[test]
fn an_operation_has_a_name_of_its_own_and_a_parameter_for_each_place_of_its_path() {
    let mut names = BTreeSet::new();
    for operation in list() {
        assert!(names.insert(operation.id), "{} is there twice", operation.id);
        let parameters = described(&operation)["parameters"].as_array().cloned().unwrap_or_default();
        let in_path = parameters.iter().filter(|one| one["in"] == "path");
        let told: BTreeSet<String> = in_path.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        let path = operation.described_path();
        let places = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned());
        assert_eq!(told, places.collect(), "{path}");
        for parameter in parameters {
            assert!(parameter["description"].is_string(), "{path}: {parameter}");
        }
    }
}

#[tokio::test]
async fn who_may_ask_is_as_described() {
    let world = World::new().await;
    for operation in list() {
        let (method, path) = (operation.method.as_str(), filled(operation.path));
        let none = world.send(method, &path, &[("authorization", "")], "").await;
        let is_open = operation.access == Access::Everybody;
        assert_eq!(none.status != StatusCode::UNAUTHORIZED, is_open, "{method} {path}");
        assert_eq!(described(&operation)["security"] == json!([]), is_open, "{method} {path}");
    }
}

/// The app that `every_operation` asks about.
const SHOP: &str = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: shop}\nspec:\n  module: {artifact: \
                    'sha256:0000000000000000000000000000000000000000000000000000000000000000'}\n  services: \
                    [{name: http}]\n---\napiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: far}\nspec: \
                    {external: {addresses: ['127.0.0.1:9']}}\n---\napiVersion: dapr.io/v1alpha1\nkind: \
                    Component\nmetadata: {name: bus}\nspec: {type: pubsub.odd, version: v1}\n";

/// What is asked once the shop is there, in this order.
const ASKED: &[(&str, &str, &str)] = &[
    ("GET", "/healthz", ""),
    ("GET", "/metrics", ""),
    ("GET", "/v1/session", ""),
    ("POST", "/v1/session", ""),
    ("DELETE", "/v1/session", ""),
    ("GET", "/v1/status", ""),
    ("GET", "/v1/traffic?seconds=60", ""),
    ("GET", "/v1/traffic?app=default/shop", ""),
    ("GET", "/v1/kinds", ""),
    ("GET", "/v1/schema/Route", ""),
    ("GET", "/v1/documents?kind=App", ""),
    ("GET", "/v1/documents/App/default/shop", ""),
    ("GET", "/v1/history/App/default/shop", ""),
    ("GET", "/v1/events", ""),
    ("GET", "/v1/changes", ""),
    ("GET", "/v1/instances", ""),
    ("GET", "/v1/externals", ""),
    ("GET", "/v1/bases", ""),
    ("GET", "/v1/components", ""),
    ("POST", "/v1/artifacts", "\0asm\u{d}\0\u{1}\0rest"),
    ("POST", "/v1/artifacts/sha256:aa/prepare", ""),
    ("POST", "/v1/apps/default/shop/deploy", "\0asm\u{d}\0\u{1}\0rest"),
    ("POST", "/v1/apps/default/shop/restart", ""),
    ("GET", "/v1/apps/default/shop/logs?tail=2", ""),
    ("GET", "/v1/apps/default/shop/state/kv?prefix=cart", ""),
    ("GET", "/v1/apps/default/shop/state/kv/cart%2F1", ""),
    ("POST", "/v1/call?app=default/shop&path=/", ""),
    ("GET", "/v1/calls", ""),
    ("GET", "/debug/table", ""),
    ("PUT", "/v1/config/conf/color", "blue"),
    ("GET", "/v1/config/conf/color", ""),
    ("DELETE", "/v1/config/conf/color", ""),
    ("POST", "/v1/publish/bus/orders", "hello"),
    ("GET", "/v1/topics/bus", ""),
    ("GET", "/v1/topics/bus/dead?group=shop", ""),
    ("POST", "/v1/topics/bus/dead/replay", r#"{"id": "7", "to": "letters"}"#),
    ("GET", "/v1/locks/bus", ""),
    ("DELETE", "/v1/locks/bus/a/b?owner=shop-1", ""),
    ("GET", "/v1/jobs?app=default/shop", ""),
    ("DELETE", "/v1/jobs/default/shop/report", ""),
    ("POST", "/v1/tokens", r#"{"base": "one"}"#),
    ("GET", "/v1/ca", ""),
    ("POST", "/v1/ca/steps/rotate", ""),
    ("PUT", "/v1/ca/revoked/base/one", ""),
    ("DELETE", "/v1/ca/revoked/base/one", ""),
    ("GET", "/v1/store", ""),
    ("POST", "/v1/store/backup", ""),
    ("DELETE", "/v1/documents/App/default/far", ""),
    ("POST", "/v1/shutdown", ""),
];

#[tokio::test]
async fn parameters_that_nobody_knows_are_refused() {
    let world = World::new().await;
    assert_eq!(world.apply("", SHOP).await.status, StatusCode::OK);
    for path in [
        "/v1/traffic?bogus=1",
        "/v1/events?bogus=1",
        "/v1/events?limit=-1",
        "/v1/events?after=-1",
        "/v1/apps/default/shop/logs?bogus=1",
        "/v1/apps/default/shop/logs?tail=-1",
    ] {
        let told = world.get(path).await;
        assert_eq!(told.status, StatusCode::BAD_REQUEST, "{path}: {}", told.text);
    }
}

#[tokio::test]
async fn every_operation_answers_as_described() {
    let world = World::new().await;
    let mut left: BTreeSet<&str> = list().into_iter().map(|one| one.id).collect();
    let mut done = |method: &str, path: &str| left.remove(operation(method, path).expect(path).id);
    for query in ["?dryRun=true", ""] {
        let applied = world.apply(query, SHOP).await;
        assert_eq!(applied.status, StatusCode::OK, "{}", applied.text);
    }
    done("POST", "/v1/documents");
    let revisions = || {
        let view = world.control.view();
        view.documents
            .keys(dodai_api::Kind::Revision)
            .filter(|key| key.name.as_str().starts_with("shop"))
            .count()
    };
    world.until(|| world.has(dodai_api::Kind::Component) && revisions() == 1).await;
    let first = world.get("/v1/documents?kind=Revision&namespace=default").await.json();
    for (method, path, body) in ASKED {
        let answer = world.send(method, path, &[], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{method} {path}: {}", answer.text);
        done(method, path);
    }
    world.until(|| revisions() == 2).await;
    let items = first["items"].as_array().unwrap().iter();
    let first = items.map(|one| &one["spec"]).find(|spec| spec["app"] == "shop").expect("of the shop");
    let to = json!({ "to": first["id"] }).to_string();
    let back = world.send("POST", "/v1/apps/default/shop/rollback", &[], &to).await;
    assert_eq!(back.status, StatusCode::OK, "{}", back.text);
    done("POST", "/v1/apps/default/shop/rollback");
    // The third message of the pulse is the first that knows what came since the one before.
    for (path, count) in [("/v1/watch?kind=App", 1), ("/v1/live", 3), ("/v1/events?follow=true", 1)] {
        let mut events = world.stream(path).await;
        for _ in 0..count {
            events.next().await;
        }
        done("GET", path);
    }
    assert_eq!(left, BTreeSet::new(), "these were not asked for");
}
