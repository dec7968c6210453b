//! The API in process, over a store in memory and a node that only remembers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bounds;
mod console;
mod described;
mod fake;
mod security;
mod server;

use std::time::Duration;

use dodai_core::status::Health;
use fake::{Answer, World, sqlite};
use http::StatusCode;
use serde_json::{Value, json};

const APP: &str = "apiVersion: dodai.dev/v1
kind: App
metadata: {name: shop}
spec:
  module: {artifact: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}
  services: [{name: http}]
  env: [{name: PASSWORD, value: s3cret}]
";

#[tokio::test]
async fn nothing_but_health_is_told_without_the_token() {
    let world = World::new().await;
    let health = world.send("GET", "/healthz", &[("authorization", "")], "").await;
    assert_eq!((health.status, health.text.as_str()), (StatusCode::OK, "ok\n"));
    for (path, header) in [
        ("/v1/status", ""),
        ("/v1/status", "Bearer wrong"),
        ("/v1/status", "Basic right"),
        ("/metrics", ""),
        ("/x", ""),
    ] {
        let answer = world.send("GET", path, &[("authorization", header)], "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {header}");
        assert_eq!(answer.json()["code"], "unauthorized");
        assert!(answer.json()["remedy"].as_str().unwrap().contains("admin.json"));
    }
    assert_eq!(world.get("/v1/status").await.json()["settled"], json!(true));
    assert_eq!(world.get("/metrics").await.text, "# EOF\n");
    assert_eq!(world.get("/x").await.json()["code"], "not_found");
    assert_eq!(world.send("PATCH", "/v1/status", &[], "").await.json()["code"], "method");
}

