//! Whatever an app answers when it is asked, it means something, and nothing breaks.

use dodai_capability::event::Event;
use http::StatusCode;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;

use super::bulk::verdicts;
use super::plan::told;
use super::verdict::verdict;

const NAMES: &[&str] = &[
    "pubsubName",
    "pubsubname",
    "topic",
    "route",
    "routes",
    "rules",
    "match",
    "path",
    "default",
    "metadata",
    "deadLetterTopic",
    "bulkSubscribe",
    "enabled",
    "maxMessagesCount",
    "maxAwaitDurationMs",
    "status",
    "statuses",
    "entryId",
    "rawPayload",
];

/// JSON with names that mean something in places where they may not.
fn json() -> impl Strategy<Value = Value> {
    let words =
        select(vec!["", "a", "/a", "a b", "SUCCESS", "DROP", "event.type == 'a'", "event.n > 1", "true"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let pairs = vec((select(NAMES).prop_map(str::to_owned), inner.clone()), 0..6);
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            pairs.prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Such JSON as bytes, whole or cut; or any bytes.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let cut = |(value, end): (Value, prop::sample::Index)| {
        let text = value.to_string().into_bytes();
        text[..=end.index(text.len())].to_vec()
    };
    prop_oneof![
        4 => json().prop_map(|value| value.to_string().into_bytes()),
        1 => (json(), any::<prop::sample::Index>()).prop_map(cut),
        1 => vec(any::<u8>(), 0..60),
    ]
}

proptest! {
    #[test]
    fn what_an_app_tells_of_its_subscriptions_is_kept_or_said_to_be_wrong(one in bodies(), list in vec(json(), 0..4)) {
        let event = Event::from_raw(b"{}", "1", "t", "bus");
        for body in [one, Value::from(list).to_string().into_bytes()] {
            let Ok((plans, problems)) = told(&body) else { continue };
            prop_assert!(problems.iter().all(|problem| !problem.is_empty()));
            for plan in plans {
                prop_assert!(plan.path(&event).is_none_or(|path| path.starts_with('/')));
                let shown = serde_json::to_string(&plan.describe()).expect("it is JSON");
                prop_assert!(shown.contains("PROGRAMMATIC"));
            }
        }
    }

    #[test]
    fn every_answer_is_a_verdict(status in 100_u16..1000, body in bodies()) {
        let status = StatusCode::from_u16(status).expect("three digits");
        let _ = verdict(status, &body);
        prop_assert_eq!(verdicts(status, &body, &["a", "b", ""]).len(), 3);
    }
}
