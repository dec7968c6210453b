//! A service that decides who may call: what it is asked, what its answer changes, and what happens without one.

use crate::support::*;
use bytes::Bytes;
use dodai_core::failure::Kind;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;
use http::{HeaderMap, HeaderName, Response};
use prost::Message as _;

fn authorizer(protocol: AuthorizerProtocol, fail_open: bool) -> Filter {
    Filter::Authorizer(Authorizer {
        service: id("shop/authz/http"),
        protocol,
        timeout: secs(1),
        fail_open,
        request_headers: vec!["x-a".into()],
        call_headers: vec!["x-user".into()],
        client_headers: vec!["x-why".into()],
    })
}

fn http() -> AuthorizerProtocol {
    AuthorizerProtocol::Http { path_prefix: "/check".into() }
}

/// `catalog` at backend 1, and the authorizer at backend 2, which is asked where `inbound` says.
fn asking(filter: Filter, protocol: Protocol, inbound: bool) -> Vec<Resource> {
    let mut catalog = service("shop/catalog/http");
    let (here, there) = if inbound { (vec![], vec![filter]) } else { (vec![filter], vec![]) };
    catalog.inbound = there;
    let mut resources = usual(catalog, filtered(here));
    resources.push(Resource::Service(Service { protocol, ..service("shop/authz/http") }));
    resources.push(endpoints("shop/authz/http", vec![endpoint(2, "r1")]));
    resources
}

const CALL: &str = "POST /a?q=1 HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Bearer x\r\nX-A: 1\r\nX-B: 2\r\nX-User: root\r\n\
                    Content-Length: 4\r\n\r\nbody";

