//! Calls and connections from one base to another over mutual TLS, to a process there, in every protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::ends::{Ask, Silent, within};
use crate::h2::{Server, grpc, read, take_turns, trailers};
use crate::serve::{Issuer, remote};
use crate::support::*;
use crate::tokens::{Login, ada, jwt};
use dodai_core::id::{InstanceId, Name};
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::Way;
use dodai_transport::memory::Net;
use dodai_transport::tls::Clock;
use http::Response;
use tokio::time::Instant;

const FAR: [u8; 4] = [10, 0, 0, 2];
const MESH: u16 = 15_008;
/// Where the app's process listens on the far base.
const PROCESS: u8 = 9;

/// Two bases, and what the app's process accepts. Callers are an app of the near base: at 81 by name, at 90 by the
/// port of the service.
struct Two {
    near: World,
    far: World,
    process: Peers,
}

async fn two(protocol: Protocol) -> Two {
    Box::pin(two_of(&Issuer::new(), protocol, CallPolicy::default())).await
}

async fn two_of(issuer: &Issuer, protocol: Protocol, policy: CallPolicy) -> Two {
    let net = Net::new();
    let near = World::on(net.clone(), Limits::default(), Some(issuer.mesh()));
    // Bases look at their deadlines each at moments of its own.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let far = World::at(net, FAR, "far", Limits::default(), Some(issuer.mesh()));
    let mut catalog = Service { protocol, policy, ..service("shop/catalog/http") };
    let front = AccessRule { allow: true, apps: vec![app("shop/front")], ..AccessRule::default() };
    catalog.inbound = vec![Filter::Access(Access { default_allow: false, rules: vec![front] })];
    near.apply(of_near(&catalog)).await;
    far.apply(of_far(&catalog)).await;
    let port = Name::new("http").expect("a name");
    let way = Way::Ports(Arc::new([(port, backend_addr(PROCESS))].into()));
    far.plane.locals().get(&InstanceId::new("i-1")).set(way);
    let process = far.backend(PROCESS);
    Two { near, far, process }
}

fn list() -> Resource {
    endpoints("shop/catalog/http", vec![remote(MESH)])
}

/// What the base of the callers is told.
fn of_near(catalog: &Service) -> Vec<Resource> {
    let role = Role::Dependency { app: app("shop/front"), service: id("shop/catalog/http") };
    let spoken = if catalog.protocol == Protocol::Tcp { Protocol::Tcp } else { Protocol::Http };
    let declared = Listener::new("declared", (GATEWAY, 90).into(), spoken, role);
    vec![outbound(), Resource::Listener(declared), Resource::Service(catalog.clone()), list()]
}

/// What the base of the service is told.
fn of_far(catalog: &Service) -> Vec<Resource> {
    let mesh = Listener::new("mesh", (FAR, MESH).into(), Protocol::Http, Role::Mesh);
    vec![Resource::Listener(mesh), Resource::Service(catalog.clone()), list()]
}

impl Two {
    /// Both bases have counted the call, as the app's.
    async fn counted(&self) -> (dodai_core::record::Record, dodai_core::record::Record) {
        let (out, into) = (self.near.records.next().await, self.far.records.next().await);
        assert_eq!((out.direction, into.direction), ("outbound", "inbound"));
        assert_eq!((&*out.caller, &*into.caller), ("shop/front", "shop/front"));
        (out, into)
    }
}

