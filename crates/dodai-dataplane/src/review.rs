//! What goes on longer than the table that let it in is asked again by a newer one: by the rules that say who may call,
//! of the head that it came with and of what its token claimed then.
//!
//! As long as there is no new table this costs a call one comparison of numbers with each piece that it moves. Always holds:
//! what cannot be known any more (`Known`) cuts nobody, nor does a token that ends while its call is under way.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{RequestHead, host_of, port_of};
use dodai_core::id::{AppId, ServiceId};
use dodai_core::snapshot::{Listener, Role};
use http::request::Parts;
use tokio::time::Instant;

use crate::filter::{Filter, Known, Seen};
use crate::forward::{Forward, Proven};
use crate::h2::Block;
use crate::h2_call::View;
use crate::identity::Certified;
use crate::jwt::{Claims, NoKeys};
use crate::lap::Lap;
use crate::matcher;
use crate::request::{Request, Side};
use crate::route::Rule;
use crate::serve_h1::Client;
use crate::service::Service;
use crate::spine::BASE_LABEL;
use crate::table::Table;
use crate::worker::{Shared, Worker};

/// Something under way, as it is asked again.
pub struct Review<'a> {
    /// Where it came in.
    pub listener: &'a Listener,
    /// Who calls.
    pub caller: &'a Caller,
    /// The address of a gateway's client, or nothing.
    pub client: &'a str,
    /// The certificate that it has shown.
    pub certified: Option<&'a Certified>,
    /// When it came.
    pub start: Instant,
    /// The service that it went to.
    pub service: Option<&'a ServiceId>,
    /// The head that it came with.
    pub came: RequestHead<'a>,
    /// The head that its service saw; `None` where another base sees to what the service asks.
    pub went: Option<RequestHead<'a>>,
    /// What its token claimed by the filters of its rule.
    pub claims: Option<&'a Claims>,
    /// What its token claimed by those of its service.
    pub proven: Option<&'a Proven>,
    /// The service that a tunnel was asked for, which its head does not tell.
    pub meant: Option<&'a ServiceId>,
}

impl Review<'_> {
    /// Whether `table` would let it in.
    ///
    /// # Errors
    /// It would not.
    pub fn still_allowed(&self, table: &Table) -> Result<(), Failure> {
        self.allowed(table).map_err(|failure| {
            Failure::new(Kind::Denied, format!("{} any more: the policy changed meanwhile", failure.detail))
        })
    }

    /// Where no rule leads nothing is said: that endpoints go is not a matter of who may call.
    fn allowed(&self, table: &Table) -> Result<(), Failure> {
        let client = Some(self.client).filter(|client| !client.is_empty());
        let Review { came, caller, certified, start, .. } = *self;
        let seen = Seen { head: came, caller, client, certified, now: start, known: Known::All };
        let service = self.service.and_then(|id| table.service(id));
        if let Some(rule) = rule(table, self.listener, self.meant(table), &seen) {
            guards(&rule.filters, &seen, Ok(self.claims))?;
        }
        let (Some(service), Some(head)) = (service, self.went) else { return Ok(()) };
        let proved = match self.proven.map(|proven| proven.get()) {
            // No token was asked for.
            None => Ok(None),
            // It was asked for where the call arrived, on another base.
            Some(None) => Err(NoKeys),
            Some(Some(claims)) => Ok(claims.as_deref()),
        };
        guards(&service.inbound, &Seen { head, client: None, certified: None, ..seen }, proved)
    }

    /// The service whose rules hold: the one that was asked for, which need not be the one that they lead to.
    fn meant<'t>(&self, table: &'t Table) -> Option<&'t Service> {
        let meant = match &self.listener.role {
            Role::Dependency { service, .. } => table.service(service),
            Role::Outbound { app } => match self.meant {
                Some(id) => table.service(id),
                None => {
                    let authority = self.came.authority();
                    table.resolve(host_of(authority), port_of(authority), app.namespace.as_str())
                }
            },
            Role::Gateway { .. } | Role::Mesh | Role::Api { .. } | Role::Captured(_) => None,
        };
        meant.map(|service| &**service)
    }
}

/// The rule for what `seen` tells of a call to `service` through `listener`.
pub fn rule<'a>(
    table: &'a Table,
    listener: &Listener,
    service: Option<&'a Service>,
    seen: &Seen<'_>,
) -> Option<&'a Rule> {
    let rule = match &listener.role {
        Role::Gateway { routes } => table.router(routes)?.route(&seen.head, seen.caller),
        Role::Outbound { .. } | Role::Dependency { .. } => {
            service?.rules.find(&matcher::Seen::new(&seen.head, seen.caller))
        }
        Role::Mesh | Role::Api { .. } | Role::Captured(_) => None,
    };
    rule.map(|rule| &**rule)
}

/// Whether `filters` let in what was let in before, when its token had `proved` so much.
fn guards(
    filters: &[Filter],
    seen: &Seen<'_>,
    proved: Result<Option<&Claims>, NoKeys>,
) -> Result<(), Failure> {
    if !filters.iter().any(|filter| matches!(filter, Filter::Access(_))) {
        return Ok(());
    }
    let (mut claims, mut known) = (None, seen.known);
    for filter in filters {
        if let Filter::Jwt(jwt) = filter {
            match proved.and_then(|proved| jwt.again(proved, &seen.head, seen.now.elapsed())) {
                Ok(found) => claims = found.or(claims),
                Err(NoKeys) => known = Known::Head,
            }
        } else if let Filter::Access(access) = filter {
            access.check(&Seen { known, ..*seen }, claims.as_deref())?;
        }
    }
    Ok(())
}

