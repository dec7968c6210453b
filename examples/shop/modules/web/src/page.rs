//! The page's files, carried in the module.

use shop_guest::Response;

/// The file at `path`, or "not modified" if the browser has it.
pub fn file(path: &[&str], known_tag: Option<&str>) -> Option<Response> {
    let (media_type, text) = match path {
        [] | ["index.html"] => ("text/html; charset=utf-8", include_str!("../page/index.html")),
        ["shop.css"] => ("text/css; charset=utf-8", include_str!("../page/shop.css")),
        ["shop.js"] => ("text/javascript; charset=utf-8", include_str!("../page/shop.js")),
        ["art.js"] => ("text/javascript; charset=utf-8", include_str!("../page/art.js")),
        ["icon.svg"] => ("image/svg+xml", include_str!("../page/icon.svg")),
        _ => return None,
    };
    let tag = format!("\"{:016x}\"", fingerprint(text.as_bytes()));
    let response = if known_tag == Some(tag.as_str()) {
        Response::empty(304)
    } else {
        Response::new(200, media_type, text)
    };
    // Asked for at every visit, so that a new revision of this module shows at once.
    Some(
        response
            .with("etag", tag)
            .with("cache-control", "no-cache")
            .with(
                "content-security-policy",
                "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
            )
            .with("x-content-type-options", "nosniff"),
    )
}

/// FNV-1a, 64 bits: enough to tell two revisions of a file apart.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_that_has_the_file_gets_no_body() {
        let first = file(&[], None).expect("the page");
        let tag = first.headers.iter().find(|(name, _)| name == "etag").expect("a tag").1.clone();
        let again = file(&[], Some(&tag)).expect("the page");
        assert_eq!((first.status, again.status, again.body.len()), (200, 304, 0));
    }

    #[test]
    fn every_file_the_page_names_is_there_and_nothing_comes_from_elsewhere() {
        let page = include_str!("../page/index.html");
        let named = page.split(['"', '\'']).filter(|text| text.starts_with('/') && text.contains('.'));
        let mut count = 0;
        for name in named {
            assert!(file(&[&name[1..]], None).is_some(), "{name} is not in the module");
            count += 1;
        }
        assert!(count >= 4, "the page names its files");
        assert!(!page.contains("http://") && !page.contains("https://"));
        assert!(file(&["..", "Cargo.toml"], None).is_none());
    }
}
