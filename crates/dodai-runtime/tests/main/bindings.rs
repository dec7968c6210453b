//! Output bindings asked by apps, events of input bindings brought to them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dodai_capability::binding::{Error, Event, Events, Input, Output, Request, Response, Source};
use dodai_capability::component::{Capabilities, Context, Error as Refusal, Opening, Registry, Spec};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::{Answer, Metadata};
use dodai_core::features::Blocks;
use dodai_core::snapshot::{App, Resource, RetryPolicy};
use dodai_proto::apps::dapr::proto::common::v1::StateItem;
use dodai_proto::apps::dapr::proto::runtime::v1::binding_event_response::BindingEventConcurrency;
use dodai_proto::apps::dapr::proto::runtime::v1::{
    BindingEventRequest, BindingEventResponse, InvokeBindingRequest, ListInputBindingsResponse,
};
use dodai_runtime::Settings;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tonic::Code;

use crate::callbacks::{SERVICE, answered, message, refused};
use crate::grpc::{dapr, pairs, reason};
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
            "refuse" => {
                let metadata = Metadata::from([("statusCode".to_owned(), "418".to_owned())]);
                let response = Response { data: Bytes::new(), metadata };
                Err(Error::Refused { message: "the far side said no".to_owned(), response })
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
    world_of(App::new(app("shop/cart")), settings).await
}

