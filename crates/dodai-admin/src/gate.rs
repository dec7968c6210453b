//! Who may come in: a bearer token or a session of the console, a host name that a rebound DNS name cannot fake, no
//! foreign origin.
//!
//! The API listens on loopback, so any web page open on the machine can send requests to it. Three things
//! keep pages out: they do not know the token, a page that rebinds its name to this machine still sends its own
//! name as `Host` (so addresses are let in, and no name that was not said), and there are no CORS headers that
//! would let it read an answer.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, StatusCode, header, request};

use crate::session::{Sessions, Visit};
use crate::{Refusal, console};

/// Says whether a token opens the API, in a time that does not depend on where it differs.
pub type Check = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Where the page is from that asks (Fetch Metadata, W3C).
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What lets requests in.
#[derive(Clone)]
pub struct Gate {
    check: Check,
    hosts: Vec<String>,
}

impl Gate {
    /// A gate that lets in who writes an address; `hosts` are the names under which the API may be reached, beside
    /// `localhost`.
    pub fn new(check: Check, hosts: Vec<String>) -> Gate {
        Gate { check, hosts }
    }

    /// Refuses what may not come in; says with which session it comes, if with one. The console's files are for everybody, what they show is not.
    ///
    /// # Errors
    /// A refusal with the reason.
    pub fn admit(&self, head: &request::Parts, sessions: &Sessions) -> Result<Option<Visit>, Refusal> {
        self.admit_host(head)?;
        let path = head.uri.path();
        if path == "/healthz" || console::is_page(&head.method, path, &head.headers) {
            return Ok(None);
        }
        admit_site(&head.headers)?;
        match bearer(&head.headers) {
            Some(token) if (self.check)(token) => Ok(None),
            Some(_) => Err(unauthorized("the token is not the one of this server")),
            None => match sessions.admit(&head.headers) {
                Some(visit) => Ok(Some(visit)),
                None => Err(unauthorized("a token is needed")),
            },
        }
    }

    /// Whether a request carries the token itself.
    pub(crate) fn has_token(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|token| (self.check)(token))
    }

    fn admit_host(&self, head: &request::Parts) -> Result<(), Refusal> {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| head.uri.authority().map(|authority| authority.as_str()));
        let name = host.map(dodai_core::head::host_of).unwrap_or_default();
        if !self.knows(name) {
            let text = "the Host header does not name this server, which could be a rebound DNS name";
            let remedy = "use its IP address or localhost, or start it with --admin-host NAME";
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", text).remedy(remedy));
        }
        let Some(origin) = head.headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let own = origin.split_once("://").map(|(_, authority)| authority);
        if own.is_none() || own != host {
            return Err(foreign());
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        is_address(name)
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }
}

/// Refuses what a page of elsewhere asks, as browsers say with each request whether or not they send an origin: a page on
/// another port of this machine is of the same site.
fn admit_site(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(SITE).map(|site| site.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(foreign()),
    }
}

fn foreign() -> Refusal {
    let text = "requests of web pages of other origins are refused";
    Refusal::new(StatusCode::FORBIDDEN, "foreign_origin", text)
}

/// Whether a host is an IP address, which a rebound name never is.
pub fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(text: &str) -> Refusal {
    let remedy = "send `Authorization: Bearer TOKEN`; the token is in `admin.json` in the data folder";
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", text).remedy(remedy)
}
