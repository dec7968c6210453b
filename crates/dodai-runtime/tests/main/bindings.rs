//! Output bindings asked by apps, events of input bindings brought to them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dodai_capability::binding::{Error, Event, Events, Input, Output, Request, Response, Source};
use dodai_capability::component::{Capabilities, Context, Error as Refusal, Opening, Registry, Spec};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::{Answer, Metadata};
use dodai_core::snapshot::{App, Resource};
use dodai_proto::apps::dapr::proto::runtime::v1::{InvokeBindingRequest, InvokeBindingResponse};
use dodai_runtime::Settings;
use tokio::sync::broadcast;
use tonic::Code;

use crate::grpc;
use crate::world::{World, app, component, reply};

/// Answers what it was asked, and tells events that the test sends.
#[derive(Clone)]
struct Echo {
    asked: Arc<Mutex<Vec<Request>>>,
    events: broadcast::Sender<Event>,
}

struct Heard(broadcast::Receiver<Event>);

impl Source for Heard {
    fn next(&mut self) -> Answer<'_, Option<Event>> {
        Answer::later(async move { self.0.recv().await.ok() })
    }
}

impl Output for Echo {
    fn operations(&self) -> &'static [&'static str] {
        &["create", "get"]
    }

    fn invoke(&self, request: Request) -> Answer<'_, Result<Response, Error>> {
        self.asked.lock().expect("not poisoned").push(request.clone());
        Answer::ready(match request.operation.as_str() {
            "create" => Ok(Response::default()),
            "get" => {
                let metadata = Metadata::from([("statusCode".to_owned(), "200".to_owned())]);
                Ok(Response { data: request.data, metadata })
            }
            "fail" => Err(Fault::new(Kind::Unavailable, "nobody is there").into()),
            other => Err(Error::unknown(other, self.operations())),
        })
    }
}

impl Input for Echo {
    fn read(&self) -> Answer<'_, Result<Events, Error>> {
        Answer::ready(Ok(Events::new(Heard(self.events.subscribe()))))
    }
}

type Open<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Opening, Refusal>> + Send + 'a>>;

impl dodai_capability::component::Factory for Echo {
    fn open<'a>(&'a self, spec: &'a Spec, _: &'a Context) -> Open<'a> {
        let both = Arc::new(self.clone());
        let serves =
            Capabilities { output: Some(both.clone()), input: Some(both), ..Capabilities::default() };
        Box::pin(async move { Ok((serves, spec.read().finish())) })
    }
}

async fn world(settings: &[(&str, &str)]) -> (World, Echo) {
    let echo = Echo { asked: Arc::default(), events: broadcast::Sender::new(16) };
    let resources = vec![
        Resource::Component(component("door", "bindings.echo", settings)),
        Resource::Component(component("store", "state.in-memory", &[])),
        Resource::App(App::new(app("shop/cart"))),
    ];
    let driver = echo.clone();
    let register = |registry: &mut Registry| registry.register("bindings.echo", "v1", driver);
    (World::with(resources, Settings::default(), register).await, echo)
}

