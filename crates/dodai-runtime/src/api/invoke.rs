//! Service invocation: the call goes on through the `Door` as the app, head and body as they came.
//!
//! A target is an app, an HTTPEndpoint, or the URL of a host outside; the data plane decides what a URL may reach, as
//! for any call of the app. What the callee answers passes unchanged; what a sidecar on the way says in its place is a
//! failure, as if it had been found here.

use std::time::Duration;

use base64::Engine as _;
use dodai_core::body::Body;
use dodai_core::call::{CALLER_HEADER, Call, Caller, Context, FAILURE_HEADER, HOPS_HEADER, Reply};
use dodai_core::failure::{Blame, Failure, Kind};
use dodai_core::id::{AppId, Name};
use http::header::{AUTHORIZATION, CONNECTION, HOST, RETRY_AFTER, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use super::refusal::Refusal;
use super::{Api, TOKEN_HEADER};

pub(super) const APP_ID_HEADER: &str = "dapr-app-id";

/// Headers that concern one connection only (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
];

/// Where a call goes, in the door's words.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    scheme: Scheme,
    authority: String,
    /// What stands before the method: the path of a URL, without the slash at its end.
    base: String,
}

/// The app that `<app>` or `<app>.<namespace>` means.
pub(super) fn app_of(id: &str, own_namespace: &Name) -> Result<AppId, String> {
    let (app, namespace) = id.split_once('.').unwrap_or((id, own_namespace.as_str()));
    let app = Name::new(app).map_err(|bad| bad.to_string())?;
    let namespace = Name::new(namespace).map_err(|bad| bad.to_string())?;
    Ok(AppId::new(namespace, app))
}

/// What `<app>`, `<app>.<namespace>` or a URL is called at the door.
fn address(id: &str, own_namespace: &Name) -> Result<Address, String> {
    if id.contains("://") {
        return url(id);
    }
    let AppId { namespace, name: app } = app_of(id, own_namespace)?;
    // The long form can only mean a name of the mesh: a wrong one never leads to a host outside.
    let authority = if namespace == *own_namespace {
        app.to_string()
    } else {
        format!("{app}.{namespace}.svc.cluster.local")
    };
    Ok(Address { scheme: Scheme::HTTP, authority, base: String::new() })
}

fn url(id: &str) -> Result<Address, String> {
    let url: Uri = id.parse().map_err(|error| format!("`{id}` is no URL: {error}"))?;
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
        return Err(format!("`{id}` is no URL with a host"));
    };
    if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
        return Err(format!("`{id}` cannot be called: only http and https can"));
    }
    if authority.as_str().contains('@') || url.query().is_some() {
        return Err(
            "a URL to call holds scheme, host, port and path only; send credentials in a header".to_owned()
        );
    }
    let base = url.path().trim_end_matches('/').to_owned();
    Ok(Address { scheme: scheme.clone(), authority: authority.to_string(), base })
}

pub(super) fn failed(id: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::internal("ERR_DIRECT_INVOKE", format!("failed to invoke, id: {id}, err: {error}"))
}

/// daprd answers 500 to whatever goes wrong on the way, but for what a policy said.
pub(super) fn not_delivered(id: &str, failure: &Failure) -> Refusal {
    let mut refusal = failed(id, &failure.detail).because(failure);
    let own_status = match failure.kind.blame() {
        Blame::Policy => true,
        Blame::Client => failure.kind != Kind::NoRoute,
        Blame::Endpoint | Blame::Us => false,
    };
    if own_status && let Ok(status) = StatusCode::from_u16(failure.kind.http_status()) {
        refusal.status = status;
    }
    refusal
}

/// What a sidecar on the way had to say, as far as the head tells: an app that passes such a header on has a body of its
/// own.
fn said_on_the_way(reply: &Reply) -> Option<Kind> {
    let code = reply.head.headers.get(FAILURE_HEADER)?.to_str().ok()?;
    let kind = Kind::ALL.iter().copied().find(|kind| kind.code() == code)?;
    (reply.head.status.as_u16() == kind.http_status()).then_some(kind)
}

/// The app in `http://dapr-app-id:<app>@host/`.
pub(super) fn basic_user(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, app) = decoded.split_once(':')?;
    (user.eq_ignore_ascii_case(APP_ID_HEADER) && !app.is_empty() && !app.contains(':'))
        .then(|| app.to_owned())
}

