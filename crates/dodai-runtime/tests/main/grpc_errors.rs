//! Errors of the gRPC API: each has a reason for programs, whoever finds it.

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context};
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::{App, Resource, Snapshot};
use dodai_core::trace::Span;
use dodai_proto::apps::DESCRIPTORS;
use dodai_proto::apps::dapr::proto::runtime::v1::{GetStateRequest, InvokeServiceRequest};
use dodai_proto::apps::grpc::health::v1::HealthCheckRequest;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};

use crate::callbacks::refused;
use crate::grpc::{dapr, reason};
use crate::invoke::far_failure;
use crate::world::{World, app, blocks, reply};

/// What the API answers to one message, as bytes.
async fn asked(world: &World, path: &str, message: &[u8]) -> Status {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let body = [&[0][..], &length, message].concat();
    let request =
        http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let (head, ()) = request.body(()).expect("a request").into_parts();
    let context = Context::new(Caller::App(app("shop/cart")), Span::root(true));
    let call = Call { head, body: Body::full(body), context };
    let reply = world.runtime.api(&app("shop/cart")).serve(call).await.expect("an answer");
    Status::from_header_map(&reply.head.headers).unwrap_or_else(|| Status::ok(""))
}

/// Every method of a service that is declared.
fn methods(service: &str) -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
    let services = set.file.iter().flat_map(|file| {
        file.service.iter().map(move |one| (format!("{}.{}", file.package(), one.name()), one))
    });
    let (name, service) = services.into_iter().find(|(name, _)| name == service).expect("it is declared");
    service.method.iter().map(|method| format!("/{name}/{}", method.name())).collect()
}

#[tokio::test(start_paused = true)]
async fn every_error_has_a_reason_for_programs() {
    let world = World::new(blocks()).await;
    // A store that is not there, and bytes that are no message.
    let nowhere = GetStateRequest { store_name: "nowhere".to_owned(), ..GetStateRequest::default() };
    let (nowhere, garbage) = (nowhere.encode_to_vec(), [0xff]);
    let all = methods("dapr.proto.runtime.v1.Dapr");
    assert!(all.len() > 30, "{all:?}");
    for method in &all {
        let error = asked(&world, method, &garbage).await;
        assert_ne!(error.code(), Code::Ok, "{method}");
        assert!(!reason(&error).is_empty(), "{method}");
        for message in [&[][..], &nowhere] {
            let told = asked(&world, method, message).await;
            assert!(told.code() == Code::Ok || !reason(&told).is_empty(), "{method}: {told}");
        }
    }
    let too_long = asked(&world, "/dapr.proto.runtime.v1.Dapr/GetState", &vec![0; (4 << 20) + 1]).await;
    assert_eq!((too_long.code(), reason(&too_long).as_str()), (Code::ResourceExhausted, "ERR_BODY_READ"));
    for (path, expect) in [
        ("/dapr.proto.runtime.v1.Dapr/ConverseAlpha2", "ERR_API_UNIMPLEMENTED"),
        ("/dapr.proto.runtime.v1.Dapr/Nonsense", "ERR_API_UNIMPLEMENTED"),
        ("/grpc.health.v1.Health/Nonsense", "ERR_API_UNIMPLEMENTED"),
        ("/some.Service/Method", "ERR_DIRECT_INVOKE"),
    ] {
        let error = asked(&world, path, &[]).await;
        assert_eq!((error.code(), reason(&error).as_str()), (Code::Unimplemented, expect), "{path}");
        assert!(!error.message().is_empty(), "{path}");
    }
    let nonsense = asked(&world, "/dapr.proto.runtime.v1.Dapr/Nonsense", &[]).await;
    assert_eq!(nonsense.message(), "there is no method `dapr.proto.runtime.v1.Dapr/Nonsense` here");
    let unknown = HealthCheckRequest { service: "nobody".to_owned() }.encode_to_vec();
    let error = asked(&world, "/grpc.health.v1.Health/Check", &unknown).await;
    assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "DODAI_SERVICE_UNKNOWN"));
    let mut guarded = App::new(app("shop/cart"));
    guarded.scopes.api_token = Some("secret".to_owned());
    world.runtime.apply(&Snapshot::of(2, vec![Resource::App(guarded)]));
    for method in &all {
        let error = asked(&world, method, &[]).await;
        let expect = (Code::Unauthenticated, "DODAI_TOKEN_INVALID");
        assert_eq!((error.code(), reason(&error).as_str()), expect, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_reach_its_app_is_internal() {
    let world = World::new(blocks()).await;
    let call = |id: &str| {
        let asked = InvokeServiceRequest { id: id.to_owned(), ..InvokeServiceRequest::default() };
        let mut dapr = dapr(&world);
        async move { dapr.invoke_service(asked).await.expect_err("refused") }
    };
    for (kind, expect) in [
        (Kind::Connect, Code::Internal),
        (Kind::NoRoute, Code::Internal),
        (Kind::Timeout, Code::Internal),
        (Kind::Denied, Code::PermissionDenied),
        (Kind::BreakerOpen, Code::Unavailable),
    ] {
        world.script(move |_| Err(Failure::new(kind, "the cause")));
        let told = call("other").await;
        assert_eq!((told.code(), reason(&told).as_str()), (expect, "ERR_DIRECT_INVOKE"), "{kind:?}");
        assert_eq!(told.message(), "failed to invoke, id: other, err: the cause");
    }
    world.script(|_| far_failure("dodai: connect: refused\n"));
    let told = call("other").await;
    assert_eq!((told.code(), told.message()), (Code::Internal, "failed to invoke, id: other, err: refused"));
    assert_eq!(call("No App").await.code(), Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn what_an_app_says_is_not_added_to() {
    let mut resources = blocks();
    resources.push(Resource::App(App { grpc_callbacks: true, ..App::new(app("shop/cart")) }));
    let world = World::new(resources).await;
    world.script_all(|_| refused("5"));
    let asked = InvokeServiceRequest { id: "cart".to_owned(), ..InvokeServiceRequest::default() };
    let told = dapr(&world).invoke_service(asked).await.expect_err("refused");
    assert_eq!(
        (told.code(), told.details().len(), told.metadata().get("dodai-status-of-app")),
        (Code::NotFound, 0, None)
    );
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_speak_grpc_is_told_of_by_a_status() {
    let world = World::new(blocks()).await;
    for (status, expect) in [(404, Code::Unimplemented), (200, Code::Unimplemented), (503, Code::Unavailable)]
    {
        world.script(move |_| reply(status, "a page"));
        let (head, ()) = http::Request::post("/some.Service/Method")
            .header("content-type", "application/grpc")
            .header("dapr-app-id", "other")
            .body(())
            .expect("a request")
            .into_parts();
        let context = Context::new(Caller::App(app("shop/cart")), Span::root(true));
        let call = Call { head, body: Body::empty(), context };
        let told = world.runtime.api(&app("shop/cart")).serve(call).await.expect("an answer");
        let told = Status::from_header_map(&told.head.headers).expect("a status");
        assert_eq!((told.code(), reason(&told).as_str()), (expect, "ERR_DIRECT_INVOKE"));
        assert!(told.message().starts_with(&format!("app `other` answered {status} ")), "{told}");
    }
}
