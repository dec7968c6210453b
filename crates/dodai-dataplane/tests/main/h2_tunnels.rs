//! WebSockets over HTTP/2 (RFC 8441), with the `h2` crate as client towards an endpoint that speaks HTTP/1, and as an
//! endpoint that speaks nothing else.

use crate::support::*;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};

async fn client(world: &World) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(world.client().await.stream).await.expect("shaken");
    beside(async move {
        let _ended = connection.await;
    });
    let mut sender = sender.ready().await.expect("ready");
    // What the server grants comes with its settings.
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
        sender = sender.ready().await.expect("ready");
    }
    sender
}

fn connect(protocol: Option<Protocol>) -> Request<()> {
    let uri = if protocol.is_some() { "http://shop/ws?room=1" } else { "shop:80" };
    let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(()).expect("valid");
    request.headers_mut().insert("sec-websocket-version", "13".parse().expect("valid"));
    request.extensions_mut().extend(
        protocol
            .map(|protocol| {
                let mut extensions = http::Extensions::new();
                extensions.insert(protocol);
                extensions
            })
            .unwrap_or_default(),
    );
    request
}

async fn open(
    sender: &mut SendRequest<Bytes>,
    request: Request<()>,
) -> (StatusCode, RecvStream, SendStream<Bytes>) {
    let (response, sending) = sender.send_request(request, false).expect("sent");
    let (head, receiving) = response.await.expect("an answer").into_parts();
    (head.status, receiving, sending)
}

async fn text(receiving: &mut RecvStream) -> String {
    let data = receiving.data().await.expect("more").expect("whole");
    receiving.flow_control().release_capacity(data.len()).expect("open");
    String::from_utf8(data.to_vec()).expect("text")
}

#[tokio::test(start_paused = true)]
async fn a_websocket_over_http_2_reaches_an_endpoint_that_speaks_http_1() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        let serve = beside(async move {
            let mut backend = backends.accept().await;
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nX-Room: 1\r\n\r\nhello";
            let request = backend.answer(head).await;
            assert!(request.head.starts_with("GET /ws?room=1 HTTP/1.1\r\n"), "{}", request.head);
            assert_eq!(request.header("upgrade"), Some("websocket"));
            assert_eq!(request.header("sec-websocket-version"), Some("13"));
            assert_eq!(request.header("sec-websocket-key").map(str::len), Some(24));
            assert_eq!(request.header("content-length"), None, "nothing that follows is content");
            assert_eq!(backend.text(4).await, "ping");
            backend.send("pong").await;
            backend.ended().await;
            backend.send("last words").await;
        });
        let mut request = connect(Some(Protocol::from_static("websocket")));
        request.headers_mut().insert("content-length", "4".parse().expect("valid"));
        let (status, mut receiving, mut sending) = open(&mut sender, request).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text(&mut receiving).await, "hello");
        sending.send_data(Bytes::from_static(b"ping"), false).expect("open");
        assert_eq!(text(&mut receiving).await, "pong");
        sending.send_data(Bytes::new(), true).expect("open");
        assert_eq!(text(&mut receiving).await, "last words");
        while let Some(data) = receiving.data().await {
            assert_eq!(data.expect("it ends as it should"), "");
        }
        serve.await.expect("as expected");
        assert_eq!(world.records.next().await.status, 101);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_refuse_a_websocket() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut sender = client(&world).await;
        beside(async move {
            let mut backend = backends.accept().await;
            let chunked =
                "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n1\r\n!\r\n0\r\n\r\n";
            backend.answer(chunked).await;
        });
        let (status, mut receiving, _sending) =
            open(&mut sender, connect(Some(Protocol::from_static("websocket")))).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let mut body = String::new();
        while let Some(data) = receiving.data().await {
            body.push_str(std::str::from_utf8(&data.expect("whole")).expect("text"));
        }
        assert_eq!(body, "no!");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_is_no_proxy_for_connect() {
    local(async {
        let world = World::plain().await;
        let mut sender = client(&world).await;
        let (status, ..) = open(&mut sender, connect(None)).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    })
    .await;
}

/// A world whose endpoint speaks HTTP/2 only, and that endpoint.
async fn modern() -> (World, Peers) {
    let mut catalog = service("shop/catalog/http");
    catalog.protocol = dodai_core::snapshot::Protocol::Http2;
    let world = World::of(usual(catalog, filtered(vec![]))).await;
    let backends = world.backend(1);
    (world, backends)
}

