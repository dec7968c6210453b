//! One connection to a Redis that all calls of a component share, made anew when it breaks.
//!
//! What was not sent is tried again, with pauses that double; what was sent is tried again only if that is harmless,
//! for nobody knows whether it was done. While the Redis cannot be reached, one caller dials and the others are told
//! what it found. Rejected: the client's own connection manager, which dials and does TLS by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dodai_capability::fault::{Fault, Kind};
use dodai_core::task::{self, Tasks};
use dodai_transport::tls::public::{Connector, RootsFrom};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, FromRedisValue, Pipeline, RedisConnectionInfo, RedisError, RedisResult, Value,
};
use tokio::sync::{Mutex, OnceCell, watch};
use tokio::time::Instant;

use super::settings::Settings;

/// Requests that may wait for the socket at once; more wait for these.
const QUEUE: usize = 256;

/// What is needed: `XPENDING` with `IDLE` and `XTRIM` with `MINID` came with it.
const OLDEST: &str = "6.2";

/// Whether a request may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It changes nothing, or the same thing.
    Harmless,
    /// Only if it was not sent.
    Unsent,
}

/// What became of one command among several.
pub type Each = Result<Value, Fault>;

/// A connection in use.
#[derive(Clone)]
pub struct Open {
    redis: MultiplexedConnection,
    alive: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    failures: u32,
    failed: Option<(Instant, String)>,
}

/// The way to one Redis.
pub struct Link {
    component: String,
    settings: Settings,
    roots: RootsFrom,
    connector: OnceCell<Connector>,
    tasks: Tasks,
    state: Mutex<State>,
    closed: watch::Sender<bool>,
}

impl Link {
    /// Nothing is connected yet.
    pub fn new(component: &str, settings: Settings, roots: RootsFrom, tasks: Tasks) -> Link {
        Link {
            component: component.to_owned(),
            settings,
            roots,
            connector: OnceCell::new(),
            tasks,
            state: Mutex::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// One more to the same Redis, for requests that keep a connection busy. Closed by itself.
    pub fn beside(&self) -> Link {
        Link::new(&self.component, self.settings.clone(), self.roots.clone(), self.tasks.clone())
    }

    /// What was configured.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The component that it belongs to, for logs.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Whether the component has been closed.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits for the end of the component. Cancel safe.
    pub async fn closing(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives in `self`, so this ends only when it has been told.
        let _told = closed.wait_for(|closed| *closed).await;
    }

    /// Ends it: later requests fail, the connection goes when those under way have their answers.
    pub async fn close(&self) {
        self.closed.send_replace(true);
        self.state.lock().await.open = None;
    }

    fn fault(&self, kind: Kind, what: &str, why: &str) -> Fault {
        let (component, place) = (&self.component, &self.settings.place);
        Fault::new(kind, format!("{what} failed: component `{component}`, Redis at {place}: {why}"))
    }

    /// Sees that it answers.
    pub async fn ping(&self) -> Result<(), Fault> {
        let mut pipe = redis::pipe();
        pipe.cmd("PING");
        self.ask::<(String,)>(&|| "a ping".to_owned(), &pipe, Again::Harmless).await.map(|_| ())
    }

    /// Sees that it answers and is new enough; returns what it says of itself, as `INFO` gives it.
    ///
    /// # Errors
    /// As [`Link::ask`]; its version lacks commands that are used here ([`Kind::Unsupported`]).
    pub async fn greet(&self) -> Result<String, Fault> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO");
        let what = || "asking for its version".to_owned();
        let (info,): (String,) = match self.ask(&what, &pipe, Again::Harmless).await {
            Ok(info) => info,
            // A user that may not ask may use it all the same.
            Err(fault) if fault.to_string().contains("NOPERM") => {
                tracing::warn!("{fault}; whether it is of version {OLDEST} or later is not checked");
                self.ping().await?;
                return Ok(String::new());
            }
            Err(fault) => return Err(fault),
        };
        match too_old(&info) {
            None => Ok(info),
            Some(version) => {
                let why = format!("it is of version {version}, {OLDEST} or later is needed");
                Err(self.fault(Kind::Unsupported, "opening", &why))
            }
        }
    }

    /// Sends commands and reads their answers; one that fails fails them all. Cancel safe in that a dropped request may
    /// or may not be done. What the Redis puts off is sent again if it is one command or harmless.
    ///
    /// # Errors
    /// The Redis cannot be reached ([`Kind::Unavailable`]: nothing was done), did not answer ([`Kind::Timeout`]: it may
    /// have been done), or refuses.
    pub async fn ask<T: FromRedisValue>(
        &self,
        what: &(dyn Fn() -> String + Sync),
        pipe: &Pipeline,
        again: Again,
    ) -> Result<T, Fault> {
        let mut tries = 0;
        loop {
            let mut open = self.reach(what, &mut tries).await?;
            let error = match open.query(pipe).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (kind, broken) = sort(&error);
            if broken {
                open.give_up();
            }
            let undone = matches!(kind, Kind::Unavailable | Kind::Busy)
                && (pipe.len() == 1 || again == Again::Harmless);
            if tries >= self.settings.retries || !(undone || again == Again::Harmless && broken) {
                return Err(self.fault(kind, &what(), &reason(&error)));
            }
            tries += 1;
            self.wait(tries).await;
        }
    }

    /// Sends commands that stand each for itself and tells what became of each, in their order. They are sent again
    /// only if none was sent. Cancel safe as [`Link::ask`].
    ///
    /// # Errors
    /// As [`Link::ask`], where it concerns all of them.
    pub async fn ask_each(
        &self,
        what: &(dyn Fn() -> String + Sync),
        pipe: &mut Pipeline,
    ) -> Result<Vec<Each>, Fault> {
        let mut open = self.reach(what, &mut 0).await?;
        let answers: RedisResult<Vec<RedisResult<Value>>> = open.query(pipe.ignore_errors()).await;
        let mut told = |error: RedisError| {
            let (kind, broken) = sort(&error);
            if broken {
                open.give_up();
            }
            self.fault(kind, &what(), &reason(&error))
        };
        match answers {
            Ok(answers) => Ok(answers.into_iter().map(|answer| answer.map_err(&mut told)).collect()),
            Err(error) => Err(told(error)),
        }
    }

    /// A connection, tried for as often as is configured; `tries` counts on.
    async fn reach(&self, what: &(dyn Fn() -> String + Sync), tries: &mut u32) -> Result<Open, Fault> {
        loop {
            if self.is_closed() {
                let component = &self.component;
                return Err(Fault::new(Kind::Closed, format!("component `{component}` has been closed")));
            }
            match self.open().await {
                Ok(open) => return Ok(open),
                Err(why) if *tries >= self.settings.retries => {
                    return Err(self.fault(Kind::Unavailable, &what(), &why));
                }
                Err(_) => {}
            }
            *tries += 1;
            self.wait(*tries).await;
        }
    }

    async fn wait(&self, tries: u32) {
        tokio::select! {
            () = tokio::time::sleep(self.pause(tries)) => {}
            () = self.closing() => {}
        }
    }

    /// The pause after so many failures in a row.
    pub fn pause(&self, failures: u32) -> Duration {
        let doubled = self.settings.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.settings.longest_pause)
    }

