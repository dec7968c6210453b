//! Pages of other origins (Fetch standard, section 3.3): preflights are answered here, and what an answer says of
//! origins is ours, not the app's.
//!
//! Always holds: an origin is named in an answer only if it is one of those allowed. An answer that depends on the
//! origin says so to caches (`Vary: Origin`), also where the origin is refused.

use std::sync::Arc;

use dodai_core::head::{Edit, Edits, Prepared, RequestHead, Short};
use dodai_core::snapshot;
use http::HeaderName;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};

use crate::route::BadRule;
use crate::tally::{Event, Tally};

/// The longest list of headers that a preflight is given back, in bytes.
const MAX_ASKED: usize = 4096;

/// Which pages may call, compiled.
#[derive(Debug)]
pub struct Cors {
    origins: Vec<Origin>,
    credentials: bool,
    methods: List,
    headers: List,
    /// What every answer to an allowed origin has, beside the origin.
    allowed: Arc<Prepared>,
    /// What is taken out of every answer.
    bare: Arc<Prepared>,
    max_age: Short,
    /// What it did.
    pub tally: Tally,
}

#[derive(Debug)]
enum Origin {
    Any,
    Exact(String),
    /// The host has at least one label more: `https://` and `.example.com:8443`.
    Below(String, String),
}

/// What a preflight is told.
#[derive(Debug)]
enum List {
    /// Whatever it asks for.
    Any,
    /// These, as a header's value.
    These(Short),
}

impl List {
    fn of(list: &[String]) -> List {
        if list.iter().any(|one| one == "*") {
            return List::Any;
        }
        List::These(Short::from_slice(list.join(", ").as_bytes()))
    }
}

impl Origin {
    fn of(text: &str) -> Origin {
        match text.split_once("*.") {
            _ if text == "*" => Origin::Any,
            Some((scheme, domain)) => {
                Origin::Below(scheme.to_ascii_lowercase(), format!(".{}", domain.to_ascii_lowercase()))
            }
            None => Origin::Exact(text.to_ascii_lowercase()),
        }
    }

    fn is(&self, origin: &[u8]) -> bool {
        match self {
            Origin::Any => true,
            Origin::Exact(exact) => origin.eq_ignore_ascii_case(exact.as_bytes()),
            Origin::Below(scheme, domain) => {
                let (before, after) = (scheme.as_bytes(), domain.as_bytes());
                let Some(rest) = origin.len().checked_sub(before.len() + after.len()) else { return false };
                let (start, rest_on) = origin.split_at(before.len());
                let (middle, end) = rest_on.split_at(rest);
                // Nothing that ends a host may hide in what the star stands for.
                let label = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                !middle.is_empty()
                    && start.eq_ignore_ascii_case(before)
                    && end.eq_ignore_ascii_case(after)
                    && middle.iter().all(label)
            }
        }
    }
}

