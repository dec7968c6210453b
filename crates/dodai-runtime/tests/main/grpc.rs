//! The gRPC API, spoken by a client that knows nothing of where it is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Ready, Poll};

use dodai_core::body::Body;
use dodai_core::call::{Call, Caller, Context, Reply, Serve};
use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::{App, Resource, Scopes, SecretScope};
use dodai_core::trace::Span;
use dodai_proto::apps::dapr::proto::common::v1::state_options::{StateConcurrency, StateConsistency};
use dodai_proto::apps::dapr::proto::common::v1::{
    Etag, HttpExtension, InvokeRequest, StateItem, StateOptions,
};
use dodai_proto::apps::dapr::proto::runtime::v1::dapr_client::DaprClient;
use dodai_proto::apps::dapr::proto::runtime::v1::*;
use dodai_proto::apps::google::rpc;
use dodai_proto::apps::grpc::health::v1::health_client::HealthClient;
use dodai_proto::apps::grpc::health::v1::{HealthCheckRequest, health_check_response::ServingStatus};
use dodai_proto::apps::grpc::reflection::v1::ServerReflectionRequest;
use dodai_proto::apps::grpc::reflection::v1::server_reflection_client::ServerReflectionClient;
use dodai_proto::apps::grpc::reflection::v1::server_reflection_request::MessageRequest;
use dodai_proto::apps::grpc::reflection::v1::server_reflection_response::MessageResponse;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tonic::codegen::Service;
use tonic::{Code, Request, Status};

use crate::world::{World, app, blocks, component, data_of, reply};

/// The API of one app as a channel.
#[derive(Clone)]
pub struct Way(Arc<dyn Serve>, String);

impl Service<http::Request<tonic::body::Body>> for Way {
    type Response = http::Response<Body>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Ready<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let body = Body::boxed(body.map_err(|status| Failure::new(Kind::Internal, status.to_string())));
        let context = Context::new(Caller::App(app(&self.1)), Span::root(true));
        let api = self.0.clone();
        Box::pin(async move {
            let Reply { head, body } = api.serve(Call { head, body, context }).await?;
            Ok(http::Response::from_parts(head, body))
        })
    }
}

fn way(world: &World, id: &str) -> Way {
    Way(world.runtime.api(&app(id)), id.to_owned())
}

pub fn dapr(world: &World) -> DaprClient<Way> {
    DaprClient::new(way(world, "shop/cart"))
}

fn item(key: &str, value: &str) -> StateItem {
    let value = value.as_bytes().to_vec().into();
    StateItem { key: key.to_owned(), value, ..StateItem::default() }
}

fn etag(value: &str) -> Option<Etag> {
    Some(Etag { value: value.to_owned() })
}