#[tokio::test(start_paused = true)]
async fn raw_connections_begin_at_the_server_and_end_with_all_that_was_said() {
    local(async {
        let mut two = two(Protocol::Tcp).await;
        let mut client = two.near.client_of(90).await;
        let mut server = two.process.accept().await;
        server.send("welcome").await;
        assert_eq!(client.text(7).await, "welcome");
        let large = "x".repeat(300_000);
        let upload = beside({
            let large = large.clone();
            async move {
                client.send(large).await;
                client
            }
        });
        assert_eq!(server.take(large.len()).await, large.as_bytes());
        let mut client = upload.await.expect("sent");
        server.send("rows").await;
        drop(server);
        assert_eq!(client.rest().await, "rows");
        client.finish().await;
        let (out, into) = two.counted().await;
        assert_eq!((out.received, out.sent), (300_000, 11));
        assert_eq!((into.received, into.sent), (300_000, 11));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn websockets_are_upgraded_across_bases() {
    local(async {
        let mut two = two(Protocol::Http).await;
        let mut client = two.near.client_of(81).await;
        client
            .send("GET /ws HTTP/1.1\r\nHost: catalog\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let mut server = two.process.accept().await;
        let asked = server
            .answer(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
            )
            .await;
        assert_eq!(asked.header("upgrade"), Some("websocket"));
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        assert_eq!(client.text(5).await, "hello");
        client.send("ping").await;
        assert_eq!(server.text(4).await, "ping");
        server.send("pong").await;
        assert_eq!(client.text(4).await, "pong");
        drop(client);
        server.ended().await;
        drop(server);
        two.counted().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_and_streamed_bodies_go_through_both_bases_whole() {
    local(async {
        let mut two = two(Protocol::Http).await;
        let mut client = two.near.client_of(81).await;
        let body = "0123456789abcdef".repeat(40_000);
        let head = format!("POST /up HTTP/1.1\r\nHost: catalog\r\nContent-Length: {}\r\n\r\n", body.len());
        let upload = beside({
            let body = body.clone();
            async move {
                client.send(head).await;
                client.send(body).await;
                client
            }
        });
        let mut server = two.process.accept().await;
        assert!(server.head().await.starts_with("POST /up "));
        assert_eq!(server.take(body.len()).await, body.as_bytes());
        let mut client = upload.await.expect("sent");
        // An answer in pieces: each arrives before the next is made.
        server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
        for round in 0..3 {
            server.send(format!("6\r\nevent{round}\r\n")).await;
            assert!(client.until("\r\n").await.starts_with('6'));
            assert_eq!(client.until("\r\n").await, format!("event{round}\r\n"));
        }
        server.send("0\r\nx-sum: 7\r\n\r\n").await;
        assert!(client.until("\r\n\r\n").await.contains("x-sum: 7"));
        let (out, into) = two.counted().await;
        assert_eq!((out.status, into.status), (200, 200));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn grpc_streams_flow_both_ways_across_bases_and_end_with_their_trailers() {
    local(Box::pin(async {
        let mut two = two(Protocol::Http2).await;
        let stream = two.near.client_of(81).await.stream;
        let (sender, connection) = h2::client::handshake(stream).await.expect("shaken");
        beside(async move {
            let _ended = connection.await;
        });
        let mut sender = sender.ready().await.expect("ready");
        let mut request = grpc("/s/bidi");
        *request.uri_mut() = "http://catalog/s/bidi".parse().expect("valid");
        let (response, mut upload) = sender.send_request(request, false).expect("sent");
        let mut server = Server::accept(&mut two.process).await;
        let (asked, mut respond) = server.next().await;
        let _driving = server.drive();
        let mut asked = asked.into_body();
        let mut down = respond.send_response(Response::new(()), false).expect("sent");
        let mut answer = response.await.expect("answered").into_body();
        take_turns((&mut upload, &mut asked), (&mut down, &mut answer)).await;
        down.send_trailers(trailers("3")).expect("sent");
        assert_eq!(read(&mut answer).await, b"");
        assert_eq!(answer.trailers().await.expect("whole"), Some(trailers("3")));
        let (out, into) = two.counted().await;
        assert_eq!((out.grpc_status, into.grpc_status), (Some(3), Some(3)));
    }))
    .await;
}

/// A wall clock, and by how many hours it is ahead.
fn settable() -> (Clock, Arc<AtomicI64>) {
    let ahead = Arc::new(AtomicI64::new(0));
    let by = ahead.clone();
    let clock = Clock::from_fn(move || {
        let (now, hours) = (SystemTime::now(), by.load(Relaxed));
        let apart = secs(3600 * hours.unsigned_abs());
        if hours < 0 { now - apart } else { now + apart }
    });
    (clock, ahead)
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_makes_calls_fail_at_once_and_not_for_longer_than_it_is_wrong() {
    local(async {
        let (clock, ahead) = settable();
        let issuer = Issuer::at(clock);
        let Two { near, far, mut process } = two_of(&issuer, Protocol::Http, CallPolicy::default()).await;
        beside(async move {
            loop {
                let mut server = process.accept().await;
                beside(async move {
                    while server.try_head().await.is_some() {
                        server.send(OK).await;
                    }
                });
            }
        });
        let mut client = near.client_of(81).await;
        let mut ask = async || {
            let start = Instant::now();
            let answer = client.ask("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
            assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
            (answer.status(), answer.body)
        };
        assert_eq!(ask().await.0, 200);
        // Connections go on until they are looked at, and none is made after the end of all certificates.
        ahead.store(10_000, Relaxed);
        assert_eq!(ask().await.0, 200);
        issuer.sweep();
        let (status, text) = ask().await;
        assert!(status == 503 && text.contains("clock"), "{status} {text}");
        ahead.store(0, Relaxed);
        assert_eq!(ask().await.0, 200);
        // One that is set back finds no certificate valid yet; what is open goes on.
        ahead.store(-10_000, Relaxed);
        issuer.sweep();
        assert_eq!(ask().await.0, 200);
        near.plane.apply(&Snapshot::of(2, [])).await.expect("applied");
        drop(far);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shrinks_from_base_to_base_and_ends_the_call_on_both() {
    local(async {
        for protocol in [Protocol::Http, Protocol::Http2] {
            for (whole, told, expect) in
                [(5000, Some(1000), 1000), (1000, Some(5000), 1000), (1000, None, 1000)]
            {
                let policy = CallPolicy {
                    timeout: Some(Duration::from_millis(whole)),
                    try_timeout: Some(Duration::from_millis(400)),
                    retry: Some(RetryPolicy {
                        attempts: 5,
                        constant: true,
                        ..dodai_dataplane::attempt::default_retry()
                    }),
                    ..CallPolicy::default()
                };
                let Two { near, far, process } = two_of(&Issuer::new(), protocol, policy).await;
                let silent = Silent::at(process, protocol);
                let mut ask = Ask::new(near.client_of(81).await, protocol == Protocol::Http2).await;
                let start = Instant::now();
                let status = ask.get("catalog", "dodai-timeout-ms", told.map(|told| told.to_string())).await;
                let what = format!("{protocol:?} {whole} {told:?}");
                assert_eq!(status, 504, "{what}");
                within(start, expect, &what);
                silent.all_ended(start, Duration::from_millis(expect), 3, &what).await;
                assert!(silent.told().iter().all(|told| *told <= 500), "{what}: {:?}", silent.told());
                drop(far);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_base_that_sends_a_call_tries_again_what_was_answered() {
    local(async {
        let retry =
            RetryPolicy { statuses: vec![503], attempts: 2, ..dodai_dataplane::attempt::default_retry() };
        let hedge = Hedge { delay: Some(Duration::from_millis(50)), attempts: 1, any_method: false };
        let policy = CallPolicy { retry: Some(retry), hedge: Some(hedge), ..CallPolicy::default() };
        let Two { near, far, mut process } = two_of(&Issuer::new(), Protocol::Http, policy).await;
        let asked = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = asked.clone();
        beside(async move {
            loop {
                let (mut server, count) = (process.accept().await, count.clone());
                beside(async move {
                    while server.try_head().await.is_some() {
                        count.set(count.get() + 1);
                        server.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
                    }
                });
            }
        });
        let mut client = near.client_of(81).await;
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await.status(), 503);
        assert_eq!(asked.get(), 3, "one try and two more");
        drop(far);
    })
    .await;
}

/// The keys of tokens are where calls arrive; the base that sends a call there cannot say what its token claims.
#[tokio::test(start_paused = true)]
async fn a_policy_over_claims_is_asked_again_where_the_call_arrives() {
    local(async {
        let mut two = two(Protocol::Http).await;
        let login = Login::new();
        let catalog = |keys: &Login, default_allow: bool, group: &str| {
            let values = vec![ValuePattern::Exact(group.into())];
            let claims = vec![ClaimMatch { name: "groups".into(), values }];
            let rules = vec![AccessRule { allow: !default_allow, claims, ..AccessRule::default() }];
            let access = Filter::Access(Access { default_allow, rules });
            let inbound = vec![jwt(JwtKeys::Inline(keys.keys())), access];
            Service { inbound, ..service("shop/catalog/http") }
        };
        let both = async |catalog: Service, two: &Two| {
            two.near.apply(of_near(&catalog)).await;
            two.far.apply(of_far(&catalog)).await;
        };
        both(catalog(&login, true, "other"), &two).await;
        let mut client = two.near.client_of(81).await;
        let token = login.sign("ES256", &ada());
        let head = "POST /up HTTP/1.1\r\nHost: catalog\r\nTransfer-Encoding: chunked\r\n";
        client.send(format!("{head}Authorization: Bearer {token}\r\n\r\n5\r\nbegun\r\n")).await;
        let mut process = two.process.accept().await;
        process.until("begun\r\n").await;
        // With other keys nobody could prove the token any more: what was proved counts.
        both(catalog(&Login::new(), false, "staff"), &two).await;
        client.send("3\r\ntwo\r\n").await;
        process.until("two\r\n").await;
        both(catalog(&login, true, "staff"), &two).await;
        client.send("6\r\nsecret\r\n").await;
        assert!(!process.rest().await.contains("secret"));
        assert_eq!(client.message().await.status(), 403);
    })
    .await;
}
