//! Cross-origin requests: which pages of a browser may call the API, and the answers their browsers look for.
//!
//! Like daprd's: without a list no such header is sent; with one, preflights are answered before tokens are asked for,
//! since browsers send none with them.

use dodai_core::call::Reply;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

const METHODS: [&str; 6] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"];
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The origins whose pages may call the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    /// In lower case; a `*` stands for any text.
    listed: Vec<String>,
}

impl Origins {
    /// Reads a list: origins separated by commas, each perhaps with one `*` in it, or `*` for all. `None` for an empty
    /// list.
    pub fn parse(list: &str) -> Option<Origins> {
        let listed: Vec<String> =
            list.split(',').map(|one| one.trim().to_lowercase()).filter(|one| !one.is_empty()).collect();
        let any = listed.iter().any(|one| one == "*");
        (!listed.is_empty()).then_some(Origins { any, listed })
    }

    fn has(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let origin = origin.to_lowercase();
        self.any
            || self.listed.iter().any(|one| match one.split_once('*') {
                None => *one == origin,
                Some((start, end)) => {
                    origin.len() >= one.len() - 1 && origin.starts_with(start) && origin.ends_with(end)
                }
            })
    }

    fn allow(&self, origin: &HeaderValue) -> HeaderValue {
        if self.any { ANY } else { origin.clone() }
    }

    /// The answer to a preflight; `None` if the request is none.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Reply> {
        let method = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if head.method != Method::OPTIONS {
            return None;
        }
        let mut reply = Reply::new(StatusCode::OK, "");
        let headers = &mut reply.head.headers;
        for name in [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS] {
            headers.append(VARY, HeaderValue::from(name));
        }
        let named = |method: &str| METHODS.iter().find(|known| known.eq_ignore_ascii_case(method)).copied();
        let origin = head.headers.get(ORIGIN).filter(|origin| self.has(origin));
        if let (Some(origin), Some(method)) = (origin, method.to_str().ok().and_then(named)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allow(origin));
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(method));
            if let Some(wanted) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
            }
        }
        Some(reply)
    }

    /// What an answer says to the browser of whoever asked.
    pub(super) fn mark(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from(ORIGIN));
        if let Some(origin) = origin.filter(|origin| self.has(origin)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allow(origin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_whole_by_wildcard_or_any() {
        for (list, origin, expect) in [
            ("*", "https://a.example", true),
            ("https://a.example, https://b.example", "https://B.example", true),
            ("https://a.example", "https://a.example.evil", false),
            ("https://a.example", "http://a.example", false),
            ("https://*.a.example", "https://x.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://a*a", "https://a", false),
        ] {
            let origins = Origins::parse(list).expect("a list");
            assert_eq!(origins.has(&HeaderValue::from_static(origin)), expect, "{list} {origin}");
        }
        assert_eq!(Origins::parse(" , "), None);
    }
}
