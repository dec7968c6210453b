//! A base that is the sidecar of an app which runs elsewhere: what it is told of that app.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dodai_control::control::Control;
use dodai_control::documents::FieldOwner;
use dodai_control::snapshot::BaseSettings;
use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot::BulkDelivery;
use dodai_core::task::{Kind, Tasks};
use dodai_store::MemoryStore;

use super::played::{apply, play, settings, yaml};

const DOCUMENTS: &str = "
apiVersion: dodai.dev/v1
kind: App
metadata: {name: cart}
spec: {external: {addresses: ['127.0.0.1:8000']}, services: [{name: http}]}
---
apiVersion: dodai.dev/v1
kind: App
metadata: {name: other}
spec: {external: {addresses: ['127.0.0.1:8001']}, services: [{name: http}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
scopes: [cart]
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: orders}
scopes: [cart]
spec:
  pubsubname: bus
  topic: orders
  routes: {default: /orders}
  bulkSubscribe: {enabled: true, maxMessagesCount: 10}
";

#[tokio::test(start_paused = true)]
async fn an_attached_app_has_what_a_local_one_has_at_the_addresses_that_were_asked_for() {
    let tasks = Tasks::new();
    let control =
        Control::start(Arc::new(MemoryStore::new(&tasks)), settings(), &tasks).await.expect("starts");
    let cart = AppId::parse("default/cart").expect("an app");
    let addresses: Vec<SocketAddr> = vec![([127, 0, 0, 1], 3500).into(), ([0; 16], 3500).into()];
    let sidecar = BaseSettings {
        api: BTreeMap::from([(cart.clone(), addresses.clone())]),
        attached: [cart.clone()].into(),
        ..BaseSettings::default()
    };
    let base = BaseId::new("here");
    let link = control.link(base.clone(), sidecar).await.expect("links");
    tasks.spawn(Kind::Loop, play(link, None));
    control.apply(&apply(&yaml(DOCUMENTS), FieldOwner::File, Some("test"))).await.expect("applies");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let snapshot = control.snapshot(&base).expect("it is connected");

    let listeners: Vec<_> = snapshot.listeners().map(|one| (one.name.as_str(), one.address)).collect();
    assert_eq!(
        listeners,
        [("api/default/cart", addresses[0]), ("api/default/cart/1", addresses[1])],
        "no outbound listener, and nothing for the other app"
    );
    assert_eq!(snapshot.workloads().count(), 0);
    assert_eq!(snapshot.components().count(), 1);
    let subscription = snapshot.subscriptions().next().expect("its subscription");
    assert_eq!(subscription.app, cart);
    assert_eq!(subscription.bulk, Some(BulkDelivery { most: 10, wait: Duration::from_secs(1) }));
    assert_eq!(snapshot.services().count(), 2, "others can be called");
}
