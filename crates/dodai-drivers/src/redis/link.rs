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
use redis::{AsyncConnectionConfig, FromRedisValue, Pipeline, RedisConnectionInfo, RedisError};
use tokio::sync::{Mutex, OnceCell, watch};
use tokio::time::Instant;

use super::settings::Settings;

/// Requests that may wait for the socket at once; more wait for these.
const QUEUE: usize = 256;

/// Whether a request may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It changes nothing, or the same thing.
    Harmless,
    /// Only if it was not sent.
    Unsent,
}

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

    /// Sends commands and reads their answers. Cancel safe in that a dropped request may or may not be done.
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
            if self.is_closed() {
                let component = &self.component;
                return Err(Fault::new(Kind::Closed, format!("component `{component}` has been closed")));
            }
            let failed = match self.open().await {
                Err(why) => self.fault(Kind::Unavailable, &what(), &why),
                Ok(mut open) => match pipe.query_async(&mut open.redis).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        let (kind, broken) = sort(&error);
                        if broken {
                            open.alive.store(false, Ordering::Release);
                        }
                        let fault = self.fault(kind, &what(), &reason(&error));
                        let may = kind == Kind::Unavailable || again == Again::Harmless && broken;
                        if !may {
                            return Err(fault);
                        }
                        fault
                    }
                },
            };
            if tries >= self.settings.retries {
                return Err(failed);
            }
            tries += 1;
            tokio::select! {
                () = tokio::time::sleep(self.pause(tries)) => {}
                () = self.closing() => {}
            }
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
    match error.code() {
        // It did nothing yet, or it is no longer the one that takes writes.
        Some("LOADING" | "MASTERDOWN" | "TRYAGAIN") => (Kind::Unavailable, false),
        Some("READONLY") => (Kind::Unavailable, true),
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => (Kind::Unavailable, false),
        Some("OOM") => (Kind::Full, false),
        Some(_) | None => (Kind::Invalid, false),
    }
}

/// What the client says, in our words where its own say little.
fn reason(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time; whether it was done is unknown".to_owned();
    }
    if error.kind() == redis::ErrorKind::Io {
        return format!("the connection broke ({error}); whether it was done is unknown");
    }
    error.to_string()
}
