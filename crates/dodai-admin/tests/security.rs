//! Who is kept out: the whole table of routes is walked, so that a route that is added is kept like the others.

use http::StatusCode;

use super::described::{filled, methods};
use super::fake::World;

#[tokio::test]
async fn every_route_but_health_needs_the_token_or_a_session() {
    let world = World::new().await;
    let mut walked = 0;
    for (path, methods) in methods(&world).await.into_iter().filter(|(path, _)| *path != "/healthz") {
        for method in methods {
            for proof in [
                &[("authorization", "")][..],
                &[("authorization", "Bearer wrong")],
                &[("authorization", "Bearer ")],
                &[("authorization", "Basic right")],
                &[("authorization", ""), ("cookie", "dodai-console-7070=x"), ("dodai-session", "x")],
                // What reads pages is shown pages, and never an answer of the API.
                &[("authorization", ""), ("accept", "text/html")],
            ] {
                let answer = world.send(&method, &filled(path), proof, "").await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} {proof:?}");
                assert_eq!(answer.json()["code"], "unauthorized", "{method} {path}");
                walked += 1;
            }
        }
    }
    assert!(walked > 200, "{walked} is not the whole table");
    assert!(world.node.done().is_empty() && !*world.stop.borrow(), "nothing was done");
}

#[tokio::test]
async fn no_page_of_elsewhere_writes_or_reads_even_with_the_token() {
    let world = World::new().await;
    for (path, methods) in methods(&world).await.into_iter().filter(|(path, _)| *path != "/healthz") {
        for method in methods {
            for said in [
                &[("origin", "https://evil.example")][..],
                &[("origin", "http://127.0.0.1:8080")],
                &[("origin", "null")],
                // A form or an image sends no origin; browsers say where it is from all the same.
                &[("sec-fetch-site", "cross-site")],
                &[("sec-fetch-site", "same-site")],
            ] {
                let answer = world.send(&method, &filled(path), said, "").await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} {said:?}");
                assert_eq!(answer.json()["code"], "foreign_origin", "{method} {path}");
                assert!(!answer.headers.contains_key("access-control-allow-origin"));
            }
        }
    }
    assert!(world.node.done().is_empty() && !*world.stop.borrow(), "nothing was done");
    for own in ["same-origin", "none"] {
        let answer = world.send("GET", "/v1/status", &[("sec-fetch-site", own)], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{own}");
    }
    // A link on any page leads to the console.
    let linked = [("authorization", ""), ("sec-fetch-site", "cross-site"), ("accept", "text/html")];
    assert_eq!(world.send("GET", "/apps", &linked, "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn no_path_leads_out_of_the_files_of_the_console() {
    let world = World::new().await;
    let index = world.send("GET", "/", &[("authorization", "")], "").await.text;
    for path in [
        "/assets/../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc/passwd",
        "/assets/%2e%2e/%2e%2e/Cargo.toml",
        "/..%5c..%5cCargo.toml",
        "/assets//etc/passwd",
        "/assets/index.html%00.js",
    ] {
        let answer = world.send("GET", path, &[("authorization", ""), ("accept", "*/*")], "").await;
        // What has no ending is a page, which the script chooses: always the same file.
        let is_page = answer.status == StatusCode::OK && answer.text == index;
        let is_refused = [StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED].contains(&answer.status);
        assert!(is_page || is_refused, "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn no_name_of_an_app_is_markup() {
    let world = World::new().await;
    for name in ["<img src=x>", "a\"b", "../x", "a b"] {
        let document = serde_json::json!({
            "apiVersion": "dodai.dev/v1", "kind": "App", "metadata": {"name": name},
            "spec": {"external": {"addresses": ["127.0.0.1:9"]}, "services": [{"name": "http", "port": 9}]},
        });
        let answer = world.apply("", &document.to_string()).await;
        assert!(answer.status.is_client_error(), "{name}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/json", "what it says is no page");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}
