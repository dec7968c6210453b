//! What a state store's document asks the runtime itself for: encryption, the outbox, actors. What would lose data or
//! leave it readable is refused here already, as it is when the component opens.

use super::Findings;
use crate::dapr::{Component, MetadataItem};
use crate::read::Code;

const OUTBOX: [&str; 4] =
    ["outboxPublishPubsub", "outboxPublishTopic", "outboxPubsub", "outboxDiscardWhenMissingState"];
const PRIMARY: &str = "primaryEncryptionKey";
const SECONDARY: &str = "secondaryEncryptionKey";

pub(super) fn check(component: &Component, found: &mut Findings) {
    if !component.spec.kind.starts_with("state.") {
        return;
    }
    let items = &component.spec.metadata;
    let is = |item: &MetadataItem, name: &str| item.name.eq_ignore_ascii_case(name);
    let has = |name: &str| items.iter().any(|item| is(item, name));
    for (i, item) in items.iter().enumerate() {
        let path = format!("spec.metadata[{i}]");
        if OUTBOX.iter().any(|name| is(item, name)) {
            let message = "the outbox is not offered yet: no message would be sent";
            let remedy = "take it out, and publish after the write";
            found.error(Code::NotOffered, path, message, remedy);
        } else if [PRIMARY, SECONDARY].iter().any(|name| is(item, name)) {
            if item.value.is_some() {
                let message = "an encryption key stands in the document";
                let remedy = "name a secret with `secretKeyRef`, or a variable with `envRef`";
                found.error(Code::InvalidValue, format!("{path}.value"), message, remedy);
            }
            if is(item, SECONDARY) && !has(PRIMARY) {
                let message = "without a primary key new values would not be encrypted";
                found.error(Code::InvalidValue, path, message, "add `primaryEncryptionKey`");
            }
        } else if is(item, "actorStateStore") && item.value.as_ref().is_some_and(is_true) {
            let message = "there are no actors yet; the store keeps plain state only";
            found.warning(Code::NoEffect, path, message, "leave it out");
        }
    }
}

fn is_true(value: &serde_json::Value) -> bool {
    value.as_bool() == Some(true) || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, items: &str) -> Vec<(String, Code)> {
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{ name: a }}\nspec: {{ type: {kind}, metadata: [{items}] }}\nauth: {{ secretStore: s }}\n"
        );
        let read = crate::read(&crate::Source { name: "a.yaml", bytes: text.as_bytes() });
        let all = read.errors.into_iter().chain(read.warnings);
        all.map(|problem| (problem.path, problem.code)).collect()
    }

    #[test]
    fn what_a_state_store_asks_of_the_runtime_is_checked() {
        let item = |path: &str, code| (format!("spec.metadata[{path}"), code);
        let secret = "secretKeyRef: { name: k }";
        for (items, expect) in [
            ("{ name: outboxPublishPubsub, value: bus }".to_owned(), vec![item("0]", Code::NotOffered)]),
            (
                "{ name: primaryEncryptionKey, value: '00' }".to_owned(),
                vec![item("0].value", Code::InvalidValue)],
            ),
            (format!("{{ name: secondaryEncryptionKey, {secret} }}"), vec![item("0]", Code::InvalidValue)]),
            (format!("{{ name: primaryEncryptionKey, {secret} }}"), vec![]),
            ("{ name: actorStateStore, value: 'true' }".to_owned(), vec![item("0]", Code::NoEffect)]),
            ("{ name: actorStateStore, value: false }".to_owned(), vec![]),
        ] {
            assert_eq!(told("state.sqlite", &items), expect, "{items}");
        }
        assert_eq!(told("pubsub.sqlite", "{ name: outboxPublishPubsub, value: bus }"), vec![]);
    }
}