    /// The shared connection, dialled if need be. While dialling fails, tries are apart from each other.
    async fn open(&self) -> Result<Open, String> {
        let mut state = self.state.lock().await;
        if let Some(open) = state.open.as_ref().filter(|open| open.alive.load(Ordering::Acquire)) {
            return Ok(open.clone());
        }
        state.open = None;
        if let Some((at, why)) = &state.failed
            && at.elapsed() < self.pause(state.failures)
        {
            return Err(why.clone());
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.settings.answer_timeout));
        match self.dial(&self.settings.login, config).await {
            Ok(open) => {
                if let Some((at, why)) = state.failed.take() {
                    let (component, place, after) = (&self.component, &self.settings.place, at.elapsed());
                    tracing::info!(component, %place, ?after, "the Redis is reached again; it was not: {why}");
                }
                state.failures = 0;
                state.open = Some(open.clone());
                Ok(open)
            }
            Err(why) => {
                if state.failures == 0 {
                    let (component, place) = (&self.component, &self.settings.place);
                    tracing::warn!(component, %place, "the Redis cannot be reached: {why}");
                }
                state.failures = state.failures.saturating_add(1);
                state.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// A connection of one's own.
    ///
    /// # Errors
    /// The Redis cannot be reached or refuses the login; the text says why.
    pub async fn dial(
        &self,
        login: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<Open, String> {
        let timeout = self.settings.dial_timeout;
        let config = config.set_pipeline_buffer_size(QUEUE);
        let greeted = async {
            let mut stream = self.settings.place.connect(timeout).await?;
            if let Some(security) = &self.settings.security {
                let connector = self.connector.get_or_try_init(|| async {
                    let (security, roots) = (security.clone(), self.roots.clone());
                    let made = tokio::task::spawn_blocking(move || security.connector(&roots)).await;
                    made.map_err(|error| error.to_string())?
                });
                let secured = connector.await?.connect(stream, &self.settings.place.host).await;
                stream = secured.map_err(|failure| failure.detail.to_string())?;
            }
            MultiplexedConnection::new_with_config(login, stream, config)
                .await
                .map_err(|error| reason(&error))
        };
        let greeted = tokio::time::timeout(timeout, greeted).await;
        let (redis, work) = greeted.map_err(|_| format!("no greeting within {timeout:?}"))??;
        let alive = Arc::new(AtomicBool::new(true));
        let (seen, tasks) = (alive.clone(), self.tasks.clone());
        self.tasks.spawn(task::Kind::OutboundConnection, async move {
            // It ends when the connection does, or when nobody holds it any longer.
            tokio::select! {
                () = work => {}
                () = tasks.closing() => {}
            }
            seen.store(false, Ordering::Release);
        });
        Ok(Open { redis, alive })
    }
}

impl Open {
    /// Whether it has not been seen to break.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// No more requests go over it.
    fn give_up(&self) {
        self.alive.store(false, Ordering::Release);
    }

    /// Sends commands on this very connection.
    ///
    /// # Errors
    /// As the client says.
    pub async fn query<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> Result<T, RedisError> {
        pipe.query_async(&mut self.redis).await
    }

    /// Asks to be told what is published on channels of that pattern.
    ///
    /// # Errors
    /// As the client says.
    pub async fn psubscribe(&mut self, pattern: &str) -> Result<(), RedisError> {
        self.redis.psubscribe(pattern).await
    }
}

/// What sort of failure it is, and whether the connection is to be given up.
fn sort(error: &RedisError) -> (Kind, bool) {
    use redis::ErrorKind;
    if error.is_timeout() || error.kind() == ErrorKind::Io {
        return (Kind::Timeout, true);
    }
    if matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType) {
        return (Kind::Corrupt, false);
    }
    match word(error).map(|(word, _)| word).as_deref() {
        // The request is at fault, whenever it comes.
        Some("ERR" | "WRONGTYPE" | "NOGROUP" | "BUSYGROUP" | "BUSYKEY") | None => (Kind::Invalid, false),
        Some("OOM") => (Kind::Full, false),
        // A script of somebody else runs for too long.
        Some("BUSY") => (Kind::Busy, false),
        Some("MOVED" | "ASK" | "CROSSSLOT") => (Kind::Unsupported, false),
        // It is no longer the one that takes writes, or wants another login: a new connection may find better.
        Some("READONLY" | "NOAUTH" | "WRONGPASS") => (Kind::Unavailable, true),
        // LOADING, MISCONF, NOREPLICAS, NOPERM and the like: it did nothing, and may when somebody has seen to it.
        Some(_) => (Kind::Unavailable, false),
    }
}

/// The word by which the server names a failure, of several the first, and what it says more.
fn word(error: &RedisError) -> Option<(String, String)> {
    let several = error.clone().into_server_errors();
    let (word, more) = match several.as_deref().and_then(<[_]>::first) {
        Some((_, error)) => (error.code().to_owned(), error.details()),
        None => (error.code()?.to_owned(), error.detail()),
    };
    let more = more.unwrap_or_default().to_owned();
    // Before version 7 what a command of a script met stands behind the place in the script.
    let script = word == "ERR" && more.contains("Error running script");
    let inner = more.rsplit_once("user_script").filter(|_| script).and_then(|(_, rest)| {
        let rest = rest.trim_start_matches(|c: char| matches!(c, ':' | '-' | ' ') || c.is_ascii_digit());
        rest.split_whitespace().next().filter(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()))
    });
    Some((inner.map_or(word, str::to_owned), more))
}

/// The version that `INFO` names, if it is older than [`OLDEST`].
fn too_old(info: &str) -> Option<&str> {
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?.trim();
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next()?, numbers.next().unwrap_or(0));
    ((major, minor) < (6, 2)).then_some(version)
}

