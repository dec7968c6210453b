//! Tokens of users: who an issuer says is calling, and what may be believed of it.
//!
//! Checking is synchronous as long as the issuer's keys are here. A call that comes before them waits for them; see
//! `source`. A token that was proved lately is known (`known`). Always holds: headers that tell an app of claims are ours, whatever the call brought.

mod keys;
mod known;
mod source;
#[cfg(test)]
mod tests;
mod token;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use dodai_core::call::is_read_as;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::snapshot::{self, JwtKeys};
use http::HeaderName;
use http::header::COOKIE;
use serde_json::{Map, Value};

use crate::route::BadRule;
use crate::tally::{Event, Tally};

pub use keys::KeySet;
pub use source::{Source, Sources};
pub use token::{Algorithm, BadToken, Material, PublicKey, Token};

static NEXT_ISSUER: AtomicU64 = AtomicU64::new(1);

/// What a token claims, after it was proved.
#[derive(Debug, Default)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// A claim: by its whole name, else `a.b` as `b` within `a`.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            let (first, rest) = name.split_once('.')?;
            rest.split('.').try_fold(self.0.get(first)?, |value, part| value.get(part))
        })
    }

    /// A claim as text; of a list or an object its JSON.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.as_str().into()),
            other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                Some(other.to_string().into())
            }
        }
    }

    /// What this JSON claims.
    #[cfg(test)]
    pub fn of(json: &str) -> Claims {
        Claims(serde_json::from_str(json).expect("an object"))
    }

    /// Whether a claim is there, whatever it says.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether what a claim says, or one of the things if it is a list, is as it should be.
    pub fn any(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        let is = |value: &Value| text(value).is_some_and(|text| fits(&text));
        match self.get(name) {
            Some(Value::Array(all)) => all.iter().any(is),
            // Scopes are a list in one text (RFC 8693 section 4.2).
            Some(Value::String(all)) if matches!(name, "scope" | "scp") => all.split(' ').any(fits),
            Some(one) => is(one),
            None => false,
        }
    }

    /// All of them, for expressions.
    pub fn words(&self) -> dodai_cel::Value {
        let pairs = self.0.iter().map(|(name, value)| (name.clone(), dodai_cel::Value::of(value)));
        dodai_cel::Value::Map(Arc::new(pairs.collect()))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Which tokens count, compiled.
#[derive(Debug)]
pub struct Jwt {
    issuers: Vec<Issuer>,
    optional: bool,
    /// What it did.
    pub tally: Tally,
}

#[derive(Debug)]
struct Issuer {
    /// Unlike that of any other issuer in this process.
    id: u64,
    spec: snapshot::JwtIssuer,
    headers: Vec<(HeaderName, String)>,
    claims: Vec<(String, HeaderName)>,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Here(KeySet),
    /// Found when it is first needed.
    There(OnceLock<Arc<Source>>),
}

/// Where a token was found in a call.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    Header(&'a HeaderName),
    Cookie(&'a str),
    Param(&'a str),
}

/// What a check came to.
#[derive(Debug)]
pub enum Checked {
    /// A token that counts.
    Token(Arc<Claims>),
    /// There is none, and none is needed.
    None,
    /// The keys of this issuer must be had first.
    Wait(usize),
}

impl Jwt {
    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &snapshot::Jwt) -> Result<Jwt, BadRule> {
        let name = |header: &String| {
            let bad = |_| BadRule::Header { rule: rule.to_owned(), header: header.clone() };
            HeaderName::from_bytes(header.as_bytes()).map_err(bad)
        };
        let issuer = |spec: &snapshot::JwtIssuer| {
            let bad = |reason| BadRule::Keys { rule: rule.to_owned(), issuer: spec.issuer.clone(), reason };
            let keys = match &spec.keys {
                JwtKeys::Inline(text) => Keys::Here(KeySet::parse(text.as_bytes()).map_err(bad)?),
                JwtKeys::Uri { .. } | JwtKeys::File(_) => Keys::There(OnceLock::new()),
            };
            let headers = spec.headers.iter().map(|(header, prefix)| Ok((name(header)?, prefix.clone())));
            let claims =
                spec.claims_to_headers.iter().map(|(claim, header)| Ok((claim.clone(), name(header)?)));
            Ok(Issuer {
                id: NEXT_ISSUER.fetch_add(1, Relaxed),
                headers: headers.collect::<Result<_, BadRule>>()?,
                claims: claims.collect::<Result<_, BadRule>>()?,
                spec: spec.clone(),
                keys,
            })
        };
        let issuers = source.issuers.iter().map(issuer).collect::<Result<_, BadRule>>()?;
        Ok(Jwt { issuers, optional: source.optional, tally: Tally::default() })
    }

    /// Checks the token of a call. `waited`: keys were waited for already, and are not waited for again.
    pub fn check(&self, head: &RequestHead<'_>, waited: bool, edits: &mut Edits) -> Result<Checked, Failure> {
        self.check_at(now(), head, waited, edits)
    }

    /// As [`Jwt::check`], at `now` on the wall clock, which may jump between two calls.
    fn check_at(
        &self,
        now: f64,
        head: &RequestHead<'_>,
        waited: bool,
        edits: &mut Edits,
    ) -> Result<Checked, Failure> {
        for (_, header) in self.issuers.iter().flat_map(|issuer| &issuer.claims) {
            edits.push(Edit::Remove(header.clone()));
            head.for_each_header(|name, _| {
                let other = name.contains('_') && is_read_as(name.as_bytes(), header.as_str());
                if let Some(name) = other.then(|| HeaderName::from_bytes(name.as_bytes()).ok()).flatten() {
                    edits.push(Edit::Remove(name));
                }
            });
        }
        match self.look(now, head, waited) {
            Ok(Looked::Token { issuer, place, claims, was_known }) => {
                if was_known {
                    self.tally.count(Event::TokenKnown);
                }
                Ok(issuer.let_in(claims, place, head, edits))
            }
            Ok(Looked::Wait(index)) => Ok(Checked::Wait(index)),
            Ok(Looked::None) if self.optional => Ok(Checked::None),
            Ok(Looked::None) => {
                self.tally.count(Event::TokenMissing);
                Err(Failure::new(Kind::Unauthenticated, "the call has no token, and this needs one"))
            }
            Err(Unproved::Bad(bad)) => {
                self.tally.count(Event::TokenBad);
                Err(Failure::new(Kind::BadToken, format!("the token does not count: {}", bad.0)))
            }
            Err(Unproved::NoKeys(failure)) => Err(failure),
        }
    }

    /// What a call claims that is under way for `age`: what was `proved` when it came if that still counts, else what a
    /// token in its head says that counted then. An error means that the keys which tell are not here.
    pub fn again<'c>(
        &self,
        proved: Option<&'c Claims>,
        head: &RequestHead<'_>,
        age: Duration,
    ) -> Result<Option<Proved<'c>>, NoKeys> {
        if let Some(claims) = proved
            && self.issuers.iter().any(|issuer| issuer.trusts(claims))
        {
            return Ok(Some(Proved::Then(claims)));
        }
        match self.look(now() - age.as_secs_f64(), head, true) {
            Ok(Looked::Token { claims, .. }) => Ok(Some(Proved::Now(claims))),
            Ok(Looked::None) | Err(Unproved::Bad(_)) => Ok(None),
            Ok(Looked::Wait(_)) | Err(Unproved::NoKeys(_)) => Err(NoKeys),
        }
    }

    /// Looks for a token that counts.
    fn look(&self, now: f64, head: &RequestHead<'_>, waited: bool) -> Result<Looked<'_>, Unproved> {
        let mut reason = None;
        for (index, issuer) in self.issuers.iter().enumerate() {
            let Some((place, text)) = issuer.find(head) else { continue };
            if let Place::Header(name) = place
                && times(head, name) > 1
            {
                // An app may read the other one.
                reason = Some(BadToken("its header comes more than once"));
                continue;
            }
            let mark = issuer.keys().and_then(|keys| known::mark(issuer.id, keys, &text));
            if let Some(claims) = mark.and_then(|mark| known::recall(&mark, now)) {
                return Ok(Looked::Token { issuer, place, claims, was_known: true });
            }
            let token = match Token::parse(&text) {
                Ok(token) => token,
                Err(bad) => {
                    reason = Some(bad);
                    continue;
                }
            };
            if token.claims.get("iss").and_then(Value::as_str) != Some(&issuer.spec.issuer) {
                reason.get_or_insert(BadToken("it comes from an issuer that is not trusted here"));
                continue;
            }
            if !issuer.prove(&token, now, waited)? {
                return Ok(Looked::Wait(index));
            }
            let counts = token.counts();
            let claims = Arc::new(Claims(token.claims));
            if let Some(mark) = mark {
                known::remember(mark, counts, claims.clone());
            }
            return Ok(Looked::Token { issuer, place, claims, was_known: false });
        }
        reason.map_or(Ok(Looked::None), |bad| Err(Unproved::Bad(bad)))
    }

    /// Where the keys of an issuer come from, in a base that knows these `sources`.
    pub fn source(&self, issuer: usize, sources: &Sources) -> Option<Arc<Source>> {
        let issuer = self.issuers.get(issuer)?;
        match (&issuer.keys, &issuer.spec.keys) {
            (Keys::There(known), JwtKeys::Uri { uri, refresh }) => {
                Some(known.get_or_init(|| sources.at(uri, *refresh)).clone())
            }
            (Keys::There(known), JwtKeys::File(path)) => {
                Some(known.get_or_init(|| sources.file(path)).clone())
            }
            (Keys::Here(_) | Keys::There(_), _) => None,
        }
    }
}

