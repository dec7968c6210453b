//! Sessions of the console: a token is exchanged for a cookie and a key, and both are needed from then on.
//!
//! A cookie does not know ports: every server on the machine that the browser visits is sent it. So it opens nothing
//! by itself. Each request also carries a key in a header, which the page keeps in the storage of its own origin; a
//! page of another origin can neither read it nor send that header.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use axum::extract::State;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::Refusal;
use crate::api::Shared;
use crate::wire::{Answer, Json, json};

/// The header that carries the key.
pub const KEY: HeaderName = HeaderName::from_static("dodai-session");
/// How many sessions there are at once; a further one ends the one that was silent the longest.
pub const MAX_SESSIONS: usize = 64;
/// How long a session lives without a request; its cookie as well.
pub const SESSION_IDLE: Duration = Duration::from_secs(12 * 3600);

/// How long a session lives in any case.
pub const SESSION_LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// The cookie is renewed when it is so old and used.
pub const SESSION_RENEWAL: Duration = Duration::from_secs(600);

/// What proves a session, as it is kept.
type Hash = [u8; 32];

struct Session {
    cookie: Hash,
    key: Hash,
    begun: Instant,
    used: Instant,
    /// When its cookie was sent last.
    renewed: Instant,
    /// Dropped with the session.
    alive: watch::Sender<()>,
}

impl Session {
    /// When it ends if nobody uses it.
    fn end(&self) -> Instant {
        (self.used + SESSION_IDLE).min(self.begun + SESSION_LONGEST)
    }
}

/// Somebody who came in with a session.
#[derive(Clone, Debug)]
pub struct Visit {
    cookie: Hash,
    alive: watch::Receiver<()>,
    /// The cookie once more, if it is time for that.
    pub(crate) renewed: Option<HeaderValue>,
}

/// The sessions of a server. They end with it.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<VecDeque<Session>>>);

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
        let (cookie, key) = (hash(&proof.cookie), hash(&proof.key));
        let alive = watch::channel(()).0;
        all.push_back(Session { cookie, key, begun: now, used: now, renewed: now, alive });
        Ok(proof)
    }

    /// The session that a request belongs to, which it keeps alive. Every session is compared, in constant time.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Option<Visit> {
        self.visit(headers, Instant::now())
    }

    fn visit(&self, headers: &HeaderMap, now: Instant) -> Option<Visit> {
        let mut all = self.all();
        let mut session = take(&mut all, headers, now)?;
        session.used = now;
        let is_due = now.duration_since(session.renewed) >= SESSION_RENEWAL;
        let left = session.end().saturating_duration_since(now);
        let renewed =
            cookie_of(headers).filter(|_| is_due).and_then(|value| cookie(headers, value, left).ok());
        if renewed.is_some() {
            session.renewed = now;
        }
        let visit = Visit { cookie: session.cookie, alive: session.alive.subscribe(), renewed };
        all.push_back(session);
        Some(visit)
    }

    fn end(&self, headers: &HeaderMap, now: Instant) -> bool {
        take(&mut self.all(), headers, now).is_some()
    }

    /// Waits until the session is there no more: somebody ended it, or its time is over.
    pub(crate) async fn ended(self, mut visit: Visit) {
        loop {
            let end = {
                let mut all = self.all();
                sweep(&mut all, Instant::now());
                all.iter().find(|one| one.cookie == visit.cookie).map(Session::end)
            };
            let Some(end) = end else { return };
            tokio::select! {
                // Both only wait.
                () = tokio::time::sleep_until(end.into()) => {}
                _gone = visit.alive.changed() => return,
            }
        }
    }
}

/// Drops sessions whose time is over.
fn sweep(all: &mut VecDeque<Session>, now: Instant) {
    all.retain(|one| now < one.end());
}