/// Serves one WebSocket: says hello, answers what it hears in capitals, and has last words.
async fn echo(mut backends: Peers, status: u16) {
    let mut builder = h2::server::Builder::new();
    let stream = backends.accept().await.stream;
    let mut connection =
        builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await.expect("shaken");
    let (request, mut respond) = connection.accept().await.expect("a call").expect("whole");
    beside(async move { while connection.accept().await.is_some() {} });
    assert_eq!(request.method(), Method::CONNECT);
    assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(request.uri().path_and_query().map(|path| path.as_str()), Some("/ws?room=1"));
    let headers = request.headers();
    assert_eq!(headers.get("sec-websocket-version").map(|one| one.as_bytes()), Some(&b"13"[..]));
    assert!(["upgrade", "connection", "sec-websocket-key"].iter().all(|own| headers.get(*own).is_none()));
    let head = http::Response::builder().status(status).header("x-room", "1").body(()).expect("valid");
    let mut out = respond.send_response(head, false).expect("open");
    out.send_data(Bytes::from_static(b"hello"), status != 200).expect("open");
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).expect("open");
        if !data.is_empty() {
            out.send_data(data.to_ascii_uppercase().into(), false).expect("open");
        }
    }
    if status == 200 {
        out.send_data(Bytes::from_static(b"last words"), true).expect("open");
    }
}

const UPGRADE: &str = "GET /ws?room=1 HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_websocket_of_http_1_reaches_an_endpoint_that_speaks_http_2() {
    local(async {
        let (world, backends) = modern().await;
        let serve = beside(echo(backends, 200));
        let mut client = world.client().await;
        client.send(UPGRADE).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        for line in ["upgrade: websocket", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "x-room: 1"]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        assert_eq!(client.text(5).await, "hello");
        client.send("ping").await;
        assert_eq!(client.text(4).await, "PING");
        client.finish().await;
        assert_eq!(client.rest().await, "last words");
        serve.await.expect("as expected");
        let record = world.records.next().await;
        assert_eq!((record.status, record.received, record.sent), (101, 4, 19));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn and_so_does_one_of_http_2() {
    local(async {
        let (world, backends) = modern().await;
        let serve = beside(echo(backends, 200));
        let mut sender = client(&world).await;
        let (status, mut receiving, mut sending) =
            open(&mut sender, connect(Some(Protocol::from_static("websocket")))).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text(&mut receiving).await, "hello");
        sending.send_data(Bytes::from_static(b"ping"), true).expect("open");
        // What was said soon after one another may come together.
        let mut said = String::new();
        while said.len() < "PINGlast words".len() {
            said.push_str(&text(&mut receiving).await);
        }
        assert_eq!(said, "PINGlast words");
        serve.await.expect("as expected");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn its_refusal_is_passed_on_and_one_that_takes_none_is_told() {
    local(async {
        let (world, backends) = modern().await;
        beside(echo(backends, 403));
        let mut client = world.client().await;
        client.send(UPGRADE).await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.body.as_str()), (403, "hello"));
        let (world, mut backends) = modern().await;
        let mut client = world.client().await;
        client.send(UPGRADE).await;
        let mut plain = h2::server::handshake(backends.accept().await.stream).await.expect("shaken");
        beside(async move { assert!(plain.accept().await.is_none_or(|call| call.is_err())) });
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (501, Some("not_implemented")));
        assert!(answer.body.contains("RFC 8441"), "{}", answer.body);
        // Other protocols cannot be carried that way.
        let mut client = world.client().await;
        client.send(UPGRADE.replace("websocket", "telnet")).await;
        assert_eq!(client.message().await.status(), 501);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_opens_no_tunnel() {
    local(async {
        let (world, mut backends) = modern().await;
        let mut client = world.client().await;
        client.send(UPGRADE).await;
        let mut builder = h2::server::Builder::new();
        let stream = backends.accept().await.stream;
        let mut connection =
            builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await.expect("shaken");
        beside(async move {
            let mut open = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut head = http::Response::builder();
                for at in 0..5 {
                    head = head.header(format!("x-long-{at}"), "a".repeat(8 * 1024));
                }
                let head = head.body(()).expect("valid");
                open.push((request, respond.send_response(head, false).expect("open")));
            }
        });
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (502, Some("protocol")));
        assert!(answer.body.contains("head is too large"), "{}", answer.body);
    })
    .await;
}