#[tokio::test(start_paused = true)]
async fn apps_ask_output_bindings() {
    let (world, echo) = world(&[]).await;
    let ask = async |body: &str| world.cart("POST", "/v1.0/bindings/door", body).await;
    let told = ask(r#"{"operation":"create","data":{"a": 1.50},"metadata":{"fileName":"x"}}"#).await;
    assert_eq!((told.status, told.body.as_str()), (204, ""));
    let asked = echo.asked.lock().expect("not poisoned")[0].clone();
    assert_eq!(asked.data, r#"{"a": 1.50}"#, "as it was written");
    assert_eq!(asked.metadata["fileName"], "x");
    let told = world.cart("PUT", "/v1.0/bindings/door", r#"{"operation":"get","data":"hello"}"#).await;
    assert_eq!((told.status, told.body.as_str()), (200, "\"hello\""));
    assert_eq!(told.headers["metadata.statuscode"], "200");
    let told = ask(r#"{"operation":"fail"}"#).await;
    assert_eq!(told.error(), (500, "ERR_INVOKE_OUTPUT_BINDING".into()));
    assert!(told.body.contains("error invoking output binding door: nobody is there"), "{}", told.body);
    let told = ask(r#"{"operation":"paint"}"#).await;
    assert!(told.body.contains("operation `paint` is not supported; it has create, get"), "{}", told.body);
    let told = world.cart("POST", "/v1.0/bindings/other", "{}").await;
    assert_eq!(told.error(), (500, "ERR_INVOKE_OUTPUT_BINDING".into()));
    assert!(told.body.contains("couldn't find output binding other"), "{}", told.body);
    assert_eq!(ask("no json").await.error(), (400, "ERR_MALFORMED_REQUEST".into()));
    assert_eq!(world.cart("GET", "/v1.0/bindings/door", "").await.status, 405);
}

#[tokio::test(start_paused = true)]
async fn apps_ask_output_bindings_over_grpc() {
    let (world, echo) = world(&[]).await;
    let mut dapr = grpc::dapr(&world);
    let mut ask = async |name: &str, operation: &str| {
        let (name, operation) = (name.to_owned(), operation.to_owned());
        let data = Bytes::from_static(b"\x00bytes");
        let metadata = grpc::pairs(&[("fileName", "x")]);
        let mut asked = tonic::Request::new(InvokeBindingRequest { name, data, metadata, operation });
        asked.metadata_mut().insert("tracestate", "a=b".parse().expect("a value"));
        dapr.invoke_binding(asked).await.map(tonic::Response::into_inner)
    };
    assert_eq!(ask("door", "create").await.expect("done"), InvokeBindingResponse::default());
    let told = ask("door", "get").await.expect("done");
    assert_eq!((&told.data[..], told.metadata), (&b"\x00bytes"[..], grpc::pairs(&[("statusCode", "200")])));
    let asked = echo.asked.lock().expect("not poisoned")[0].metadata.clone();
    assert_eq!((asked["fileName"].as_str(), asked["tracestate"].as_str()), ("x", "a=b"));
    let refused = ask("door", "fail").await.expect_err("refused");
    assert_eq!(
        (refused.code(), grpc::reason(&refused).as_str()),
        (Code::Internal, "ERR_INVOKE_OUTPUT_BINDING")
    );
    assert!(refused.message().contains("error invoking output binding door: nobody is there"), "{refused}");
    let refused = ask("other", "create").await.expect_err("refused");
    assert!(refused.message().contains("couldn't find output binding other"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn events_are_brought_to_apps_that_take_them() {
    let (world, echo) = world(&[("route", "/from/door")]).await;
    world.script(|seen| match (seen.method.as_str(), seen.path.as_str()) {
        ("OPTIONS", "/from/door") => reply(405, ""),
        ("POST", "/from/door") => reply(
            200,
            r#"{"storeName":"store","state":[{"key":"k","value":[1]}],"to":["door"],"data":"passed on"}"#,
        ),
        _ => reply(404, ""),
    });
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("read", || echo.events.receiver_count() == 1).await;
    let event = Event { data: Bytes::from_static(b"{\"n\":1}"), ..Event::default() };
    echo.events.send(event).expect("heard");
    world.until("brought", || !echo.asked.lock().expect("not poisoned").is_empty()).await;
    let brought = world.seen_at("/from/door");
    let calls: Vec<_> = brought.iter().map(|seen| (seen.method.as_str(), &*seen.body)).collect();
    assert_eq!(calls, [("OPTIONS", &b""[..]), ("POST", &b"{\"n\":1}"[..])]);
    assert_eq!(world.cart("GET", "/v1.0/state/store/k", "").await.body, "[1]");
    let asked = echo.asked.lock().expect("not poisoned")[0].clone();
    assert_eq!((asked.operation.as_str(), &*asked.data), ("create", &b"\"passed on\""[..]));
    // An app that has gone is brought nothing.
    world.runtime.app_ready(&app("shop/cart"), false);
    world.until("left", || echo.events.receiver_count() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_take_events_is_left_alone() {
    let (world, echo) = world(&[]).await;
    world.script(|_| reply(404, ""));
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("asked", || !world.seen_at("/door").is_empty()).await;
    assert_eq!(world.seen_at("/door")[0].method, "OPTIONS");
    assert_eq!(echo.events.receiver_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_direction_that_is_said_is_kept_to() {
    let (world, echo) = world(&[("direction", "input")]).await;
    let told = world.cart("POST", "/v1.0/bindings/door", r#"{"operation":"create"}"#).await;
    assert!(told.body.contains("its `direction` is input alone"), "{}", told.body);
    assert!(echo.asked.lock().expect("not poisoned").is_empty());
}
