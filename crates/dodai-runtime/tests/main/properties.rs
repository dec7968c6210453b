//! Whatever an app sends, it gets an answer, and a well-formed one.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use crate::world::{World, blocks};

fn paths() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        Just("v1.0".to_owned()),
        Just("v1.0-alpha1".to_owned()),
        prop::sample::select(vec![
            "state",
            "publish",
            "bulk",
            "secrets",
            "configuration",
            "subscribe",
            "unsubscribe",
            "lock",
            "unlock",
            "metadata",
            "healthz",
            "outbound",
            "invoke",
            "method",
            "transaction",
            "query",
            "bindings",
            "actors",
            "store",
            "bus",
            "vault",
            "config",
            "locks",
            "cart",
            "%",
            "%7C%7C",
            "a+b",
            "",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9%+.|~-]{0,8}".prop_map(|text| text.replace('|', "%7C")),
    ];
    let query = prop_oneof![
        Just(String::new()),
        "\\?(metadata\\.)?[a-zA-Z]{1,12}=[a-z0-9%+-]{0,6}(&key=[a-z%]{0,4})?",
    ];
    (prop::bool::ANY, prop::collection::vec(segment, 0..7), query).prop_map(|(known, segments, query)| {
        let version = if known { "v1.0/" } else { "" };
        format!("/{version}{}{query}", segments.join("/"))
    })
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let json = prop_oneof![
        Just(r#"[{"key":"k","value":1}]"#),
        Just(r#"[{"key":7}]"#),
        Just(r#"{"keys":["a"],"parallelism":-1}"#),
        Just(r#"{"operations":[{"operation":"upsert","request":{"key":"k","value":1}}]}"#),
        Just(r#"{"operations":[{"operation":"delete","request":null}]}"#),
        Just(r#"[{"entryId":"1","event":"x","contentType":"application/octet-stream"}]"#),
        Just(r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":-1}"#),
        Just("null"),
    ];
    prop_oneof![
        1 => json.prop_map(|text| text.as_bytes().to_vec()),
        3 => made_up().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

/// JSON with the names of the API in places where they may not be.
fn made_up() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "key",
        "value",
        "etag",
        "metadata",
        "options",
        "concurrency",
        "consistency",
        "ttlInSeconds",
        "keys",
        "parallelism",
        "operations",
        "operation",
        "request",
        "entryId",
        "event",
        "contentType",
        "specversion",
        "id",
        "data",
        "data_base64",
        "resourceId",
        "lockOwner",
        "expiryInSeconds",
    ]);
    let words =
        prop::sample::select(vec!["", "k", "a||b", "upsert", "delete", "first-write", "strong", "60", "-1"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        let pairs = prop::collection::vec((names.clone().prop_map(str::to_owned), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            pairs.prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_request_gets_a_well_formed_answer(
        requests in prop::collection::vec((prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH"]), paths(), bodies()), 1..24)
    ) {
        let clock = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        clock.block_on(async {
            let world = World::new(blocks()).await;
            for (method, path, body) in requests {
                let Ok(request) = http::Request::builder().method(method).uri(&path).body(()) else { continue };
                let (head, ()) = request.into_parts();
                let context = dodai_core::call::Context::new(
                    dodai_core::call::Caller::App(crate::world::app("shop/cart")),
                    dodai_core::trace::Span::root(false),
                );
                let call = dodai_core::call::Call { head, body: dodai_core::body::Body::full(body), context };
                let told = tokio::time::timeout(Duration::from_secs(60), world.serve("shop/cart", call)).await.expect("in time");
                prop_assert!((200..=599).contains(&told.status), "{method} {path}");
                if told.status >= 400 {
                    let error = told.json();
                    let says_why = error.get("errorCode").or(error.get("message")).is_some();
                    prop_assert!(says_why, "{method} {path}: {error}");
                }
            }
            Ok(())
        })?;
    }
}