pub fn pairs(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn save(states: Vec<StateItem>) -> SaveStateRequest {
    SaveStateRequest { store_name: "store".to_owned(), states }
}

fn get(store: &str, key: &str) -> GetStateRequest {
    GetStateRequest { store_name: store.to_owned(), key: key.to_owned(), ..GetStateRequest::default() }
}

/// The reason that an error gives programs.
pub fn reason(status: &Status) -> String {
    let whole = rpc::Status::decode(status.details()).expect("a status");
    assert_eq!((whole.code, whole.message.as_str()), (i32::from(status.code()), status.message()));
    let infos = whole.details.iter().filter(|any| any.type_url == "type.googleapis.com/google.rpc.ErrorInfo");
    let info = infos.map(|any| rpc::ErrorInfo::decode(any.value.as_slice()).expect("an info")).next();
    let info = info.expect("every error has one");
    assert_eq!(info.domain, "dapr.io");
    info.reason
}

#[tokio::test(start_paused = true)]
async fn state_is_saved_read_and_deleted() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    dapr.save_state(save(vec![item("a", "\u{0}bytes"), item("b", "2")])).await.expect("saved");
    let got = dapr.get_state(get("store", "a")).await.expect("got").into_inner();
    assert_eq!((&got.data[..], got.etag.as_str()), (&b"\0bytes"[..], "1"));
    assert_eq!(
        dapr.get_state(get("store", "c")).await.expect("got").into_inner(),
        GetStateResponse::default()
    );

    let keys = ["b", "none"].map(str::to_owned).into();
    let bulk = GetBulkStateRequest { store_name: "store".to_owned(), keys, ..Default::default() };
    let items = dapr.get_bulk_state(bulk).await.expect("got").into_inner().items;
    assert_eq!(
        (items[0].key.as_str(), &items[0].data[..], items[0].etag.is_empty()),
        ("b", &b"2"[..], false)
    );
    assert_eq!((items[1].key.as_str(), items[1].data.is_empty()), ("none", true));

    let delete =
        DeleteStateRequest { store_name: "store".to_owned(), key: "a".to_owned(), ..Default::default() };
    dapr.delete_state(delete).await.expect("deleted");
    let delete =
        DeleteBulkStateRequest { store_name: "store".to_owned(), states: vec![item("b", ""), item("x", "")] };
    dapr.delete_bulk_state(delete).await.expect("deleted");
    for key in ["a", "b"] {
        assert!(dapr.get_state(get("store", key)).await.expect("got").into_inner().data.is_empty(), "{key}");
    }
    // What one API wrote the other reads.
    dapr.save_state(save(vec![item("json", r#"{"n":1}"#)])).await.expect("saved");
    assert_eq!(world.cart("GET", "/v1.0/state/store/json", "").await.body, r#"{"n":1}"#);
}

#[tokio::test(start_paused = true)]
async fn state_has_etags_first_writes_and_expiry() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    dapr.save_state(save(vec![item("k", "1")])).await.expect("saved");
    let stale = StateItem { etag: etag("999"), ..item("k", "2") };
    let refused = dapr.save_state(save(vec![stale])).await.expect_err("stale");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "ERR_STATE_SAVE"));
    assert!(refused.message().contains("possible etag mismatch"), "{refused}");
    let first = StateOptions {
        concurrency: StateConcurrency::ConcurrencyFirstWrite.into(),
        consistency: StateConsistency::ConsistencyStrong.into(),
    };
    let again = StateItem { options: Some(first), ..item("k", "2") };
    assert_eq!(dapr.save_state(save(vec![again])).await.expect_err("it is there").code(), Code::Aborted);
    let fresh = StateItem { etag: etag("1"), ..item("k", "2") };
    dapr.save_state(save(vec![fresh])).await.expect("saved");
    let delete = DeleteStateRequest {
        store_name: "store".to_owned(),
        key: "k".to_owned(),
        etag: etag("1"),
        ..Default::default()
    };
    assert_eq!(dapr.delete_state(delete).await.expect_err("stale").code(), Code::Aborted);

    let brief = StateItem { metadata: pairs(&[("ttlInSeconds", "60")]), ..item("brief", "x") };
    dapr.save_state(save(vec![brief])).await.expect("saved");
    let got = dapr.get_state(get("store", "brief")).await.expect("got").into_inner();
    assert!(got.metadata.contains_key("ttlExpireTime"), "{got:?}");
    let wrong = StateItem { metadata: pairs(&[("ttlInSeconds", "soon")]), ..item("brief", "x") };
    assert_eq!(
        dapr.save_state(save(vec![wrong])).await.expect_err("no number").code(),
        Code::InvalidArgument
    );
    let no_json = StateItem { metadata: pairs(&[("contentType", "application/json")]), ..item("j", "{") };
    assert_eq!(
        dapr.save_state(save(vec![no_json])).await.expect_err("no JSON").code(),
        Code::InvalidArgument
    );
}

fn steps(steps: &[(&str, &str, &str)]) -> ExecuteStateTransactionRequest {
    let step = |(kind, key, value): &(&str, &str, &str)| TransactionalStateOperation {
        operation_type: (*kind).to_owned(),
        request: Some(item(key, value)),
    };
    ExecuteStateTransactionRequest {
        store_name: "store".to_owned(),
        operations: steps.iter().map(step).collect(),
        metadata: pairs(&[]),
    }
}

#[tokio::test(start_paused = true)]
async fn transactions_are_all_or_nothing() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    let all = [("upsert", "a", "1"), ("upsert", "b", "2"), ("delete", "a", "")];
    dapr.execute_state_transaction(steps(&all)).await.expect("done");
    assert!(dapr.get_state(get("store", "a")).await.expect("got").into_inner().data.is_empty());
    assert_eq!(&dapr.get_state(get("store", "b")).await.expect("got").into_inner().data[..], b"2");
    dapr.execute_state_transaction(steps(&[])).await.expect("nothing to do");
    let unknown = dapr.execute_state_transaction(steps(&[("upsert", "b", "3"), ("move", "b", "")])).await;
    let unknown = unknown.expect_err("no such step");
    assert_eq!(
        (unknown.code(), reason(&unknown).as_str()),
        (Code::InvalidArgument, "ERR_NOT_SUPPORTED_STATE_OPERATION")
    );
    assert_eq!(&dapr.get_state(get("store", "b")).await.expect("got").into_inner().data[..], b"2");
}

#[tokio::test(start_paused = true)]
async fn errors_have_daprs_codes_and_details() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    let told = |status: &Status| (status.code(), reason(status));
    let missing = dapr.get_state(get("nope", "k")).await.expect_err("no store");
    assert_eq!(told(&missing), (Code::InvalidArgument, "DAPR_STATE_NOT_FOUND".to_owned()));
    assert_eq!(missing.message(), "state store nope is not found");
    let illegal = dapr.get_state(get("store", "a||b")).await.expect_err("no key");
    assert_eq!(told(&illegal), (Code::InvalidArgument, "DAPR_STATE_ILLEGAL_KEY".to_owned()));
    let whole = rpc::Status::decode(illegal.details()).expect("a status");
    let kinds: Vec<&str> = whole.details.iter().filter_map(|any| any.type_url.rsplit('.').next()).collect();
    assert_eq!(kinds, ["BadRequest", "ResourceInfo", "ErrorInfo"]);
    let query = QueryStateRequest { store_name: "store".to_owned(), ..Default::default() };
    let query = dapr.query_state_alpha1(query).await.expect_err("never");
    assert_eq!(told(&query), (Code::Unimplemented, "DAPR_STATE_QUERYING_NOT_SUPPORTED".to_owned()));
    let secret = GetSecretRequest { store_name: "nope".to_owned(), ..Default::default() };
    let secret = dapr.get_secret(secret).await.expect_err("no store");
    assert_eq!(told(&secret), (Code::InvalidArgument, "ERR_SECRET_STORE_NOT_FOUND".to_owned()));

    let bare = World::new(vec![Resource::App(App::new(app("shop/cart")))]).await;
    let mut dapr = self::dapr(&bare);
    let none = dapr.get_state(get("store", "k")).await.expect_err("no stores");
    assert_eq!(told(&none), (Code::FailedPrecondition, "DAPR_STATE_NOT_CONFIGURED".to_owned()));
    let publish =
        PublishEventRequest { pubsub_name: "bus".to_owned(), topic: "t".to_owned(), ..Default::default() };
    let publish = dapr.publish_event(publish).await.expect_err("no broker");
    assert_eq!(told(&publish), (Code::InvalidArgument, "DAPR_PUBSUB_NOT_FOUND".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn events_are_published() {
    let mut resources = blocks();
    resources.push(Resource::Subscription(crate::world::subscription("/events", None, &[])));
    let world = World::new(resources).await;
    world.runtime.app_ready(&app("shop/cart"), true);
    let mut dapr = dapr(&world);
    let publish = PublishEventRequest {
        pubsub_name: "bus".to_owned(),
        topic: "t".to_owned(),
        data: "one".into(),
        ..Default::default()
    };
    dapr.publish_event(publish).await.expect("published");
    let entry = |id: &str, event: &'static str| BulkPublishRequestEntry {
        entry_id: id.to_owned(),
        event: event.into(),
        content_type: "text/plain".to_owned(),
        metadata: pairs(&[]),
    };
    let many = |entries| BulkPublishRequest {
        pubsub_name: "bus".to_owned(),
        topic: "t".to_owned(),
        entries,
        metadata: pairs(&[]),
    };
    let told = dapr.bulk_publish_event(many(vec![entry("1", "two"), entry("2", "three")])).await;
    assert!(told.expect("published").into_inner().failed_entries.is_empty());
    #[expect(deprecated, reason = "older clients know it by this name")]
    dapr.bulk_publish_event_alpha1(many(vec![entry("1", "four")])).await.expect("published");
    world.until("all events arrive", || world.seen_at("/events").len() == 4).await;
    let mut data: Vec<String> = world.seen_at("/events").iter().map(data_of).collect();
    data.sort();
    assert_eq!(data, ["four", "one", "three", "two"]);
    let twice =
        dapr.bulk_publish_event(many(vec![entry("1", "a"), entry("1", "b")])).await.expect_err("twice");
    assert_eq!(reason(&twice), "DAPR_PUBSUB_MARSHAL_EVENTS");
    let nowhere = PublishEventRequest { pubsub_name: "bus".to_owned(), ..Default::default() };
    let nowhere = dapr.publish_event(nowhere).await.expect_err("no topic");
    assert_eq!(
        (nowhere.code(), reason(&nowhere).as_str()),
        (Code::InvalidArgument, "DAPR_PUBSUB_TOPIC_NAME_EMPTY")
    );
}

#[tokio::test(start_paused = true)]
async fn secrets_keep_to_their_scopes() {
    let mut resources = blocks();
    let rule = SecretScope {
        store: "vault".to_owned(),
        default_allow: false,
        allowed: vec!["db".to_owned()],
        denied: Vec::new(),
    };
    let scopes = Scopes { secrets: vec![rule], api_token: None };
    resources.push(Resource::App(App { scopes, ..App::new(app("shop/cart")) }));
    let world = World::new(resources).await;
    let mut dapr = dapr(&world);
    let get = |key: &str| GetSecretRequest {
        store_name: "vault".to_owned(),
        key: key.to_owned(),
        metadata: pairs(&[]),
    };
    let got = dapr.get_secret(get("db")).await.expect("allowed").into_inner();
    assert_eq!(got.data, pairs(&[("db", "hunter2")]));
    let denied = dapr.get_secret(get("api")).await.expect_err("denied");
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "ERR_PERMISSION_DENIED"));
    let all = GetBulkSecretRequest { store_name: "vault".to_owned(), metadata: pairs(&[]) };
    let all = dapr.get_bulk_secret(all).await.expect("allowed").into_inner().data;
    assert_eq!(all.keys().collect::<Vec<_>>(), ["db"]);
}

