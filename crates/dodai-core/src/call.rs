//! Calls and the two handles that join the crates: [`Serve`], the far side of an endpoint, and [`Door`],
//! which starts a call as some identity.
//!
//! Everything re-enters the front door: an app's egress, a module's outbound request, a message delivery
//! and an API call all become a [`Call`] given to a `Door`. The data plane hands calls to modules, APIs and
//! capabilities through `Serve`. Neither side knows the other's crate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use http::{request, response};

use crate::body::Body;
use crate::failure::Failure;
use crate::id::AppId;
use crate::trace::Span;

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Caller {
    /// Nobody we know: a user at a gateway.
    Outside,
    /// An app, known by its socket, its certificate, or because it lives in this process.
    App(AppId),
    /// The base itself: probes, deliveries, job triggers.
    Base,
}

impl Caller {
    /// The app, if it is one.
    pub fn app(&self) -> Option<&AppId> {
        match self {
            Caller::App(app) => Some(app),
            Caller::Outside | Caller::Base => None,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Outside => f.write_str("outside"),
            Caller::App(app) => app.fmt(f),
            Caller::Base => f.write_str("base"),
        }
    }
}

/// What travels with a call besides head and body.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who calls.
    pub caller: Caller,
    /// When the response head must be there; it only shrinks along the call.
    pub deadline: Option<Instant>,
    /// The span this call belongs to.
    pub span: Span,
    /// How many times the call has entered a base; bounded by [`MAX_HOPS`].
    pub hops: u8,
}

impl Context {
    /// A fresh context for `caller`, without deadline.
    pub fn new(caller: Caller, span: Span) -> Context {
        Context { caller, deadline: None, span, hops: 0 }
    }
}

/// The largest number of times that one call may enter a base.
pub const MAX_HOPS: u8 = 16;

/// The header that carries the hop count between bases and through apps.
pub const HOPS_HEADER: &str = "dodai-hops";

/// The header that tells the next base how many milliseconds the caller still waits.
pub const TIMEOUT_HEADER: &str = "dodai-timeout-ms";

/// The header of a local answer that names the failure's code.
pub const FAILURE_HEADER: &str = "dodai-failure";

/// The header that tells an app who calls it, by Dapr's name for it. Always true: what a caller says of itself is
/// replaced by what it proved, or taken away.
pub const CALLER_HEADER: &str = "dapr-caller-app-id";

/// Headers that tell an app who is there. Nobody outside the mesh may set them, and nobody at all in trailers.
pub const IDENTITY_HEADERS: [&str; 3] = [CALLER_HEADER, "dapr-callee-app-id", "x-forwarded-client-cert"];

/// Whether a header of this name tells an app who is there, whatever its case, and if it is spelled with `_` for `-`: to a
/// program behind CGI, WSGI and their like these are the same.
pub fn tells_identity(name: &[u8]) -> bool {
    // Most names are told apart by their length.
    matches!(name.len(), 18 | 23) && IDENTITY_HEADERS.iter().any(|ours| is_read_as(name, ours))
}

/// Whether a header of this name is read as `known`, whatever its case and if it is spelled with `_` for `-`.
pub fn is_read_as(name: &[u8], known: &str) -> bool {
    let same = |(own, known): (&u8, &u8)| own.eq_ignore_ascii_case(known) || (*own == b'_' && *known == b'-');
    name.len() == known.len() && name.iter().zip(known.as_bytes()).all(same)
}

/// A request on its way.
#[derive(Debug)]
pub struct Call {
    /// Method, target and headers.
    pub head: request::Parts,
    /// The request body.
    pub body: Body,
    /// Caller, deadline, trace.
    pub context: Context,
}

/// A response on its way back.
#[derive(Debug)]
pub struct Reply {
    /// Status and headers.
    pub head: response::Parts,
    /// The response body.
    pub body: Body,
}

impl Reply {
    /// A reply of `status` with a body.
    pub fn new(status: http::StatusCode, body: impl Into<bytes::Bytes>) -> Reply {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = status;
        Reply { head, body: Body::full(body) }
    }
}

/// The answer to a call, some time later. Dropping it cancels the call.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send + 'a>>;

/// The far side of an endpoint: a module, an API, a capability.
pub trait Serve: Send + Sync {
    /// Serves one call. The returned future is cancel safe in the sense that dropping it ends the call.
    fn serve(&self, call: Call) -> Answer<'_>;
}

/// The way in for calls that start inside the base.
pub trait Door: Send + Sync {
    /// Sends a call through the six stations as `call.context.caller`. The authority of `call.head.uri`
    /// names the target (an app, `app.namespace`, or a host).
    fn enter(&self, call: Call) -> Answer<'_>;

    /// Ends when it is known here what `app` is, where this can be asked for: a base that is told only of what it wants
    /// asks for it and waits, for a bounded time. Cancel safe.
    fn learn<'a>(&'a self, app: &'a AppId) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let _everything_is_told = app;
        Box::pin(std::future::ready(()))
    }
}
