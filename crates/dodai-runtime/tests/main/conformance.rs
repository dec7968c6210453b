//! The state API by daprd's rules, as tables: keys as stores keep them, options, lifetimes, many at once.

use std::sync::Arc;
use std::time::Duration;

use dodai_capability::memory;
use dodai_capability::state::{Get, Store};
use dodai_core::features::Blocks;
use dodai_core::snapshot::Resource;
use dodai_runtime::Settings;
use serde_json::json;

use crate::drivers::Given;
use crate::world::{World, blocks, component};

const SAVE: &str = "/v1.0/state/store";

#[tokio::test(start_paused = true)]
async fn keys_are_kept_by_the_strategy_of_the_store() {
    for (strategy, kept) in [
        ("", "cart||k"),
        ("appid", "cart||k"),
        ("name", "given||k"),
        ("namespace", "shop.cart||k"),
        ("none", "k"),
        ("Mine", "mine||k"),
    ] {
        let mut all = blocks();
        all.push(Resource::Component(component("given", "state.given", &[("keyPrefix", strategy)])));
        let store: Arc<dyn Store> = Arc::new(memory::State::new(1 << 20));
        let behind = store.clone();
        let world = World::with(all, Settings::default(), |registry| {
            registry.register("state.given", "v1", Blocks::default(), Given(store));
        })
        .await;
        let save = r#"[{"key":"k","value":1}]"#;
        assert_eq!(world.cart("POST", "/v1.0/state/given", save).await.status, 204);
        let step = r#"{"operations":[{"operation":"upsert","request":{"key":"k","value":2}}]}"#;
        assert_eq!(world.cart("POST", "/v1.0/state/given/transaction", step).await.status, 204);
        let item = behind.get(&Get::new(kept)).await.expect("read");
        assert_eq!(&*item.unwrap_or_else(|| panic!("{strategy}: no {kept}")).value, b"2");
        assert_eq!(world.cart("GET", "/v1.0/state/given/k", "").await.body, "2");
        let bulk = world.cart("POST", "/v1.0/state/given/bulk", r#"{"keys":["k"]}"#).await;
        assert_eq!((&bulk.json()[0]["key"], &bulk.json()[0]["data"]), (&json!("k"), &json!(2)));
        assert_eq!(world.cart("DELETE", "/v1.0/state/given/k", "").await.status, 204);
        assert!(behind.get(&Get::new(kept)).await.expect("read").is_none(), "{strategy}");
    }
}

#[tokio::test(start_paused = true)]
async fn options_are_taken_where_daprd_takes_them_and_read_strictly() {
    let world = World::new(blocks()).await;
    let illegal = r#"{"operations":[{"operation":"upsert","request":{"key":"a||b","value":1}}]}"#;
    let typo =
        r#"{"operations":[{"operation":"upsert","request":{"key":"k","options":{"consistency":"x"}}}]}"#;
    for (method, path, body, status, code) in [
        ("POST", SAVE, r#"[{"key":"k","value":1}]"#, 204, ""),
        ("GET", "/v1.0/state/store/k?consistency=strong&metadata.partitionKey=p", "", 200, ""),
        ("GET", "/v1.0/state/store/k?consistency=eventual", "", 200, ""),
        ("GET", "/v1.0/state/store/k?consistency=Strong", "", 400, "ERR_STATE_GET"),
        ("GET", "/v1.0/state/store/zz?consistency=strong", "", 204, ""),
        ("DELETE", "/v1.0/state/store/k?concurrency=frist-write", "", 400, "ERR_STATE_DELETE"),
        ("DELETE", "/v1.0/state/store/k?consistency=x", "", 400, "ERR_STATE_DELETE"),
        ("DELETE", "/v1.0/state/store/k?concurrency=last-write&consistency=strong", "", 204, ""),
        (
            "PUT",
            SAVE,
            r#"[{"key":"k","options":{"concurrency":"first-write","consistency":"strong"}}]"#,
            204,
            "",
        ),
        ("PUT", SAVE, r#"[{"key":"k","options":{"concurrency":"first-write"}}]"#, 409, "ERR_STATE_SAVE"),
        ("POST", SAVE, r#"[{"key":"a||b","value":1}]"#, 400, "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/state/store/bulk", r#"{"keys":["a||b"]}"#, 400, "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/state/store/transaction", illegal, 400, "ERR_MALFORMED_REQUEST"),
        ("POST", "/v1.0/state/store/transaction", typo, 500, "ERR_STATE_TRANSACTION"),
        (
            "POST",
            "/v1.0/state/store/transaction",
            r#"{"operations":[{}]}"#,
            400,
            "ERR_NOT_SUPPORTED_STATE_OPERATION",
        ),
    ] {
        let told = world.cart(method, path, body).await;
        let code_told = if told.status < 400 { String::new() } else { told.error().1 };
        assert_eq!(
            (told.status, code_told.as_str()),
            (status, code),
            "{method} {path} {body}: {}",
            told.body
        );
    }
}

#[tokio::test(start_paused = true)]
async fn lifetimes_are_set_cleared_and_refused() {
    let world = World::new(blocks()).await;
    let save = |ttl: &str| format!(r#"[{{"key":"k","value":1,"metadata":{{"ttlInSeconds":"{ttl}"}}}}]"#);
    let after = |seconds| tokio::time::advance(Duration::from_secs(seconds));
    assert_eq!(world.cart("POST", SAVE, &save("10")).await.status, 204);
    assert_eq!(world.cart("POST", SAVE, &save("-1")).await.status, 204);
    after(11).await;
    let told = world.cart("GET", "/v1.0/state/store/k", "").await;
    assert_eq!(told.status, 200, "-1 clears the limit");
    assert!(!told.headers.contains_key("metadata.ttlexpiretime"));
    assert_eq!(told.headers["content-type"], "application/json");
    assert!(told.headers.contains_key("etag"));
    let both = format!("{SAVE}?metadata.ttlInSeconds=5");
    assert_eq!(world.cart("POST", &both, &save("1000")).await.status, 204);
    let bulk = world.cart("POST", "/v1.0/state/store/bulk", r#"{"keys":["k"]}"#).await.json();
    assert!(bulk[0]["metadata"]["ttlExpireTime"].as_str().is_some_and(|at| at.ends_with('Z')), "{bulk}");
    after(6).await;
    assert_eq!(world.cart("GET", "/v1.0/state/store/k", "").await.status, 204, "the parameter wins");
    for ttl in ["-2", "1.5", "soon"] {
        let told = world.cart("POST", SAVE, &save(ttl)).await;
        assert_eq!(told.error(), (400, "ERR_STATE_SAVE".into()), "{ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_keys_come_in_the_order_asked_whatever_the_parallelism() {
    let world = World::new(blocks()).await;
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let items: Vec<_> = keys.iter().enumerate().map(|(n, key)| json!({ "key": key, "value": n })).collect();
    assert_eq!(world.cart("POST", SAVE, &json!(items).to_string()).await.status, 204);
    for parallelism in [-1, 0, 1, 3, 1_000_000] {
        let ask = json!({ "keys": keys, "parallelism": parallelism }).to_string();
        let told = world.cart("PUT", "/v1.0/state/store/bulk", &ask).await;
        let told: Vec<_> =
            told.json().as_array().expect("a list").iter().map(|one| one["data"].clone()).collect();
        assert_eq!(told, (0..40).map(|n| json!(n)).collect::<Vec<_>>(), "{parallelism}");
    }
}
