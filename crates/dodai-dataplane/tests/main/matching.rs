//! What calls match: every kind of matcher through a real call, alone and among a thousand rules.

use crate::support::*;
use dodai_core::snapshot::*;

/// A rule that answers with its name.
fn says(name: &str, wanted: Match) -> Rule {
    let action = Action::Respond { status: 200, body: name.to_owned() };
    Rule { name: name.to_owned(), matches: vec![wanted], ..rule(action) }
}

fn on(path: PathMatch) -> Match {
    Match { path: Some(path), ..Match::default() }
}

fn value(name: &str, value: &str) -> ValueMatch {
    ValueMatch { name: name.to_owned(), value: ValuePattern::Exact(value.to_owned()) }
}

fn matchers() -> Vec<Rule> {
    let template = vec![
        TemplatePart::Literal("users".into()),
        TemplatePart::One(String::new()),
        TemplatePart::Literal("orders".into()),
        TemplatePart::Rest(String::new()),
    ];
    let grpc = Match { method: Some("POST".into()), ..on(PathMatch::Exact("/shop.v1.Catalog/Get".into())) };
    vec![
        says("grpc", grpc),
        says("template", on(PathMatch::Template(template))),
        says("cookie", Match { cookies: vec![value("tier", "gold")], ..Match::default() }),
        says("cel", Match { cel: Some("request.headers['x-n'].startsWith('1')".into()), ..Match::default() }),
        says(
            "source",
            Match { source: Some(SourceMatch::Apps(vec![app("shop/front")])), ..Match::default() },
        ),
    ]
}

async fn answer(client: &mut Peer, request: &str) -> (u16, String) {
    let answer = client.ask(&format!("{request}\r\n\r\n")).await;
    (answer.status(), if answer.status() == 200 { answer.body } else { String::new() })
}

#[tokio::test(start_paused = true)]
async fn every_matcher_is_asked_of_real_calls() {
    local(async {
        let mut catalog = service("shop/catalog/http");
        catalog.rules = matchers();
        let mut resources = vec![gateway(), outbound(), routes(matchers()), Resource::Service(catalog)];
        resources.push(endpoints("shop/catalog/http", vec![]));
        let world = World::of(resources).await;
        let mut outside = world.client().await;
        let mut inside = world.client_of(81).await;
        for (request, expect) in [
            ("POST /shop.v1.Catalog/Get HTTP/1.1\r\nHost: catalog\r\nContent-Length: 0", "grpc"),
            ("GET /users/7/orders/1/items HTTP/1.1\r\nHost: catalog", "template"),
            ("GET //users/./7/orders/1 HTTP/1.1\r\nHost: catalog", "template"),
            ("GET / HTTP/1.1\r\nHost: catalog\r\nCookie: a=b; tier=gold", "cookie"),
            ("GET / HTTP/1.1\r\nHost: catalog\r\nX-N: 12", "cel"),
        ] {
            assert_eq!(answer(&mut outside, request).await, (200, expect.to_owned()), "{request}");
            assert_eq!(answer(&mut inside, request).await, (200, expect.to_owned()), "{request}");
        }
        let plain = "GET /users HTTP/1.1\r\nHost: catalog\r\nX-N: 2";
        assert_eq!(answer(&mut outside, plain).await.0, 404, "a user is no app");
        assert_eq!(answer(&mut inside, plain).await, (200, "source".to_owned()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_rules_answer_as_they_stand() {
    local(async {
        let numbered = |n: usize| {
            let wanted = match n % 5 {
                0 => on(PathMatch::Exact(format!("/exact/{n}"))),
                1 => on(PathMatch::Prefix(format!("/prefix/{n}"))),
                2 => on(PathMatch::Regex(format!("/regex/{n}/[a-z]+"))),
                3 => Match { headers: vec![value("x-n", &n.to_string())], ..Match::default() },
                _ => Match { query: vec![value("n", &n.to_string())], ..Match::default() },
            };
            says(&n.to_string(), wanted)
        };
        let rules: Vec<Rule> = (0..1000).map(numbered).collect();
        let world = World::of(vec![gateway(), routes(rules)]).await;
        let mut client = world.client().await;
        for (request, expect) in [
            ("GET /exact/995 HTTP/1.1\r\nHost: a", (200, "995")),
            ("GET /prefix/996/more HTTP/1.1\r\nHost: a", (200, "996")),
            ("GET /regex/997/abc HTTP/1.1\r\nHost: a", (200, "997")),
            ("GET /x HTTP/1.1\r\nHost: a\r\nX-N: 998", (200, "998")),
            ("GET /x?n=999 HTTP/1.1\r\nHost: a", (200, "999")),
            // The one that stands first, of two that match.
            ("GET /x?n=4 HTTP/1.1\r\nHost: a\r\nX-N: 998", (200, "4")),
            ("GET /prefix/9 HTTP/1.1\r\nHost: a", (404, "")),
        ] {
            let (status, body) = answer(&mut client, request).await;
            assert_eq!((status, body.as_str()), expect, "{request}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_expression_that_cannot_be_read_is_refused_with_its_place() {
    local(async {
        let world = World::bare(Default::default());
        let rules = vec![says("bad", Match { cel: Some("request.path ==".into()), ..Match::default() })];
        let snapshot = Snapshot::of(1, [gateway(), routes(rules)]);
        let refused = world.plane.apply(&snapshot).await.expect_err("it is refused").to_string();
        assert!(refused.contains("rule bad") && refused.contains("at character"), "{refused}");
    })
    .await;
}
