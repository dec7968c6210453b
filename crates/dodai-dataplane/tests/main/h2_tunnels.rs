//! WebSockets over HTTP/2 (RFC 8441), with the `h2` crate as client and an endpoint that speaks HTTP/1.

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
            assert_eq!(backend.text(4).await, "ping");
            backend.send("pong").await;
            backend.ended().await;
            backend.send("last words").await;
        });
        let (status, mut receiving, mut sending) =
            open(&mut sender, connect(Some(Protocol::from_static("websocket")))).await;
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
