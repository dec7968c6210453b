//! Plain HTTP/1.1 calls: framings, headers, keeping connections, streaming.

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::stats::Answered;

#[tokio::test(start_paused = true)]
async fn calls_are_kept_alive_and_pipelined() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(format!("{GET}{GET}")).await;
        let mut backend = backends.accept().await;
        let first = backend.answer(OK).await;
        assert!(first.head.starts_with("GET /a?q=1 HTTP/1.1\r\n"), "{}", first.head);
        backend.answer("HTTP/1.1 404 Gone Fishing\r\nContent-Length: 0\r\nX: y\r\n\r\n").await;
        assert_eq!(client.message().await.body, "ok");
        assert!(client.message().await.head.starts_with("HTTP/1.1 404 Gone Fishing\r\n"));
        for _ in 0..3 {
            client.send(GET).await;
            backend.answer(OK).await;
            assert_eq!(client.message().await.status(), 200);
        }
        assert!(backends.is_left_alone().await, "one connection serves them all");
        let records = world.records.take();
        assert_eq!(records.iter().map(|record| record.status).collect::<Vec<_>>(), [200, 404, 200, 200, 200]);
        assert_eq!((&*records[0].service, records[0].sent), ("shop/catalog/http", 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bodiless_answers_end_with_their_head() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await;
        assert!(client.head().await.contains("Content-Length: 100\r\n"));
        for status in ["204 No Content", "304 Not Modified"] {
            client.send(GET).await;
            backend.answer(&format!("HTTP/1.1 {status}\r\nETag: x\r\n\r\n")).await;
            assert!(client.head().await.starts_with(&format!("HTTP/1.1 {status}\r\n")));
        }
        client.send(GET).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn chunks_and_trailers_pass_both_ways() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.until("abc\r\n").await.split("\r\n\r\n").nth(1), Some("3\r\nabc\r\n"));
        client.send("2;x=1\r\nde\r\n0\r\nT: 1\r\n\r\n").await;
        assert_eq!(backend.until("T: 1\r\n\r\n").await, "2;x=1\r\nde\r\n0\r\nT: 1\r\n\r\n");
        backend
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: S\r\n\r\n4\r\nwxyz\r\n")
            .await;
        client.until("wxyz\r\n").await;
        backend.send("0\r\nS: 2\r\n\r\n").await;
        assert_eq!(client.until("S: 2\r\n\r\n").await, "0\r\nS: 2\r\n\r\n");
        client.send(GET).await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_bodies_stream_both_ways_at_once() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let size = 1_000_000usize;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
        let mut backend = backends.accept().await;
        backend.head().await;
        backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
        client.head().await;
        // The endpoint sends back what it gets: neither side is whole before the other.
        let echo = beside(async move {
            for _ in 0..size / 10_000 {
                let piece = backend.take(10_000).await;
                backend.send(piece).await;
            }
            backend
        });
        for round in 0..size / 10_000 {
            let piece = vec![b'a' + (round % 26) as u8; 10_000];
            client.send(&piece).await;
            assert_eq!(client.take(10_000).await, piece);
        }
        let mut backend = echo.await.expect("no panic");
        let mut client = client;
        client.ended().await;
        backend.ended().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_without_length_ends_with_the_connection() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = backends.accept().await;
        backend.answer("HTTP/1.1 200 OK\r\n\r\nsome").await;
        assert!(client.head().await.contains("connection: close\r\n"));
        backend.send(" more").await;
        drop(backend);
        assert_eq!(client.rest().await, "some more");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_1_0_clients_get_whole_answers_and_the_end() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("GET /x HTTP/1.0\r\n\r\n").await;
        let mut backend = backends.accept().await;
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        let request = backend.answer(chunked).await;
        assert_eq!(request.header("host"), Some("catalog"));
        let answer = client.rest().await;
        assert!(answer.ends_with("\r\n\r\nok") && !answer.contains("chunked"), "{answer}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_answers_and_expectations_pass() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
        let mut backend = backends.accept().await;
        assert!(backend.head().await.contains("Expect: 100-continue\r\n"));
        backend.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 103 Early Hints\r\nLink: x\r\n"));
        assert!(client.head().await.starts_with("HTTP/1.1 100 Continue\r\n"));
        client.send("body").await;
        assert_eq!(backend.text(4).await, "body");
        backend.send(format!("HTTP/1.1 102 Processing\r\n\r\n\r\n{OK}")).await;
        assert!(client.head().await.starts_with("HTTP/1.1 102"));
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn headers_of_the_hop_stay_and_ours_are_added() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        client
            .send(format!(
                "GET http://other.example/p HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, X-Hop, content-length\r\n\
                 X-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Authorization: x\r\nX-Stay: 1\r\nX-Forwarded-For: 9.9.9.9\r\n\
                 traceparent: {trace}\r\ndodai-hops: 3\r\n\r\n"
            ))
            .await;
        let mut backend = backends.accept().await;
        let request = backend.answer("HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nContent-Length: 0\r\n\r\n").await;
        assert!(request.head.starts_with("GET /p HTTP/1.1\r\n"));
        assert_eq!(request.header("host"), Some("other.example"));
        for gone in ["connection", "x-hop", "keep-alive", "te", "proxy-authorization"] {
            assert_eq!(request.header(gone), None, "{gone}");
        }
        assert_eq!(request.header("x-stay"), Some("1"));
        assert_eq!(request.header("x-forwarded-for"), Some("9.9.9.9, 10.0.0.5"));
        assert_eq!(request.header("x-forwarded-proto"), Some("http"));
        assert_eq!(request.header("dodai-hops"), Some("04"));
        let span = request.header("traceparent").expect("a trace");
        assert!(span.starts_with(&trace[..36]) && span.ends_with("-01") && span != trace, "{span}");
        assert_eq!(client.message().await.header("x-mine"), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_is_passed_on_while_the_client_still_sends() {
    local(async {
        let world = World::plain().await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst").await;
        let mut backend = backends.accept().await;
        backend.head().await;
        backend.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("connection")), (413, Some("close")));
        client.ended().await;
        assert_eq!(backend.rest().await, "first");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn filters_change_heads() {
    local(async {
        let edits = |set: &str, remove: &str| HeaderEdits {
            set: vec![(set.to_owned(), "new".into())],
            add: vec![("x-add".into(), "1".into())],
            remove: vec![remove.to_owned()],
            ..HeaderEdits::default()
        };
        let rewrite =
            Filter::Rewrite { host: Some("inner".into()), path: Some(PathRewrite::Prefix("/v2".into())) };
        let mut rule = filtered(vec![
            Filter::RequestHeaders(edits("x-set", "x-gone")),
            rewrite,
            Filter::ResponseHeaders(edits("server", "x-secret")),
        ]);
        rule.matches = vec![Match { path: Some(PathMatch::Prefix("/a".into())), ..Match::default() }];
        let world = World::of(usual(service("shop/catalog/http"), rule)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("GET /a/b?q HTTP/1.1\r\nHost: shop\r\nX-Gone: 1\r\nX-Set: old\r\nX-Add: 0\r\n\r\n").await;
        let mut backend = backends.accept().await;
        let response = "HTTP/1.1 200 OK\r\nServer: old\r\nX-Secret: 1\r\nContent-Length: 0\r\n\r\n";
        let request = backend.answer(response).await;
        assert!(request.head.starts_with("GET /v2/b?q HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!((request.header("host"), request.header("x-gone")), (Some("inner"), None));
        assert_eq!(request.header("x-set"), Some("new"));
        assert_eq!(request.headers("x-add").collect::<Vec<_>>(), ["0", "1"]);
        let answer = client.message().await;
        assert_eq!((answer.header("server"), answer.header("x-secret")), (Some("new"), None));
        client.send("GET /ab HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        let answer = client.message().await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (404, Some("no_route")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn local_answers_need_no_endpoint() {
    local(async {
        let respond = rule(Action::Respond { status: 418, body: "tea".into() });
        let world = World::of(usual(service("shop/catalog/http"), respond)).await;
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.status(), answer.body.as_str()), (418, "tea"));
        let check = async |scheme: Option<&str>, port: Option<u16>, asked: &str, expect: &str| {
            let redirect = Action::Redirect {
                scheme: scheme.map(Into::into),
                host: None,
                port,
                path: None,
                status: 308,
            };
            world.apply(usual(service("shop/catalog/http"), rule(redirect))).await;
            let mut client = world.client().await;
            let answer = client.ask(&format!("GET /a?q HTTP/1.1\r\nHost: {asked}\r\n\r\n")).await;
            assert_eq!((answer.status(), answer.header("location")), (308, Some(expect)));
        };
        check(Some("https"), None, "shop:8080", "https://shop/a?q").await;
        check(None, None, "shop:8080", "http://shop:8080/a?q").await;
        check(Some("https"), Some(8443), "shop", "https://shop:8443/a?q").await;
        check(Some("https"), Some(443), "shop", "https://shop/a?q").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn local_answers_to_grpc_are_its_own() {
    local(async {
        for (status, expect) in [(503, "14"), (404, "12"), (418, "2")] {
            let respond = rule(Action::Respond { status, body: "tea é".into() });
            let world = World::of(usual(service("shop/catalog/http"), respond)).await;
            let asked = "POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
            let answer = world.client().await.ask(asked).await;
            let told = [answer.header("grpc-status"), answer.header("grpc-message")];
            assert_eq!((answer.status(), told), (200, [Some(expect), Some("tea %C3%A9")]));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn weights_revisions_and_shares_decide_who_answers() {
    local(async {
        let names = ["shop/catalog/http", "shop/other/http"];
        let mut catalog = service(names[0]);
        catalog.traffic = vec![(dodai_core::id::RevisionId::new("r2"), 100)];
        let none = Backend { weight: 0, ..to(names[1]) };
        let some = Backend { weight: 5, ..to(names[0]) };
        let lists = vec![endpoint(1, "r1"), endpoint(2, "r2")];
        let world = World::of(vec![
            gateway(),
            routes(vec![rule(Action::Forward(vec![none, some]))]),
            Resource::Service(catalog),
            Resource::Service(service(names[1])),
            endpoints(names[0], lists),
            endpoints(names[1], vec![endpoint(3, "r1")]),
        ])
        .await;
        let mut second = world.backend(2);
        let mut client = world.client().await;
        client.send(GET).await;
        let mut backend = second.accept().await;
        backend.answer(OK).await;
        client.message().await;
        for _ in 0..20 {
            client.send(GET).await;
            backend.answer(OK).await;
            assert_eq!(client.message().await.body, "ok");
        }
        client.send(GET).await;
        backend.answer("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.message().await.status(), 500);
        let answered = world.plane.stats().answered();
        let told = |one: &Answered| (one.revision.to_string(), one.buckets.iter().sum::<u64>(), one.errors);
        assert_eq!(answered.iter().map(told).collect::<Vec<_>>(), [("r2".to_owned(), 22, 1)]);
        assert_eq!(&*answered[0].service, names[0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_revision_that_nobody_has_is_refused() {
    local(async {
        let revision = dodai_core::id::RevisionId::new;
        let lists = || vec![endpoint(1, "r1")];
        for (traffic, most) in [(vec![], 0), (vec![(revision("r1"), 1)], 39)] {
            let catalog = Service {
                traffic,
                absent: vec![(revision("deadbeef00"), 1)],
                ..service("shop/catalog/http")
            };
            let world = World::of(vec![
                gateway(),
                routes(vec![filtered(vec![])]),
                Resource::Service(catalog),
                endpoints("shop/catalog/http", lists()),
            ])
            .await;
            let mut backends = world.backend(1);
            beside(async move {
                let mut backend = backends.accept().await;
                while backend.try_head().await.is_some() {
                    backend.send(OK).await;
                }
            });
            let mut client = world.client().await;
            let mut answered = 0;
            for _ in 0..40 {
                let answer = client.ask(GET).await;
                if answer.status() == 200 {
                    answered += 1;
                    continue;
                }
                assert_eq!((answer.status(), answer.header("dodai-failure")), (503, Some("no_endpoint")));
                assert!(answer.body.contains("no revision deadbeef00"), "{}", answer.body);
            }
            assert!(answered <= most && (answered > 0) == (most > 0), "{answered} of 40");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn mirrored_calls_go_twice_and_are_answered_once() {
    local(async {
        let mirror = Filter::Mirror { to: to("shop/shadow/http"), per_ten_thousand: 10_000 };
        let mut resources = usual(service("shop/catalog/http"), filtered(vec![mirror]));
        resources.push(Resource::Service(service("shop/shadow/http")));
        resources.push(endpoints("shop/shadow/http", vec![endpoint(2, "r1")]));
        let world = World::of(resources).await;
        let (mut backends, mut shadows) = (world.backend(1), world.backend(2));
        let mut client = world.client().await;
        client
            .send("POST /a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.answer(OK).await.body, "abc");
        assert_eq!(client.message().await.body, "ok");
        let mut shadow = shadows.accept().await;
        let copy = shadow.answer("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
        assert!(copy.head.starts_with("POST /a HTTP/1.1\r\n") && copy.body == "abc", "{copy:?}");
        assert!(client.is_quiet().await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_led_anew_is_mirrored_once() {
    local(async {
        let mirror = Filter::Mirror { to: to("shop/shadow/http"), per_ten_thousand: 10_000 };
        let led_to = |at: Endpoint| {
            let mut resources = usual(service("shop/catalog/http"), filtered(vec![mirror.clone()]));
            resources.push(endpoints("shop/catalog/http", vec![at]));
            resources.push(Resource::Service(service("shop/shadow/http")));
            resources.push(endpoints("shop/shadow/http", vec![endpoint(2, "r1")]));
            resources
        };
        let world = World::of(led_to(instance("i-1"))).await;
        let (sender, mut calls) = tokio::sync::mpsc::channel(8);
        let here = world.plane.locals().get(&dodai_core::id::InstanceId::new("i-1"));
        here.set(dodai_dataplane::local::Way::Serve(std::sync::Arc::new(crate::serve::Scripted(sender))));
        let (mut backends, mut shadows) = (world.backend(1), world.backend(2));
        let mut client = world.client().await;
        client.send(GET).await;
        let (_call, answer) = calls.recv().await.expect("it arrived");
        world.apply(led_to(endpoint(1, "r1"))).await;
        let closed = dodai_core::failure::Kind::NoEndpoint;
        assert!(answer.send(Err(dodai_core::failure::Failure::new(closed, "is shutting down"))).is_ok());
        backends.accept().await.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
        let mut shadow = shadows.accept().await;
        shadow.answer(OK).await;
        assert!(shadow.is_quiet().await && shadows.is_left_alone().await, "one copy of one call");
    })
    .await;
}
