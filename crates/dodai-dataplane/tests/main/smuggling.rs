//! Requests that parsers have been known to read in two ways: either they are refused and the endpoint sees nothing,
//! or the endpoint sees one request in one plain form, and what follows it is another.

use crate::support::*;

const LAST: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
const NEXT: &str = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n";

/// What must hold of a request that an endpoint is given.
fn plain(what: &str, message: &Message, body: &str) {
    let head = message.head.as_str();
    let lines: Vec<&str> = head.trim_end_matches("\r\n").split("\r\n").collect();
    assert!(
        lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])),
        "{what:?} left a bare line end: {head:?}"
    );
    assert!(lines.iter().all(|line| !line.starts_with([' ', '\t'])), "{what:?} left a folded line: {head:?}");
    for line in lines.iter().skip(1) {
        let (name, _) = line.split_once(':').expect("a field");
        assert!(name.bytes().all(|b| b.is_ascii_graphic()), "{what:?} left the name {name:?}");
    }
    let framings = message.headers("content-length").count() + message.headers("transfer-encoding").count();
    assert!(framings <= 1, "{what:?} left two framings: {head:?}");
    let known = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    assert!(message.headers("transfer-encoding").all(known), "{what:?}: {head:?}");
    assert_eq!(message.headers("host").count(), 1, "{what:?}: {head:?}");
    assert_eq!(message.body, body, "{what:?}");
}

enum Seen {
    Refused,
    Given(Message),
}

/// Sends a request and another behind it, and looks at what arrives where.
async fn send(world: &World, backends: &mut Peers, request: &str, body: &str) -> Seen {
    let mut client = world.client().await;
    client.send(format!("{request}{NEXT}")).await;
    let mut endpoint = tokio::select! {
        // Both only wait: what either has read stays with it.
        endpoint = backends.accept() => endpoint,
        answer = client.message() => {
            assert!((400..500).contains(&answer.status()), "{request:?}: {answer:?}");
            client.ended().await;
            return Seen::Refused;
        }
    };
    let message = endpoint.answer(OK).await;
    plain(request, &message, body);
    assert_eq!(client.message().await.status(), 200, "{request:?}");
    let second = endpoint.answer(LAST).await;
    assert!(second.head.starts_with("GET /second HTTP/1.1\r\n"), "{request:?} ran into {:?}", second.head);
    plain(NEXT, &second, "");
    assert_eq!(client.message().await.status(), 200, "{request:?}");
    endpoint.ended().await;
    Seen::Given(message)
}

#[tokio::test(start_paused = true)]
async fn what_is_passed_on_has_one_meaning() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let post = |fields: &str, rest: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{rest}");
        let chunks = "4\r\nabcd\r\n0\r\n\r\n";
        let good = [
            post("Content-Length: 4\r\n", "abcd"),
            post("content-LENGTH: 4\r\n", "abcd"),
            post("Content-Length:4\r\n", "abcd"),
            post("Content-Length: \t 4 \t\r\n", "abcd"),
            post("Connection: content-length\r\nContent-Length: 4\r\n", "abcd"),
            post("Connection: close, transfer-encoding\r\nContent-Length: 4\r\n", "abcd")
                .replace("close, ", ""),
            post("Transfer-Encoding: chunked\r\n", chunks),
            post("transfer-encoding: Chunked\r\n", chunks),
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", chunks),
            post("Transfer-Encoding: chunked\r\n", "4;name=\"a;b\"\r\nabcd\r\n0;last\r\n\r\n"),
            post("Transfer-Encoding: chunked\r\n", "0004\r\nabcd\r\n00\r\n\r\n"),
            post("Transfer-Encoding: chunked\r\n", "2\r\nab\r\n2\r\ncd\r\n0\r\nX-Trailer: 1\r\n\r\n"),
            post("Transfer_Encoding: chunked\r\nContent-Length: 4\r\n", "abcd"),
            post("Content_Length: 9\r\nContent-Length: 4\r\n", "abcd"),
            post("X-Content-Length: 9\r\nContent-Length: 4\r\n", "abcd"),
            post("Content-Length: 4\r\n", "abcd").replace("POST", "GET"),
        ];
        for request in good {
            let seen = send(&world, &mut backends, &request, "abcd").await;
            let Seen::Given(message) = seen else { panic!("{request:?} is refused") };
            assert_eq!(message.header("host"), Some("a"));
            assert_eq!(
                message.head.split("\r\n").next().map(|line| &line[line.len() - 11..]),
                Some("/x HTTP/1.1")
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_meant_is_said_once() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let check = async |backends: &mut Peers, request: &str, host: &str| {
            let Seen::Given(message) = send(&world, backends, request, "").await else {
                panic!("{request:?} is refused")
            };
            assert_eq!(message.header("host"), Some(host), "{request:?}");
            assert!(message.head.starts_with("GET /x"), "{request:?}: {}", message.head);
        };
        check(
            &mut backends,
            "GET http://real.example/x HTTP/1.1\r\nHost: fake.example\r\n\r\n",
            "real.example",
        )
        .await;
        check(&mut backends, "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: b\r\n\r\n", "a").await;
        check(&mut backends, "\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", "a").await;
        check(&mut backends, "GET /x?y=%0d%0aHost:%20b HTTP/1.1\r\nHost: a\r\n\r\n", "a").await;
    })
    .await;
}

