//! Requests and their exact answers, route by route.

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context};
use std::time::Duration;

use dodai_core::id::{RevisionId, ServiceId};
use dodai_core::snapshot::{
    Access, AccessRule, App, Endpoint, Endpoints, Filter, Resource, Rule, Scopes, SecretScope, Service,
    Target,
};
use dodai_core::trace::Span;
use dodai_runtime::{AppConnection, AppHealth, Origins, Settings};
use serde_json::json;

use crate::world::{World, app, blocks, component};

async fn check(world: &World, table: &[(&str, &str, &str, u16, &str)]) {
    for (method, path, body, status, expect) in table {
        let told = world.cart(method, path, body).await;
        assert_eq!((told.status, told.body.as_str()), (*status, *expect), "{method} {path} {body}");
        let is_json = told.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        assert_eq!(is_json, !expect.is_empty(), "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn state() {
    let world = World::new(blocks()).await;
    let not_found = r#"{"errorCode":"ERR_STATE_STORE_NOT_FOUND","message":"state store nope is not found","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{"appID":"cart"},"reason":"DAPR_STATE_NOT_FOUND"}]}"#;
    let illegal = r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"input key/keyPrefix 'a||b' can't contain '||'","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"description":"input key/keyPrefix 'a||b' can't contain '||'","field":"a||b"}]},{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"","owner":"","resource_name":"store","resource_type":"state"},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":null,"reason":"DAPR_STATE_ILLEGAL_KEY"}]}"#;
    let table = [
        ("GET", "/v1.0/state/store/k", "", 204, ""),
        ("POST", "/v1.0/state/store", r#"[{"key":"k","value":{"n":12345678901234567890123}}]"#, 204, ""),
        ("GET", "/v1.0/state/store/k", "", 200, r#"{"n":12345678901234567890123}"#),
        ("PUT", "/v1.0/state/store", r#"[{"key":"a","value":"text"},{"key":"b"}]"#, 204, ""),
        ("GET", "/v1.0/state/store/a", "", 200, r#""text""#),
        ("GET", "/v1.0/state/store/b", "", 200, "null"),
        ("POST", "/v1.0/state/store", "[]", 204, ""),
        (
            "POST",
            "/v1.0/state/store/bulk",
            r#"{"keys":["a","zz"]}"#,
            200,
            r#"[{"key":"a","data":"text","etag":"2"},{"key":"zz"}]"#,
        ),
        ("POST", "/v1.0/state/store/bulk", r#"{"keys":[]}"#, 200, "[]"),
        ("DELETE", "/v1.0/state/store/a", "", 204, ""),
        ("DELETE", "/v1.0/state/store/a", "", 204, ""),
        ("GET", "/v1.0/state/store/a", "", 204, ""),
        ("GET", "/v1.0/state/nope/a", "", 400, not_found),
        ("POST", "/v1.0/state/nope/transaction", "", 400, not_found),
        ("GET", "/v1.0/state/store/a%7C%7Cb", "", 400, illegal),
        (
            "POST",
            "/v1.0/state/store",
            r#"[{"value":1}]"#,
            400,
            r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"\"key\" is a required field"}"#,
        ),
    ];
    check(&world, &table).await;
    let told = world.cart("POST", "/v1.0/state/store", "{").await;
    assert_eq!(told.error(), (400, "ERR_MALFORMED_REQUEST".into()));
    let told = world.cart("POST", "/v1.0-alpha1/state/store/query", "{}").await;
    assert_eq!(told.error(), (500, "ERR_STATE_STORE_NOT_SUPPORTED".into()));
    assert_eq!(told.json()["details"][1]["reason"], "DAPR_STATE_QUERYING_NOT_SUPPORTED");
}

#[tokio::test(start_paused = true)]
async fn state_etags_and_expiry() {
    let world = World::new(blocks()).await;
    assert_eq!(world.cart("POST", "/v1.0/state/store", r#"[{"key":"k","value":1}]"#).await.status, 204);
    let etag =
        world.cart("GET", "/v1.0/state/store/k", "").await.headers["etag"].to_str().expect("text").to_owned();
    let stale = world.cart("POST", "/v1.0/state/store", r#"[{"key":"k","value":2,"etag":"999"}]"#).await;
    assert_eq!(stale.error(), (409, "ERR_STATE_SAVE".into()));
    let message = stale.json()["message"].as_str().expect("a message").to_owned();
    assert!(
        message.starts_with(
            "failed saving state in state store store: possible etag mismatch. error from state store: "
        ),
        "{message}"
    );
    let first = r#"[{"key":"k","value":2,"options":{"concurrency":"first-write"}}]"#;
    assert_eq!(world.cart("POST", "/v1.0/state/store", first).await.status, 409);
    let wrong = r#"[{"key":"k","value":2,"options":{"concurrency":"frist-write"}}]"#;
    assert_eq!(world.cart("POST", "/v1.0/state/store", wrong).await.error(), (400, "ERR_STATE_SAVE".into()));
    let wrong = world.send("shop/cart", "DELETE", "/v1.0/state/store/k", &[("if-match", "999")], "").await;
    assert_eq!(wrong.error(), (409, "ERR_STATE_DELETE".into()));
    let right = world.send("shop/cart", "DELETE", "/v1.0/state/store/k", &[("if-match", &etag)], "").await;
    assert_eq!(right.status, 204);

    assert_eq!(
        world
            .cart("POST", "/v1.0/state/store?metadata.ttlInSeconds=60", r#"[{"key":"k","value":1}]"#)
            .await
            .status,
        204
    );
    let told = world.cart("GET", "/v1.0/state/store/k", "").await;
    assert!(told.headers.contains_key("metadata.ttlexpiretime"), "{:?}", told.headers);
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(world.cart("GET", "/v1.0/state/store/k", "").await.status, 204);
    let bad = world
        .cart("POST", "/v1.0/state/store?metadata.ttlInSeconds=soon", r#"[{"key":"k","value":1}]"#)
        .await;
    assert_eq!(bad.error(), (400, "ERR_STATE_SAVE".into()));
}

#[tokio::test(start_paused = true)]
async fn state_transactions() {
    let world = World::new(blocks()).await;
    let path = "/v1.0/state/store/transaction";
    let good = r#"{"operations":[{"operation":"upsert","request":{"key":"a","value":1}},
        {"operation":"upsert","request":{"key":"b","value":2,"metadata":{"ttlInSeconds":"60"}}},
        {"operation":"delete","request":{"key":"a"}}]}"#;
    assert_eq!(world.cart("POST", path, good).await.status, 204);
    assert_eq!(world.cart("GET", "/v1.0/state/store/a", "").await.status, 204);
    assert_eq!(world.cart("GET", "/v1.0/state/store/b", "").await.body, "2");
    let half = r#"{"operations":[{"operation":"upsert","request":{"key":"c","value":1}},
        {"operation":"delete","request":{"key":"b","etag":"999"}}]}"#;
    assert_eq!(world.cart("POST", path, half).await.error(), (500, "ERR_STATE_TRANSACTION".into()));
    assert_eq!(world.cart("GET", "/v1.0/state/store/c", "").await.status, 204, "all or nothing");
    let unknown = r#"{"operations":[{"operation":"append","request":{"key":"c","value":1}}]}"#;
    assert_eq!(
        world.cart("POST", path, unknown).await.error(),
        (400, "ERR_NOT_SUPPORTED_STATE_OPERATION".into())
    );
    assert_eq!(world.cart("POST", path, r#"{"operations":[]}"#).await.status, 204);
    assert_eq!(world.cart("POST", path, "[").await.error(), (400, "ERR_MALFORMED_REQUEST".into()));
    for step in [
        r#"{"operation":"upsert"}"#,
        r#"{"operation":"upsert","request":{"value":1}}"#,
        r#"{"operation":"delete"}"#,
    ] {
        let told = world.cart("POST", path, &format!(r#"{{"operations":[{step}]}}"#)).await;
        let message = told.json()["message"].clone();
        assert_eq!(
            (told.error(), message),
            ((400, "ERR_MALFORMED_REQUEST".into()), json!(r#""key" is a required field"#))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_array_is_no_object() {
    let world = World::new(blocks()).await;
    for (method, path, body, code) in [
        ("POST", "/v1.0/state/store", r#"[["k9",5]]"#, "ERR_MALFORMED_REQUEST"),
        (
            "POST",
            "/v1.0/state/store",
            r#"[{"key":"k9","value":5,"options":["first-write"]}]"#,
            "ERR_MALFORMED_REQUEST",
        ),
        ("POST", "/v1.0/state/store/bulk", r#"[["k9"]]"#, "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/state/store/transaction", "[]", "ERR_MALFORMED_REQUEST"),
        (
            "POST",
            "/v1.0/state/store/transaction",
            r#"{"operations":[["upsert",{"key":"k9","value":5}]]}"#,
            "ERR_MALFORMED_REQUEST",
        ),
        (
            "POST",
            "/v1.0/state/store/transaction",
            r#"{"operations":[{"operation":"upsert","request":["k9",5]}]}"#,
            "ERR_MALFORMED_REQUEST",
        ),
        ("POST", "/v1.0-alpha1/lock/locks", r#"["r","me",10]"#, "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0-alpha1/unlock/locks", r#"["r","me",10]"#, "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/publish/bulk/bus/t", r#"[["1",{},"application/json"]]"#, "ERR_PUBSUB_EVENTS_SER"),
    ] {
        assert_eq!(world.cart(method, path, body).await.error(), (400, code.into()), "{path} {body}");
    }
    assert_eq!(world.cart("GET", "/v1.0/state/store/k9", "").await.status, 204, "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn state_prefixes_keep_apps_apart_or_not() {
    let mut all = blocks();
    all.push(Resource::Component(component("shared", "state.in-memory", &[("keyPrefix", "none")])));
    let world = World::new(all).await;
    for (store, other) in [("store", 204), ("shared", 200)] {
        let path = format!("/v1.0/state/{store}");
        assert_eq!(world.cart("POST", &path, r#"[{"key":"k","value":1}]"#).await.status, 204);
        let told = world.send("shop/other", "GET", &format!("{path}/k"), &[], "").await;
        assert_eq!(told.status, other, "{store}");
    }
    let kept = world.runtime.keyvalue(&app("shop/cart"), "store").expect("up");
    let key = kept.prefix.apply("k").expect("legal");
    let item = kept.store.get(&dodai_capability::state::Get::new(key)).await.expect("read");
    assert_eq!(&*item.expect("the API wrote it").value, b"1");
}

#[tokio::test(start_paused = true)]
async fn publish_errors() {
    let mut all = blocks();
    all.push(Resource::Component(component(
        "guarded",
        "pubsub.in-memory",
        &[("publishingScopes", "cart=ok")],
    )));
    let world = World::new(all).await;
    let not_found = r#"{"errorCode":"ERR_PUBSUB_NOT_FOUND","message":"pubsub nope is not found","details":[{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"pubsub nope is not found","owner":"","resource_name":"nope","resource_type":"pubsub"},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":null,"reason":"DAPR_PUBSUB_NOT_FOUND"}]}"#;
    let forbidden = r#"{"errorCode":"ERR_PUBSUB_FORBIDDEN","message":"topic t is not allowed for app id cart","details":[{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"topic t is not allowed for app id cart","owner":"","resource_name":"guarded","resource_type":"pubsub"},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":{"error":"topic t is not allowed for app id cart","topic":"t"},"reason":"DAPR_PUBSUB_FORBIDDEN"}]}"#;
    let table = [
        ("POST", "/v1.0/publish/bus/a/b", "x", 204, ""),
        ("PUT", "/v1.0/publish/guarded/ok", "x", 204, ""),
        ("POST", "/v1.0/publish/guarded/t", "x", 403, forbidden),
        ("POST", "/v1.0/publish/nope/t", "x", 404, not_found),
    ];
    check(&world, &table).await;
    for (path, body, expect) in [
        ("/v1.0/publish/bus", "x", (404, "ERR_TOPIC_NAME_EMPTY")),
        (&format!("/v1.0/publish/bus/{}", "t".repeat(513)), "x", (400, "ERR_TOPIC_NAME_TOO_LONG")),
        ("/v1.0/publish/bus/t?metadata.rawPayload=maybe", "x", (400, "ERR_PUBSUB_REQUEST_METADATA")),
        ("/v1.0/publish/bulk/bus/t", "{", (400, "ERR_PUBSUB_EVENTS_SER")),
        (
            "/v1.0/publish/bulk/bus/t",
            r#"[{"event":"x","contentType":"text/plain"}]"#,
            (400, "ERR_PUBSUB_EVENTS_SER"),
        ),
        (
            "/v1.0/publish/bulk/bus/t",
            r#"[{"entryId":"1","event":{"a":1},"contentType":"text/plain"}]"#,
            (400, "ERR_PUBSUB_EVENTS_SER"),
        ),
    ] {
        let told = world.cart("POST", path, body).await;
        assert_eq!(told.error(), (expect.0, expect.1.to_owned()), "{path} {body}");
    }
    let event = [("content-type", "application/cloudevents+json")];
    let told = world.send("shop/cart", "POST", "/v1.0/publish/bus/t", &event, "no object").await;
    assert_eq!(told.error(), (500, "ERR_PUBSUB_CLOUD_EVENTS_SER".into()));
}

#[tokio::test(start_paused = true)]
async fn secrets_and_their_scopes() {
    let mut all = blocks();
    let scope = SecretScope {
        store: "vault".into(),
        default_allow: true,
        allowed: vec![],
        denied: vec!["db".into()],
    };
    let scopes = Scopes { secrets: vec![scope], ..Scopes::default() };
    all.push(Resource::App(App { scopes, ..App::new(app("shop/other")) }));
    let world = World::new(all).await;
    let table = [
        ("GET", "/v1.0/secrets/vault/db", "", 200, r#"{"db":"hunter2"}"#),
        ("GET", "/v1.0/secrets/vault/bulk", "", 200, r#"{"api":{"api":"key"},"db":{"db":"hunter2"}}"#),
        (
            "GET",
            "/v1.0/secrets/nope/db",
            "",
            401,
            r#"{"errorCode":"ERR_SECRET_STORE_NOT_FOUND","message":"failed finding secret store with key nope"}"#,
        ),
        (
            "GET",
            "/v1.0/secrets/vault/zz",
            "",
            500,
            r#"{"errorCode":"ERR_SECRET_GET","message":"failed getting secret with key zz from secret store vault: there is no secret `zz`"}"#,
        ),
    ];
    check(&world, &table).await;
    let told = world.send("shop/other", "GET", "/v1.0/secrets/vault/db", &[], "").await;
    let denied = r#"{"errorCode":"ERR_PERMISSION_DENIED","message":"access denied by policy to get \"db\" from \"vault\""}"#;
    assert_eq!((told.status, told.body.as_str()), (403, denied));
    let told = world.send("shop/other", "GET", "/v1.0/secrets/vault/bulk", &[], "").await;
    assert_eq!(told.json(), json!({ "api": { "api": "key" } }));
}

#[tokio::test(start_paused = true)]
async fn locks() {
    let world = World::new(blocks()).await;
    let mine = r#"{"resourceId":"r","lockOwner":"me","expiryInSeconds":60}"#;
    let theirs = r#"{"resource_id":"r","lock_owner":"you","expiry_in_seconds":60}"#;
    let table = [
        ("POST", "/v1.0-alpha1/unlock/locks", mine, 200, r#"{"status":1}"#),
        ("POST", "/v1.0-alpha1/lock/locks", mine, 200, r#"{"success":true}"#),
        ("POST", "/v1.0-alpha1/lock/locks", theirs, 200, r#"{"success":false}"#),
        ("POST", "/v1.0-alpha1/unlock/locks", theirs, 200, r#"{"status":2}"#),
        ("POST", "/v1.0-alpha1/unlock/locks", mine, 200, r#"{"status":0}"#),
        (
            "POST",
            "/v1.0-alpha1/lock/locks",
            "{}",
            400,
            r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"ResourceId is empty in lock store locks"}"#,
        ),
        (
            "POST",
            "/v1.0-alpha1/lock/locks",
            r#"{"resourceId":"r"}"#,
            400,
            r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"LockOwner is empty in lock store locks"}"#,
        ),
        (
            "POST",
            "/v1.0-alpha1/lock/locks",
            r#"{"resourceId":"r","lockOwner":"me"}"#,
            400,
            r#"{"errorCode":"ERR_MALFORMED_REQUEST","message":"ExpiryInSeconds is not positive in lock store locks"}"#,
        ),
        (
            "POST",
            "/v1.0-alpha1/lock/nope",
            mine,
            400,
            r#"{"errorCode":"ERR_LOCK_STORE_NOT_FOUND","message":"lock store nope not found"}"#,
        ),
    ];
    check(&world, &table).await;
}

#[tokio::test(start_paused = true)]
async fn without_components_each_api_says_so() {
    let world = World::new(vec![Resource::App(App::new(app("shop/cart")))]).await;
    let lock = r#"{"resourceId":"r","lockOwner":"me","expiryInSeconds":60}"#;
    for (method, path, body, status, code) in [
        ("GET", "/v1.0/state/s/k", "", 500, "ERR_STATE_STORE_NOT_CONFIGURED"),
        ("GET", "/v1.0/secrets/s/k", "", 500, "ERR_SECRET_STORES_NOT_CONFIGURED"),
        ("GET", "/v1.0/configuration/c", "", 500, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
        ("POST", "/v1.0-alpha1/lock/l", lock, 500, "ERR_LOCK_STORE_NOT_CONFIGURED"),
        ("POST", "/v1.0/publish/p/t", "", 404, "ERR_PUBSUB_NOT_FOUND"),
    ] {
        assert_eq!(world.cart(method, path, body).await.error(), (status, code.to_owned()), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_is_told() {
    let world = World::new(blocks()).await;
    for (method, path, status, code) in [
        ("POST", "/v1.0/actors/t/1/method/m", 501, "ERR_API_UNIMPLEMENTED"),
        ("POST", "/v1.0-beta1/workflows/dapr/w/start", 501, "ERR_API_UNIMPLEMENTED"),
        ("PUT", "/v1.0-alpha1/crypto/c/encrypt", 501, "ERR_API_UNIMPLEMENTED"),
        ("PATCH", "/v1.0/state/store", 405, "ERR_BAD_REQUEST"),
        ("GET", "/v1.0/state/store/%zz", 400, "ERR_MALFORMED_REQUEST"),
        ("GET", "/nothing", 404, "ERR_DIRECT_INVOKE"),
        ("GET", "/v1.0/nothing", 404, "ERR_DIRECT_INVOKE"),
    ] {
        assert_eq!(world.cart(method, path, "").await.error(), (status, code.to_owned()), "{method} {path}");
    }
    assert_eq!(world.cart("PATCH", "/v1.0/state/store", "").await.headers["allow"], "POST, PUT");
}

#[tokio::test(start_paused = true)]
async fn metadata_and_health() {
    let world = World::new(blocks()).await;
    assert_eq!(world.cart("PUT", "/v1.0/metadata/team", "carts").await.status, 204);
    let told = world.cart("GET", "/v1.0/metadata", "").await.json();
    assert_eq!(told["id"], "cart");
    assert_eq!(told["runtimeVersion"], "1.18.0");
    assert_eq!(told["extended"]["team"], "carts");
    assert_eq!(told["extended"]["dodaiVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(told["actorRuntime"], json!({ "runtimeStatus": "DISABLED", "hostReady": false }));
    assert_eq!(
        told["components"][0],
        json!({ "name": "bus", "type": "pubsub.in-memory", "version": "v1", "capabilities": ["MESSAGE_TTL"] })
    );
    for absent in ["subscriptions", "httpEndpoints", "enabledFeatures", "scheduler"] {
        assert!(told.get(absent).is_none(), "{absent}");
    }
    assert_eq!(told["workflows"], json!({}));
    assert_eq!(told["appConnectionProperties"], json!({ "protocol": "http" }));
    for path in ["/v1.0/healthz", "/v1.0/healthz?appid=cart", "/v1.0/healthz/outbound"] {
        assert_eq!(world.cart("GET", path, "").await.status, 204, "{path}");
    }
    let told = world.cart("GET", "/v1.0/healthz?appid=other", "").await;
    assert_eq!(told.error(), (500, "ERR_HEALTH_APPID_NOT_MATCH".into()));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_for_but_not_by_health_checks() {
    let mut all = blocks();
    let scopes = Scopes { api_token: Some("open sesame".into()), ..Scopes::default() };
    let guarded = App { scopes, ..App::new(app("shop/cart")) };
    all.push(Resource::App(guarded));
    let world = World::new(all).await;
    for token in [None, Some(""), Some("open sesam"), Some("open sesame ")] {
        let headers: Vec<(&str, &str)> = token.iter().map(|token| ("dapr-api-token", *token)).collect();
        let told = world.send("shop/cart", "GET", "/v1.0/metadata", &headers, "").await;
        assert_eq!((told.status, told.body.as_str()), (401, "invalid api token\n"), "{token:?}");
    }
    let right = [("dapr-api-token", "open sesame")];
    assert_eq!(world.send("shop/cart", "GET", "/v1.0/metadata", &right, "").await.status, 200);
    assert_eq!(world.cart("GET", "/v1.0/healthz", "").await.status, 204);
    assert_eq!(world.cart("GET", "/v1.0/healthz/outbound", "").await.status, 204);
    world.apply(blocks()).await;
    assert_eq!(world.cart("GET", "/v1.0/metadata", "").await.status, 200, "the token was taken away");
}

#[tokio::test(start_paused = true)]
async fn bodies_are_bounded_where_they_are_kept() {
    let settings = Settings { max_body: 64, ..Settings::default() };
    let world = World::with(blocks(), settings, |_| {}).await;
    let long = "x".repeat(65);
    for path in ["/v1.0/state/store", "/v1.0/publish/bus/t", "/v1.0-alpha1/lock/locks"] {
        assert_eq!(world.cart("POST", path, &long).await.error(), (413, "ERR_BODY_READ".into()), "{path}");
    }
    assert_eq!(world.cart("POST", "/v1.0/invoke/other/method/m", &long).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_and_what_is_sent_at_once_has_bounds() {
    let world = World::new(blocks()).await;
    let kept = async |key: &str, bytes: usize| {
        world.cart("PUT", &format!("/v1.0/metadata/{key}"), &"x".repeat(bytes)).await.status
    };
    for at in 0..127 {
        assert_eq!(kept(&format!("k{at}"), 1).await, 204);
    }
    assert_eq!((kept("last", 65_537).await, kept("last", 65_536).await), (400, 204));
    assert_eq!((kept("more", 1).await, kept("last", 1).await), (400, 204), "128 are kept");
    let publish = async |count: usize| {
        let all: Vec<String> = (0..count)
            .map(|at| format!(r#"{{"entryId":"{at}","event":"e","contentType":"text/plain"}}"#))
            .collect();
        world.cart("POST", "/v1.0/publish/bulk/bus/t", &format!("[{}]", all.join(","))).await
    };
    assert_eq!(publish(10_000).await.status, 204);
    let refused = publish(10_001).await;
    assert_eq!(refused.error(), (400, "ERR_PUBSUB_EVENTS_SER".into()));
    assert!(refused.body.contains("10001 entries in one request; send at most 10000"), "{}", refused.body);
}

#[tokio::test(start_paused = true)]
async fn a_component_out_of_scope_is_not_there() {
    let mut all = blocks();
    let mut scoped = component("mine", "state.in-memory", &[]);
    scoped.scopes = vec!["cart".into()];
    all.push(Resource::Component(scoped));
    let world = World::new(all).await;
    assert_eq!(world.cart("GET", "/v1.0/state/mine/k", "").await.status, 204);
    let told = world.send("shop/other", "GET", "/v1.0/state/mine/k", &[], "").await;
    assert_eq!(told.error(), (400, "ERR_STATE_STORE_NOT_FOUND".into()));
    let told = world.send("elsewhere/cart", "GET", "/v1.0/state/mine/k", &[], "").await;
    assert_eq!(told.error(), (500, "ERR_STATE_STORE_NOT_CONFIGURED".into()));
}

#[tokio::test(start_paused = true)]
async fn an_operator_publishes_whatever_the_scopes_of_apps_are() {
    let mut all = blocks();
    let mut scoped = component("mine", "pubsub.in-memory", &[("publishingScopes", "cart=t")]);
    scoped.scopes = vec!["cart".into()];
    all.push(Resource::Component(scoped));
    let world = World::new(all).await;
    let path = "/v1.0/publish/mine/t";
    assert_eq!(world.send("shop/other", "POST", path, &[], "x").await.status, 404, "an app is held to them");
    let (head, ()) = http::Request::post(path).body(()).expect("a request").into_parts();
    let context = Context::new(Caller::Base, Span::root(true));
    let call = Call { head, body: Body::full("x"), context };
    assert_eq!(world.serve("shop/dodai", call).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn hosts_outside_and_the_way_to_the_app_are_told() {
    let mut all = blocks();
    for (name, apps) in
        [("everybody", vec![]), ("mine", vec![app("shop/cart")]), ("theirs", vec![app("shop/x")])]
    {
        let id = ServiceId { owner: app(&format!("shop/{name}")), port: crate::world::name("http") };
        let target = Target::Address("a.example:80".into());
        let list = vec![Endpoint::new(RevisionId::new("outside"), target)];
        all.push(Resource::Endpoints(Endpoints { service: id.clone(), list }));
        let rules = vec![AccessRule { allow: true, apps, ..AccessRule::default() }];
        let access = Filter::Access(Access { default_allow: false, rules });
        all.push(Resource::Service(service(id, access)));
    }
    let health = AppHealth {
        path: "/up".into(),
        interval: Duration::from_secs(90),
        timeout: Duration::from_millis(500),
        threshold: 3,
    };
    let connection = AppConnection {
        port: 80,
        protocol: "http".into(),
        address: "127.0.0.1".into(),
        max_concurrency: None,
        health: Some(health),
    };
    let settings = Settings { connection: Some(connection), ..Settings::default() };
    let world = World::with(all, settings, |_| {}).await;
    let told = world.cart("GET", "/v1.0/metadata", "").await.json();
    assert_eq!(told["httpEndpoints"], json!([{ "name": "everybody" }, { "name": "mine" }]));
    let health = json!({ "healthCheckPath": "/up", "healthProbeInterval": "1m30s", "healthProbeTimeout": "500ms", "healthThreshold": 3 });
    assert_eq!(told["appConnectionProperties"]["health"], health);
}

fn service(id: ServiceId, filter: Filter) -> Service {
    let rule = Rule { filters: vec![filter], ..Rule::forward("endpoint", id.clone()) };
    Service { rules: vec![rule], ..Service::new(id) }
}

#[tokio::test(start_paused = true)]
async fn pages_of_allowed_origins_may_call() {
    let scopes = Scopes { api_token: Some("t".into()), ..Scopes::default() };
    let mut all = blocks();
    all.push(Resource::App(App { scopes, ..App::new(app("shop/cart")) }));
    let with = |list: &str| Settings { origins: Origins::parse(list), ..Settings::default() };
    let ask = [("origin", "https://a.example"), ("access-control-request-method", "post")];
    let wants = ("access-control-request-headers", "dapr-api-token, content-type");
    let path = "/v1.0/state/store";
    for (list, allowed) in [
        ("*", Some("*")),
        ("https://b.example,https://A.example", Some("https://a.example")),
        ("https://b.example", None),
    ] {
        let world = World::with(all.clone(), with(list), |_| {}).await;
        let told = world.send("shop/cart", "OPTIONS", path, &[ask[0], ask[1], wants], "").await;
        let header =
            |name: &str| told.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(told.status, 200, "no token is asked for");
        assert_eq!(header("access-control-allow-origin").as_deref(), allowed, "{list}");
        assert_eq!(header("access-control-allow-methods").as_deref(), allowed.map(|_| "POST"));
        assert_eq!(header("access-control-allow-headers").as_deref(), allowed.map(|_| wants.1));
        let told =
            world.send("shop/cart", "GET", "/v1.0/metadata", &[ask[0], ("dapr-api-token", "t")], "").await;
        let origin =
            told.headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"));
        assert_eq!((told.status, origin), (200, allowed));
        assert_eq!(told.headers["vary"], "origin");
        let told = world.send("shop/cart", "GET", "/v1.0/metadata", &[ask[0]], "").await;
        assert_eq!(told.status, 401, "a call itself needs the token");
    }
    let world = World::new(all).await;
    let told = world.send("shop/cart", "OPTIONS", path, &ask, "").await;
    assert_eq!(told.status, 401);
    assert!(!told.headers.contains_key("access-control-allow-origin"));
}