impl Cors {
    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &snapshot::Cors) -> Result<Cors, BadRule> {
        for header in source.allow_headers.iter().chain(&source.expose_headers).filter(|one| *one != "*") {
            let bad = |_| BadRule::Header { rule: rule.to_owned(), header: header.clone() };
            HeaderName::from_bytes(header.as_bytes()).map_err(bad)?;
        }
        let bare = [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ];
        let mut allowed = Vec::new();
        if source.allow_credentials {
            allowed.push(Edit::Set(ACCESS_CONTROL_ALLOW_CREDENTIALS, Short::from_slice(b"true")));
        }
        if !source.expose_headers.is_empty() {
            let exposed = source.expose_headers.join(", ");
            allowed.push(Edit::Set(ACCESS_CONTROL_EXPOSE_HEADERS, Short::from_slice(exposed.as_bytes())));
        }
        Ok(Cors {
            origins: source.allow_origins.iter().map(|one| Origin::of(one)).collect(),
            credentials: source.allow_credentials,
            methods: List::of(&source.allow_methods),
            headers: List::of(&source.allow_headers),
            allowed: Prepared::new(allowed),
            bare: Prepared::new(bare.map(Edit::Remove).into()),
            max_age: Short::from_slice(source.max_age.as_secs().to_string().as_bytes()),
            tally: Tally::default(),
        })
    }

    /// Whether `origin` may call.
    fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|one| one.is(origin))
    }

    /// Whether one answer fits all origins, so that caches need not tell them apart.
    fn is_for_all(&self) -> bool {
        !self.credentials && matches!(self.origins.as_slice(), [Origin::Any])
    }

    /// Names `origin` in an answer, if it is allowed; says whether it is.
    fn name(&self, origin: Option<&[u8]>, edits: &mut Edits) -> bool {
        let allowed = origin.filter(|origin| self.allows(origin));
        if self.is_for_all() {
            if origin.is_some() {
                edits.set(ACCESS_CONTROL_ALLOW_ORIGIN, b"*");
            }
        } else {
            edits.push(Edit::Append(VARY, Short::from_slice(b"Origin")));
            if let Some(origin) = allowed {
                edits.set(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            }
        }
        if allowed.is_some() {
            edits.push_all(&self.allowed);
        } else if origin.is_some() {
            self.tally.count(Event::OriginRefused);
        }
        allowed.is_some()
    }

    /// The headers of the answer to a preflight; `None` if the call is none.
    pub fn preflight(&self, head: &RequestHead<'_>) -> Option<Edits> {
        if head.method() != "OPTIONS" {
            return None;
        }
        let (origin, method) = (head.header("origin")?, head.header("access-control-request-method")?);
        let mut edits = Edits::new();
        self.tally.count(Event::Preflight);
        if !self.name(Some(origin), &mut edits) {
            return Some(edits);
        }
        let asked = head.header("access-control-request-headers").filter(|asked| asked.len() <= MAX_ASKED);
        let methods = match &self.methods {
            List::Any => Some(method),
            List::These(these) => Some(these.as_slice()),
        };
        let headers = match &self.headers {
            List::Any => asked,
            List::These(these) => Some(these.as_slice()),
        };
        let lists = [(ACCESS_CONTROL_ALLOW_METHODS, methods), (ACCESS_CONTROL_ALLOW_HEADERS, headers)];
        for (name, value) in lists {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                edits.set(name, value);
            }
        }
        edits.push(Edit::Set(ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        Some(edits)
    }

    /// What changes in the answer to any other call.
    pub fn reply(&self, head: &RequestHead<'_>, edits: &mut Edits) {
        edits.push_all(&self.bare);
        self.name(head.header("origin"), edits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_that_are_named_are_allowed() {
        let check = |allowed: &str, origin: &str, expect: bool| {
            let source = snapshot::Cors { allow_origins: vec![allowed.to_owned()], ..Default::default() };
            let cors = Cors::compile("r", &source).expect("compiles");
            assert_eq!(cors.allows(origin.as_bytes()), expect, "{origin} by {allowed}");
        };
        check("https://shop.example", "https://shop.example", true);
        check("https://Shop.example", "HTTPS://shop.example", true);
        check("https://shop.example", "http://shop.example", false);
        check("https://shop.example", "https://shop.example.evil", false);
        check("https://shop.example", "https://shop.example:8443", false);
        check("https://*.example", "https://a.example", true);
        check("https://*.example", "https://a.b.example", true);
        check("https://*.example", "https://example", false);
        check("https://*.example", "https://.example", false);
        check("https://*.example", "https://evil.test/.example", false);
        check("https://*.example", "https://evil.test#.example", false);
        check("https://*.example", "https://evil.test:1.example@x", false);
        check("https://*.example:8443", "https://a.example:8443", true);
        check("https://*.example:8443", "https://a.example", false);
        check("*", "null", true);
        check("https://shop.example", "null", false);
    }
}