/// Where others have gone either way, it does not matter which: one of the two safe ones it must be.
#[tokio::test(start_paused = true)]
async fn what_is_doubtful_is_refused_or_made_plain() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let post = |fields: &str, rest: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{rest}");
        let chunked = "Transfer-Encoding: chunked\r\n";
        let doubtful = [
            (post("Content-Length: 04\r\n", "abcd"), "abcd"),
            (post("Content-Length: 4\r\nContent-Length:\r\n", "abcd"), "abcd"),
            (post("Content-Length: 4;q=1\r\n", "abcd"), "abcd"),
            (post("Content-Length : 4\r\n", "abcd"), "abcd"),
            (post("Content-Length\r\n", ""), ""),
            (post(": 4\r\n", ""), ""),
            (post("\u{85}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "abcd"), "abcd"),
            (post("Transfer-Encoding: chunked\t\r\n", "0\r\n\r\n"), ""),
            (post("Transfer-Encoding: , chunked\r\n", "0\r\n\r\n"), ""),
            (post("Transfer-Encoding: chunked,\r\n", "0\r\n\r\n"), ""),
            (post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"), ""),
            (post("Transfer-Encoding: identity\r\nContent-Length: 4\r\n", "abcd"), "abcd"),
            (post("Transfer-Encoding:\r\nContent-Length: 4\r\n", "abcd"), "abcd"),
            (post("TE: chunked\r\nContent-Length: 4\r\n", "abcd"), "abcd"),
            (post(chunked, "4 ; a\r\nabcd\r\n0\r\n\r\n"), "abcd"),
            (post(chunked, "4;\r\nabcd\r\n0\r\n\r\n"), "abcd"),
            (post(chunked, "4;a\nabcd\r\n0\r\n\r\n"), "abcd"),
            (post(chunked, "4\r\nabcd\r\n-0\r\n\r\n"), "abcd"),
            (post(chunked, "4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n"), "abcd"),
            (post(chunked, "4\r\nabcd\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), "abcd"),
            (post(chunked, "00000000000000004\r\nabcd\r\n0\r\n\r\n"), "abcd"),
            ("GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), ""),
            ("GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned(), ""),
            ("GET /x HTTP/1.1\r\nHost: a:b\r\n\r\n".to_owned(), ""),
            ("GET /x HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned(), ""),
            ("GET /x HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n".to_owned(), ""),
            ("GET\t/x\tHTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
            ("GET /x HTTP/01.1\r\nHost: a\r\n\r\n".to_owned(), ""),
            ("GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
            ("GET http://b@a/x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
            ("GET /x#part HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
            ("G\u{0}T /x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), ""),
        ];
        for (request, body) in doubtful {
            send(&world, &mut backends, &request, body).await;
        }
        assert!(backends.is_left_alone().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_to_clear_http2_is_not_passed_on() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let request = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        let mut client = world.client().await;
        client.send(request).await;
        let mut endpoint = backends.accept().await;
        let message = endpoint.answer(LAST).await;
        plain(request, &message, "");
        let head = message.head.to_ascii_lowercase();
        assert!(!head.contains("http2-settings"), "{head}");
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

/// As nginx and Envoy have it: whoever closes its side of an HTTP/1 connection has left, and nobody works for it.
#[tokio::test(start_paused = true)]
async fn a_client_that_ends_its_side_has_left() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd").await;
        let mut endpoint = backends.accept().await;
        assert_eq!(endpoint.message().await.body, "abcd");
        client.finish().await;
        endpoint.ended().await;
        client.ended().await;
        assert_eq!(world.records.next().await.failure.map(|kind| kind.code()), Some("client_gone"));
    })
    .await;
}
