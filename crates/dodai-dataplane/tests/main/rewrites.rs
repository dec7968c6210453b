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