/// Takes out what concerns one connection only.
pub(super) fn clean(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

impl Api {
    /// Sends a call to `id`, asking there for `path` (without the leading slash, with its query).
    pub(super) async fn invoke(&self, id: &str, path: &str, mut call: Call) -> Result<Reply, Refusal> {
        self.address(id, path, &mut call)?;
        let has_body = call.head.method != Method::HEAD;
        let reply = match self.shared.door.enter(call).await {
            Ok(reply) => self.of_the_app(reply, has_body).await,
            Err(failure) => Err(failure),
        };
        let mut reply = reply.map_err(|failure| not_delivered(id, &failure))?;
        clean(&mut reply.head.headers);
        Ok(reply)
    }

    /// The app that `id` names, if it is to be asked by its callback: one that speaks gRPC.
    pub(super) async fn called_back(&self, id: &str) -> Option<AppId> {
        let app = app_of(id, &self.app.namespace).ok()?;
        self.shared.door.learn(&app).await;
        self.shared.deliveries.speaks_grpc(&app).then_some(app)
    }

    /// An answer, unless a sidecar on the way gave it in place of the app that it was to reach.
    async fn of_the_app(&self, reply: Reply, has_body: bool) -> Result<Reply, Failure> {
        let Some(kind) = said_on_the_way(&reply) else { return Ok(reply) };
        let Reply { head, body } = reply;
        let text = body.collect(self.shared.settings.max_body).await?;
        let detail = std::str::from_utf8(&text).ok().and_then(|text| {
            let detail = text.strip_prefix("dodai: ")?.strip_prefix(kind.code())?.strip_prefix(": ");
            detail.map(str::trim_end)
        });
        let failure = match detail {
            Some(detail) => Failure::new(kind, detail.to_owned()),
            None if has_body => return Ok(Reply { head, body: Body::full(text) }),
            None => Failure::new(kind, format!("the call ended on its way: {}", kind.code())),
        };
        let wait = head.headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
        Err(match wait {
            Some(seconds) => failure.after(Duration::from_secs(seconds)),
            None => failure,
        })
    }

    /// Turns a call to where `id` is, as the app's own.
    pub(super) fn address(&self, id: &str, path: &str, call: &mut Call) -> Result<(), Refusal> {
        let Address { scheme, authority, base } =
            address(id, &self.app.namespace).map_err(|error| failed(id, error))?;
        call.head.uri = Uri::builder()
            .scheme(scheme)
            .authority(authority.as_str())
            .path_and_query(format!("{base}/{path}"))
            .build()
            .map_err(|error| failed(id, error))?;
        self.mark(call, id, &authority);
        Ok(())
    }

    /// Makes the call the app's own, and takes out what was meant for this API.
    fn mark(&self, call: &mut Call, callee: &str, authority: &str) {
        let headers = &mut call.head.headers;
        clean(headers);
        if basic_user(headers).is_some() {
            headers.remove(AUTHORIZATION);
        }
        headers.remove(APP_ID_HEADER);
        headers.remove(TOKEN_HEADER);
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(HOST, authority);
        set(HeaderName::from_static(CALLER_HEADER), self.app.name.as_str());
        set(HeaderName::from_static("dapr-callee-app-id"), callee);
        self.own(&mut call.context, &call.head.headers);
    }

    /// Makes the app the caller.
    pub(super) fn own(&self, context: &mut Context, headers: &HeaderMap) {
        // An app that passes on the headers it got says how far the call has come.
        let told = headers.get(HOPS_HEADER).and_then(|hops| hops.to_str().ok()?.parse::<u8>().ok());
        context.hops = context.hops.max(told.unwrap_or(0));
        context.caller = Caller::App(self.app.clone());
        context.span = context.span.child();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apps_and_urls_are_targets() {
        let own = Name::new("shop").expect("a name");
        let check = |id: &str, expect: Option<(&str, &str, &str)>| {
            let found = address(id, &own).ok();
            let found =
                found.as_ref().map(|at| (at.scheme.as_str(), at.authority.as_str(), at.base.as_str()));
            assert_eq!(found, expect, "{id}");
        };
        check("cart", Some(("http", "cart", "")));
        check("cart.shop", Some(("http", "cart", "")));
        check("cart.other", Some(("http", "cart.other.svc.cluster.local", "")));
        check("http://example.com", Some(("http", "example.com", "")));
        check("https://example.com:8443/base/", Some(("https", "example.com:8443", "/base")));
        check("https://[::1]:1", Some(("https", "[::1]:1", "")));
        for bad in [
            "",
            "10.0.0.1",
            "a.b.c",
            "Cart",
            "a/b",
            "a:80",
            ".",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a?b",
        ] {
            check(bad, None);
        }
    }
}