#[tokio::test(start_paused = true)]
async fn configuration_is_read_and_followed_by_a_stream() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    let namespace = crate::world::name("shop");
    let set = |key: &'static str, value: Option<&'static str>| {
        world.runtime.set_configuration(&namespace, "config", key, value)
    };
    set("a", Some("1")).await.expect("set");
    let keys = vec!["a".to_owned()];
    let get = GetConfigurationRequest { store_name: "config".to_owned(), keys, metadata: pairs(&[]) };
    let items = dapr.get_configuration(get.clone()).await.expect("got").into_inner().items;
    assert_eq!(items["a"].value, "1");
    assert_eq!(dapr.get_configuration_alpha1(get).await.expect("got").into_inner().items, items);

    let follow = SubscribeConfigurationRequest {
        store_name: "config".to_owned(),
        keys: Vec::new(),
        metadata: pairs(&[]),
    };
    let mut news = dapr.subscribe_configuration(follow.clone()).await.expect("followed").into_inner();
    let id = news.message().await.expect("a message").expect("the first").id;
    set("b", Some("2")).await.expect("set");
    let first = news.message().await.expect("a message").expect("news");
    assert_eq!((first.id.as_str(), first.items["b"].value.as_str()), (id.as_str(), "2"));
    set("b", None).await.expect("deleted");
    let gone = news.message().await.expect("a message").expect("news");
    assert_eq!(gone.items["b"].value, "");
    let mut other = dapr.subscribe_configuration_alpha1(follow).await.expect("followed").into_inner();
    let other_id = other.message().await.expect("a message").expect("the first").id;
    assert_ne!(id, other_id, "each stream has its own");

    let end = UnsubscribeConfigurationRequest { store_name: "config".to_owned(), id };
    assert!(dapr.unsubscribe_configuration(end.clone()).await.expect("ended").into_inner().ok);
    assert_eq!(news.message().await.expect("the end"), None);
    assert!(!dapr.unsubscribe_configuration_alpha1(end).await.expect("told").into_inner().ok, "it has ended");
    set("c", Some("3")).await.expect("set");
    assert_eq!(other.message().await.expect("a message").expect("news").items["c"].value, "3");
    drop(other);
    let end = UnsubscribeConfigurationRequest { store_name: "config".to_owned(), id: other_id };
    assert!(!dapr.unsubscribe_configuration(end).await.expect("told").into_inner().ok, "its reader has gone");
}

