//! Rules within `extAuthz` of a Policy.

use super::Findings;
use crate::authorizer::{Authorizer, AuthorizerProtocol};
use crate::read::Code;

pub(super) fn check(authorizer: &Authorizer, found: &mut Findings) {
    let path = "spec.extAuthz";
    if authorizer.timeout.is_some_and(|time| time.get().is_zero()) {
        let message = "nobody can answer in no time";
        found.error(Code::InvalidValue, format!("{path}.timeout"), message, "write a time such as `200ms`");
    }
    if !authorizer.path_prefix.is_empty() {
        found.absolute_path(&format!("{path}.pathPrefix"), &authorizer.path_prefix);
    }
    let lists = [
        ("requestHeaders", &authorizer.request_headers),
        ("callHeaders", &authorizer.call_headers),
        ("clientHeaders", &authorizer.client_headers),
    ];
    for (key, list) in lists {
        for (i, header) in list.iter().enumerate() {
            found.header_name(&format!("{path}.{key}[{i}]"), header);
        }
    }
    let only_http = lists.iter().map(|(key, list)| (*key, !list.is_empty()));
    let only_http = only_http.chain([("pathPrefix", !authorizer.path_prefix.is_empty())]);
    for (key, _) in only_http.filter(|(_, given)| *given && authorizer.protocol == AuthorizerProtocol::Grpc) {
        let message = "over gRPC the service gets the whole head and says itself what changes";
        found.error(
            Code::Conflict,
            format!("{path}.{key}"),
            message,
            "leave it out, or use `protocol: http`",
        );
    }
}
