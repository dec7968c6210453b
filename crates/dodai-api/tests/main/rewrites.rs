//! Changes of paths and headers that are refused where they are written.

use crate::{read_text, told};

fn check(name: &str, text: &str) {
    let read = read_text(text);
    assert!(!read.errors.is_empty(), "nothing is wrong with {name}");
    insta::assert_snapshot!(name, told(&read));
}

#[test]
fn rewrites_within_routes() {
    check(
        "route_rewrites",
        r#"apiVersion: dodai.dev/v1
kind: Route
metadata: { name: r }
spec:
  parentRefs: [{ name: front }]
  rules:
    - backendRefs: [{ name: shop }]
      matches: [{ path: { type: Template, value: "/users/{id}/**" } }, { path: { type: Template, value: "/u/{name}" } }]
      filters:
        - { type: URLRewrite, urlRewrite: { path: { type: ReplaceTemplateMatch, replaceTemplateMatch: "/v2/{id}" } } }
        - { type: URLRewrite, urlRewrite: { path: { type: ReplaceTemplateMatch, replaceFullPath: "/v2" } } }
        - { type: URLRewrite, urlRewrite: { path: { type: ReplaceRegexMatch, replaceRegexMatch: { pattern: "a(b)", substitution: 'c\2' } } } }
        - { type: URLRewrite, urlRewrite: { path: { type: ReplaceRegexMatch, replaceRegexMatch: { pattern: "a(b", substitution: '\x' } } } }
        - { type: URLRewrite, urlRewrite: { path: { type: ReplaceRegexMatch, replaceRegexMatch: { pattern: "", substitution: "" } } } }
    - matches: [{ path: { value: "/a" } }]
      filters:
        - { type: ResponseHeaderModifier, responseHeaderModifier: { add: [{ name: x, value: "100%" }, { name: y, value: "%RESPONSE_CODE%" }] } }
        - { type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x, value: "100%% of %REQ(a b)%" }, { name: y, value: "%ROUTE%" }] } }
        - { type: RequestRedirect, requestRedirect: { path: { type: ReplaceTemplateMatch, replaceTemplateMatch: "/b" } } }
"#,
    );
}
