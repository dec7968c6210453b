//! The control stream: what `control::v1` says, between a server and the bases that joined it.
//!
//! Deltas follow one another from the first, which is whole; a base that lost the stream starts over. What
//! the base thinks of a snapshot comes back as its status, and as ACK or NACK for those who watch the wire.

mod ask;
mod fetch;
mod persist;
mod remote;
mod rivals;
mod server;
mod session;
mod token;

use dodai_core::snapshot::{Delta, Key, Resource, ResourceKind, Snapshot};
use dodai_proto::control as wire;
use std::sync::Arc;

pub use ask::{Answer, Answers, Asker, NoAnswers, Told};
pub use persist::{LoadError, keep, load, save};
pub use remote::{JoinError, Joined, Remote, RemoteError, join};
pub use server::{Blobs, NoBlobs, Server};
pub use session::{Introduction, Standing};

/// The largest message of the stream, bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

const KINDS: &[(ResourceKind, &str)] = &[
    (ResourceKind::App, "app"),
    (ResourceKind::Component, "component"),
    (ResourceKind::Subscription, "subscription"),
    (ResourceKind::Workload, "workload"),
    (ResourceKind::Service, "service"),
    (ResourceKind::Endpoints, "endpoints"),
    (ResourceKind::Routes, "routes"),
    (ResourceKind::Listener, "listener"),
    (ResourceKind::Absent, "absent"),
    (ResourceKind::Share, "share"),
    (ResourceKind::Trust, "trust"),
];

fn name(key: &Key) -> wire::Name {
    let kind = KINDS.iter().find(|(kind, _)| *kind == key.kind).map_or("", |(_, word)| word);
    wire::Name { kind: kind.to_owned(), name: key.name.clone() }
}

fn key(name: &wire::Name) -> Option<Key> {
    let (kind, _) = KINDS.iter().find(|(_, word)| *word == name.kind)?;
    Some(Key { kind: *kind, name: name.name.clone() })
}

/// A delta as it goes over the wire.
fn encode(delta: &Delta, whole: bool) -> wire::Delta {
    let envelope = |resource: &Arc<Resource>| wire::Envelope {
        name: Some(name(&resource.key())),
        json: serde_json::to_vec(resource.as_ref()).expect("resources have text keys only"),
    };
    wire::Delta {
        version: delta.version,
        whole,
        upserts: delta.upserts.iter().map(envelope).collect(),
        removals: delta.removals.iter().map(name).collect(),
    }
}

/// What a field of a message costs at most beside its bytes.
const FIELD_COST: usize = 16;

/// Why a delta does not fit into a message of `most` bytes, if it does not.
fn too_large(delta: &wire::Delta, most: usize) -> Option<String> {
    let named = |name: &wire::Name| 3 * FIELD_COST + name.kind.len() + name.name.len();
    let size = |one: &wire::Envelope| FIELD_COST + one.json.len() + one.name.as_ref().map_or(0, named);
    let removals: usize = delta.removals.iter().map(named).sum();
    let whole = delta.upserts.iter().map(size).sum::<usize>() + removals + 3 * FIELD_COST;
    if whole <= most {
        return None;
    }
    let mut all: Vec<&wire::Envelope> = delta.upserts.iter().collect();
    all.sort_by_key(|one| std::cmp::Reverse(size(one)));
    let shown = |one: &&wire::Envelope| {
        let name = one.name.as_ref().map(|name| format!("{} `{}`", name.kind, name.name));
        format!("{} ({} bytes)", name.unwrap_or_default(), one.json.len())
    };
    let largest: Vec<String> = all.iter().take(3).map(shown).collect();
    Some(format!(
        "what has changed for it takes {whole} bytes, and a message has at most {most}; it goes on with what it was told \
         before. The largest are {}: make their documents smaller, or take some away",
        largest.join(", ")
    ))
}

/// What a delta makes of `before`. Kinds that this version does not know are an error with their name.
fn apply(before: &Snapshot, delta: &wire::Delta) -> Result<Snapshot, String> {
    let mut upserts = Vec::new();
    for envelope in &delta.upserts {
        let shown = envelope.name.as_ref().map(|name| format!("{} `{}`", name.kind, name.name));
        let shown = shown.unwrap_or_else(|| "a resource without a name".to_owned());
        let resource: Resource =
            serde_json::from_slice(&envelope.json).map_err(|error| format!("{shown}: {error}"))?;
        upserts.push(Arc::new(resource));
    }
    let removals = delta.removals.iter().filter_map(key).collect();
    let empty = Snapshot::default();
    let start = if delta.whole { &empty } else { before };
    Ok(start.apply(&Delta { version: delta.version, upserts, removals }))
}

#[cfg(test)]
mod tests {
    use dodai_core::id::AppId;
    use dodai_core::snapshot::App;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn snapshot(version: u64, apps: &[u8]) -> Snapshot {
        let app = |number: &u8| App::new(AppId::parse(&format!("default/app-{number}")).expect("valid"));
        Snapshot::of(version, apps.iter().map(app).map(Resource::App))
    }

    proptest! {
        #[test]
        fn a_delta_arrives_as_it_was(before in vec(0_u8..6, 0..6), after in vec(0_u8..6, 0..6), whole in any::<bool>()) {
            let (before, after) = (snapshot(1, &before), snapshot(2, &after));
            let from = if whole { Snapshot::default() } else { before.clone() };
            let told = encode(&from.diff(&after), whole);
            prop_assert_eq!(apply(&before, &told), Ok(after));
        }

        /// What a server of another version, or none, could say.
        #[test]
        fn whatever_comes_is_applied_or_refused_by_name(
            json in prop_oneof![vec(any::<u8>(), 0..60), r#"\{"(app|service|absent|x)":(\{\}|null|\[1\])\}"#.prop_map(String::into_bytes)],
            name in proptest::option::of(("app|service|unknown|", "[a-z/]{0,8}")),
        ) {
            let name = name.map(|(kind, name)| wire::Name { kind, name });
            let removals = name.iter().cloned().collect();
            let delta = wire::Delta { version: 2, whole: false, upserts: vec![wire::Envelope { name, json }], removals };
            if let Err(error) = apply(&snapshot(1, &[1]), &delta) {
                let named = delta.upserts[0].name.as_ref().map_or("without a name", |name| &name.name);
                prop_assert!(error.contains(named), "{error}");
            }
        }
    }
}
