//! What two parsers could read differently is refused, and the endpoint never sees it.

use std::time::Duration;

use crate::support::*;
use dodai_dataplane::limits::{Limits, MAX_AUTHORITY, MAX_HEADERS};

#[tokio::test(start_paused = true)]
async fn ambiguous_requests_are_refused_and_go_nowhere() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}");
        let smuggled = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
        let chunked = "Transfer-Encoding: chunked\r\n";
        let bad = [
            post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
            post("Content-Length: 4\r\nContent-Length: 5\r\n", "abcd"),
            post("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"),
            post("Content-Length: 4, 4\r\n", "abcd"),
            post("Content-Length: +4\r\n", "abcd"),
            post("Content-Length: -1\r\n", ""),
            post("Content-Length: 0x4\r\n", "abcd"),
            post("Content-Length: 99999999999999999999\r\n", ""),
            post("Content-Length:\r\n", ""),
            post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding: chunked\x00\r\n", "0\r\n\r\n"),
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            post(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            post("X: 1\r\n Content-Length: 4\r\n", "abcd"),
            post("X: a\x00b\r\n", ""),
            post("X: a\rb\r\n", ""),
            post("X: 1\nContent-Length: 4\r\n", "abcd"),
            post("Host: b\r\n", ""),
            post(chunked, "g\r\n"),
            post(chunked, "1 \r\na\r\n0\r\n\r\n"),
            post(chunked, "3\r\nabcd\r\n0\r\n\r\n"),
            post(chunked, "3\nabc\r\n0\r\n\r\n"),
            post(chunked, "0x3\r\nabc\r\n0\r\n\r\n"),
            post(chunked, "ffffffffffffffff\r\n"),
            post(chunked, "0\r\nContent-Length: 4\r\n\r\n"),
            post(chunked, "0\r\nX: 1\r\nHost: b\r\n\r\n"),
            post(chunked, "0\r\nauthorization: Bearer x\r\n\r\n"),
            post(chunked, "0\r\nTransfer-Encoding : chunked\r\n\r\n"),
            "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n".to_owned(),
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ];
        for request in bad {
            let mut client = world.client().await;
            client.send(format!("{request}{smuggled}")).await;
            let answer = client.message().await;
            let what = (answer.status(), answer.header("dodai-failure"), answer.header("connection"));
            assert_eq!(what, (400, Some("bad_request"), Some("close")), "{request:?}");
            client.ended().await;
        }
        assert!(backends.is_left_alone().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_breaks_later_ends_both_connections() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        let mut backend = backends.accept().await;
        backend.until("abc\r\n").await;
        client.send("zz\r\n").await;
        assert_eq!(client.message().await.status(), 400);
        client.ended().await;
        assert_eq!(backend.rest().await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn malformed_answers_become_502() {
    local(async {
        let limits = Limits { head_bytes: 2048, ..Limits::default() };
        let world = World::with(limits, usual(service("shop/catalog/http"), filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(4000));
        for bad in [
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 099 Odd\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a=b\r\n\r\n",
            &long,
        ] {
            let mut client = world.client().await;
            // A GET may be tried again; a POST whose head went out may not.
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            let mut backend = backends.accept().await;
            backend.answer(bad).await;
            let answer = client.message().await;
            assert_eq!((answer.status(), answer.header("dodai-failure")), (502, Some("protocol")), "{bad:?}");
            backend.ended().await;
            world.apply(vec![]).await;
            world.apply(usual(service("shop/catalog/http"), filtered(vec![]))).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_answer_is_never_taken_for_a_whole_one() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        for (head, whole) in [("Content-Length: 5000", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n")]
        {
            let mut client = world.client().await;
            client.send(GET).await;
            let mut backend = backends.accept().await;
            backend.answer(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{whole}")).await;
            drop(backend);
            client.head().await;
            assert_eq!(client.rest().await, whole);
            let record = world.records.next().await;
            assert_eq!(record.failure.map(|kind| kind.code()), Some("reset"));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_waits_for_a_short_body_and_not_for_a_long_one() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        let long = "a".repeat(1460);
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 1463\r\n\r\nab").await;
        assert!(client.head().await.contains("1463"), "1,461 bytes are still to come");
        assert_eq!(client.text(2).await, "ab");
        backend.send(format!("b{long}")).await;
        client.text(1461).await;
        client.send(GET).await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 1462\r\n\r\nab").await;
        assert!(client.is_quiet().await, "1,460 bytes are still to come");
        backend.send(&long[..1000]).await;
        assert!(client.is_quiet().await);
        backend.send(&long[1000..]).await;
        assert_eq!(client.message().await.body, format!("ab{long}"));
        client.send(GET).await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab").await;
        backend.send("cd").await;
        assert_eq!(client.message().await.body, "abc");
        backend.ended().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_is_held_no_longer_than_it_may_take_and_not_while_the_client_sends() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.timeout = Some(secs(3));
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        let start = tokio::time::Instant::now();
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        assert!((secs(3)..secs(4)).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert_eq!(client.text(2).await, "ab");
        backend.send("cde").await;
        assert_eq!(client.text(3).await, "cde");
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
        backend.head().await;
        backend.until("ab").await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        assert!(
            client.head().await.starts_with("HTTP/1.1 200"),
            "the client may wait for it before it goes on"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_head_is_bounded_by_how_long_nothing_may_move() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.policy.idle_timeout = Some(secs(1));
        catalog.policy.timeout = Some(secs(60));
        let world = World::of(usual(catalog, filtered(vec![]))).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let start = tokio::time::Instant::now();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (504, Some("idle")));
        assert!((secs(1)..secs(2)).contains(&start.elapsed()), "{:?}", start.elapsed());
        // What moved goes on.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        for byte in ["a", "b", "c", "d", "e"] {
            tokio::time::sleep(Duration::from_millis(700)).await;
            backend.send(byte).await;
        }
        assert_eq!(client.message().await.body, "abcde");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_short_body_that_breaks_off_is_a_failed_try() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let mut backend = backends.accept().await;
        backend.answer(short).await;
        drop(backend);
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (502, Some("reset")));
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer(short).await;
        drop(backend);
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.status(), 200, "a GET is tried again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_size_limit_is_hit() {
    local(async {
        let limits =
            Limits { head_bytes: 1000, chunk_line_bytes: 20, trailer_bytes: 50, ..Limits::default() };
        let world = World::with(limits, usual(service("shop/catalog/http"), filtered(vec![]))).await;
        let mut backends = world.backend(1);
        beside(async move {
            loop {
                let mut backend = backends.accept().await;
                beside(async move {
                    while let Some(head) = backend.try_head().await {
                        if head.contains("chunked") {
                            while backend.until("\r\n").await != "\r\n" {}
                        }
                        backend.send(OK).await;
                    }
                });
            }
        });
        // What `of` makes of `most` is served; of one more it gets `status`, and the connection ends.
        let check = async |of: &dyn Fn(usize) -> String, most: usize, status: u16| {
            let mut client = world.client().await;
            assert_eq!(client.ask(&of(most)).await.status(), 200, "{}", of(most));
            assert_eq!(client.ask(&of(most + 1)).await.status(), status, "{}", of(most + 1));
            client.ended().await;
        };
        let get = "GET / HTTP/1.1\r\n";
        let many = |count: usize| format!("{get}Host: a\r\n{}\r\n", "X: 1\r\n".repeat(count - 1));
        check(&many, MAX_HEADERS, 431).await;
        let long = |bytes: usize| {
            let rest = format!("{get}Host: a\r\nX: \r\n\r\n").len();
            format!("{get}Host: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - rest))
        };
        check(&long, 1000, 431).await;
        let host = |bytes: usize| format!("{get}Host: {}\r\n\r\n", "a".repeat(bytes));
        check(&host, MAX_AUTHORITY, 400).await;
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let extended = |bytes: usize| format!("{chunked}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(bytes));
        check(&extended, 20, 400).await;
        let trailed = |bytes: usize| format!("{chunked}0\r\nX: {}\r\n\r\n", "x".repeat(bytes - 3));
        check(&trailed, 50, 400).await;
        let mut endless = world.client().await;
        assert_eq!(endless.ask(&format!("GET /{}", "x".repeat(996))).await.status(), 431);
    })
    .await;
}