/// What the client says, in our words where its own say little.
fn reason(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time; whether it was done is unknown".to_owned();
    }
    if error.kind() == redis::ErrorKind::Io {
        return format!("the connection broke ({error}); whether it was done is unknown");
    }
    match word(error) {
        Some((word, more)) => format!("{word} {more}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_known() {
        let check = |version: &str, old: bool| {
            let info = format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n");
            assert_eq!(too_old(&info).is_some(), old, "{version}");
        };
        check("5.0.14", true);
        check("6.0.16", true);
        check("6.2.0", false);
        check("7.0.15", false);
        check("10.0", false);
        check("unstable", false);
        assert_eq!(too_old(""), None);
    }

    #[test]
    fn failures_are_sorted_by_the_word_of_the_server() {
        let check = |word: &str, details: &str, kind: Kind| {
            let error = redis::make_extension_error(word.to_owned(), Some(details.to_owned()));
            assert_eq!(sort(&error).0, kind, "{word} {details}");
        };
        check("OOM", "command not allowed when used memory > 'maxmemory'.", Kind::Full);
        check("MISCONF", "Redis is configured to save RDB snapshots", Kind::Unavailable);
        check("NOREPLICAS", "Not enough good replicas to write.", Kind::Unavailable);
        check("NOAUTH", "Authentication required.", Kind::Unavailable);
        check("BUSY", "Redis is busy running a script.", Kind::Busy);
        check("NOSUCHWORD", "of a later version", Kind::Unavailable);
        check("WRONGTYPE", "Operation against a key", Kind::Invalid);
        check("ERR", "unknown command", Kind::Invalid);
        let script = "Error running script (call to f_1): @user_script:1: ";
        check("ERR", &format!("{script}@user_script: 1: -OOM command not allowed"), Kind::Full);
        check("ERR", &format!("{script}WRONGTYPE Operation against a key"), Kind::Invalid);
        check("ERR", &format!("{script}attempt to index a nil value"), Kind::Invalid);
    }
}
