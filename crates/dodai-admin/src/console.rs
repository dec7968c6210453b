//! The console: files that the build put into the program, compressed before, behind strict headers.
//!
//! They hold nothing of the server's state, so they are shown to everybody; what the page shows it asks the API for.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// One file.
struct File {
    path: &'static str,
    kind: &'static str,
    etag: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// What a page may do: run and ask what comes from here. Nothing in it is inline, nothing frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Names that change with their content.
const HASHED: &str = "/assets/";

/// Whether a request is for the console and not for the API: for one of its files, or from somebody who reads pages.
pub(crate) fn is_page(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let of_api = ["/v1/", "/debug/"].iter().any(|prefix| path.starts_with(prefix));
    if of_api
        || path == "/metrics"
        || path == "/healthz"
        || !(method == Method::GET || method == Method::HEAD)
    {
        return false;
    }
    let reads = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    path == "/"
        || path.starts_with(HASHED)
        || FILES.iter().any(|file| file.path == path)
        || reads.contains("text/html")
}

/// The file at a path; every other path is a page, which the script chooses.
pub(crate) fn serve(path: &str, headers: &HeaderMap) -> Response {
    let found = FILES.iter().find(|file| file.path == path);
    let has_ending = path.rsplit('/').next().is_some_and(|last| last.contains('.'));
    let index = || FILES.iter().find(|file| file.path == "/index.html").filter(|_| !has_ending);
    let Some(file) = found.or_else(index) else {
        return (StatusCode::NOT_FOUND, "there is no such file in the console\n").into_response();
    };
    let is_hashed = file.path.starts_with(HASHED);
    let cache = if is_hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    let has_it = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == file.etag));
    let gzip = takes_gzip(headers);
    let mut response = match (has_it, gzip) {
        (true, _) => StatusCode::NOT_MODIFIED.into_response(),
        (false, true) => ([(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response(),
        (false, false) => file.plain.into_response(),
    };
    let fixed: [(HeaderName, &'static str); 9] = [
        (header::CONTENT_TYPE, file.kind),
        (header::ETAG, file.etag),
        (header::CACHE_CONTROL, cache),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| {
        let (name, quality) = one.split_once(';').unwrap_or((one, ""));
        let refused = quality.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, pairs: &[(HeaderName, &'static str)]) -> Response {
        let pairs = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        serve(path, &pairs.collect())
    }

    #[test]
    fn every_page_is_the_index_and_no_other_file_is_there() {
        for path in ["/", "/index.html", "/apps/default/web", "/../../etc/passwd"] {
            let response = get(path, &[]);
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8", "{path}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache", "{path}");
        }
        for path in ["/assets/../../Cargo.toml", "/..%2fCargo.toml", "/assets/none.js"] {
            assert_eq!(get(path, &[]).status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn assets_are_compressed_and_kept_for_ever() {
        let script = FILES.iter().find(|file| file.path.ends_with(".js")).expect("a script");
        let response = get(script.path, &[(header::ACCEPT_ENCODING, "br, gzip;q=0.8")]);
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().ends_with("immutable"));
        let plain = get(script.path, &[(header::ACCEPT_ENCODING, "gzip;q=0, br")]);
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
        let again = get(script.path, &[(header::IF_NONE_MATCH, script.etag)]);
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn the_policy_lets_nothing_inline_run_and_the_index_has_nothing_inline() {
        assert!(!POLICY.contains("unsafe"));
        let index = FILES.iter().find(|file| file.path == "/index.html").expect("an index");
        let text = std::str::from_utf8(index.plain).unwrap();
        for script in text.split("<script").skip(1) {
            assert!(
                script.trim_start_matches([' ', '\n']).split('>').next().unwrap().contains("src="),
                "{script}"
            );
        }
        assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("onload="));
    }
}
