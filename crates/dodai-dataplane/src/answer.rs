//! Answers that need no endpoint: redirects, texts of documents, refusals.

use std::borrow::Cow;
use std::sync::Arc;

use dodai_core::call::{FAILURE_HEADER, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::Edits;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use smallvec::SmallVec;

use crate::filter::{self, Passed};
use crate::route::Rule;
use crate::serve_h2::{grpc_failure, grpc_reply};

/// An answer that needs no endpoint.
pub struct Local {
    /// The status.
    pub status: u16,
    /// Its headers, but for the body's type and length.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
    /// The rule that gave it; none gives what is said where a call arrives.
    pub rule: Option<Arc<Rule>>,
    /// Why the call was refused, if it was.
    pub failure: Option<Failure>,
}

impl Local {
    /// An answer as the response filters of its rule and the call itself want it.
    pub fn new(
        status: u16,
        mut headers: HeaderMap,
        body: String,
        rule: &Arc<Rule>,
        passed: Passed,
    ) -> Box<Local> {
        let mut edits = Edits::new();
        filter::response_edits(&rule.filters, &mut edits);
        edits.apply_to(&mut headers);
        if let Some(reply) = passed.reply {
            reply.apply_to(&mut headers);
        }
        Box::new(Local { status, headers, body, rule: Some(rule.clone()), failure: None })
    }

    /// What an authorizer wants the client to be told.
    pub fn denied(
        status: StatusCode,
        mut headers: HeaderMap,
        body: String,
        rule: Option<&Arc<Rule>>,
        passed: Passed,
    ) -> Box<Local> {
        if let Some(reply) = passed.reply {
            reply.apply_to(&mut headers);
        }
        headers.insert(FAILURE_HEADER, HeaderValue::from_static(Kind::Denied.code()));
        let kind = if status == StatusCode::UNAUTHORIZED { Kind::Unauthenticated } else { Kind::Denied };
        let failure = Some(Failure::new(kind, format!("the authorizer answered {status}")));
        Box::new(Local { status: status.as_u16(), headers, body, rule: rule.cloned(), failure })
    }

    /// The answer to a call that `failure` ended before it was sent on, with the headers that its client needs to be
    /// shown it.
    pub fn refused(failure: Failure, rule: &Arc<Rule>, reply: &Edits) -> Box<Local> {
        let (status, pairs, body) = failure_answer(&failure);
        let pairs = pairs.iter().filter_map(|(name, value)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
        });
        let mut headers: HeaderMap = pairs.collect();
        reply.apply_to(&mut headers);
        Box::new(Local { status, headers, body, rule: Some(rule.clone()), failure: Some(failure) })
    }

    /// What a caller that speaks gRPC gets: it looks at trailers only, so they say the same.
    pub fn grpc(&self) -> Reply {
        let mut reply = match &self.failure {
            Some(failure) => grpc_failure(failure),
            None => grpc_reply(grpc_status(self.status), &self.body),
        };
        for (name, value) in &self.headers {
            let is_own = [&header::CONTENT_TYPE, &header::CONTENT_LENGTH].contains(&name);
            if !is_own && name != FAILURE_HEADER {
                reply.head.headers.append(name, value.clone());
            }
        }
        reply
    }
}

/// The status of gRPC for one of HTTP (gRPC's `http-grpc-status-mapping.md`).
fn grpc_status(status: u16) -> u8 {
    match status {
        // INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, UNAVAILABLE, UNKNOWN
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The `grpc-message` of a failed call, percent-encoded as gRPC's HTTP/2 mapping asks.
pub fn grpc_message(message: &str) -> String {
    let mut text = String::new();
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Headers of the answer to a failed call, by name.
pub type FailureHeaders = SmallVec<[(&'static str, Cow<'static, str>); 2]>;

/// The headers and text of the answer to a failed call.
pub fn failure_answer(failure: &Failure) -> (u16, FailureHeaders, String) {
    let code = failure.kind.code();
    let mut headers = FailureHeaders::from_iter([(FAILURE_HEADER, code.into())]);
    headers.extend(challenge(failure.kind).map(|challenge| ("www-authenticate", challenge.into())));
    headers.extend(failure.retry_after.map(|seconds| ("retry-after", seconds.to_string().into())));
    (failure.kind.http_status(), headers, format!("dodai: {code}: {}\n", failure.detail))
}

/// What a caller without a token that counts is asked for (RFC 6750 section 3).
fn challenge(kind: Kind) -> Option<&'static str> {
    if kind == Kind::BadToken {
        Some("Bearer error=\"invalid_token\"")
    } else {
        (kind == Kind::Unauthenticated).then_some("Bearer")
    }
}
