//! What an app follows and gets ends with its last instance here, and not before.

use dodai_core::call::{Call, Caller, Context};
use dodai_core::status::Phase;

use super::*;

/// Subscribes to a key as the app; the id that it is given.
async fn follow(node: &Node) -> String {
    let api = node.base.parts().runtime.api(&app());
    loop {
        let uri = "/v1.0/configuration/config/subscribe?key=a";
        let (head, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
        let context = Context::new(Caller::App(app()), Span::root(false));
        let reply = api.serve(Call { head, body: Body::empty(), context }).await.unwrap();
        if reply.head.status.is_success() {
            return String::from_utf8(reply.body.collect(1 << 16).await.unwrap().to_vec()).unwrap();
        }
        // Its component is not open yet.
        node.pause().await;
    }
}

#[tokio::test]
async fn an_instance_that_goes_leaves_its_app_to_the_others() {
    let node = Node::new().await;
    let shape = module(node.hello());
    let instance = |name: &str| Resource::Workload(workload(name, shape.clone()));
    let open = |(name, driver)| component(name, driver, Vec::new());
    let rest = || [("state", "state.in-memory"), ("config", "configuration.in-memory")].map(open);
    let tell = |names: &[&str]| node.tell(rest().into_iter().chain(names.iter().map(|name| instance(name))));
    tell(&["hello-1", "hello-2"]);
    for name in ["hello-1", "hello-2"] {
        node.until(name, "ready", |one| one.phase == Phase::Ready).await;
    }
    let id = follow(&node).await;
    tell(&["hello-2"]);
    node.until_gone("hello-1").await;
    assert_eq!(follow(&node).await, id, "the app is still here");
    tell(&[]);
    node.until_gone("hello-2").await;
    while follow(&node).await == id {
        node.pause().await;
    }
    node.stop().await;
}
