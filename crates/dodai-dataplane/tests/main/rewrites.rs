//! Paths and headers that are made of what a call is: through real calls.

use crate::support::*;
use dodai_core::snapshot::*;

/// `/users/7/orders` becomes `/v2/orders/of/7`.
fn turned() -> PathRewrite {
    let text = |text: &str| SubstitutionPart::Text(text.to_owned());
    PathRewrite::Regex {
        pattern: "^/users/([^/]+)/(.*)$".to_owned(),
        substitution: vec![
            text("/v2/"),
            SubstitutionPart::Group(2),
            text("/of/"),
            SubstitutionPart::Group(1),
        ],
    }
}

#[tokio::test(start_paused = true)]
async fn groups_of_an_expression_make_the_path() {
    local(async {
        let rule = filtered(vec![Filter::Rewrite { host: None, path: Some(turned()) }]);
        let world = World::of(usual(service("shop/catalog/http"), rule)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        client.send("GET /users/7/orders?q=/users/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut backend = backends.accept().await;
        let request = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(request.head.starts_with("GET /v2/orders/of/7?q=/users/ HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(client.message().await.status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_redirect_leads_to_what_an_expression_makes() {
    local(async {
        let redirect = |path| Action::Redirect { scheme: None, host: None, port: None, path, status: 302 };
        let world = World::of(usual(service("shop/catalog/http"), rule(redirect(Some(turned()))))).await;
        let answer = world.client().await.ask("GET /users/7/a HTTP/1.1\r\nHost: shop\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("location")), (302, Some("http://shop/v2/a/of/7")));
    })
    .await;
}

fn made(name: &str, value: &str) -> MadeHeader {
    MadeHeader { name: name.to_owned(), value: value.to_owned(), adds: false }
}

fn edits(made: Vec<MadeHeader>) -> HeaderEdits {
    HeaderEdits { made, ..HeaderEdits::default() }
}

#[tokio::test(start_paused = true)]
async fn headers_say_what_is_known_of_a_call() {
    local(async {
        let request = vec![
            made("x-from", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% 100%%"),
            made("x-was", "%REQ(:METHOD)% %REQ(:SCHEME)%://%REQ(:AUTHORITY)%%REQ(:PATH)%"),
            made("x-route", "%ROUTE_NAME%;%DODAI_CALLER%;%DODAI_DIRECTION%;%DODAI_LISTENER%"),
            made("x-user", "%REQ(x-none?x-who):3%"),
            made("x-hop", "%REQ(dodai-hops)%"),
            made("x-subject", "%DOWNSTREAM_PEER_SUBJECT%"),
            made("x-tls", "%DOWNSTREAM_TLS_VERSION%%DOWNSTREAM_PEER_URI_SAN%"),
            made("x-trace", "%TRACE_ID%"),
            made("x-start", "%START_TIME%"),
            MadeHeader { adds: true, ..made("x-more", "%REQ(x-who)%") },
            MadeHeader { adds: true, ..made("x-nothing", "%REQ(x-none)%") },
        ];
        let rule = filtered(vec![
            Filter::Rewrite { host: None, path: Some(turned()) },
            Filter::RequestHeaders(edits(request)),
            Filter::ResponseHeaders(edits(vec![made("x-asked", "%REQ(:PATH)% %REQ(x-who)%")])),
        ]);
        let world = World::of(usual(service("shop/catalog/http"), rule)).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let head = "GET /users/7/a?q HTTP/1.1\r\nHost: shop:80\r\nX-Who: grace\r\nX-Subject: CN=made-up\r\nX-More: 1";
        client.send(&format!("{head}\r\n{trace}\r\n\r\n")).await;
        let mut backend = backends.accept().await;
        let request = backend.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert!(request.head.starts_with("GET /v2/a/of/7?q HTTP/1.1\r\n"), "{}", request.head);
        for (name, expect) in [
            ("x-from", Some("10.0.0.5 100%")),
            ("x-was", Some("GET http://shop:80/users/7/a?q")),
            ("x-route", Some("r;outside;gateway;gateway")),
            ("x-user", Some("gra")),
            ("x-hop", Some("01")),
            // What is not known is not left to the client to say.
            ("x-subject", None),
            ("x-tls", None),
            ("x-trace", Some("0af7651916cd43dd8448eb211c80319c")),
            ("x-nothing", None),
        ] {
            assert_eq!(request.header(name), expect, "{name}");
        }
        assert_eq!(request.headers("x-more").collect::<Vec<_>>(), ["1", "grace"]);
        assert!(request.header("x-start").is_some_and(|time| time.starts_with("20") && time.ends_with('Z')));
        assert_eq!(client.message().await.header("x-asked"), Some("/users/7/a?q grace"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_of_the_base_itself_say_it_too() {
    local(async {
        let told = Filter::ResponseHeaders(edits(vec![made("x-path", "%REQ(:PATH)%")]));
        let respond = Rule { filters: vec![told], ..rule(Action::Respond { status: 200, body: "a".into() }) };
        let world = World::of(usual(service("shop/catalog/http"), respond)).await;
        let answer = world.client().await.ask("GET /b HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("x-path")), (200, Some("/b")));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_holds_for_a_service_is_made_by_who_sends_the_call() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        let caller = |name: &str| edits(vec![made(name, "%DODAI_CALLER%")]);
        catalog.inbound =
            vec![Filter::RequestHeaders(caller("x-by")), Filter::ResponseHeaders(caller("x-to"))];
        let world = World::of(usual(catalog, filtered(Vec::new()))).await;
        let mut backends = world.backend(1);
        let mut client = world.client_of(81).await;
        client.send("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
        let request = backends.accept().await.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(request.header("x-by"), Some("shop/front"));
        assert_eq!(client.message().await.header("x-to"), Some("shop/front"));
    })
    .await;
}
