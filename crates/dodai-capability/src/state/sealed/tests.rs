use dodai_core::features::Blocks;

use super::*;
use crate::component::{Context, Registry};
use crate::memory;
use crate::secrets::Secret;

const OLD: &str = "cb321007ad11a9d23f963bff600d58e0";
const NEW: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn spec(keys: &[(&str, &str, &str)]) -> Spec {
    let mut spec = Spec::new("orders", "state.in-memory");
    for (property, name, key) in keys {
        spec.properties.insert_secret(*property, *name, Secret::from(*key));
    }
    spec
}

/// What is behind, and a way to open it under several keys.
struct World(Arc<dyn Store>);

impl World {
    fn new() -> World {
        World(Arc::new(memory::State::new(1 << 20)))
    }

    fn with(&self, keys: &[(&str, &str, &str)]) -> Arc<dyn Store> {
        Keys::read(&spec(keys)).expect("valid keys").expect("keys").seal(self.0.clone())
    }

    async fn behind(&self, key: &str) -> String {
        read(&*self.0, key).await.expect("there is one")
    }
}

async fn read(store: &dyn Store, key: &str) -> Result<String, Error> {
    let item = store.get(&Get::new(key)).await?.expect("there is one");
    Ok(String::from_utf8(item.value.to_vec()).expect("text"))
}

#[tokio::test]
async fn a_component_with_a_key_stores_no_plain_text() {
    let mut registry = Registry::new();
    let store: Arc<dyn Store> = Arc::new(memory::State::new(1 << 20));
    let behind = store.clone();
    registry.register("state.in-memory", "v1", Blocks::default(), Given(store));
    let component = registry.open(spec(&[(PRIMARY, "keys", OLD)]), &Context::default()).await.expect("opens");
    let state = component.serves.state.expect("state");
    state.set(Set::new("a", "hunter2")).await.expect("written");
    state
        .transact(vec![Operation::Upsert(Set::new("b", "hunter2"))], Metadata::new())
        .await
        .expect("written");
    let many = state.set_many(vec![Set::new("c", "hunter2"), Set::new("d", "hunter2")]).await;
    assert!(many.iter().all(Result::is_ok), "{many:?}");
    let gets: Vec<Get> = ["a", "b", "c", "d"].map(Get::new).into();
    let mut seen = std::collections::BTreeSet::new();
    for get in &gets {
        let kept = read(&*behind, &get.key).await.expect("there is one");
        assert!(kept.ends_with("||keys") && !kept.contains("hunter2"), "{kept}");
        assert!(seen.insert(kept), "every nonce is used once");
        assert_eq!(read(&*state, &get.key).await.expect("opens"), "hunter2");
    }
    for item in state.get_many(&gets, 2).await {
        assert_eq!(&*item.expect("opens").expect("there").value, b"hunter2");
    }
}

struct Given(Arc<dyn Store>);

impl component::Factory for Given {
    fn open<'a>(
        &'a self,
        _: &'a Spec,
        _: &'a Context,
    ) -> futures_core::future::BoxFuture<'a, Result<component::Opening, component::Error>> {
        let serves = component::Capabilities { state: Some(self.0.clone()), ..Default::default() };
        Box::pin(async move { Ok((serves, Vec::new())) })
    }
}

#[tokio::test]
async fn what_daprd_wrote_is_read() {
    // Key, nonce 00..0b and text `"hello"`, computed with another implementation of AES-GCM.
    let kept = "AAECAwQFBgcICQoLBcBBjJWVGHmU000qLzgtGS0QGElSKsM=||mysecret";
    let world = World::new();
    world.0.set(Set::new("k", kept)).await.expect("written");
    let store = world.with(&[(PRIMARY, "mysecret", OLD)]);
    assert_eq!(read(&*store, "k").await.expect("opens"), "\"hello\"");
}

#[tokio::test]
async fn keys_are_rotated() {
    let world = World::new();
    world.with(&[(PRIMARY, "old", OLD)]).set(Set::new("k", "1")).await.expect("written");
    let both = world.with(&[(PRIMARY, "new", NEW), (SECONDARY, "old", OLD)]);
    assert_eq!(read(&*both, "k").await.expect("opens"), "1");
    both.set(Set::new("k", "2")).await.expect("written");
    assert!(world.behind("k").await.ends_with("||new"));
    let new = world.with(&[(PRIMARY, "new", NEW)]);
    assert_eq!(read(&*new, "k").await.expect("opens"), "2");
    // Two keys of one secret have one name; the one that fits is found.
    let same = world.with(&[(PRIMARY, "new", OLD), (SECONDARY, "new", NEW)]);
    assert_eq!(read(&*same, "k").await.expect("opens"), "2");
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused() {
    let world = World::new();
    let store = world.with(&[(PRIMARY, "new", NEW)]);
    world.with(&[(PRIMARY, "old", OLD)]).set(Set::new("unknown", "1")).await.expect("written");
    world.with(&[(PRIMARY, "new", OLD)]).set(Set::new("other", "1")).await.expect("written");
    world.0.set(Set::new("plain", "{\"a\":1}")).await.expect("written");
    world.0.set(Set::new("short", "AAAA||new")).await.expect("written");
    world.0.set(Set::new("junk", "?||new")).await.expect("written");
    for (key, expect) in [
        ("unknown", "a key of the secret `old`"),
        ("other", "was not encrypted with the key that the secret `new` has now"),
        ("plain", "is not encrypted"),
        ("short", "was not encrypted with"),
        ("junk", "not base64"),
    ] {
        let error = read(&*store, key).await.expect_err(key).to_string();
        assert!(error.contains(expect) && error.contains("`orders`"), "{key}: {error}");
    }
}

#[test]
fn keys_that_are_none_are_refused() {
    let told = |spec: &Spec| Keys::read(spec).err().expect("refused").to_string();
    for key in ["", "xyz", "0001", &OLD[1..], &format!("{OLD}{OLD}{OLD}"), "hunter2hunter2hunter2hunter2hun"]
    {
        let error = told(&spec(&[(PRIMARY, "s", key)]));
        assert!(error.contains("`primaryEncryptionKey` is ***; give 16, 24 or 32 bytes"), "{error}");
    }
    let plain = Spec::new("orders", "state.in-memory").with(PRIMARY, OLD);
    assert!(told(&plain).contains("`secretKeyRef`") && !told(&plain).contains(OLD), "{}", told(&plain));
    assert!(told(&spec(&[(SECONDARY, "s", OLD)])).contains("would not be encrypted"));
    assert!(Keys::read(&Spec::new("orders", "state.in-memory")).expect("fine").is_none());
}
