//! Endpoints that do not speak what is declared of them: the caller is told what they said.

use crate::support::*;
use dodai_core::snapshot::*;

fn speaking(protocol: Protocol) -> Vec<Resource> {
    usual(Service { protocol, ..service("shop/catalog/http") }, filtered(vec![]))
}

#[tokio::test(start_paused = true)]
async fn the_failure_shows_how_another_protocol_began() {
    local(async {
        let all: [(Protocol, &[u8], &str); 5] = [
            (Protocol::Http2, b"HTTP/1.1 400 Bad Request\r\n\r\n", "48 54 54 50 2f 31"),
            (Protocol::Grpc, b"SSH-2.0-x_9.2\r\n", "look like SSH"),
            (Protocol::Http2, b"\x15\x03\x03\0\x02\x02\x46\0\0", "look like TLS"),
            (Protocol::Http, b"\0\0\x06\x04\0\0\0\0\0\0\x03", "look like HTTP/2"),
            (Protocol::Http, b"\x4a\0\0\0\x0a8.0.36\0", "first bytes are 4a 00"),
        ];
        for (protocol, said, told) in all {
            let world = World::of(speaking(protocol)).await;
            let mut backends = world.backend(1);
            let mut client = world.client().await;
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
            let mut backend = backends.accept().await;
            backend.send(said).await;
            let answer = client.message().await;
            assert_eq!(
                (answer.status(), answer.header("dodai-failure")),
                (502, Some("protocol")),
                "{answer:?}"
            );
            assert!(answer.body.contains(told), "{}", answer.body);
        }
    })
    .await;
}