#[tokio::test(start_paused = true)]
async fn locks_are_taken_and_released() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    let take = |owner: &str| TryLockRequest {
        store_name: "locks".to_owned(),
        resource_id: "r".to_owned(),
        lock_owner: owner.to_owned(),
        expiry_in_seconds: 60,
    };
    let release = |owner: &str| UnlockRequest {
        store_name: "locks".to_owned(),
        resource_id: "r".to_owned(),
        lock_owner: owner.to_owned(),
    };
    use unlock_response::Status::{LockBelongsToOthers, LockDoesNotExist, Success};
    assert!(dapr.try_lock_alpha1(take("me")).await.expect("told").into_inner().success);
    assert!(!dapr.try_lock_alpha1(take("you")).await.expect("told").into_inner().success);
    for (owner, expect) in [("you", LockBelongsToOthers), ("me", Success), ("me", LockDoesNotExist)] {
        let told = dapr.unlock_alpha1(release(owner)).await.expect("told").into_inner();
        assert_eq!(told.status(), expect, "{owner}");
    }
    let never = TryLockRequest { expiry_in_seconds: 0, ..take("me") };
    assert_eq!(dapr.try_lock_alpha1(never).await.expect_err("no time").code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn metadata_tell_what_there_is() {
    let world = World::new(blocks()).await;
    let mut dapr = dapr(&world);
    let set = SetMetadataRequest { key: "team".to_owned(), value: "blue".to_owned() };
    dapr.set_metadata(set).await.expect("set");
    let told = dapr.get_metadata(GetMetadataRequest {}).await.expect("told").into_inner();
    assert_eq!((told.id.as_str(), told.extended_metadata["team"].as_str()), ("cart", "blue"));
    assert_eq!(told.runtime_version, dodai_runtime::DAPR_LEVEL);
    let names: Vec<&str> = told.registered_components.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["bus", "config", "locks", "store", "vault"]);
    let status = told.actor_runtime.map(|runtime| runtime.runtime_status());
    assert_eq!(status, Some(actor_runtime::ActorRuntimeStatus::Disabled));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_of_everything_but_health() {
    let mut resources = blocks();
    let scopes = Scopes { secrets: Vec::new(), api_token: Some("t0ken".to_owned()) };
    resources.push(Resource::App(App { scopes, ..App::new(app("shop/cart")) }));
    let world = World::new(resources).await;
    let mut dapr = dapr(&world);
    let refused = dapr.get_metadata(GetMetadataRequest {}).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut request = Request::new(GetMetadataRequest {});
    request.metadata_mut().insert("dapr-api-token", "t0ken".parse().expect("a value"));
    dapr.get_metadata(request).await.expect("admitted");
    let mut health = HealthClient::new(way(&world, "shop/cart"));
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "dapr.proto.runtime.v1.Dapr"] {
        let told = health.check(check(service)).await.expect("told").into_inner();
        assert_eq!(told.status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health.check(check("other")).await.expect_err("unknown").code(), Code::NotFound);
    // The health of another app is asked in this app's name.
    let mut of_another = Request::new(HealthCheckRequest::default());
    of_another.metadata_mut().insert("dapr-app-id", "orders".parse().expect("a value"));
    let refused = health.check(of_another).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn health_is_watched_while_components_come_up() {
    let world = World::new(blocks()).await;
    let mut health = HealthClient::new(way(&world, "shop/cart"));
    let mut told = health.watch(HealthCheckRequest::default()).await.expect("watched").into_inner();
    let first = told.message().await.expect("a message").expect("the first");
    assert_eq!(first.status(), ServingStatus::Serving);
    let mut resources = blocks();
    resources.push(Resource::Component(component("late", "state.none", &[])));
    world.runtime.apply(&dodai_core::snapshot::Snapshot::of(2, resources));
    world.until("one is not up", || world.runtime.health().values().any(|health| !health.ready)).await;
    let next = told.message().await.expect("a message").expect("news");
    assert_eq!(next.status(), ServingStatus::NotServing);
    world.runtime.apply(&dodai_core::snapshot::Snapshot::of(3, blocks()));
    let next = told.message().await.expect("a message").expect("news");
    assert_eq!(next.status(), ServingStatus::Serving);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_says_so() {
    let world = World::new(blocks()).await;
    let path = |method: &str| format!("/dapr.proto.runtime.v1.Dapr/{method}");
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    for (method, word) in [
        ("InvokeActor", "actors"),
        ("StartWorkflowBeta1", "workflows"),
        ("ScheduleJob", "jobs"),
        ("ConverseAlpha2", "conversation"),
        ("EncryptAlpha1", "cryptography"),
    ] {
        let told = world.send("shop/cart", "POST", &path(method), &headers, "").await;
        assert_eq!((told.status, &told.headers["grpc-status"]), (200, &"12".parse().expect("a value")));
        let message = told.headers["grpc-message"].to_str().expect("text");
        assert!(message.contains(word), "{method}: {message}");
    }
    let nothing = world.send("shop/cart", "POST", &path("Nonsense"), &headers, "").await;
    assert_eq!(nothing.headers["grpc-status"], "12");
}

#[tokio::test(start_paused = true)]
async fn reflection_names_services_and_their_files() {
    let world = World::new(blocks()).await;
    let mut reflection = ServerReflectionClient::new(way(&world, "shop/cart"));
    let ask =
        |asked: MessageRequest| ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let asked = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("dapr.proto.runtime.v1.Dapr".to_owned())),
        ask(MessageRequest::FileByFilename("google/protobuf/any.proto".to_owned())),
        ask(MessageRequest::FileContainingSymbol("no.Such".to_owned())),
    ];
    let answers =
        reflection.server_reflection_info(futures_util::stream::iter(asked)).await.expect("answers");
    let mut answers = answers.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        all.push(answer.message_response.expect("something"));
    }
    let MessageResponse::ListServicesResponse(services) = &all[0] else { panic!("{:?}", all[0]) };
    assert!(services.service.iter().any(|service| service.name == "dapr.proto.runtime.v1.Dapr"));
    let MessageResponse::FileDescriptorResponse(file) = &all[1] else { panic!("{:?}", all[1]) };
    let file = prost_types::FileDescriptorProto::decode(&file.file_descriptor_proto[0][..]).expect("a file");
    assert_eq!(file.name(), "dapr/proto/runtime/v1/dapr.proto");
    assert!(matches!(&all[2], MessageResponse::FileDescriptorResponse(_)));
    assert!(matches!(&all[3], MessageResponse::ErrorResponse(error) if error.error_code == 5));
}