#[tokio::test(start_paused = true)]
async fn one_on_trial_is_asked_and_changes_nothing() {
    local(async {
        for inbound in [false, true] {
            let tried =
                Filter::Trial { policy: "shop/try".into(), filter: Box::new(authorizer(http(), false)) };
            let world = World::of(asking(tried, Protocol::Http, inbound)).await;
            let (mut backends, mut deciders) = (world.backend(1), world.backend(2));
            let mut client = world.client().await;
            let mut call = async |answer: &str| {
                client.send(CALL).await;
                let asked = deciders.accept().await.answer(answer).await;
                assert!(asked.head.starts_with("POST /check/a?q=1 "), "{}", asked.head);
                let request = backends
                    .accept()
                    .await
                    .answer(&OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                    .await;
                assert_eq!(request.header("x-user"), Some("root"), "it stays as it came");
                assert_eq!(client.message().await.status(), 200);
            };
            call("HTTP/1.1 200 OK\r\nX-User: ada\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            call("HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            call("HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            let told = world.plane.table().tallies();
            let count: Vec<_> = told.iter().map(|one| (one.event, one.count)).collect();
            assert_eq!(count, [(Event::WouldRefuse, 2)], "{inbound}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn its_status_decides_and_headers_pass() {
    local(async {
        for inbound in [false, true] {
            let world = World::of(asking(authorizer(http(), false), Protocol::Http, inbound)).await;
            let (mut backends, mut deciders) = (world.backend(1), world.backend(2));
            let mut client = world.client().await;
            client.send(CALL).await;
            let mut decider = deciders.accept().await;
            let asked = decider
                .answer("HTTP/1.1 200 OK\r\nX-User: ada\r\nX-Other: 1\r\nContent-Length: 0\r\n\r\n")
                .await;
            assert!(asked.head.starts_with("POST /check/a?q=1 HTTP/1.1\r\n"), "{}", asked.head);
            assert_eq!((asked.header("authorization"), asked.header("x-a")), (Some("Bearer x"), Some("1")));
            assert_eq!((asked.header("x-b"), asked.body.as_str()), (None, ""));
            assert_eq!(asked.header("x-forwarded-host"), Some("shop.example"));
            let mut backend = backends.accept().await;
            let call = backend.answer(OK).await;
            assert_eq!((call.header("x-user"), call.header("x-other")), (Some("ada"), None));
            assert_eq!((call.header("x-b"), call.body.as_str()), (Some("2"), "body"));
            assert_eq!(client.message().await.status(), 200);
            // A refusal is the authorizer's own, wherever it is asked.
            client.send(CALL).await;
            let denied = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nX-Why: no\r\nX-Not: 1\r\nContent-Length: 3\r\n\r\nwho";
            decider.answer(denied).await;
            let answer = client.message().await;
            assert_eq!((answer.status(), answer.body.as_str()), (401, "who"));
            assert_eq!((answer.header("www-authenticate"), answer.header("dodai-failure")), (Some("Basic"), Some("denied")));
            assert_eq!((answer.header("x-why"), answer.header("x-not")), (Some("no"), None));
            assert_eq!(world.records.take().iter().filter(|one| one.failure == Some(Kind::Unauthenticated)).count(), 1);
            // The connection serves on.
            client.send(CALL).await;
            decider.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            backend.answer(OK).await;
            assert_eq!(client.message().await.status(), 200);
            assert!(backend.is_quiet().await);
            let told = world.plane.table().tallies();
            let count = |event| told.iter().find(|one| one.event == event).map(|one| one.count);
            assert_eq!((count(Event::AuthorizerAllowed), count(Event::AuthorizerDenied)), (Some(2), Some(1)));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_calls_go_on_only_if_that_is_wanted() {
    local(async {
        for (fail_open, expect) in [(false, 503), (true, 200)] {
            let world = World::of(asking(authorizer(http(), fail_open), Protocol::Http, false)).await;
            let (mut backends, mut deciders) = (world.backend(1), world.backend(2));
            for how in ["slow", "broken"] {
                let mut client = world.client().await;
                client.send(CALL).await;
                let mut decider = deciders.accept().await;
                let _kept = if how == "slow" {
                    decider.message().await;
                    Some(decider)
                } else {
                    decider.answer("HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
                    None
                };
                if fail_open {
                    backends
                        .accept()
                        .await
                        .answer(&OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                        .await;
                }
                let answer = client.message().await;
                assert_eq!(answer.status(), expect, "{how}");
                if !fail_open {
                    assert_eq!(answer.header("dodai-failure"), Some("authorizer_down"));
                }
            }
            let told = world.plane.table().tallies();
            assert!(
                told.iter().any(|one| one.event == Event::AuthorizerFailed && one.count == 2),
                "{told:?}"
            );
        }
    })
    .await;
}

/// The messages as another implementation would write them, with numbers of Envoy's API.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, optional, tag = "2")]
    denied: Option<Changes>,
    #[prost(message, optional, tag = "3")]
    ok: Option<Changes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Code {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Changes {
    #[prost(message, optional, tag = "1")]
    status: Option<Code>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Option_>,
    #[prost(string, tag = "3")]
    body: String,
    #[prost(string, repeated, tag = "5")]
    remove: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Option_ {
    #[prost(message, optional, tag = "1")]
    header: Option<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

fn header(key: &str, value: &str) -> Option_ {
    Option_ { header: Some(Pair { key: key.into(), value: value.into() }) }
}

#[tokio::test(start_paused = true)]
async fn over_grpc_it_says_itself_what_changes() {
    local(async {
        let world =
            World::of(asking(authorizer(AuthorizerProtocol::Grpc, false), Protocol::Grpc, false)).await;
        let (mut backends, mut deciders) = (world.backend(1), world.backend(2));
        let mut client = world.client().await;
        client.send(CALL).await;
        let stream = deciders.accept().await.stream;
        let mut decider = h2::server::handshake(stream).await.expect("shaken");
        let (asked, answered) = tokio::sync::mpsc::channel::<(String, Vec<u8>)>(4);
        beside(async move {
            let mut round = 0;
            while let Some(Ok((request, mut respond))) = decider.accept().await {
                let path = request.uri().path().to_owned();
                let asked = asked.clone();
                round += 1;
                beside(async move {
                    let mut body = request.into_body();
                    let mut question = Vec::new();
                    while let Some(data) = body.data().await {
                        question.extend_from_slice(&data.expect("whole"));
                    }
                    asked.send((path, question)).await.expect("the test waits");
                    let answer = if round == 1 {
                        let headers = vec![header("x-user", "ada"), header("dapr-caller-app-id", "admin")];
                        let ok = Changes { headers, remove: vec!["x-b".into()], ..Changes::default() };
                        Answer { status: Some(Code { code: 0 }), ok: Some(ok), ..Answer::default() }
                    } else {
                        let headers = vec![header("x-why", "no")];
                        let status = Some(Code { code: 418 });
                        let denied = Changes { status, headers, body: "tea".into(), ..Changes::default() };
                        Answer { status: Some(Code { code: 7 }), denied: Some(denied), ..Answer::default() }
                    };
                    let message = answer.encode_to_vec();
                    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
                    let frame = [&[0][..], &length, &message].concat();
                    let head = Response::builder()
                        .header("content-type", "application/grpc")
                        .body(())
                        .expect("valid");
                    let mut out = respond.send_response(head, false).expect("open");
                    out.send_data(Bytes::from(frame), false).expect("open");
                    let status = HeaderName::from_static("grpc-status");
                    out.send_trailers(HeaderMap::from_iter([(status, "0".parse().expect("valid"))]))
                        .expect("open");
                });
            }
        });
        let mut answered = answered;
        let (path, question) = answered.recv().await.expect("asked");
        assert_eq!(path, "/envoy.service.auth.v3.Authorization/Check");
        let text = String::from_utf8_lossy(&question);
        for part in ["POST", "/a?q=1", "shop.example", "x-b", "10.0.0.5"] {
            assert!(text.contains(part), "{part} is not in {text:?}");
        }
        let mut backend = backends.accept().await;
        let call = backend.answer(OK).await;
        assert_eq!((call.header("x-user"), call.header("x-b")), (Some("ada"), None));
        assert_eq!(call.header("dapr-caller-app-id"), None, "who calls is not the authorizer's to say");
        assert_eq!(client.message().await.status(), 200);
        client.send(CALL).await;
        answered.recv().await.expect("asked");
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.body.as_str(), answer.header("x-why")), (418, "tea", Some("no")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn its_refusal_reaches_clients_of_http2_where_calls_arrive() {
    local(async {
        let world = World::of(asking(authorizer(http(), false), Protocol::Http, true)).await;
        let mut deciders = world.backend(2);
        let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let mut sender = sender.ready().await.expect("ready");
        let (answer, _) = sender
            .send_request(http::Request::get("http://shop/b").body(()).expect("valid"), true)
            .expect("sent");
        let denied = "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 2\r\n\r\ngo";
        deciders.accept().await.answer(denied).await;
        let answer = answer.await.expect("answered");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["location"]),
            (302, &"/login".parse().unwrap())
        );
        let mut body = answer.into_body();
        assert_eq!(body.data().await.expect("more").expect("whole"), "go");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_time_that_it_takes_is_the_calls() {
    local(async {
        let world = World::of(asking(authorizer(http(), false), Protocol::Http, false)).await;
        let (mut backends, mut deciders) = (world.backend(1), world.backend(2));
        for by_http_2 in [false, true] {
            let start = tokio::time::Instant::now();
            let mut client = world.client().await;
            let asked = if by_http_2 {
                let (mut sender, connection) = h2::client::handshake(client.stream).await.expect("shaken");
                beside(connection);
                let call = http::Request::get("http://shop/").header("dodai-timeout-ms", "2000");
                let (answer, _) = sender.send_request(call.body(()).expect("valid"), true).expect("sent");
                beside(async move { answer.await.expect("answered").status().as_u16() })
            } else {
                client.send("GET / HTTP/1.1\r\nHost: a\r\ndodai-timeout-ms: 2000\r\n\r\n").await;
                beside(async move { client.message().await.status() })
            };
            let mut decider = deciders.accept().await;
            decider.message().await;
            tokio::time::sleep(std::time::Duration::from_millis(800)).await;
            decider.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
            let mut backend = backends.accept().await;
            let call = backend.message().await;
            let told: u64 = call.header("dodai-timeout-ms").and_then(|told| told.parse().ok()).expect("told");
            assert!((1100..=1200).contains(&told), "{told} of what is left, HTTP/2: {by_http_2}");
            assert_eq!(asked.await.expect("no panic"), 504);
            let took = start.elapsed();
            assert!(took >= secs(2) && took < secs(2) + secs(1) / 4, "{took:?}, HTTP/2: {by_http_2}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn its_refusal_leads_to_no_endpoint() {
    local(async {
        let mut resources = asking(authorizer(http(), false), Protocol::Http, true);
        for resource in &mut resources {
            if let Resource::Service(service) = resource
                && service.id == id("shop/catalog/http")
            {
                let same_site = SameSite::Lax;
                service.sticky = Some(Sticky { name: "at".into(), ttl: None, path: "/".into(), same_site });
            }
        }
        let world = World::of(resources).await;
        let mut deciders = world.backend(2);
        let (mut sender, connection) =
            h2::client::handshake(world.client().await.stream).await.expect("shaken");
        beside(connection);
        let call = http::Request::get("http://shop/").body(()).expect("valid");
        let (answer, _) = sender.send_request(call, true).expect("sent");
        deciders.accept().await.answer("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
        let answer = answer.await.expect("answered");
        assert_eq!(answer.status(), 403);
        assert!(answer.headers().get("set-cookie").is_none(), "{:?}", answer.headers());
        let record = world.records.take().pop().expect("one");
        assert_eq!((record.status, &*record.endpoint), (403, ""), "nobody has seen the call");
    })
    .await;
}
