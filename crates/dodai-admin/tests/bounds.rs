//! What one request may bring and ask for: as much as allowed, and one more.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde_json::json;

use crate::fake::World;

/// So many bytes, in pieces that share one memory.
fn body(bytes: usize) -> Body {
    let piece = Bytes::from_static(&[b' '; 1 << 16]);
    let pieces = (0..bytes.div_ceil(piece.len())).map(move |at| {
        let rest = bytes - at * piece.len();
        Ok::<_, std::io::Error>(piece.slice(..rest.min(piece.len())))
    });
    Body::from_stream(stream::iter(pieces))
}

#[tokio::test]
async fn a_body_has_so_many_bytes_and_no_more() {
    let world = World::new().await;
    for (method, path, most, expect) in [
        ("POST", "/v1/documents", 16 << 20, StatusCode::UNPROCESSABLE_ENTITY),
        ("POST", "/v1/call?app=default/shop&path=/", 16 << 20, StatusCode::NOT_FOUND),
        ("POST", "/v1/artifacts", 256 << 20, StatusCode::UNPROCESSABLE_ENTITY),
        ("PUT", "/v1/config/conf/color", 1 << 20, StatusCode::OK),
        ("POST", "/v1/publish/bus/orders", 1 << 20, StatusCode::OK),
        ("POST", "/v1/store/backup", 16 << 10, StatusCode::BAD_REQUEST),
    ] {
        let taken = world.upload(method, path, &[], body(most)).await;
        assert_eq!(taken.status, expect, "{path}: {}", taken.text);
        let refused = world.upload(method, path, &[], body(most + 1)).await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        let message = format!("the body is larger than {most} bytes");
        assert_eq!(refused.json(), json!({ "code": "too_large", "message": message }), "{path}");
    }
}

#[tokio::test]
async fn an_answer_has_as_many_items_as_one_may_ask_for() {
    let world = World::new().await;
    let app =
        "apiVersion: dodai.dev/v1\nkind: App\nmetadata: {name: shop}\nspec: {process: {command: [shop]}}\n";
    assert_eq!(world.apply("", app).await.status, StatusCode::OK);
    world.until(|| world.control.view().documents.apps().count() == 1).await;
    for (tail, expect) in [("", 100), ("?tail=100001", 100_000)] {
        let lines = world.get(&format!("/v1/apps/default/shop/logs{tail}")).await.text;
        assert_eq!(lines.matches("data: ").count(), expect, "{tail}");
    }
    let page = world.get("/debug/table").await.text;
    assert!(page.contains("limit: 100,"), "{page}");
}
