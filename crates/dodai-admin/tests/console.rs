//! The console's door, its files and its stream.

use http::StatusCode;

use super::fake::World;

#[tokio::test]
async fn a_session_is_a_cookie_and_a_key_and_ends() {
    let world = World::new().await;
    let begun = world.send("POST", "/v1/session", &[], "").await;
    assert_eq!(begun.status, StatusCode::OK, "{}", begun.text);
    let cookie = begun.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("dodai-console-7070="), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(
        !begun.text.contains(cookie.split(['=', ';']).nth(1).unwrap()),
        "the page cannot read the cookie"
    );
    let (cookie, key) = (cookie.split(';').next().unwrap(), begun.json()["key"].as_str().unwrap().to_owned());
    let with = |pairs: &[(&'static str, &str)]| {
        let mut all = vec![("authorization".to_owned(), String::new())];
        all.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    };
    let ask = async |method: &str, path: &str, pairs: Vec<(String, String)>| {
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        world.send(method, path, &pairs, "").await.status
    };
    let both = || with(&[("cookie", cookie), ("dodai-session", &key)]);
    assert_eq!(ask("GET", "/v1/instances", both()).await, StatusCode::OK);
    assert_eq!(ask("GET", "/v1/instances", with(&[("cookie", cookie)])).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("GET", "/v1/instances", with(&[("dodai-session", &key)])).await, StatusCode::UNAUTHORIZED);
    // A page of another origin, even one of this machine, can write nothing, whatever the browser sends along.
    let foreign = [both(), with(&[("origin", "http://127.0.0.1:8080")])].concat();
    assert_eq!(ask("POST", "/v1/shutdown", foreign).await, StatusCode::FORBIDDEN);
    assert!(!*world.stop.borrow());
    // A session does not make sessions.
    assert_eq!(ask("POST", "/v1/session", both()).await, StatusCode::BAD_REQUEST);
    let own = [("authorization", ""), ("cookie", cookie), ("dodai-session", key.as_str())];
    let mut live = world.stream_with("/v1/live", &own).await;
    assert!(live.next().await["documents"].is_u64());
    assert_eq!(ask("DELETE", "/v1/session", both()).await, StatusCode::OK);
    assert!(live.ends().await, "what has no end ends with the session");
    assert_eq!(ask("GET", "/v1/instances", both()).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_console_is_shown_to_everybody_and_nothing_else_is() {
    let world = World::new().await;
    let none = [("authorization", "")];
    for path in ["/", "/apps/default/%3Cscript%3E", "/calls?app=x"] {
        let page = world.send("GET", path, &[("authorization", ""), ("accept", "text/html,*/*")], "").await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(page.headers["x-content-type-options"], "nosniff");
        assert!(!page.text.contains("<script>"), "nothing of the path is in the page");
    }
    for path in ["/v1/../v1/status", "/v1/none", "/debug/table", "/metrics", "/apps/default/x"] {
        assert_eq!(world.send("GET", path, &none, "").await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(world.send("POST", "/", &none, "").await.status, StatusCode::UNAUTHORIZED);
    let rebound = [("authorization", ""), ("host", "evil.example")];
    assert_eq!(world.send("GET", "/", &rebound, "").await.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn the_stream_goes_on_where_it_was() {
    let world = World::new().await;
    let mut first = world.stream("/v1/live").await;
    let anew = first.next().await;
    assert!(anew["second"].is_null(), "a new listener asks for everything: {anew}");
    let (beat, id) = first.next_with_id().await;
    assert_eq!(anew["documents"], beat["documents"], "nothing has changed in between");
    let (later, next) = first.next_with_id().await;
    assert_eq!(next, id + 1, "messages are counted, whatever the clock does");
    // The only listener leaves and comes back.
    drop(first);
    let mut again = world.stream(&format!("/v1/live?after={id}")).await;
    assert_eq!(again.next().await["second"], later["second"], "what came in between comes first");
    let mut old = world.stream("/v1/live?after=1").await;
    let told = old.next().await;
    assert!(
        told["second"].is_null() && told["documents"].is_u64(),
        "what is no longer kept cannot be told: {told}"
    );
}

#[tokio::test]
async fn an_edit_does_not_overwrite_a_later_one() {
    let world = World::new().await;
    let app = |port: u16| {
        format!(
            "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {{name: shop}}\nspec: {{external: {{addresses: \
             [\"127.0.0.1:9\"]}}, services: [{{name: http, port: {port}}}]}}\n"
        )
    };
    let revision = async || {
        let document = world.get("/v1/documents/App/default/shop").await.json();
        document["metadata"]["revision"].as_u64().expect("a revision")
    };
    let first = world.apply("", &app(9)).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text);
    let read = revision().await;
    let query = format!("?ifRevision={read}");
    let second = world.apply(&query, &app(10)).await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.text);
    let third = world.apply(&query, &app(11)).await;
    assert_eq!(third.status, StatusCode::CONFLICT, "{}", third.text);
    assert!(revision().await > read);
    let both = format!("{}---\n{}", app(12), app(12).replace("shop", "other"));
    let several = world.apply(&query, &both).await;
    assert_eq!(several.status, StatusCode::BAD_REQUEST, "{}", several.text);
}
