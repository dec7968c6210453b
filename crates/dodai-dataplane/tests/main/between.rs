//! Calls and connections from one base to another over mutual TLS, to a process there, in every protocol.

use std::sync::Arc;

use crate::h2::{Server, grpc, read, take_turns, trailers};
use crate::serve::{Issuer, remote};
use crate::support::*;
use dodai_core::id::{InstanceId, Name};
use dodai_core::snapshot::*;
use dodai_dataplane::limits::Limits;
use dodai_dataplane::local::Way;
use dodai_transport::memory::Net;
use http::Response;

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
    let (net, issuer) = (Net::new(), Issuer::new());
    let near = World::on(net.clone(), Limits::default(), Some(issuer.mesh()));
    let far = World::at(net, FAR, "far", Limits::default(), Some(issuer.mesh()));
    let mut catalog = Service { protocol, ..service("shop/catalog/http") };
    let front = AccessRule { allow: true, apps: vec![app("shop/front")], ..AccessRule::default() };
    catalog.inbound = vec![Filter::Access(Access { default_allow: false, rules: vec![front] })];
    let list = || endpoints("shop/catalog/http", vec![remote(MESH)]);
    let role = Role::Dependency { app: app("shop/front"), service: id("shop/catalog/http") };
    let spoken = if protocol == Protocol::Tcp { Protocol::Tcp } else { Protocol::Http };
    let declared = Listener::new("declared", (GATEWAY, 90).into(), spoken, role);
    near.apply(vec![outbound(), Resource::Listener(declared), Resource::Service(catalog.clone()), list()])
        .await;
    let mesh = Listener::new("mesh", (FAR, MESH).into(), Protocol::Http, Role::Mesh);
    far.apply(vec![Resource::Listener(mesh), Resource::Service(catalog), list()]).await;
    let port = Name::new("http").expect("a name");
    let way = Way::Ports(Arc::new([(port, backend_addr(PROCESS))].into()));
    far.plane.locals().get(&InstanceId::new("i-1")).set(way);
    let process = far.backend(PROCESS);
    Two { near, far, process }
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
    local(async {
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
    })
    .await;
}