async fn world_of(cart: App, settings: &[(&str, &str)]) -> (World, Echo) {
    let echo = Echo { asked: Arc::default(), events: broadcast::Sender::new(16) };
    let resources = vec![
        Resource::Component(component("door", "bindings.echo", settings)),
        Resource::Component(component("store", "state.in-memory", &[])),
        Resource::App(cart),
    ];
    let driver = echo.clone();
    let register =
        |registry: &mut Registry| registry.register("bindings.echo", "v1", Blocks::default(), driver);
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
    let metadata = Metadata::from([("readTimeUTC".to_owned(), "now".to_owned())]);
    echo.events.send(Event { data: Bytes::from_static(b"{\"n\":1}"), metadata }).expect("heard");
    world.until("brought", || !echo.asked.lock().expect("not poisoned").is_empty()).await;
    let brought = world.seen_at("/from/door");
    let calls: Vec<_> = brought.iter().map(|seen| (seen.method.as_str(), &*seen.body)).collect();
    assert_eq!(calls, [("OPTIONS", &b""[..]), ("POST", &b"{\"n\":1}"[..])]);
    assert_eq!(brought[1].headers["readtimeutc"], "now");
    assert_eq!(brought[1].headers["content-type"], "application/json");
    assert_eq!(world.cart("GET", "/v1.0/state/store/k", "").await.body, "[1]");
    let asked = echo.asked.lock().expect("not poisoned")[0].clone();
    assert_eq!((asked.operation.as_str(), &*asked.data), ("create", &b"\"passed on\""[..]));
    // An app that has gone is brought nothing.
    world.runtime.app_ready(&app("shop/cart"), false);
    world.until("left", || echo.events.receiver_count() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_is_brought_as_often_as_documents_say() {
    for speaks_grpc in [false, true] {
        let cart = App { grpc_callbacks: speaks_grpc, ..App::new(app("shop/cart")) };
        let (world, echo) = world_of(cart.clone(), &[("direction", "input")]).await;
        let mut door = component("door", "bindings.echo", &[("direction", "input")]);
        door.inbound.timeout = Some(Duration::from_secs(2));
        door.inbound.retry = Some(RetryPolicy {
            attempts: 2,
            statuses: vec![503],
            on: None,
            backoff: Duration::from_secs(7),
            constant: true,
            max_backoff: None,
            budget_percent: 100,
            min_per_second: 100,
        });
        world.apply(vec![Resource::Component(door), Resource::App(cart)]).await;
        let path = if speaks_grpc { format!("{SERVICE}OnBindingEvent") } else { "/door".to_owned() };
        let seen: Arc<Mutex<Vec<(Instant, Duration)>>> = Arc::default();
        let (times, mut statuses) = (seen.clone(), vec![404, 503, 503, 503, 200, 503]);
        let own = path.clone();
        world.script_all(move |seen| {
            if seen.path != own {
                return if speaks_grpc { refused("12") } else { reply(404, "") };
            }
            let now = Instant::now();
            times
                .lock()
                .expect("not poisoned")
                .push((now, seen.context.deadline.expect("one") - now.into_std()));
            match statuses.pop().expect("a status") {
                200 if speaks_grpc => answered(&BindingEventResponse::default()),
                404 if speaks_grpc => answered(&BindingEventResponse::default()),
                _ if speaks_grpc => refused("14"),
                status => reply(status, ""),
            }
        });
        world.runtime.app_ready(&app("shop/cart"), true);
        world.until("read", || echo.events.receiver_count() == 1).await;
        let brought = async |count: usize| {
            echo.events.send(Event::default()).expect("heard");
            world.until("brought", || world.seen_at(&path).len() == count).await;
        };
        // One that is taken at the second try; one that is given up after the third; one that is not tried again.
        brought(2).await;
        brought(5).await;
        brought(6).await;
        let seen = seen.lock().expect("not poisoned").clone();
        assert!(seen.iter().all(|(_, left)| *left == Duration::from_secs(2)), "{seen:?}");
        let between = |a: usize, b: usize| seen[b].0 - seen[a].0 >= Duration::from_secs(7);
        assert!(between(0, 1) && between(2, 3) && between(3, 4), "{seen:?}");
        // What waits to be tried again does not keep the base from its end.
        world.script_all(move |_| if speaks_grpc { refused("14") } else { reply(503, "") });
        brought(7).await;
        let start = Instant::now();
        world.runtime.app_ready(&app("shop/cart"), false);
        world.until("left", || echo.events.receiver_count() == 0).await;
        assert!(start.elapsed() < Duration::from_secs(7));
        assert_eq!(world.seen_at(&path).len(), 7);
    }
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

#[tokio::test(start_paused = true)]
async fn apps_ask_output_bindings_over_grpc() {
    let (world, echo) = world(&[]).await;
    let ask = async |name: &str, operation: &str| {
        let mut request = tonic::Request::new(InvokeBindingRequest {
            name: name.to_owned(),
            data: Bytes::from_static(b"\0any bytes"),
            metadata: pairs(&[("fileName", "x")]),
            operation: operation.to_owned(),
        });
        let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().expect("a value");
        request.metadata_mut().insert("traceparent", value);
        dapr(&world).invoke_binding(request).await.map(tonic::Response::into_inner)
    };
    let told = ask("door", "get").await.expect("asked");
    assert_eq!((&told.data[..], told.metadata["statusCode"].as_str()), (&b"\0any bytes"[..], "200"));
    let asked = echo.asked.lock().expect("not poisoned")[0].clone();
    assert_eq!((asked.operation.as_str(), asked.metadata["fileName"].as_str()), ("get", "x"));
    assert!(asked.metadata["traceparent"].starts_with("00-0af7"), "drivers may pass the trace on: {asked:?}");
    for (name, operation, words) in [
        ("door", "fail", "error invoking output binding door: nobody is there"),
        ("door", "paint", "operation `paint` is not supported; it has create, get"),
        ("other", "get", "couldn't find output binding other"),
    ] {
        let failed = ask(name, operation).await.expect_err(words);
        assert_eq!((failed.code(), reason(&failed).as_str()), (Code::Internal, "ERR_INVOKE_OUTPUT_BINDING"));
        assert!(failed.message().contains(words), "{failed}");
    }
    let refused = ask("door", "refuse").await.expect_err("refused");
    assert_eq!(refused.metadata().get("metadata.statuscode").expect("told"), "418");
}

#[tokio::test(start_paused = true)]
async fn events_are_brought_to_apps_that_speak_grpc() {
    let cart = App { grpc_callbacks: true, ..App::new(app("shop/cart")) };
    let (world, echo) = world_of(cart, &[]).await;
    world.script_all(|seen| match seen.path.strip_prefix(SERVICE) {
        Some("ListInputBindings") => {
            answered(&ListInputBindingsResponse { bindings: vec!["else".to_owned(), "door".to_owned()] })
        }
        Some("OnBindingEvent") => {
            let event: BindingEventRequest = message(seen);
            assert_eq!((event.name.as_str(), event.metadata["from"].as_str()), ("door", "far"));
            let item = StateItem { key: "k".to_owned(), value: event.data, ..StateItem::default() };
            answered(&BindingEventResponse {
                store_name: "store".to_owned(),
                states: vec![item],
                to: vec!["door".to_owned(), "door".to_owned()],
                data: Bytes::from_static(b"passed on"),
                concurrency: BindingEventConcurrency::Parallel.into(),
            })
        }
        _ => refused("12"),
    });
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("read", || echo.events.receiver_count() == 1).await;
    let metadata = Metadata::from([("from".to_owned(), "far".to_owned())]);
    echo.events.send(Event { data: Bytes::from_static(b"[1]"), metadata }).expect("heard");
    world.until("brought", || echo.asked.lock().expect("not poisoned").len() == 2).await;
    assert_eq!(world.cart("GET", "/v1.0/state/store/k", "").await.body, "[1]");
    let asked = echo.asked.lock().expect("not poisoned")[1].clone();
    assert_eq!((asked.operation.as_str(), &*asked.data), ("create", &b"passed on"[..]));
    // An app that is found to speak HTTP is asked anew, by that.
    world.script(|seen| reply(if seen.method == "OPTIONS" { 404 } else { 200 }, ""));
    let mut others = vec![Resource::App(App::new(app("shop/cart")))];
    others.push(Resource::Component(component("door", "bindings.echo", &[])));
    world.apply(others).await;
    world.until("left", || echo.events.receiver_count() == 0).await;
    assert_eq!(world.seen_at("/door")[0].method, "OPTIONS");
}

#[tokio::test(start_paused = true)]
async fn an_app_that_speaks_grpc_and_lists_nothing_is_left_alone() {
    let cart = App { grpc_callbacks: true, ..App::new(app("shop/cart")) };
    let (world, echo) = world_of(cart.clone(), &[]).await;
    world.script_all(|_| refused("12"));
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("asked", || !world.seen_at(&format!("{SERVICE}ListInputBindings")).is_empty()).await;
    assert_eq!(echo.events.receiver_count(), 0);
    // Where the component says that it is for input nobody is asked.
    let (world, echo) = world_of(cart, &[("direction", "input, output")]).await;
    world.script_all(|_| refused("12"));
    world.runtime.app_ready(&app("shop/cart"), true);
    world.until("read", || echo.events.receiver_count() == 1).await;
    assert!(world.seen_at(&format!("{SERVICE}ListInputBindings")).is_empty());
}
