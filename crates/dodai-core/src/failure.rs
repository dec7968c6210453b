//! Failures of the data path: what went wrong, whose fault it is, and whether a retry is safe.
//!
//! One table (`Kind`'s methods) maps a kind to blame, retry safety, HTTP status, gRPC status and its stable
//! code, which callers see in the `dodai-failure` header, logs and metrics carry as a label, and
//! `docs/errors/` explains. The detail names the object; it is for people and never holds a secret.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller sent something that cannot be served.
    Client,
    /// A policy said no.
    Policy,
    /// The app behind us did not do its part.
    Endpoint,
    /// We did not do ours.
    Us,
}

/// Whether the same call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It would fail again, or might be done twice.
    Never,
    /// Only when the endpoint cannot have acted on it: nothing was sent, or the method is idempotent.
    IfUnsent,
    /// The endpoint said or proved that it did nothing.
    Safe,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident => $code:literal, $blame:ident, $retry:ident, $http:literal, $grpc:literal;)*) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[doc = $doc])* $kind,)* }

        impl Kind {
            /// Every kind, in the table's order.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// The stable code: header value, metric label, documentation page.
            pub fn code(self) -> &'static str { match self { $(Kind::$kind => $code,)* } }

            /// Whose fault it is.
            pub fn blame(self) -> Blame { match self { $(Kind::$kind => Blame::$blame,)* } }

            /// Whether a retry is safe.
            pub fn retry(self) -> Retry { match self { $(Kind::$kind => Retry::$retry,)* } }

            /// The HTTP status that a caller gets.
            pub fn http_status(self) -> u16 { match self { $(Kind::$kind => $http,)* } }

            /// The gRPC status that a caller gets (grpc/grpc doc/statuscodes.md).
            pub fn grpc_status(self) -> u8 { match self { $(Kind::$kind => $grpc,)* } }
        }
    };
}

kinds! {
    /// The request is not well-formed, or ambiguous in a way used for smuggling.
    BadRequest => "bad_request", Client, Never, 400, 3;
    /// The request head is larger than the limit.
    HeadTooLarge => "head_too_large", Client, Never, 431, 8;
    /// The body is larger than the route allows.
    BodyTooLarge => "body_too_large", Client, Never, 413, 8;
    /// The caller did not send its head or body in time.
    ClientTimeout => "client_timeout", Client, Never, 408, 4;
    /// The caller went away.
    ClientGone => "client_gone", Client, Never, 499, 1;
    /// No route matches.
    NoRoute => "no_route", Client, Never, 404, 12;
    /// The endpoint cannot do what the call asks for (an upgrade towards a module).
    NotImplemented => "not_implemented", Client, Never, 501, 12;
    /// The call went through too many hops: a loop.
    Loop => "loop", Policy, Never, 508, 9;
    /// Nobody proved who is calling, and the policy wants to know.
    Unauthenticated => "unauthenticated", Policy, Never, 401, 16;
    /// The caller's token does not count.
    BadToken => "bad_token", Policy, Never, 401, 16;
    /// The keys that the caller's token is checked by could not be had.
    KeysMissing => "keys_missing", Endpoint, Never, 503, 14;
    /// The service that decides who may call gave no answer.
    AuthorizerDown => "authorizer_down", Endpoint, Never, 503, 14;
    /// The policy forbids it.
    Denied => "denied", Policy, Never, 403, 7;
    /// A rate limit is used up.
    RateLimited => "rate_limited", Policy, Never, 429, 8;
    /// More calls are under way than the endpoint bears.
    Shed => "shed", Policy, Never, 503, 14;
    /// A policy ended the call on purpose, to see what its callers make of it.
    FaultInjected => "fault_injected", Policy, Never, 503, 14;
    /// A queue is full.
    QueueFull => "queue_full", Policy, Safe, 503, 14;
    /// The circuit breaker is open.
    BreakerOpen => "breaker_open", Policy, Never, 503, 14;
    /// The app has no ready instance.
    NoEndpoint => "no_endpoint", Endpoint, Safe, 503, 14;
    /// The endpoint refused or did not accept the connection.
    Connect => "connect", Endpoint, Safe, 503, 14;
    /// The TLS handshake with the endpoint failed.
    Tls => "tls", Endpoint, Safe, 503, 14;
    /// A kept connection was closed by the endpoint before it can have read the request.
    Stale => "stale", Endpoint, IfUnsent, 503, 14;
    /// The endpoint closed or reset the connection in the middle.
    Reset => "reset", Endpoint, IfUnsent, 502, 14;
    /// The endpoint refused the stream without acting on it (HTTP/2 REFUSED_STREAM, GOAWAY).
    Refused => "refused", Endpoint, Safe, 503, 14;
    /// The endpoint broke its protocol.
    Protocol => "protocol", Endpoint, IfUnsent, 502, 13;
    /// No response head before the deadline.
    Timeout => "timeout", Endpoint, Never, 504, 4;
    /// A stream stood still for longer than its idle timeout.
    Idle => "idle", Endpoint, Never, 504, 4;
    /// The call took longer altogether, with its bodies, than a policy or its caller allows.
    Overtime => "overtime", Policy, Never, 504, 4;
    /// A module trapped.
    Trap => "trap", Endpoint, Never, 502, 13;
    /// A module used more memory, CPU or time than it may.
    Quota => "quota", Endpoint, Never, 503, 8;
    /// This base is shutting down.
    Draining => "draining", Us, Safe, 503, 14;
    /// A defect of ours.
    Internal => "internal", Us, Never, 500, 13;
}

/// A failure of one call.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// The object and circumstance, for people: `catalog has no ready instance (1 starting)`.
    pub detail: Cow<'static, str>,
    /// In how many seconds the same call may fare better, where that is known.
    pub retry_after: Option<NonZeroU32>,
}

impl Failure {
    /// A failure of `kind` about `detail`.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Failure {
        Failure { kind, detail: detail.into(), retry_after: None }
    }

    /// The same, of a call that may fare better after `wait`: told in whole seconds, rounded up, at least one.
    pub fn after(self, wait: Duration) -> Failure {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        let seconds = NonZeroU32::new(u32::try_from(seconds).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        Failure { retry_after: Some(seconds), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.code(), self.detail)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_words() {
        let codes: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        let told = |wait| Failure::new(Kind::RateLimited, "").after(wait).retry_after.map(NonZeroU32::get);
        assert_eq!(told(Duration::ZERO), Some(1));
        assert_eq!(told(Duration::from_millis(1_000)), Some(1));
        assert_eq!(told(Duration::from_millis(1_001)), Some(2));
        assert_eq!(told(Duration::MAX), Some(u32::MAX));
    }

    #[test]
    fn what_a_client_or_policy_caused_is_never_a_server_error_but_for_overload_and_the_unsupported() {
        for kind in Kind::ALL {
            let server_side = kind.http_status() >= 500;
            match kind.blame() {
                Blame::Client => assert!(!server_side || *kind == Kind::NotImplemented, "{kind:?}"),
                Blame::Policy => {
                    let overload =
                        [Kind::QueueFull, Kind::BreakerOpen, Kind::Loop, Kind::FaultInjected, Kind::Shed];
                    let is_overload = overload.contains(kind) || *kind == Kind::Overtime;
                    assert!(!server_side || is_overload, "{kind:?}");
                }
                Blame::Endpoint | Blame::Us => assert!(server_side, "{kind:?}"),
            }
        }
    }
}