#[tokio::test]
async fn rebound_names_and_foreign_pages_stay_out() {
    let world = World::new().await;
    for host in ["evil.example", "127.0.0.1.evil.example:7070", "1.2.3.4.5", ""] {
        let answer = world.send("GET", "/healthz", &[("host", host)], "").await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
    for host in ["localhost:7070", "[::1]:7070", "127.0.0.1", "10.0.0.5:7070", "console.internal:7070"] {
        assert_eq!(
            world.send("GET", "/v1/status", &[("host", host)], "").await.status,
            StatusCode::OK,
            "{host}"
        );
    }
    for origin in ["https://evil.example", "http://localhost:9999", "null"] {
        let answer =
            world.send("GET", "/v1/status", &[("host", "localhost:7070"), ("origin", origin)], "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{origin}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    let own = [("host", "localhost:7070"), ("origin", "http://localhost:7070")];
    assert_eq!(world.send("GET", "/v1/status", &own, "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn documents_are_applied_read_and_deleted_without_showing_secrets() {
    let world = World::new().await;
    let dry = world.apply("?dryRun=true", APP).await.json();
    assert_eq!(dry["documents"][0]["verdict"], "created");
    assert!(!dry.to_string().contains("s3cret"), "{dry}");
    assert_eq!(
        world.get("/v1/documents/App/default/shop").await.status,
        StatusCode::NOT_FOUND,
        "a dry run writes nothing"
    );
    assert_eq!(world.apply("", APP).await.json()["documents"][0]["generation"], 1);
    assert_eq!(world.apply("", APP).await.json()["documents"][0]["verdict"], "unchanged");
    let changed = APP.replace("s3cret", "other").replace("name: http", "name: web");
    let dry = world.apply("?dryRun=true", &changed).await.json();
    let paths: Vec<&str> = dry["documents"][0]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["path"].as_str().unwrap())
        .collect();
    assert!(paths.contains(&"spec.env[name=PASSWORD].value"), "{dry}");
    assert!(!dry.to_string().contains("s3cret") && !dry.to_string().contains("other\""), "{dry}");
    let shown = world.get("/v1/documents/app/default/shop").await;
    assert!(shown.text.contains("<hidden>") && !shown.text.contains("s3cret"), "{}", shown.text);
    let list = world.get("/v1/documents?kind=App&namespace=default").await.json();
    assert_eq!(list["items"][0]["metadata"]["name"], "shop");
    // What was read here and not shown is kept; what was never stored cannot be.
    let back = world.apply("", &shown.json().to_string()).await;
    assert_eq!(back.json()["documents"][0]["verdict"], "unchanged", "{}", back.text);
    let edited = APP.replace("s3cret", "<hidden>").replace("name: http", "name: web");
    assert_eq!(world.apply("", &edited).await.json()["documents"][0]["verdict"], "configured");
    let key = dodai_api::DocumentKey {
        kind: dodai_api::Kind::App,
        namespace: "default".parse().unwrap(),
        name: "shop".parse().unwrap(),
    };
    let stored = world.control.get(&key).await.unwrap().to_value();
    assert_eq!(stored.pointer("/spec/env/0/value"), Some(&json!("s3cret")), "{stored}");
    let lost = world.apply("", &edited.replace("PASSWORD", "NEW_PASSWORD")).await;
    assert_eq!(lost.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(lost.text.contains("NEW_PASSWORD"), "{}", lost.text);
    assert_eq!(world.send("DELETE", "/v1/documents/App/default/shop", &[], "").await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/documents/App/default/shop").await.json()["code"], "not_found");
    let unknown = world.get("/v1/documents?kind=Ap").await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert!(unknown.text.contains("App"), "{}", unknown.text);
}

#[tokio::test]
async fn components_are_looked_into_and_what_a_driver_cannot_do_is_said_of_it() {
    let world = World::new().await;
    let component = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: bus}\nspec: {type: pubsub.odd, version: v1}\n";
    assert_eq!(world.apply("", component).await.status, StatusCode::OK);
    world.until(|| world.has(dodai_api::Kind::Component)).await;
    let missing = world.get("/v1/topics/none").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "{}", missing.text);
    assert_eq!(world.get("/v1/topics/bus").await.json()["items"][0]["pending"], 0);
    world.get("/v1/topics/bus/a%2Fb?group=shop&after=7&limit=9").await;
    let asked = world.node.done().pop().unwrap();
    assert!(asked.contains(r#"Peek { topic: "a/b", group: "shop", after: Some("7"), limit: 9 }"#), "{asked}");
    let body = r#"{"id": "7", "to": "orders"}"#;
    let odd = world.send("POST", "/v1/topics/bus/dead/replay", &[], body).await;
    assert_eq!((odd.status, odd.json()["code"].as_str()), (StatusCode::NOT_IMPLEMENTED, Some("unsupported")));
    assert!(odd.text.contains("`pubsub.odd`: the driver cannot"), "{}", odd.text);
    for bad in ["{}", r#"{"id": "7", "to": ""}"#, r#"{"id": "7", "to": "x", "more": 1}"#] {
        let answer = world.send("POST", "/v1/topics/bus/dead/replay", &[], bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn a_component_that_serves_as_before_a_change_says_why() {
    let world = World::new().await;
    let component = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: db}\nspec: {type: state.sqlite, version: v1}\n";
    assert_eq!(world.apply("", component).await.status, StatusCode::OK);
    world.until(|| world.has(dodai_api::Kind::Component)).await;
    let health = |ready: bool, reason: &str| Health { ready, reason: reason.to_owned() };
    let (well, kept) = (health(true, ""), health(true, "a change was refused"));
    let down = health(false, "no such folder");
    for (told, expect) in [
        (vec![], json!([null, ""])),
        (vec![("default/db", &well)], json!([true, ""])),
        (vec![("default/db", &kept)], json!([true, "a change was refused"])),
        (vec![("one: default/db", &well), ("two: default/db", &kept)], json!([true, "a change was refused"])),
        (vec![("one: default/db", &kept), ("two: default/db", &down)], json!([false, "no such folder"])),
    ] {
        let components = told.iter().map(|(name, one)| ((*name).to_owned(), (*one).clone())).collect();
        world.node.state.lock().unwrap().components = components;
        let row = world.get("/v1/components").await.json()["items"][0].clone();
        assert_eq!(json!([row["ready"], row["reason"]]), expect, "{told:?}");
        let status = world.get("/v1/status").await.json();
        let known = status["node"]["components"].as_object().unwrap().len();
        assert_eq!(known, told.len(), "{status}");
    }
}

#[tokio::test]
async fn what_types_and_components_can_do_is_told() {
    let world = World::new().await;
    let component = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: db}\nspec: {type: state.sqlite, version: v1}\n";
    assert_eq!(world.apply("", component).await.status, StatusCode::OK);
    world.until(|| world.has(dodai_api::Kind::Component)).await;
    let told = world.get("/v1/components").await.json();
    assert_eq!(told["types"][0]["type"], "state.sqlite");
    assert_eq!(told["types"][0]["blocks"]["state"]["etag"], true);
    assert_eq!(told["items"][0]["blocks"], Value::Null, "it is not open: {told}");
    for name in ["default/db", "one: default/db"] {
        world.node.state.lock().unwrap().blocks = [(name.to_owned(), sqlite().blocks)].into();
        let told = world.get("/v1/components").await.json();
        let blocks = &told["items"][0]["blocks"];
        assert_eq!((&blocks["state"]["ttl"], &blocks["state"]["list"]), (&json!(true), &json!(false)));
        assert_eq!(blocks.as_object().unwrap().len(), 1, "what it does not serve is left out: {told}");
    }
}

#[tokio::test]
async fn an_app_that_is_built_by_its_client_is_taken_with_the_digest_of_what_was_built() {
    let world = World::new().await;
    let app = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: shop}\nspec:\n  module: {artifact: shop.wasm, \
               build: {command: [make]}}\n";
    let digest = format!("sha256:{}", "0".repeat(64));
    let body = json!({
        "files": [{"name": "dodai.yaml", "content": app}], "artifacts": {"default/shop": digest}
    });
    let json = [("content-type", "application/json")];
    for verdict in ["created", "unchanged"] {
        let answer = world.send("POST", "/v1/documents?owner=file", &json, &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(answer.json()["documents"][0]["verdict"], verdict);
    }
}

#[tokio::test]
async fn what_will_not_do_what_it_seems_to_is_told_with_its_place() {
    let world = World::new().await;
    let component =
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec: {type: state.sqlit}\n";
    let told = world.apply("?file=a.yaml", component).await.json();
    let warning = &told["warnings"][0];
    assert_eq!((&warning["file"], &warning["line"]), (&json!("a.yaml"), &json!(4)), "{told}");
    assert_eq!(warning["remedy"], "did you mean `state.sqlite`?");
    let foreign = world.apply("?file=b.yaml", "apiVersion: apps/v1\nkind: Deployment\n").await;
    assert_eq!(foreign.status, StatusCode::BAD_REQUEST);
    assert!(foreign.text.contains("b.yaml:1:13") && foreign.text.contains("passed over"), "{}", foreign.text);
    // What was printed is taken back without a word about what only the server writes.
    let stored = world.get("/v1/documents/Component/default/a").await.json();
    let again = world.apply("", &stored.to_string().replace("state.sqlit", "state.sqlite")).await.json();
    assert_eq!(
        (&again["warnings"], &again["documents"][0]["verdict"]),
        (&json!([]), &json!("configured")),
        "{again}"
    );
    // An app that is named nowhere, as far as the store knows.
    let policy = |app: &str| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  targetRefs: [{{kind: App, name: shop}}]\n  access: {{rules: [{{action: allow, from: {{apps: [{app}]}}}}]}}\n"
        )
    };
    assert_eq!(world.apply("", APP).await.status, StatusCode::OK);
    let told = world.apply("?file=p.yaml", &policy("shp")).await.json();
    assert_eq!(told["warnings"][0]["path"], "spec.access.rules[0].from.apps[0]", "{told}");
    assert_eq!(world.apply("", &policy("shop")).await.json()["warnings"], json!([]));
}

#[tokio::test]
async fn apps_that_run_elsewhere_are_tried() {
    let world = World::new().await;
    let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (open, gone) = (there.local_addr().unwrap(), free_port());
    let app = format!(
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: far}}\nspec:\n  external: {{addresses: ['{open}', '127.0.0.1:{gone}'], start: ./far}}\n"
    );
    assert_eq!(world.apply("", &app).await.status, StatusCode::OK);
    world.until(|| world.control.view().documents.apps().count() == 1).await;
    let told = world.get("/v1/externals").await.json();
    let seen: Vec<_> = told["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["app"].as_str(), one["reachable"].as_bool()))
        .collect();
    assert_eq!(seen, [(Some("default/far"), Some(true)), (Some("default/far"), Some(false))], "{told}");
    assert_eq!(
        (&told["items"][0]["address"], &told["items"][0]["reason"]),
        (&json!(open.to_string()), &json!(""))
    );
    assert!(told["items"][1]["reason"].as_str().unwrap().contains("start it: ./far"), "{told}");
    assert!(told["items"][0]["created"].as_str().is_some(), "{told}");
}

/// A port that nobody listens on: it was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn problems_come_with_their_places_and_nothing_is_written() {
    let world = World::new().await;
    let files = json!({"files": [
        {"name": "good.yaml", "content": APP},
        {"name": "bad.yaml", "content": APP.replace("services:", "servces:").replace("shop", "other")},
    ]});
    let kind = [("content-type", "application/json")];
    let answer = world.send("POST", "/v1/documents", &kind, &files.to_string()).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let problem = &answer.json()["problems"][0];
    assert_eq!(
        (problem["file"].as_str(), problem["line"].as_u64()),
        (Some("bad.yaml"), Some(6)),
        "{problem}"
    );
    assert!(problem["remedy"].as_str().unwrap().contains("services"));
    assert_eq!(world.get("/v1/documents/App/default/shop").await.status, StatusCode::NOT_FOUND);
    // What only shows together with the rest of the store has its place too.
    let route = "apiVersion: dodai.dev/v1\nkind: Route\nmetadata: {name: r}\nspec:\n  parentRefs: [{name: nowhere}]\n  rules: [{backendRefs: [{name: shop}]}]\n";
    let answer = world.apply("?file=route.yaml", route).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.json()["problems"][0]["file"], "route.yaml");
    assert_eq!(world.apply("", "").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.apply("?owner=nobody", APP).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn pruning_removes_what_its_scope_no_longer_has() {
    let world = World::new().await;
    let two = format!("{APP}---\n{}", APP.replace("shop", "other"));
    world.apply("?prune=p&owner=file", &two).await;
    world.apply("?prune=q&owner=file", &APP.replace("shop", "third")).await;
    let answer = world.apply("?prune=p&owner=file", APP).await.json();
    assert_eq!(answer["documents"][1]["verdict"], "pruned", "{answer}");
    let list = world.get("/v1/documents?kind=App").await.json();
    let names: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["shop", "third"]);
}

#[tokio::test]
async fn a_watch_tells_what_there_is_and_then_what_changes() {
    let world = World::new().await;
    world.apply("", APP).await;
    world.until(|| world.control.view().documents.apps().count() == 1).await;
    let mut watch = world.stream("/v1/watch?kind=App").await;
    assert_eq!(watch.next().await["document"]["metadata"]["name"], "shop");
    world.apply("", &APP.replace("shop", "other")).await;
    // The status of the first app may come in between.
    while watch.next().await["document"]["metadata"]["name"] != "other" {}
    world.send("DELETE", "/v1/documents/App/default/other", &[], "").await;
    while watch.next().await["key"] != "App/default/other" {}
    world.tasks.close();
    assert!(watch.ends().await, "an answer without end ends with the server");
}

#[tokio::test]
async fn a_deployment_is_uploaded_compiled_and_then_told_to_control() {
    let world = World::new().await;
    world.apply("", APP).await;
    let component = "\0asm\u{d}\0\u{1}\0rest";
    let answer = world.send("POST", "/v1/apps/default/shop/deploy", &[], component).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let digest = answer.json()["digest"].as_str().unwrap().to_owned();
    let app = world.get("/v1/documents/App/default/shop").await.json();
    assert_eq!(app["spec"]["module"]["artifact"], digest.as_str());
    assert_eq!(world.node.done(), ["put 12", &format!("prepare shop {digest}")]);
    let kind = [("content-type", "application/json")];
    let again = json!({ "digest": digest }).to_string();
    assert_eq!(
        world.send("POST", "/v1/apps/default/shop/deploy", &kind, &again).await.status,
        StatusCode::OK
    );
    for (path, body, status) in [
        ("/v1/apps/default/shop/deploy", "not a component", StatusCode::UNPROCESSABLE_ENTITY),
        ("/v1/apps/default/nobody/deploy", component, StatusCode::NOT_FOUND),
        ("/v1/apps/default/shop/deploy", "\0asm\u{d}\0\u{1}\0broken", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let answer = world.send("POST", path, &[], body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    let after = world.get("/v1/documents/App/default/shop").await.json();
    assert_eq!(
        after["spec"]["module"]["artifact"],
        digest.as_str(),
        "what does not compile is never deployed"
    );
}

#[tokio::test]
async fn calls_carry_their_own_method_headers_and_status() {
    let world = World::new().await;
    let headers = [("dodai-call-header", "authorization: Bearer of-the-app")];
    let path = "/v1/call?app=default/shop&path=/a%3Fb%3Dc&method=PUT";
    let answer = world.send("POST", path, &headers, "body").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["dodai-call-status"], "418");
    assert_eq!(answer.headers["dodai-call-header"], "seen: Bearer of-the-app");
    assert_eq!(answer.text, "PUT http://shop.default/a?b=c body");
    let away = "/v1/call?app=default/away&path=/";
    let unknown = world.send("POST", away, &[], "").await;
    assert_eq!((unknown.status, unknown.json()["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
    let document = "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: away}\nspec: {external: {addresses: ['127.0.0.1:1']}}\n";
    assert_eq!(world.apply("", document).await.status, StatusCode::OK);
    let refused = async || {
        let answer = world.send("POST", away, &[], "").await;
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    // Control is told of the document a moment later.
    let told = async {
        while refused().await.1 == "not_found" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), told).await.unwrap();
    assert_eq!(refused().await, (StatusCode::NOT_FOUND, "no_route".to_owned()));
    let headers = world.send("POST", away, &[], "").await.headers;
    assert_eq!(
        (&headers["dodai-failure"], &headers["dodai-call-status"]),
        (&"no_route".parse().unwrap(), &"404".parse().unwrap())
    );
    for path in
        ["/v1/call?app=default/shop&path=a", "/v1/call?app=SHOP%20&path=/", "/v1/call?app=default/shop"]
    {
        assert_eq!(world.send("POST", path, &[], "").await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn jobs_are_listed_and_forgotten() {
    let world = World::new().await;
    let listed = world.get("/v1/jobs?app=default/shop&after=default/shop/a&limit=9999&base=one").await;
    assert_eq!(listed.json()["items"].as_array().map(Vec::len), Some(1));
    let gone = world.send("DELETE", "/v1/jobs/default/shop/report?base=one", &[], "").await;
    assert_eq!((gone.status, gone.json()), (StatusCode::OK, serde_json::json!({})));
    let missing = world.send("DELETE", "/v1/jobs/default/shop/a%20job", &[], "").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let done = world.node.done();
    assert!(done[0].contains("after: Some(\"default/shop/a\"), limit: 500"), "{done:?}");
    assert_eq!(done[1..], ["forget default/shop report Some(\"one\")", "forget default/shop a job None"]);
    for bad in ["/v1/jobs?app=a/b/c", "/v1/jobs?colour=red"] {
        assert_eq!(world.get(bad).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn configuration_messages_logs_and_the_store_reach_the_node() {
    let world = World::new().await;
    world.apply("", APP).await;
    world.until(|| world.control.view().documents.apps().count() == 1).await;
    assert_eq!(world.send("PUT", "/v1/config/conf/color", &[], "blue").await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/config/conf/color").await.json()["value"], "blue");
    assert_eq!(world.send("DELETE", "/v1/config/conf/color", &[], "").await.status, StatusCode::OK);
    assert_eq!(world.send("DELETE", "/v1/config/conf/color", &[], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/v1/config/conf/color").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.send("POST", "/v1/publish/bus/orders", &[], "hello").await.status, StatusCode::OK);
    assert_eq!(world.node.done(), ["publish default bus orders text/plain 5"]);
    let mut logs = world.stream("/v1/apps/default/shop/logs?tail=2").await;
    assert_eq!(logs.next().await["text"], "line 1");
    assert_eq!(logs.next().await["text"], "line 2");
    assert!(logs.ends().await);
    assert_eq!(world.get("/v1/apps/default/nobody/logs").await.status, StatusCode::NOT_FOUND);
    let unknown = world.get("/v1/apps/default/shop/logs?instance=shop-9").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND, "an instance that never was has no empty log");
    let mut calls = world.stream("/v1/calls?app=default/shop&status=400").await;
    let call = calls.next().await;
    let asked = call["detail"].as_str().unwrap();
    assert!(asked.contains("shop") && asked.contains("Some(400)"), "{asked}");
    assert!(calls.ends().await);
    assert_eq!(world.get("/v1/calls?app=a/b/c").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/v1/calls?colour=red").await.status, StatusCode::BAD_REQUEST);
    for bad in ["status=99", "status=6xx", "status=503-500", "header=a%20b"] {
        assert_eq!(world.get(&format!("/v1/calls?{bad}")).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let path = "/v1/calls?status=500-503&header=X-Lane:blue&path=/a&slower_than_us=250&errors=true";
    let call = world.stream(path).await.next().await;
    let asked = call["detail"].as_str().unwrap();
    for part in ["Some((500, 503))", "\"x-lane\", Some(\"blue\")", "\"/a\"", "Some(250)", "errors: true"] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    let page = world.get("/debug/connections?after=7&limit=5&only=web").await.json();
    let asked = page["items"][0].as_str().unwrap();
    assert!(asked.contains("Connections") && asked.contains("after: 7, limit: 5"), "{asked}");
    assert_eq!(world.get("/debug/keys").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/debug/table?colour=red").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/v1/store").await.json()["backend"], "fake");
    assert_eq!(world.get("/v1/changes?prefix=App/").await.json()["items"][0]["key"], "/App/");
    assert_eq!(world.get("/v1/instances").await.json()["items"], json!([]));
    assert!(world.get("/v1/events").await.json()["items"].is_array());
}

#[tokio::test]
async fn a_backup_is_the_answer_and_nothing_is_written_where_a_caller_says() {
    let world = World::new().await;
    let data = world.data.path();
    let answer = world.send("POST", "/v1/store/backup", &[], "").await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, "a copy"));
    assert_eq!(answer.headers["content-length"], "6");
    let target = data.join("somewhere");
    let refused = world.send("POST", "/v1/store/backup", &[], &json!({ "path": target }).to_string()).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.json()["remedy"].as_str().unwrap().contains("dodai store backup FILE"));
    assert_eq!(std::fs::read_dir(data).unwrap().count(), 0, "no copy is left");
}

#[tokio::test]
async fn a_stop_is_answered_and_then_told() {
    let world = World::new().await;
    let mut stop = world.stop.subscribe();
    let answer: Answer = world.send("POST", "/v1/shutdown", &[], "").await;
    assert_eq!(answer.json()["stopping"], json!(true));
    tokio::time::timeout(Duration::from_secs(5), stop.wait_for(|stop| *stop)).await.unwrap().unwrap();
}

#[tokio::test]
async fn it_serves_real_connections_and_ends_them_in_order() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    dodai_admin::server::serve(listener, world.router.clone(), &world.tasks);
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let cut = world.tasks.drain(Duration::from_secs(5)).await;
    assert!(cut.is_empty(), "{cut:?}");
}