impl Request {
    /// Whether the call may go on, as far as the newest table says; looked at once for each.
    ///
    /// # Errors
    /// That table would not let it in.
    pub fn review(&self, client: &Client, forward: Option<&Forward>) -> Result<(), Failure> {
        let epoch = client.worker.shared.epoch.load(Relaxed);
        if self.epoch.replace(epoch) == epoch { Ok(()) } else { self.ask_again(client, forward) }
    }

    #[cold]
    fn ask_again(&self, client: &Client, forward: Option<&Forward>) -> Result<(), Failure> {
        let Some(forward) = forward else { return Ok(()) };
        let side = &client.side;
        self.parse_both(|came, went| {
            let review = Review {
                listener: &side.listener,
                caller: &side.caller,
                client: &side.client,
                certified: side.certified.as_deref(),
                start: self.lap.start,
                service: Some(forward.service.id()),
                came,
                went: Some(went),
                claims: forward.claims.as_deref(),
                proven: forward.proven.as_ref(),
                meant: None,
            };
            review.still_allowed(&client.worker.shared.table.load())
        })?
    }
}

/// The head that a parsed call came with, where that is another than the one it goes on with.
pub enum Came {
    /// From inside this process.
    Parts(Box<Parts>),
    /// Over HTTP/2.
    Block(Block),
}

/// A parsed call under way. Its bodies are read on any thread, and each asks for itself.
pub struct Watched {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    caller: Arc<str>,
    client: Arc<str>,
    certified: Option<Arc<Certified>>,
    start: Instant,
    service: Arc<str>,
    came: Option<Came>,
    went: Arc<Parts>,
    claims: Option<Arc<Claims>>,
    proven: Option<Proven>,
    /// The tables that there had been when it was last looked at; no such number once it is cut.
    epoch: AtomicU64,
    cut: OnceLock<Failure>,
    /// Who waits for the answer, to be told that it is cut.
    waits: Mutex<Option<Waker>>,
}

impl Watched {
    /// A call of `side` that is sent on with the head `went`, let in when there had been `epoch` tables.
    pub fn new(
        worker: &Worker,
        side: &Side,
        lap: &Lap,
        forward: &Forward,
        came: Option<Came>,
        went: Arc<Parts>,
        epoch: u64,
    ) -> Watched {
        Watched {
            shared: worker.shared.clone(),
            listener: side.listener.clone(),
            caller: lap.caller.clone(),
            client: side.client.clone(),
            certified: side.certified.clone(),
            start: lap.start,
            service: forward.service.label.clone(),
            came,
            went,
            claims: forward.claims.clone(),
            proven: forward.proven.clone(),
            epoch: AtomicU64::new(epoch),
            cut: OnceLock::new(),
            waits: Mutex::default(),
        }
    }

    /// The name of the listener that it came in by, and the head that it went on with.
    pub fn words(&self) -> (&str, RequestHead<'_>) {
        (&self.listener.name, RequestHead::Map(&self.went))
    }

    /// Whether it may go on, as far as the newest table says. What was cut stays so.
    ///
    /// # Errors
    /// That table would not let it in.
    pub fn review(&self) -> Result<(), Failure> {
        let epoch = self.shared.epoch.load(Relaxed);
        if self.epoch.load(Relaxed) == epoch { Ok(()) } else { self.ask_again(epoch) }
    }

    /// Its `answer`, unless it is cut before that; whoever waits is woken then.
    pub fn poll_unless_cut<T>(
        &self,
        answer: Pin<&mut impl Future<Output = Result<T, Failure>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Failure>> {
        let answered = answer.poll(cx);
        if answered.is_pending() {
            let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            if !waits.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *waits = Some(cx.waker().clone());
            }
        }
        self.cut().map_or(answered, |failure| Poll::Ready(Err(failure)))
    }

    /// Why it was cut, if it was.
    pub fn cut(&self) -> Option<Failure> {
        self.cut.get().cloned()
    }

    #[cold]
    fn ask_again(&self, epoch: u64) -> Result<(), Failure> {
        if let Some(failure) = self.cut() {
            return Err(failure);
        }
        let caller = match &*self.caller {
            BASE_LABEL => Caller::Base,
            text => AppId::parse(text).map_or(Caller::Outside, Caller::App),
        };
        let service = ServiceId::parse(&self.service).ok();
        let went = RequestHead::Map(&self.went);
        let view = match &self.came {
            Some(Came::Block(block)) => Some(View::of(block)),
            Some(Came::Parts(_)) | None => None,
        };
        let came = match (&view, &self.came) {
            (Some(view), _) => view.head(),
            (None, Some(Came::Parts(parts))) => RequestHead::Map(parts),
            (None, Some(Came::Block(_)) | None) => went,
        };
        let review = Review {
            listener: &self.listener,
            caller: &caller,
            client: &self.client,
            certified: self.certified.as_deref(),
            start: self.start,
            service: service.as_ref(),
            came,
            went: Some(went),
            claims: self.claims.as_deref(),
            proven: self.proven.as_ref(),
            meant: None,
        };
        let found = review.still_allowed(&self.shared.table.load());
        match &found {
            Ok(()) => self.epoch.store(epoch, Relaxed),
            Err(failure) => {
                // Both bodies may find it at once.
                let _first = self.cut.set(failure.clone());
                self.epoch.store(u64::MAX, Relaxed);
                if let Some(waits) = self.waits.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    waits.wake();
                }
            }
        }
        found
    }
}