#[tokio::test(start_paused = true)]
async fn older_clients_invoke_apps_by_http() {
    let world = World::new(blocks()).await;
    world.script(|seen| match seen.path.as_str() {
        "/orders?x=1" => reply(201, "made"),
        _ => reply(404, "no such order"),
    });
    let mut dapr = dapr(&world);
    let invoke = |method: &str| InvokeServiceRequest {
        id: "other".to_owned(),
        message: Some(InvokeRequest {
            method: method.to_owned(),
            data: Some(prost_types::Any { type_url: String::new(), value: b"one".to_vec() }),
            content_type: "text/plain".to_owned(),
            http_extension: Some(HttpExtension { verb: 4, querystring: "x=1".to_owned() }),
        }),
    };
    let told = dapr.invoke_service(invoke("orders")).await.expect("invoked");
    assert_eq!(told.metadata().get("dapr-http-status").map(|value| value.as_bytes()), Some(&b"201"[..]));
    assert_eq!(told.into_inner().data.expect("data").value, b"made");
    let seen = world.seen_at("/orders").remove(0);
    assert_eq!(
        (seen.method.as_str(), &seen.body[..], seen.authority.as_str()),
        ("PUT", &b"one"[..], "other")
    );
    assert_eq!(seen.headers["dapr-caller-app-id"], "cart");
    let missing = dapr.invoke_service(invoke("else")).await.expect_err("404");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "Not Found"));
}

