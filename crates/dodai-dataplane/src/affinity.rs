//! What ties calls of one client together: the key that an endpoint is chosen by, and the cookie that names one.
//!
//! Both are the same on every base, so that a call which crosses bases ends where it should. A cookie names its
//! endpoint by a hash of what the endpoint is called: it tells nothing of where that is, and stays right when bases or
//! tables are replaced. Nothing here is done for services that ask for neither.

use std::sync::Arc;

use dodai_core::call::Caller;
use dodai_core::head::{Edit, Edits, RequestHead, Short};
use dodai_core::snapshot::{Balance, HashKey, Role, SameSite, Sticky};
use http::HeaderName;

use crate::matcher;
use crate::place::{Endpoint, Place};
use crate::request::Side;
use crate::service::Service;
use crate::spine::Entry;

const SET_COOKIE: HeaderName = HeaderName::from_static("set-cookie");
/// Hexadecimal digits of an endpoint's name in a cookie.
const DIGITS: usize = 16;

/// A hash that is the same in every process.
pub fn stable(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash =
        bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mixed(hash)
}

/// Spreads what differs in a few bits over all of them.
pub fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// What ties a call to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Calls with the same key go the same way.
    pub key: Option<u64>,
    /// The endpoint that the call's cookie names, which is its client's word only.
    pub session: Option<u64>,
    /// The endpoint that its client connected to.
    pub meant: Option<u64>,
    /// Whether the client's side is encrypted.
    pub secure: bool,
}

impl Affinity {
    /// Of a call to `service`.
    pub fn of(service: &Service, head: &RequestHead<'_>, entry: &Entry<'_>) -> Affinity {
        let key = match &service.spec.balance {
            Balance::RingHash(key) | Balance::Maglev(key) => key_of(key, head, entry),
            Balance::RoundRobin | Balance::LeastLatency | Balance::LeastRequest | Balance::Weighted => None,
        };
        if let Some(meant) = entry.captured.and_then(|captured| captured.endpoint) {
            return Affinity { key, session: None, meant: Some(meant), secure: entry.secure };
        }
        let Some(session) = &service.session else { return Affinity { key, ..Affinity::default() } };
        let mut named = None;
        matcher::each_cookie(head, |name, value| {
            if named.is_none() && name == &*session.name {
                named = std::str::from_utf8(value).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
            }
        });
        let forwarded = || head.header("x-forwarded-proto").is_some_and(|scheme| scheme == b"https");
        let secure = entry.is_https(head) && !matches!(entry.listener.role, Role::Mesh) || forwarded();
        Affinity { key, session: named, meant: None, secure }
    }

    /// The key of its client, if `service` shares calls out by that.
    pub fn source(&self, service: &Service) -> Option<u64> {
        let by_source = matches!(
            service.spec.balance,
            Balance::RingHash(HashKey::Source) | Balance::Maglev(HashKey::Source)
        );
        self.key.filter(|_| by_source)
    }

    /// The same with the key of its client that another base told, if one did.
    pub fn or_source(self, told: Option<u64>) -> Affinity {
        Affinity { key: told.or(self.key), ..self }
    }

    /// Of a connection that is not parsed: only who is there can tie it to others.
    pub fn of_connection(service: &Service, side: &Side) -> Affinity {
        let key = match &service.spec.balance {
            Balance::RingHash(HashKey::Source) | Balance::Maglev(HashKey::Source) => {
                match side.caller.app() {
                    Some(app) => Some(app_key(app)),
                    None => Some(&*side.client)
                        .filter(|client| !client.is_empty())
                        .map(|client| stable(client.as_bytes())),
                }
            }
            Balance::RingHash(_)
            | Balance::Maglev(_)
            | Balance::RoundRobin
            | Balance::LeastLatency
            | Balance::LeastRequest
            | Balance::Weighted => None,
        };
        let meant = side.captured().and_then(|captured| captured.endpoint);
        Affinity { key, meant, ..Affinity::default() }
    }

    /// The endpoint that it names, one way or the other.
    pub fn named(&self) -> Option<u64> {
        self.meant.or(self.session)
    }
}

fn key_of(key: &HashKey, head: &RequestHead<'_>, entry: &Entry<'_>) -> Option<u64> {
    match key {
        HashKey::Header(name) => head.header(name).map(stable),
        HashKey::Query(name) => matcher::query_value(head.query(), name).map(stable),
        HashKey::Path => Some(stable(head.path().as_bytes())),
        HashKey::Cookie(name) => {
            let mut found = None;
            matcher::each_cookie(head, |named, value| {
                if found.is_none() && named == name {
                    found = Some(stable(value));
                }
            });
            found
        }
        HashKey::Source => source(head, entry),
    }
}

/// The app that calls, or the client's address; behind another base, the one that its gateway saw.
fn source(head: &RequestHead<'_>, entry: &Entry<'_>) -> Option<u64> {
    if let Caller::App(app) = entry.caller {
        return Some(app_key(app));
    }
    if let (Role::Gateway { .. }, Some(client)) = (&entry.listener.role, entry.client) {
        return Some(stable(client.as_bytes()));
    }
    let chain = head.header("x-forwarded-for")?;
    let last = chain.rsplit(|byte| *byte == b',').next()?;
    Some(stable(last.trim_ascii()))
}

fn app_key(app: &dodai_core::id::AppId) -> u64 {
    mixed(stable(app.namespace.as_str().as_bytes()) ^ stable(app.name.as_str().as_bytes()).rotate_left(1))
}

/// The cookie that names an endpoint, without the name.
#[derive(Debug)]
pub struct Session {
    name: Arc<str>,
    /// What follows the endpoint's name.
    tail: String,
}

impl Session {
    /// The cookie that `sticky` asks for.
    pub fn new(sticky: &Sticky) -> Session {
        let same_site = match sticky.same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        };
        let age = sticky.ttl.map(|ttl| format!("; Max-Age={}", ttl.as_secs())).unwrap_or_default();
        let tail = format!("; Path={}{age}; HttpOnly; SameSite={same_site}", sticky.path);
        Session { name: sticky.name.as_str().into(), tail }
    }

    /// Adds the cookie to an answer of `endpoint`, unless the call named it already. Where another base runs the
    /// instance, that base chooses between its own and says which one it was.
    pub fn tell(&self, endpoint: &Endpoint, affinity: Affinity, edits: &mut Edits) {
        if affinity.named() == Some(endpoint.token) || matches!(endpoint.place, Place::Mesh { .. }) {
            return;
        }
        let mut value = Short::from_slice(self.name.as_bytes());
        value.push(b'=');
        for at in (0..DIGITS).rev() {
            let digit = (endpoint.token >> (4 * at)) & 0xf;
            value.push(b"0123456789abcdef"[usize::try_from(digit).unwrap_or_default()]);
        }
        value.extend_from_slice(self.tail.as_bytes());
        if affinity.secure {
            value.extend_from_slice(b"; Secure");
        }
        edits.push(Edit::Append(SET_COOKIE, value));
    }
}
