//! A few connections to one database, made when they are needed and again when they break.
//!
//! A statement has a connection of its own while it runs. What could not be sent is tried again within the statement's
//! timeout, with pauses that double; what was sent is not, for nobody knows whether it was done.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use dodai_capability::fault::{Fault, Kind};
use dodai_core::task::{self, Tasks};
use dodai_transport::stream::Stream;
use dodai_transport::tls::public::{Connector, RootsFrom};
use futures_core::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Error};

use super::login::Settings;

/// The first and the longest pause between tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Tries to connect for one statement, after the first.
const TRIES: u32 = 4;

/// The connections of one component.
pub struct Pool {
    component: String,
    settings: Settings,
    roots: RootsFrom,
    connector: OnceCell<Connector>,
    tasks: Tasks,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Client>>,
    away: Mutex<Option<(Instant, String)>>,
    closed: watch::Sender<bool>,
}

/// A connection in use; it goes back when this is dropped.
pub struct Held {
    client: Option<Client>,
    pool: Arc<Pool>,
    /// What holds it longer has given up on it.
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl std::ops::Deref for Held {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("it is there until this is dropped")
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("it is there until this is dropped")
    }
}

impl Pool {
    /// Nothing is connected yet.
    pub fn new(component: &str, settings: Settings, roots: RootsFrom, tasks: Tasks) -> Pool {
        Pool {
            component: component.to_owned(),
            free: Arc::new(Semaphore::new(settings.connections)),
            settings,
            roots,
            connector: OnceCell::new(),
            tasks,
            idle: Mutex::default(),
            away: Mutex::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// How long a statement may take.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Where background work is born.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
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

    /// Ends it: later statements fail, those under way end.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A failure with everything that its reader needs to find it.
    pub fn fault(&self, kind: Kind, what: &str, why: &dyn fmt::Display) -> Fault {
        let (component, place) = (&self.component, &self.settings.place);
        Fault::new(kind, format!("{what} failed: component `{component}`, PostgreSQL at {place}: {why}"))
    }

    /// What a statement's failure means.
    pub fn failed(&self, what: &str, error: &Error) -> Fault {
        let Some(said) = error.as_db_error() else {
            let why = format!("the connection broke ({error}); whether it was done is unknown");
            return self.fault(Kind::Timeout, what, &why);
        };
        // Classes of SQLSTATE, Appendix A of PostgreSQL's manual.
        let kind = match said.code().code() {
            "57P01" | "57P02" => Kind::Timeout,
            "57P03" | "25006" => Kind::Unavailable,
            "40001" | "40P01" | "55P03" | "53300" => Kind::Busy,
            "53100" | "53200" | "53400" => Kind::Full,
            "42501" => Kind::Unavailable,
            code if code.starts_with("28") || code.starts_with("3D") => Kind::Unavailable,
            code if code.starts_with("08") => Kind::Timeout,
            _ => Kind::Invalid,
        };
        self.fault(kind, what, &format!("{} (SQLSTATE {})", said.message(), said.code().code()))
    }

    /// Sees that it answers.
    pub async fn ping(self: &Arc<Self>) -> Result<(), Fault> {
        let what = "a ping";
        let work = |held: Held| async move { held.simple_query("SELECT 1").await.map(|_| ()) };
        self.run(what, true, work).await
    }

    /// Does `work` on a connection, within the timeout. `again`: it changes nothing, so it is done once more when the
    /// connection breaks under it. Dropping the future may or may not undo what was sent.
    ///
    /// # Errors
    /// There is no connection to be had ([`Kind::Unavailable`], [`Kind::Busy`]: nothing was done), no answer came
    /// ([`Kind::Timeout`]: it may have been done), or the server refuses.
    pub async fn run<T, W: Future<Output = Result<T, Error>>>(
        self: &Arc<Self>,
        what: &str,
        again: bool,
        work: impl Fn(Held) -> W,
    ) -> Result<T, Fault> {
        let whole = async {
            let mut tries = 0;
            loop {
                match work(self.take(what).await?).await {
                    Ok(done) => return Ok(done),
                    Err(error) => {
                        let fault = self.failed(what, &error);
                        let lost = fault.kind() == Kind::Timeout && again;
                        if tries >= 2 || !(lost || matches!(fault.kind(), Kind::Unavailable)) {
                            return Err(fault);
                        }
                        tries += 1;
                    }
                }
            }
        };
        let timeout = self.settings.timeout;
        let late = |_| {
            let why = format!("no answer within {timeout:?}; whether it was done is unknown");
            Err(self.fault(Kind::Timeout, what, &why))
        };
        tokio::time::timeout(timeout, whole).await.unwrap_or_else(late)
    }

    /// A connection, an idle one if there is one that lives.
    async fn take(self: &Arc<Self>, what: &str) -> Result<Held, Fault> {
        let permit = self.free.clone().acquire_owned().await;
        let permit = permit.map_err(|error| self.fault(Kind::Closed, what, &error))?;
        if self.is_closed() {
            return Err(Fault::new(Kind::Closed, format!("component `{}` has been closed", self.component)));
        }
        let until = Instant::now() + self.settings.timeout;
        let held = |client: Client, permit| Held {
            client: Some(client),
            pool: self.clone(),
            until,
            _permit: permit,
        };
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(client) if client.is_closed() => {}
                Some(client) => return Ok(held(client, permit)),
                None => break,
            }
        }
        let mut pause = PAUSES.0;
        for at in 0.. {
            match self.dial(|| {}).await {
                Ok(client) => return Ok(held(client, permit)),
                Err(why) if at >= TRIES => return Err(self.fault(Kind::Unavailable, what, &why)),
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.closing() => {}
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        unreachable!("the loop ends with a connection or an error")
    }

    /// A new connection; `told` is called for each notification.
    ///
    /// # Errors
    /// The database cannot be reached or refuses the login; the text says why.
    pub async fn dial(&self, told: impl Fn() + Send + Sync + 'static) -> Result<Client, String> {
        let timeout = self.settings.dial_timeout;
        let dialled = tokio::time::timeout(timeout, self.connect()).await;
        let dialled = dialled.unwrap_or_else(|_| Err(format!("no connection within {timeout:?}")));
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let (component, place) = (&self.component, &self.settings.place);
        let (client, mut connection) = match dialled {
            Ok(dialled) => {
                if let Some((at, why)) = away.take() {
                    tracing::info!(component, %place, after = ?at.elapsed(), "the database is reached again; it was not: {why}");
                }
                dialled
            }
            Err(why) => {
                if away.is_none() {
                    tracing::warn!(component, %place, "the database cannot be reached: {why}");
                    *away = Some((Instant::now(), why.clone()));
                }
                return Err(why);
            }
        };
        drop(away);
        let tasks = self.tasks.clone();
        self.tasks.spawn(task::Kind::OutboundConnection, async move {
            let messages = async {
                while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    if let AsyncMessage::Notification(_) = message {
                        told();
                    }
                }
            };
            // It ends when the connection does, or when nobody holds its client any longer.
            tokio::select! {
                () = messages => {}
                () = tasks.closing() => {}
            }
        });
        Ok(client)
    }

    async fn connect(&self) -> Result<(Client, tokio_postgres::Connection<Stream, Secured>), String> {
        let Settings { place, config, security, dial_timeout, .. } = &self.settings;
        let stream = place.connect(*dial_timeout).await?;
        let connector = match security {
            None => None,
            Some(security) => {
                let made = self.connector.get_or_try_init(|| async {
                    let (security, roots) = (security.clone(), self.roots.clone());
                    let made = tokio::task::spawn_blocking(move || security.connector(&roots)).await;
                    made.map_err(|error| error.to_string())?
                });
                Some(made.await?.clone())
            }
        };
        let tls = Tls { connector, host: place.host.clone() };
        config.connect_raw(stream, tls).await.map_err(|error| reason(&error))
    }
}

/// What went wrong, with what the client keeps behind it.
fn reason(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let usable =
            |client: &Client| !client.is_closed() && !self.pool.is_closed() && Instant::now() < self.until;
        let living = self.client.take().filter(usable);
        // There are never more of them than permits.
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(living);
    }
}

/// Runs the handshake when the server has agreed to TLS.
struct Tls {
    connector: Option<Connector>,
    host: String,
}

impl TlsConnect<Stream> for Tls {
    type Stream = Secured;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured>>;

    fn connect(self, stream: Stream) -> Self::Future {
        Box::pin(async move {
            let connector = self.connector.ok_or_else(|| io::Error::other("TLS was not asked for"))?;
            let secured = connector.connect(stream, &self.host).await;
            secured.map(Secured).map_err(|failure| io::Error::other(failure.detail.to_string()))
        })
    }
}

/// A connection with TLS.
struct Secured(Stream);

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