/// What was found in the head of a call.
enum Looked<'a> {
    Token {
        issuer: &'a Issuer,
        place: Place<'a>,
        claims: Arc<Claims>,
        was_known: bool,
    },
    None,
    /// The keys of this issuer must be had first.
    Wait(usize),
}

/// What a call under way claims.
#[derive(Debug)]
pub enum Proved<'c> {
    /// It was proved when the call came.
    Then(&'c Claims),
    /// It is proved now, of a token that counted when the call came.
    Now(Arc<Claims>),
}

impl std::ops::Deref for Proved<'_> {
    type Target = Claims;
    fn deref(&self) -> &Claims {
        match self {
            Proved::Then(claims) => claims,
            Proved::Now(claims) => claims,
        }
    }
}

/// The keys that tell whether a token counts are not here.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

enum Unproved {
    Bad(BadToken),
    NoKeys(Failure),
}

/// In seconds since the epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Issuer {
    /// The generation of its keys, if they are here.
    fn keys(&self) -> Option<u64> {
        match &self.keys {
            Keys::Here(keys) => Some(keys.generation()),
            Keys::There(source) => Some(source.get()?.keys()?.generation()),
        }
    }

    /// Whether a token that was proved claims to be of this issuer, and for one of its audiences.
    fn trusts(&self, claims: &Claims) -> bool {
        claims.0.get("iss").and_then(Value::as_str) == Some(&self.spec.issuer)
            && token::is_for(&claims.0, &self.spec.audiences)
    }

    /// A call with a token that counts goes on.
    fn let_in(
        &self,
        claims: Arc<Claims>,
        place: Place<'_>,
        head: &RequestHead<'_>,
        edits: &mut Edits,
    ) -> Checked {
        self.tell(&claims, edits);
        if !self.spec.forward {
            take_out(place, head, edits);
        }
        Checked::Token(claims)
    }

    /// The first token where this issuer's are looked for.
    fn find<'a>(&'a self, head: &RequestHead<'_>) -> Option<(Place<'a>, String)> {
        let of_header = |(name, prefix): &'a (HeaderName, String)| {
            let value = std::str::from_utf8(head.header(name.as_str())?).ok()?;
            let start = value.get(..prefix.len())?;
            let token = start.eq_ignore_ascii_case(prefix).then(|| value[prefix.len()..].trim())?;
            Some((Place::Header(name), token.to_owned()))
        };
        let of_cookie = |name: &'a String| {
            let mut found = None;
            for_each_cookie(head, |own, value| {
                if own == name && found.is_none() {
                    found = Some(value.to_owned());
                }
            });
            Some((Place::Cookie(name.as_str()), found?))
        };
        let of_param = |name: &'a String| {
            let pairs = head.query()?.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.into_iter().find(|(own, _)| own == name)?.1;
            Some((Place::Param(name.as_str()), value.to_owned()))
        };
        let headers = self.headers.iter().find_map(of_header);
        headers
            .or_else(|| self.spec.cookies.iter().find_map(of_cookie))
            .or_else(|| self.spec.params.iter().find_map(of_param))
    }

    /// Whether the token counts; `false` if keys must be had first.
    fn prove(&self, token: &Token<'_>, now: f64, waited: bool) -> Result<bool, Unproved> {
        let bad = |text| Unproved::Bad(BadToken(text));
        if !token.is_for(&self.spec.audiences) {
            return Err(bad("it is for another audience"));
        }
        token.check_time(now, self.spec.clock_skew.as_secs_f64()).map_err(Unproved::Bad)?;
        let proved = match &self.keys {
            Keys::Here(keys) => keys.proves(token),
            Keys::There(source) => {
                let Some(source) = source.get() else { return Ok(false) };
                match source.keys() {
                    Some(keys) if keys.proves(token) => true,
                    // A key that is not known may be one that the issuer began to use since.
                    Some(keys) if !keys.knows(token) && !waited && source.may_ask() => return Ok(false),
                    Some(_) => false,
                    None if !waited && source.may_ask() => return Ok(false),
                    None => return Err(Unproved::NoKeys(source.missing())),
                }
            }
        };
        if proved { Ok(true) } else { Err(bad("none of the issuer's keys has signed it")) }
    }

    /// Tells the app what is claimed.
    fn tell(&self, claims: &Claims, edits: &mut Edits) {
        for (claim, header) in &self.claims {
            let value = match claims.get(claim) {
                Some(Value::Array(all)) => {
                    let all: Option<Vec<String>> = all.iter().map(text).collect();
                    all.map(|all| all.join(","))
                }
                Some(one) => text(one),
                None => None,
            };
            let fits = |value: &String| http::HeaderValue::from_str(value).is_ok();
            if let Some(value) = value.filter(fits) {
                edits.push(Edit::Set(header.clone(), Short::from_slice(value.as_bytes())));
            }
        }
    }
}

