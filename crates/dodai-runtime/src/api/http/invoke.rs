//! Service invocation over HTTP.
//!
//! The target is in the path (`/v1.0/invoke/<app>/method/<path>`), or for any other path in the header
//! `dapr-app-id` or the user of Basic credentials.

use dodai_core::call::Call;
use http::{HeaderMap, StatusCode};

use super::query;
use super::reply::Outcome;
use crate::api::Api;
use crate::api::invoke::{APP_ID_HEADER, basic_user};
use crate::api::refusal::Refusal;

/// Whom a call is for, and the path it asks for there.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    id: String,
    /// Without the leading slash.
    method: String,
}

fn target(path: &str, headers: &HeaderMap) -> Option<Target> {
    let by_header = headers.get(APP_ID_HEADER).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    if let Some(id) = by_header.map(str::to_owned).or_else(|| basic_user(headers)) {
        return Some(Target { id, method: cleaned(path) });
    }
    let rest = path.trim_start_matches('/').strip_prefix("v1.0/")?;
    let rest = rest.trim_start_matches('/').strip_prefix("invoke/")?;
    let (id, method) = rest.trim_start_matches('/').split_once("/method/")?;
    let id = query::unescape(id).filter(|id| !id.is_empty())?;
    Some(Target { id, method: method.to_owned() })
}

/// A path without its leading slash, without empty parts and dots, as daprd asks for it where the app is not in the path;
/// a slash at its end stays.
fn cleaned(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if path.ends_with('/') && !parts.is_empty() {
        parts.push("");
    }
    parts.join("/")
}

impl Api {
    pub(super) async fn http_invoke(&self, call: Call) -> Outcome {
        let Some(target) = target(call.head.uri.path(), &call.head.headers) else {
            let message = "failed getting app id either from the URL path or the header dapr-app-id";
            return Err(Refusal::new(StatusCode::NOT_FOUND, "ERR_DIRECT_INVOKE", message));
        };
        let query = call.head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        self.invoke(&target.id, &format!("{}{query}", target.method), call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn found(path: &str, headers: &[(&str, &str)]) -> Option<(String, String)> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::try_from(*name).expect("a name"), HeaderValue::try_from(*value).expect("a value"))
        });
        target(path, &headers.collect()).map(|target| (target.id, target.method))
    }

    #[test]
    fn targets_by_path_header_and_credentials() {
        let is = |id: &str, method: &str| Some((id.to_owned(), method.to_owned()));
        assert_eq!(found("/v1.0/invoke/cart/method/a/b%2Fc", &[]), is("cart", "a/b%2Fc"));
        assert_eq!(found("/v1.0/invoke/cart.shop/method/", &[]), is("cart.shop", ""));
        assert_eq!(found("/v1.0/invoke/http://a:1/method/b/c", &[]), is("http://a:1", "b/c"));
        assert_eq!(found("/v1.0/invoke/https://a/method/b", &[]), is("https://a", "b"));
        assert_eq!(found("/v1.0/invoke/https%3A%2F%2Fa%3A1/method/b", &[]), is("https://a:1", "b"));
        assert_eq!(found("/v1.0/invoke/cart/orders", &[]), None);
        assert_eq!(found("/v1.0/invoke//method/x", &[]), None);
        assert_eq!(found("/orders/1", &[]), None);
        assert_eq!(found("/orders/1", &[("dapr-app-id", "cart")]), is("cart", "orders/1"));
        for (path, expect) in [
            ("/a/../b//c/", "b/c/"),
            ("/../../b", "b"),
            ("/a/./b", "a/b"),
            ("//", ""),
            ("/a/..", ""),
            ("/a%2F..%2Fb", "a%2F..%2Fb"),
        ] {
            assert_eq!(found(path, &[("dapr-app-id", "cart")]), is("cart", expect), "{path}");
        }
        assert_eq!(found("/v1.0/invoke/cart/method/a//b/", &[]), is("cart", "a//b/"));
        // "dapr-app-id:cart" in base64.
        let basic = [("authorization", "Basic ZGFwci1hcHAtaWQ6Y2FydA==")];
        assert_eq!(found("/orders", &basic), is("cart", "orders"));
        assert_eq!(found("/orders", &[("authorization", "Basic dXNlcjpwYXNz")]), None);
    }
}
