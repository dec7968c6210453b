//! Dapr's own stores and brokers, as they are published, beside the drivers on one server: what either wrote the other
//! reads, and each minds the etags, groups and owners of the other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dodai_capability::Metadata;
use dodai_capability::component::{Component, Context, Spec};
use dodai_capability::lock::{Outcome, Release};
use dodai_capability::metadata::Ttl;
use dodai_capability::pubsub::{Broker, Delivery, Publish, Subscribe, Subscription, Verdict};
use dodai_capability::state::{Concurrency, Delete, Etag, Get, Item, Operation, Set, Store};
use serde_json::{Value, json};

use crate::peer::{Dapr, bytes, value};
use crate::registry;
use crate::servers::{Postgres, Redis};

const PATIENCE: Duration = Duration::from_secs(30);

async fn opened(spec: Spec) -> Component {
    let registry = registry(std::path::Path::new("."), &[]);
    let component = registry.open(spec, &Context::default()).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(component.warnings.is_empty(), "{:?}", component.warnings);
    component
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waits = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Both sides of one state store.
struct Both {
    dapr: Dapr,
    of: &'static str,
    ours: Arc<dyn Store>,
}

impl Both {
    fn asks(&mut self, what: &str, key: &str, more: Value) -> Result<Value, String> {
        let mut request = json!({"do": what, "of": self.of, "key": key});
        if let (Value::Object(request), Value::Object(more)) = (&mut request, more) {
            request.extend(more);
        }
        self.dapr.tries(&request)
    }

    fn writes(&mut self, key: &str, text: impl AsRef<[u8]>) {
        self.asks("set", key, json!({"value": bytes(text)})).expect("written");
    }

    /// What Dapr finds, with its etag.
    fn finds(&mut self, key: &str) -> (Option<Vec<u8>>, Option<String>) {
        let found = self.asks("get", key, json!({})).expect("read");
        (value(&found), found["etag"].as_str().map(str::to_owned))
    }

    async fn item(&self, key: &str) -> Option<Item> {
        self.ours.get(&Get::new(key)).await.unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    /// What both must find, with the etag that both give it.
    async fn agree(&mut self, key: &str, expect: Option<&[u8]>) -> Option<String> {
        let (theirs, ours) = (self.finds(key), self.item(key).await);
        let etag = |item: Item| item.etag.map(|etag| etag.to_string());
        assert_eq!(theirs.0.as_deref(), expect, "{key}");
        assert_eq!(ours.as_ref().map(|item| item.value.as_ref()), expect, "{key}");
        assert_eq!(theirs.1, ours.and_then(etag), "{key}");
        theirs.1
    }

    async fn exchange(&mut self) {
        // JSON that came over HTTP, which a store may lay out anew.
        self.asks("set", "shop||json", json!({"value": bytes(r#"{"a": [1, "two"]}"#), "parsed": true}))
            .expect("written");
        let json: Value =
            serde_json::from_slice(&self.item("shop||json").await.expect("there").value).expect("still JSON");
        assert_eq!(json, json!({"a": [1, "two"]}));
        // What either wrote byte for byte.
        let raw = [&b"\x00\xffbytes"[..], br#"{"a":1}"#, b"text", b""];
        for (at, raw) in raw.into_iter().enumerate() {
            let (theirs, ours) = (format!("shop||theirs-{at}"), format!("shop||ours-{at}"));
            self.writes(&theirs, raw);
            self.ours.set(Set::new(&ours, raw)).await.expect("written");
            let expect = self.item(&theirs).await.expect("there").value;
            assert_eq!(expect, raw);
            assert_eq!(self.finds(&ours).0.unwrap_or_default(), raw);
        }
        self.etags().await;
        self.steps().await;
        let ttl = json!({"value": bytes("1"), "metadata": {"ttlInSeconds": "100"}});
        self.asks("set", "shop||short", ttl).expect("written");
        let left = self.item("shop||short").await.expect("there").expires.expect("it expires");
        let left = left.duration_since(SystemTime::now()).expect("later").as_secs();
        assert!((60..=101).contains(&left), "{left}");
    }

    async fn etags(&mut self) {
        self.writes("shop||cart", "one");
        let first = self.agree("shop||cart", Some(b"one")).await.expect("an etag");
        let set = Set { etag: Some(Etag::from(first.clone())), ..Set::new("shop||cart", "two") };
        self.ours.set(set.clone()).await.expect("the etag that Dapr gave admits the write");
        assert_eq!(self.ours.set(set).await.expect_err("not twice").code(), "state_etag_mismatch");
        let second = self.agree("shop||cart", Some(b"two")).await.expect("an etag");
        let stale = json!({"value": bytes("x"), "etag": first});
        self.asks("set", "shop||cart", stale.clone()).expect_err("the etag is stale");
        self.asks("delete", "shop||cart", stale).expect_err("the etag is stale");
        self.asks("set", "shop||cart", json!({"value": bytes("three"), "etag": second})).expect("written");
        let third = self.agree("shop||cart", Some(b"three")).await.expect("an etag");
        self.asks("delete", "shop||cart", json!({"etag": third})).expect("deleted");
        self.agree("shop||cart", None).await;

        // The first of either is the only one.
        let first = |key: &str| Set { concurrency: Concurrency::FirstWrite, ..Set::new(key, "ours") };
        let theirs = json!({"value": bytes("theirs"), "first": true});
        self.ours.set(first("shop||first-ours")).await.expect("nobody has it");
        self.asks("set", "shop||first-ours", theirs.clone()).expect_err("it is there");
        self.asks("set", "shop||first-theirs", theirs).expect("nobody has it");
        self.ours.set(first("shop||first-theirs")).await.expect_err("it is there");
        self.agree("shop||first-ours", Some(b"ours")).await;
        self.agree("shop||first-theirs", Some(b"theirs")).await;
        self.ours.delete(Delete::new("shop||first-theirs")).await.expect("deleted");
        self.agree("shop||first-theirs", None).await;
    }

    /// Transactions.
    async fn steps(&mut self) {
        self.writes("shop||b", "before");
        let upsert = Operation::Upsert(Set::new("shop||a", "1"));
        let steps = vec![upsert, Operation::Delete(Delete::new("shop||b"))];
        self.ours.transact(steps, Metadata::new()).await.expect("done");
        self.agree("shop||a", Some(b"1")).await;
        self.agree("shop||b", None).await;
        let steps = json!([
            {"do": "set", "key": "shop||b", "value": bytes("2")},
            {"do": "delete", "key": "shop||a"},
        ]);
        self.asks("transact", "", json!({ "steps": steps })).expect("done");
        self.agree("shop||a", None).await;
        self.agree("shop||b", Some(b"2")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_in_a_redis() {
    let redis = Redis::start();
    let mut dapr = Dapr::start();
    dapr.opens("state.redis", &json!({"redisHost": redis.host()}));
    let ours = opened(Spec::new("s", "state.redis").with("redisHost", redis.host())).await;
    let ours = ours.serves.state.clone().expect("state");
    Both { dapr, of: "state.redis", ours }.exchange().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_in_a_postgresql() {
    let postgres = Postgres::start();
    let spec = |version: &str, table: (&str, &str)| {
        let mut spec = Spec::new("s", "state.postgresql").with("connectionString", postgres.url());
        spec.version = version.to_owned();
        spec.with(table.0, table.1)
    };
    let kinds = [("v1", "state.postgresql/v1", "tableName"), ("v2", "state.postgresql/v2", "tablePrefix")];
    for (version, of, table) in kinds {
        // Once Dapr makes the tables and once the driver does.
        for name in ["theirs", "ours"] {
            let mut dapr = Dapr::start();
            let settings = json!({"connectionString": postgres.url(), table: name});
            if name == "theirs" {
                dapr.opens(of, &settings);
            }
            let ours = opened(spec(version, (table, name))).await.serves.state.clone().expect("state");
            if name == "ours" {
                dapr.opens(of, &settings);
            }
            let mut both = Both { dapr, of, ours };
            both.exchange().await;
            let ttl = Ttl::After(Duration::from_secs(100));
            both.ours.set(Set { ttl, ..Set::new("shop||short", "1") }).await.expect("written");
            let found = both.asks("get", "shop||short", json!({})).expect("read");
            assert!(found["metadata"]["ttlExpireTime"].is_string(), "{found}");
        }
    }
}

async fn delivered(subscription: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("it comes");
    next.expect("open").expect("a delivery")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_a_redis() {
    const OF: &str = "pubsub.redis";
    let redis = Redis::start();
    let mut dapr = Dapr::start();
    let settings = json!({
        "redisHost": redis.host(), "consumerID": "shop", "processingTimeout": "1s", "redeliverInterval": "100ms",
    });
    dapr.opens(OF, &settings);
    let spec = Spec::new("b", OF).with("redisHost", redis.host()).with("redeliverInterval", "50ms");
    let broker: Arc<dyn Broker> = opened(spec).await.serves.pubsub.clone().expect("pubsub");

    // To groups of either.
    dapr.does(&json!({"do": "subscribe", "of": OF, "key": "orders"}));
    let mut audit = broker.subscribe(Subscribe::new("orders", "audit")).await.expect("joined");
    let metadata = Metadata::from([("rawPayload".to_owned(), "true".to_owned())]);
    let ours = Publish { metadata: metadata.clone(), ..Publish::new("orders", &b"\x00\xffours"[..]) };
    broker.publish(ours).await.expect("published");
    let told = dapr.hears(OF);
    assert_eq!((value(&told), &told["key"]), (Some(b"\x00\xffours".to_vec()), &json!("orders")));
    assert_eq!(told["metadata"], json!({"rawPayload": "true"}));
    let theirs = json!({"do": "publish", "of": OF, "key": "orders", "value": bytes(b"\xfetheirs"), "metadata": metadata});
    dapr.does(&theirs);
    for expect in [&b"\x00\xffours"[..], b"\xfetheirs"] {
        let delivery = delivered(&mut audit).await;
        assert_eq!((&*delivery.message.data, delivery.message.metadata.clone()), (expect, metadata.clone()));
        delivery.settle(Verdict::Ack).await.expect("settled");
    }
    assert_eq!(value(&dapr.hears(OF)), Some(b"\xfetheirs".to_vec()));

    // A member of ours that ends with a message in hand leaves it to Dapr's.
    let wanted = Subscribe { lease: Duration::from_secs(1), ..Subscribe::new("left", "shop") };
    let mut member = broker.subscribe(wanted).await.expect("joined");
    broker.publish(Publish::new("left", "in our hand")).await.expect("published");
    let held = delivered(&mut member).await;
    dapr.does(&json!({"do": "subscribe", "of": OF, "key": "left"}));
    drop((held, member));
    assert_eq!(value(&dapr.hears(OF)), Some(b"in our hand".to_vec()));

    // And one that Dapr's does not settle comes to ours.
    dapr.does(&json!({
        "do": "open", "of": "once", "kind": OF,
        "metadata": {"redisHost": redis.host(), "consumerID": "shop", "processingTimeout": "0"},
    }));
    dapr.does(&json!({"do": "subscribe", "of": "once", "key": "right", "refuse": 1}));
    broker.publish(Publish::new("right", "refused there")).await.expect("published");
    assert_eq!(dapr.hears("once")["key"], "refused");
    let wanted = Subscribe { lease: Duration::from_secs(1), ..Subscribe::new("right", "shop") };
    let delivery = delivered(&mut broker.subscribe(wanted).await.expect("joined")).await;
    assert_eq!((&*delivery.message.data, delivery.attempt), (&b"refused there"[..], 2));
    delivery.settle(Verdict::Ack).await.expect("settled");
    let pending = redis::cmd("XPENDING").arg(&["right", "shop"]).query(&mut redis.admin());
    let (pending, ..): (u64, redis::Value, redis::Value, redis::Value) = pending.expect("counted");
    assert_eq!(pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_and_locks_in_a_redis() {
    const OF: &str = "configuration.redis";
    let redis = Redis::with(&["--notify-keyspace-events", "KA"]);
    let mut dapr = Dapr::start();
    dapr.opens(OF, &json!({"redisHost": redis.host()}));
    let ours = opened(Spec::new("c", OF).with("redisHost", redis.host())).await;
    let writer = ours.serves.configuration_writer.clone().expect("a writer");
    dapr.does(&json!({"do": "subscribe", "of": OF, "key": "colour"}));
    let listens = || -> (String, u64) {
        let asked = redis::cmd("PUBSUB").arg(&["NUMSUB", "__keyspace@0__:colour"]).query(&mut redis.admin());
        asked.expect("counted")
    };
    until("Dapr's component listens", async || listens().1 > 0).await;
    let metadata = Metadata::from([("owner".to_owned(), "shop".to_owned())]);
    writer.set("colour", "green", metadata).await.expect("set");
    let green = json!(["Z3JlZW4=", "1"]);
    let told = dapr.hears(OF);
    assert_eq!(json!([told["value"], told["version"]]), green);
    let found = dapr.does(&json!({"do": "get", "of": OF, "key": "colour"}));
    assert_eq!(json!([found["value"], found["version"]]), green);
    writer.delete("colour").await.expect("deleted");
    let told = dapr.hears(OF);
    assert_eq!((&told["key"], value(&told).unwrap_or_default()), (&json!("colour"), Vec::new()));

    const LOCK: &str = "lock.redis";
    dapr.opens(LOCK, &json!({"redisHost": redis.host()}));
    let ours = opened(Spec::new("l", LOCK).with("redisHost", redis.host())).await;
    let locks = ours.serves.lock.clone().expect("locks");
    let (minute, mut asks) = (Duration::from_secs(60), |what: &str, key: &str, owner: &str| {
        dapr.does(&json!({"do": what, "of": LOCK, "key": key, "owner": owner}))
    });
    assert_eq!(asks("lock", "theirs", "dapr")["taken"], true);
    assert!(matches!(locks.try_lock("theirs", "me", minute).await, Ok(Outcome::Held)));
    assert!(matches!(locks.unlock("theirs", "me").await, Ok(Release::BelongsToOthers)));
    assert!(matches!(locks.unlock("theirs", "dapr").await, Ok(Release::Success)));
    assert!(matches!(locks.try_lock("ours", "me", minute).await, Ok(Outcome::Acquired { .. })));
    assert_eq!(asks("lock", "ours", "dapr")["taken"], false);
    // As Dapr's component numbers them: belongs to others, done, is not there.
    let numbers = [("dapr", 2), ("me", 0), ("me", 1)].map(|(owner, number)| {
        assert_eq!(asks("unlock", "ours", owner)["status"], number, "{owner}");
    });
    assert_eq!(numbers.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_in_a_postgresql() {
    const OF: &str = "configuration.postgresql";
    let postgres = Postgres::start();
    let admin = postgres.admin().await;
    // As Dapr's users make it: nothing keeps several versions of a key apart but their numbers.
    let made = "CREATE TABLE settings (key VARCHAR NOT NULL, value VARCHAR NOT NULL, version VARCHAR NOT NULL, metadata JSON);
        INSERT INTO settings VALUES ('size', 'middle', '9', NULL), ('size', 'large', '10', '{\"by\": \"ada\"}'), ('size', 'small', 'one', NULL)";
    admin.batch_execute(made).await.expect("made");
    let mut dapr = Dapr::start();
    dapr.opens(OF, &json!({"connectionString": postgres.url(), "table": "settings"}));
    let spec = Spec::new("c", OF).with("connectionString", postgres.url()).with("table", "settings");
    let ours = opened(spec.with("notifyChannel", "news")).await;
    let (store, writer) = (ours.serves.configuration.clone(), ours.serves.configuration_writer.clone());
    let (store, writer) = (store.expect("configuration"), writer.expect("a writer"));

    let found = dapr.does(&json!({"do": "get", "of": OF, "key": "size"}));
    assert_eq!((value(&found), &found["version"]), (Some(b"large".to_vec()), &json!("10")));
    let seen = store.get(&["size".to_owned()], &Metadata::new()).await.expect("read");
    assert_eq!((&*seen["size"].value, &*seen["size"].version), ("large", "10"));
    assert_eq!(seen["size"].metadata, Metadata::from([("by".to_owned(), "ada".to_owned())]));

    dapr.does(
        &json!({"do": "subscribe", "of": OF, "key": "colour", "metadata": {"pgNotifyChannel": "news"}}),
    );
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query = 'listen news' AND state = 'idle'";
    let listens = async || admin.query_one(listens, &[]).await.expect("counted").get::<_, i64>(0) > 0;
    until("Dapr's component listens", listens).await;
    let metadata = Metadata::from([("owner".to_owned(), "shop".to_owned())]);
    writer.set("colour", "green", metadata).await.expect("set");
    let told = dapr.hears(OF);
    assert_eq!((value(&told), &told["version"]), (Some(b"green".to_vec()), &json!("1")));
    assert_eq!(told["metadata"], json!({"owner": "shop"}));
    writer.delete("colour").await.expect("deleted");
    let told = dapr.hears(OF);
    assert_eq!((&told["key"], value(&told).unwrap_or_default()), (&json!("colour"), Vec::new()));
    // A new version of a key that has several is the one that both find.
    writer.set("size", "huge", Metadata::new()).await.expect("set");
    let found = dapr.does(&json!({"do": "get", "of": OF, "key": "size"}));
    assert_eq!((value(&found), &found["version"]), (Some(b"huge".to_vec()), &json!("11")));
}