/// Takes out the session that a request belongs to.
fn take(all: &mut VecDeque<Session>, headers: &HeaderMap, now: Instant) -> Option<Session> {
    let key = headers.get(KEY).and_then(|key| key.to_str().ok())?;
    let (cookie, key) = (hash(cookie_of(headers)?), hash(key));
    sweep(all, now);
    let mut found = None;
    for (at, one) in all.iter().enumerate() {
        let same = verify_slices_are_equal(&one.cookie, &cookie).is_ok()
            & verify_slices_are_equal(&one.key, &key).is_ok();
        if same {
            found = Some(at);
        }
    }
    all.remove(found?)
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

/// An answer that brings a cookie.
type WithCookie<T> = Result<([(HeaderName, HeaderValue); 1], Json<T>), Refusal>;

/// A session that began. The cookie comes in a header.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Session")]
pub(crate) struct Begun {
    /// Goes into the header `dodai-session` of every request.
    key: String,
    /// How long it lives without a request, in seconds.
    idle_seconds: u64,
}

/// `POST /v1/session`, with the token: begins one.
pub(crate) async fn begin(State(parts): Shared, headers: HeaderMap) -> WithCookie<Begun> {
    if !parts.gate.has_token(&headers) {
        let text = "a session begins with the token";
        return Err(Refusal::bad_request(text).remedy("send `Authorization: Bearer TOKEN`"));
    }
    let proof = parts.sessions.begin(Instant::now())?;
    let cookie = cookie(&headers, &proof.cookie, SESSION_IDLE)?;
    let body = json(&Begun { key: proof.key, idle_seconds: SESSION_IDLE.as_secs() })?;
    Ok(([(header::SET_COOKIE, cookie)], body))
}

/// Where a session is.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SessionView {
    /// The version of the program.
    version: String,
    /// The project folder.
    project: Option<PathBuf>,
}

/// `GET /v1/session`: who is there.
pub(crate) async fn show(State(parts): Shared) -> Answer<SessionView> {
    json(&SessionView { version: parts.about.version.clone(), project: parts.about.folder.clone() })
}

/// A session that ended.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ended {
    /// Whether there was one.
    ended: bool,
}

/// `DELETE /v1/session`: ends it.
pub(crate) async fn end(State(parts): Shared, headers: HeaderMap) -> WithCookie<Ended> {
    let ended = parts.sessions.end(&headers, Instant::now());
    let cookie = cookie(&headers, "", Duration::ZERO)?;
    Ok(([(header::SET_COOKIE, cookie)], json(&Ended { ended })?))
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
        let ask = |host: &str, cookie: &str, key: &str| sessions.admit(&headers(host, cookie, key)).is_some();
        assert!(ask("127.0.0.1:7070", &own, &proof.key));
        assert!(!ask("127.0.0.1:7070", &own, &other.key), "the key of another session");
        assert!(!ask("127.0.0.1:7070", &own, ""));
        assert!(!ask("127.0.0.1:7071", &own, &proof.key), "the cookie of another port");
        let mine = headers("127.0.0.1:7070", &own, &proof.key);
        assert!(sessions.visit(&mine, now + SESSION_IDLE * 2).is_none(), "silent for too long");
        let again = sessions.begin(now).unwrap();
        let mine = headers("[::1]:7070", &format!("dodai-console-7070={}", again.cookie), &again.key);
        assert!(sessions.end(&mine, now) && sessions.admit(&mine).is_none(), "it was ended");
    }

    #[test]
    fn there_are_only_so_many() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.begin(now).unwrap();
        for _ in 0..MAX_SESSIONS {
            sessions.begin(now).unwrap();
        }
        let cookie = format!("dodai-console-80={}", first.cookie);
        assert!(sessions.admit(&headers("localhost", &cookie, &first.key)).is_none());
        assert_eq!(sessions.all().len(), MAX_SESSIONS);
    }

    #[test]
    fn the_cookie_is_renewed_on_use_and_not_for_ever() {
        let (sessions, begun) = (Sessions::default(), Instant::now());
        let proof = sessions.begin(begun).unwrap();
        let mine = headers("localhost:7070", &format!("dodai-console-7070={}", proof.cookie), &proof.key);
        let visit = |after| sessions.visit(&mine, begun + after).map(|visit| visit.renewed);
        assert_eq!(visit(SESSION_RENEWAL / 2), Some(None));
        let renewed = visit(SESSION_RENEWAL).unwrap().unwrap();
        let renewed = renewed.to_str().unwrap();
        assert!(renewed.contains(&proof.cookie) && renewed.contains("Max-Age=43200;"), "{renewed}");
        assert_eq!(visit(SESSION_RENEWAL), Some(None), "once");
        let step = SESSION_IDLE / 2;
        for count in 1..SESSION_LONGEST.as_secs() / step.as_secs() {
            assert!(visit(step * u32::try_from(count).unwrap()).is_some(), "{count}");
        }
        assert!(visit(SESSION_LONGEST).is_none(), "used all the time, and over");
    }

    #[tokio::test]
    async fn who_waits_learns_that_a_session_has_ended() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let proof = sessions.begin(now).unwrap();
        let mine = headers("localhost:7070", &format!("dodai-console-7070={}", proof.cookie), &proof.key);
        let visit = sessions.admit(&mine).unwrap();
        let mut ended = std::pin::pin!(sessions.clone().ended(visit));
        assert!(futures_util::poll!(&mut ended).is_pending());
        assert!(sessions.end(&mine, now));
        ended.await;
    }
}
