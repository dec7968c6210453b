//! Pages of other origins: preflights, and what answers say of origins.

use crate::support::*;
use dodai_core::snapshot::*;
use dodai_dataplane::tally::Event;

fn cors() -> Cors {
    Cors {
        allow_origins: vec!["https://shop.example".into(), "https://*.partner.example".into()],
        allow_methods: vec!["PUT".into(), "DELETE".into()],
        allow_headers: vec!["x-token".into()],
        expose_headers: vec!["x-total".into()],
        allow_credentials: true,
        max_age: secs(600),
    }
}

async fn guarded(cors: Cors) -> World {
    World::of(usual(service("shop/catalog/http"), filtered(vec![Filter::Cors(cors)]))).await
}

fn preflight(origin: &str) -> String {
    format!(
        "OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n\
         Access-Control-Request-Headers: x-token\r\n\r\n"
    )
}

#[tokio::test(start_paused = true)]
async fn preflights_are_answered_here() {
    local(async {
        let world = guarded(cors()).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let answer = client.ask(&preflight("https://shop.example")).await;
        assert_eq!((answer.status(), answer.header("content-length")), (204, None));
        for (name, value) in [
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PUT, DELETE"),
            ("access-control-allow-headers", "x-token"),
            ("access-control-max-age", "600"),
            ("vary", "Origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        let answer = client.ask(&preflight("https://a.partner.example")).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.partner.example"));
        let answer = client.ask(&preflight("https://evil.example")).await;
        assert_eq!((answer.status(), answer.header("vary")), (204, Some("Origin")));
        assert!(!answer.head.contains("access-control"), "{}", answer.head);
        assert!(backends.is_left_alone().await);
        let told = world.plane.table().tallies();
        let count = |event| told.iter().find(|one| one.event == event).map(|one| one.count);
        assert_eq!((count(Event::Preflight), count(Event::OriginRefused)), (Some(3), Some(1)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_name_an_origin_only_if_it_is_allowed() {
    local(async {
        let world = guarded(cors()).await;
        let mut backends = world.backend(1);
        let mut client = world.client().await;
        let call = |origin: &str| format!("GET /a HTTP/1.1\r\nHost: a\r\n{origin}\r\n");
        let own =
            "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 0\r\n\r\n";
        client.send(call("Origin: https://shop.example\r\n")).await;
        let mut backend = backends.accept().await;
        assert_eq!(backend.answer(own).await.header("origin"), Some("https://shop.example"));
        let answer = client.message().await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-total"));
        assert_eq!(answer.headers("vary").collect::<Vec<_>>(), ["Accept", "Origin"]);
        for origin in ["Origin: https://evil.example\r\n", "Origin: null\r\n", ""] {
            client.send(call(origin)).await;
            backend.answer(own).await;
            let answer = client.message().await;
            assert!(!answer.head.contains("access-control"), "{origin} {}", answer.head);
            assert!(answer.headers("vary").any(|value| value == "Origin"));
        }
        // A call that is a plain OPTIONS is the app's.
        client.send("OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: https://shop.example\r\n\r\n").await;
        backend.answer(OK).await;
        assert_eq!(client.message().await.body, "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_answer_for_every_origin_need_not_vary_and_refusals_can_be_read() {
    local(async {
        let open =
            Cors { allow_origins: vec!["*".into()], allow_methods: vec!["*".into()], ..Cors::default() };
        let world = World::of(usual(
            service("shop/catalog/http"),
            filtered(vec![Filter::Cors(open), Filter::Access(Access::default())]),
        ))
        .await;
        let mut client = world.client().await;
        let answer = client.ask(&preflight("https://any.example")).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
        assert_eq!((answer.header("access-control-allow-headers"), answer.header("vary")), (None, None));
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://any.example\r\n\r\n").await;
        assert_eq!((answer.status(), answer.header("dodai-failure")), (403, Some("denied")));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert!(answer.body.contains("denied"), "{}", answer.body);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn local_answers_have_the_headers_of_their_rule() {
    local(async {
        let set = vec![("content-type".to_owned(), "text/html".to_owned())];
        let page = Rule {
            filters: vec![Filter::ResponseHeaders(HeaderEdits { set, ..HeaderEdits::default() })],
            ..rule(Action::Respond { status: 200, body: "<p>".into() })
        };
        let world = World::of(usual(service("shop/catalog/http"), page)).await;
        let answer = world.client().await.ask(GET).await;
        assert_eq!((answer.header("content-type"), answer.body.as_str()), (Some("text/html"), "<p>"));
    })
    .await;
}
