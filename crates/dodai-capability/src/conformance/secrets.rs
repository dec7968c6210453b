//! The suite for secret stores.

use std::collections::BTreeMap;

use super::Bench;
use crate::metadata::Metadata;

/// Runs every case against a store that has at least these secrets.
pub async fn run(bench: &Bench, expect: &BTreeMap<String, BTreeMap<String, String>>) {
    let store = bench.component.serves.secrets.clone().expect("the component serves secrets");
    let none = Metadata::new();
    let all = store.get_all(&none).await.expect("all secrets");
    for (name, values) in expect {
        let one = store.get(name, &none).await.unwrap_or_else(|error| panic!("reading {name}: {error}"));
        let revealed: BTreeMap<_, _> =
            one.iter().map(|(key, value)| (key.clone(), value.reveal().to_owned())).collect();
        assert_eq!(&revealed, values, "{name}");
        assert_eq!(all.get(name), Some(&one), "{name} is the same among all");
        assert!(store.features().multiple_values || one.len() == 1, "{name} has one value");
    }
    let missing = store.get("no such secret", &none).await.expect_err("it is not there");
    assert_eq!(missing.code(), "secret_not_found");
    assert!(!format!("{all:?}").contains("s3cr3t"), "secrets do not print");
}