#[tokio::test(start_paused = true)]
async fn calls_of_other_services_go_to_the_app_they_name() {
    let world = World::new(blocks()).await;
    world.script(|_| {
        let mut reply = reply(200, "\0\0\0\0\0")?;
        reply.head.headers.insert("content-type", "application/grpc".parse().expect("a value"));
        Ok(reply)
    });
    let headers = [
        ("content-type", "application/grpc"),
        ("dapr-app-id", "nobody"),
        ("dapr-callee-app-id", "other"),
        ("dapr-api-token", "mine"),
        ("x-own", "stays"),
    ];
    let told = world.send("shop/cart", "POST", "/greet.Greeter/Hello", &headers, "\0\0\0\0\0").await;
    assert_eq!((told.status, told.body.as_str()), (200, "\0\0\0\0\0"));
    let seen = world.seen_at("/greet.Greeter/Hello").remove(0);
    assert_eq!((seen.authority.as_str(), &seen.body[..]), ("other", &b"\0\0\0\0\0"[..]));
    assert_eq!(
        (seen.headers["te"].as_bytes(), seen.headers["x-own"].as_bytes()),
        (&b"trailers"[..], &b"stays"[..])
    );
    assert!(!seen.headers.contains_key("dapr-app-id") && !seen.headers.contains_key("dapr-api-token"));
    assert_eq!(seen.headers["dapr-caller-app-id"], "cart");

    let plain = [("content-type", "application/grpc")];
    let nobody = world.send("shop/cart", "POST", "/greet.Greeter/Hello", &plain, "").await;
    assert_eq!(nobody.headers["grpc-status"], "12");
    let wrong = [("content-type", "application/grpc"), ("dapr-app-id", "Not A Name")];
    let wrong = world.send("shop/cart", "POST", "/greet.Greeter/Hello", &wrong, "").await;
    assert_eq!(wrong.headers["grpc-status"], "3");
}
