//! Sessions of the console: a token is exchanged for a cookie and a key, and both are needed from then on.
//!
//! A cookie does not know ports: every server on the machine that the browser visits is sent it. So it opens nothing
//! by itself. Each request also carries a key in a header, which the page keeps in the storage of its own origin; a
//! page of another origin can neither read it nor send that header.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::json;

use crate::Refusal;
use crate::api::{Answer, Shared, json as answer};

/// The header that carries the key.
pub const KEY: HeaderName = HeaderName::from_static("dodai-session");
/// How many sessions there are at once; a further one ends the one that was silent the longest.
pub const MAX_SESSIONS: usize = 64;
/// How long a session lives without a request.
pub const SESSION_IDLE: Duration = Duration::from_secs(12 * 3600);

/// What proves a session, as it is kept.
type Hash = [u8; 32];

struct Session {
    cookie: Hash,
    key: Hash,
    used: Instant,
}

/// The sessions of a server. They end with it.
#[derive(Default)]
pub struct Sessions(Mutex<VecDeque<Session>>);

/// A new session: what goes into the cookie, and the key.
struct Proof {
    cookie: String,
    key: String,
}

fn hash(text: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

/// 256 random bits in hexadecimal digits.
fn secret() -> Result<String, Refusal> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Refusal::internal("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Sessions {
    fn all(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, now: Instant) -> Result<Proof, Refusal> {
        let proof = Proof { cookie: secret()?, key: secret()? };
        let mut all = self.all();
        // The front was silent the longest.
        while all.len() >= MAX_SESSIONS {
            all.pop_front();
        }
        all.push_back(Session { cookie: hash(&proof.cookie), key: hash(&proof.key), used: now });
        Ok(proof)
    }

    /// Whether a request belongs to a session, which it keeps alive. Every session is compared, in constant time.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        self.find(headers, Instant::now(), false)
    }

    fn find(&self, headers: &HeaderMap, now: Instant, end: bool) -> bool {
        let key = headers.get(KEY).and_then(|key| key.to_str().ok());
        let (Some(cookie), Some(key)) = (cookie_of(headers), key) else { return false };
        let (cookie, key) = (hash(cookie), hash(key));
        let mut all = self.all();
        all.retain(|one| now.duration_since(one.used) < SESSION_IDLE);
        let mut found = None;
        for (at, one) in all.iter().enumerate() {
            let same = verify_slices_are_equal(&one.cookie, &cookie).is_ok()
                & verify_slices_are_equal(&one.key, &key).is_ok();
            if same {
                found = Some(at);
            }
        }
        let Some(mut session) = found.and_then(|at| all.remove(at)) else { return false };
        if !end {
            session.used = now;
            all.push_back(session);
        }
        true
    }
}

/// The name of the cookie: consoles on several ports of one machine must not take each other's.
fn name_of(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = host.rsplit_once(':').map_or("80", |(_, port)| port);
    let port: String = port.chars().filter(char::is_ascii_digit).collect();
    format!("dodai-console-{port}")
}

fn cookie_of(headers: &HeaderMap) -> Option<&str> {
    let name = name_of(headers);
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next()
}

fn cookie(headers: &HeaderMap, value: &str, age: Duration) -> Result<HeaderValue, Refusal> {
    let text =
        format!("{}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict", name_of(headers), age.as_secs());
    HeaderValue::try_from(text).map_err(|error| Refusal::internal(error.to_string()))
}

/// `POST /v1/session`, with the token: begins one.
pub(crate) async fn begin(State(parts): Shared, headers: HeaderMap) -> Answer {
    if !parts.gate.has_token(&headers) {
        let text = "a session begins with the token";
        return Err(Refusal::bad_request(text).remedy("send `Authorization: Bearer TOKEN`"));
    }
    let proof = parts.sessions.begin(Instant::now())?;
    let cookie = cookie(&headers, &proof.cookie, SESSION_IDLE)?;
    let body = answer(&json!({ "key": proof.key, "idle_seconds": SESSION_IDLE.as_secs() }))?;
    Ok(([(header::SET_COOKIE, cookie)], body).into_response())
}

/// `GET /v1/session`: who is there.
pub(crate) async fn show(State(parts): Shared) -> Answer {
    answer(&json!({ "version": parts.about.version, "project": parts.about.folder }))
}

/// `DELETE /v1/session`: ends it.
pub(crate) async fn end(State(parts): Shared, headers: HeaderMap) -> Answer {
    let ended = parts.sessions.find(&headers, Instant::now(), true);
    let cookie = cookie(&headers, "", Duration::ZERO)?;
    Ok(([(header::SET_COOKIE, cookie)], answer(&json!({ "ended": ended }))?).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, cookie: &str, key: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
        headers.insert(KEY, HeaderValue::from_str(key).unwrap());
        headers
    }

    #[test]
    fn a_session_needs_its_cookie_and_its_key_and_ends() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let proof = sessions.begin(now).unwrap();
        let other = sessions.begin(now).unwrap();
        let own = format!("a=b; dodai-console-7070={}", proof.cookie);
        let ask = |host: &str, cookie: &str, key: &str| sessions.admit(&headers(host, cookie, key));
        assert!(ask("127.0.0.1:7070", &own, &proof.key));
        assert!(!ask("127.0.0.1:7070", &own, &other.key), "the key of another session");
        assert!(!ask("127.0.0.1:7070", &own, ""));
        assert!(!ask("127.0.0.1:7071", &own, &proof.key), "the cookie of another port");
        let mine = headers("127.0.0.1:7070", &own, &proof.key);
        assert!(!sessions.find(&mine, now + SESSION_IDLE * 2, false), "silent for too long");
        let again = sessions.begin(now).unwrap();
        let mine = headers("[::1]:7070", &format!("dodai-console-7070={}", again.cookie), &again.key);
        assert!(sessions.find(&mine, now, true) && !sessions.admit(&mine), "it was ended");
    }

    #[test]
    fn there_are_only_so_many() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.begin(now).unwrap();
        for _ in 0..MAX_SESSIONS {
            sessions.begin(now).unwrap();
        }
        let cookie = format!("dodai-console-80={}", first.cookie);
        assert!(!sessions.admit(&headers("localhost", &cookie, &first.key)));
        assert_eq!(sessions.all().len(), MAX_SESSIONS);
    }
}