/// How often a head has a header.
fn times(head: &RequestHead<'_>, name: &HeaderName) -> usize {
    let mut times = 0;
    head.for_each_header(|own, _| times += usize::from(own.eq_ignore_ascii_case(name.as_str())));
    times
}

fn for_each_cookie(head: &RequestHead<'_>, mut visit: impl FnMut(&str, &str)) {
    head.for_each_header(|name, value| {
        if !name.eq_ignore_ascii_case("cookie") {
            return;
        }
        for pair in std::str::from_utf8(value).unwrap_or("").split(';') {
            if let Some((name, value)) = pair.trim().split_once('=') {
                visit(name, value);
            }
        }
    });
}

/// Takes the token out of what the app gets.
fn take_out(place: Place<'_>, head: &RequestHead<'_>, edits: &mut Edits) {
    match place {
        Place::Header(name) => edits.push(Edit::Remove(name.clone())),
        Place::Cookie(taken) => {
            let mut rest = Short::new();
            for_each_cookie(head, |name, value| {
                if name != taken {
                    rest.extend_from_slice(if rest.is_empty() { b"" } else { b"; " });
                    rest.extend_from_slice(name.as_bytes());
                    rest.push(b'=');
                    rest.extend_from_slice(value.as_bytes());
                }
            });
            edits.push(if rest.is_empty() { Edit::Remove(COOKIE) } else { Edit::Set(COOKIE, rest) });
        }
        Place::Param(taken) => {
            // What was changed already stays so.
            let before = edits.target().map(|target| String::from_utf8_lossy(target).into_owned());
            let (path, query) = match &before {
                Some(before) => before.split_once('?').unwrap_or((before, "")),
                None => (head.path(), head.query().unwrap_or("")),
            };
            let mut target = Short::from_slice(path.as_bytes());
            let is_other = |pair: &&str| pair.split_once('=').is_none_or(|(name, _)| name != taken);
            let mut mark = b'?';
            for pair in query.split('&').filter(is_other).filter(|pair| !pair.is_empty()) {
                target.push(mark);
                target.extend_from_slice(pair.as_bytes());
                mark = b'&';
            }
            edits.push(Edit::Target(target));
        }
    }
}
