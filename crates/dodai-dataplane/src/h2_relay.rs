//! HTTP/2 to HTTP/2: one call relayed between two streams without building maps of its heads.
//!
//! Both directions run at once in the task of the call. The call is committed when the response head came, or once
//! more of its body was sent than is kept; until then it may be tried again. Everything that is rare (mirrors, other
//! endpoints) goes by way of parsed messages instead.

use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dodai_core::call::tells_identity;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edit, Edits, is_idempotent};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::attempt::{Sent, Terms};
use crate::client_h2::{self, Link};
use crate::endpoint::Need;
use crate::h2::{self, Block, Gone, Piece, Pseudo, Receiving, Sending};
use crate::h2_body;
use crate::h2_call::{View, is_grpc};
use crate::limits::{KEPT_BODY, KEPT_PIECES};
use crate::reach::Target;
use crate::refused::Refused;
use crate::request::Side;
use crate::review::Review;
use crate::service::Place;
use crate::spine::{Forward, Lap, Outcome};
use crate::timer::{Deadline, Patience};
use crate::trailers::allowed;
use crate::worker::Worker;

/// The client's side of a call.
pub struct Downstream {
    /// The head that arrived.
    pub head: Block,
    /// What changes in it.
    pub edits: Edits,
    receiving: Receiving,
    sending: Sending,
    /// What came of the body before the call was committed, for another try.
    kept: SmallVec<[Bytes; 2]>,
    kept_bytes: usize,
    trailers: Option<Block>,
    /// Whether something was sent that is not kept.
    lost: bool,
    ended: bool,
    received: u64,
    /// The tables that there had been when it was last looked at.
    pub epoch: u64,
}

/// How a try ended.
pub enum Ended {
    /// The client has its response.
    Answered,
    /// The client went away.
    ClientGone,
    /// It failed after the response had begun.
    Cut(Failure),
    /// It failed before; this much had been sent.
    Failed(Failure, Sent),
    /// The endpoint answered with a status that is tried again after this wait.
    Again(u16, Duration),
}

/// Whether an answer is tried again, and after which wait. A yes is charged to the retry budget.
pub type Again<'a> = &'a dyn Fn(Refused, Sent) -> Option<Duration>;

impl Downstream {
    /// A call that has just arrived.
    pub fn new(head: Block, edits: Edits, receiving: Receiving, sending: Sending, epoch: u64) -> Downstream {
        let ended = receiving.is_end();
        Downstream {
            head,
            edits,
            receiving,
            sending,
            kept: SmallVec::new(),
            kept_bytes: 0,
            trailers: None,
            lost: false,
            ended,
            received: 0,
            epoch,
        }
    }

    /// Its parts, for another way to carry it. Only before the first try.
    pub fn into_parts(self) -> (Block, Edits, Receiving, Sending) {
        (self.head, self.edits, self.receiving, self.sending)
    }

    /// Bytes of the body so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What is lost if this try fails.
    fn sent(&self) -> Sent {
        if self.lost { Sent::BODY } else { Sent::HEAD }
    }

    /// The stream that the answer goes out on.
    pub fn sending(&mut self) -> &mut Sending {
        &mut self.sending
    }

    fn keep(&mut self, data: &Bytes) {
        self.received += data.len() as u64;
        self.kept_bytes += data.len();
        if self.lost || self.kept_bytes > KEPT_BODY || self.kept.len() >= KEPT_PIECES {
            self.lost = true;
            self.kept = SmallVec::new();
        } else {
            self.kept.push(data.clone());
        }
    }
}

/// One try at an HTTP/2 endpoint.
#[expect(clippy::too_many_arguments, reason = "one call's parts, used once")]
pub async fn once(
    worker: &std::rc::Rc<Worker>,
    side: &Side,
    client: &mut Downstream,
    forward: &Forward,
    target: &Target,
    terms: &Terms<'_>,
    deadline: &Deadline,
    again: Again<'_>,
    lap: &Lap,
    outcome: &mut Outcome,
) -> Ended {
    let whole = client.ended && client.kept.is_empty() && client.trailers.is_none();
    let open = |link: &Link| {
        let bodiless = client.head.get(b":method") == Some(b"HEAD");
        link.open(whole, bodiless, |encoder, out| {
            write_request(encoder, out, &client.head, &client.edits, target.key.tls.is_some());
        })
    };
    let need = Need::of(client.head.get(b":method").is_some_and(is_idempotent));
    let opening = client_h2::open(worker, target, &forward.service.spec.breaker, need, open);
    let Some(opened) = deadline.bound(opening).await else {
        let text = format!("no connection to {} became free in time", target.key.address);
        return Ended::Failed(Failure::new(Kind::Timeout, text), Sent::NOTHING);
    };
    let (link, receiving, sending) = match opened {
        Ok(opened) => opened,
        Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
    };
    lap.reached();
    let mut exchange = Exchange {
        client,
        receiving,
        sending,
        worker,
        side,
        forward,
        max_body: terms.max_body,
        max_trailers: worker.shared.limits.trailer_bytes,
        patience: terms.patience,
        deadline,
        again,
        lap,
        outcome,
        replayed: 0,
        up: if whole { Up::Done } else { Up::Next },
        down: Down::Head,
    };
    let ended = std::future::poll_fn(|cx| exchange.poll(cx)).await;
    exchange.conclude(ended, &link, target)
}

/// The two directions of a try.
struct Exchange<'a> {
    client: &'a mut Downstream,
    receiving: Receiving,
    sending: Sending,
    worker: &'a Worker,
    side: &'a Side,
    forward: &'a Forward,
    max_body: Option<u64>,
    max_trailers: usize,
    patience: Patience,
    deadline: &'a Deadline,
    again: Again<'a>,
    lap: &'a Lap,
    outcome: &'a mut Outcome,
    /// How many of the kept pieces were sent in this try.
    replayed: usize,
    up: Up,
    down: Down,
}

/// How far the request is.
enum Up {
    /// The next piece is to be taken.
    Next,
    /// A piece waits for room; whether it is the last.
    Data(Bytes, bool),
    Done,
}

/// How far the response is.
enum Down {
    Head,
    Next,
    Data(Bytes, bool),
    Done,
}

/// Why both directions stopped.
enum Stop {
    Answered,
    ClientGone,
    /// The endpoint's stream ended early.
    Endpoint(Gone),
    Failed(Failure),
    Again(u16, Duration),
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let down = self.poll_down(cx);
        if down.is_ready() {
            return down;
        }
        if let Poll::Ready(stop) = self.poll_up(cx) {
            return Poll::Ready(stop);
        }
        if self.client.sending.poll_gone(cx).is_ready() {
            return Poll::Ready(Stop::ClientGone);
        }
        if self.deadline.poll_fired(cx) {
            return Poll::Ready(Stop::Failed(self.late()));
        }
        Poll::Pending
    }

    fn late(&self) -> Failure {
        match self.down {
            Down::Head => {
                let text = format!("{} did not answer in time", self.forward.service.label);
                Failure::new(Kind::Timeout, text)
            }
            Down::Next => self.patience.late(Kind::Idle, "the response body stood still for too long"),
            Down::Data(..) | Down::Done => {
                self.patience.late(Kind::Idle, "the client took nothing for too long")
            }
        }
    }

    /// Moves the request on. Ready only when the call stops.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        loop {
            match &mut self.up {
                Up::Done => return Poll::Pending,
                Up::Data(data, end) => {
                    let end = *end;
                    match self.sending.poll_data(cx, data, end) {
                        Poll::Pending => return Poll::Pending,
                        // What the endpoint has to say comes on the other half.
                        Poll::Ready(Err(_)) => self.up = Up::Done,
                        Poll::Ready(Ok(())) => self.up = if end { Up::Done } else { Up::Next },
                    }
                    self.progress();
                }
                Up::Next => {
                    if let Some(kept) = self.client.kept.get(self.replayed) {
                        self.up = Up::Data(kept.clone(), false);
                        self.replayed += 1;
                    } else if self.client.ended {
                        self.end_request();
                    } else {
                        match self.client.receiving.poll_piece(cx) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(piece) => {
                                if let Err(stop) = self.take(piece) {
                                    return Poll::Ready(stop);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Takes a piece of the request from the client.
    fn take(&mut self, piece: Option<Result<Piece, Gone>>) -> Result<(), Stop> {
        self.review().map_err(Stop::Failed)?;
        match piece {
            Some(Ok(Piece::Data(data))) => {
                self.client.keep(&data);
                if self.max_body.is_some_and(|max| self.client.received > max) {
                    let text = "the body is larger than this route allows";
                    return Err(Stop::Failed(Failure::new(Kind::BodyTooLarge, text)));
                }
                self.replayed = self.client.kept.len();
                let end = self.client.receiving.is_end();
                self.client.ended = end;
                self.up = Up::Data(data, end);
            }
            Some(Ok(Piece::Trailers(block))) => {
                if let Some(failure) = self.unfit(&block, Kind::BadRequest) {
                    return Err(Stop::Failed(failure));
                }
                self.client.trailers = Some(block);
                self.client.ended = true;
            }
            None => self.client.ended = true,
            Some(Ok(Piece::Interim(_) | Piece::Head(_)) | Err(_)) => return Err(Stop::ClientGone),
        }
        Ok(())
    }

    fn end_request(&mut self) {
        match &self.client.trailers {
            Some(block) => {
                self.sending.head(true, |encoder, out| {
                    h2::write_fields(encoder, out, allowed(block.iter()));
                });
                self.up = Up::Done;
            }
            None => self.up = Up::Data(Bytes::new(), true),
        }
    }

    /// Moves the response on. Ready when the call stops.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        loop {
            match &mut self.down {
                Down::Done => return Poll::Ready(Stop::Answered),
                Down::Data(data, end) => {
                    let end = *end;
                    match std::task::ready!(self.client.sending.poll_data(cx, data, end)) {
                        Err(_) => return Poll::Ready(Stop::ClientGone),
                        Ok(()) => self.down = if end { Down::Done } else { Down::Next },
                    }
                    self.progress();
                }
                Down::Head | Down::Next => {
                    let piece = std::task::ready!(self.receiving.poll_piece(cx));
                    if let Some(stop) = self.pass_on(piece) {
                        return Poll::Ready(stop);
                    }
                }
            }
        }
    }

    /// Passes a piece of the response on, if the call may still have it.
    fn pass_on(&mut self, piece: Option<Result<Piece, Gone>>) -> Option<Stop> {
        if let Err(failure) = self.review() {
            return Some(Stop::Failed(failure));
        }
        match piece {
            Some(Ok(Piece::Interim(head))) => {
                self.client.sending.head(false, |encoder, out| {
                    h2::write_fields(encoder, out, head.iter());
                });
            }
            Some(Ok(Piece::Head(head))) => return self.head(&head),
            Some(Ok(Piece::Data(data))) => {
                self.outcome.sent += data.len() as u64;
                self.down = Down::Data(data, self.receiving.is_end());
            }
            Some(Ok(Piece::Trailers(block))) => match self.unfit(&block, Kind::Protocol) {
                Some(failure) => return Some(Stop::Failed(failure)),
                None => self.trailers(&block),
            },
            None => self.down = Down::Data(Bytes::new(), true),
            Some(Err(gone)) => return Some(Stop::Endpoint(gone)),
        }
        None
    }

    /// The head of the response came: the call is committed, or tried again.
    fn head(&mut self, head: &Block) -> Option<Stop> {
        if head.is_oversized() {
            let text = format!("{}: the response head is too large", self.forward.service.label);
            return Some(Stop::Failed(Failure::new(Kind::Protocol, text)));
        }
        let status = head.get(b":status").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let status = status.unwrap_or(0);
        let refused = Refused::of(status, || head.get(b"retry-after"));
        if let Some(wait) = (self.again)(refused, self.client.sent()) {
            return Some(Stop::Again(status, wait));
        }
        self.outcome.status = status;
        self.outcome.answered(self.lap, Instant::now());
        self.lap.note(self.worker, |name| head.get(name.as_bytes()));
        self.outcome.grpc_status = grpc_status(head);
        let end = self.receiving.is_end();
        let mut edits = Edits::new();
        self.forward.response_edits(self.outcome.endpoint.as_deref(), &mut edits);
        self.client.sending.head(end, |encoder, out| {
            h2::write_response(encoder, out, status, std::iter::empty());
            write_edited(encoder, out, head, &edits, false);
        });
        // There is no other try any more; what this one has yet to send stays.
        self.client.lost = true;
        if self.replayed >= self.client.kept.len() {
            self.client.kept = SmallVec::new();
            self.replayed = 0;
        }
        self.down = if end { Down::Done } else { Down::Next };
        self.deadline.set_at(self.patience.due());
        None
    }

    /// Why trailers cannot pass.
    fn unfit(&self, trailers: &Block, kind: Kind) -> Option<Failure> {
        let most = self.max_trailers;
        if trailers.is_oversized() || trailers.size() > most {
            return Some(Failure::new(kind, format!("trailers of more than {most} bytes")));
        }
        let claims = trailers.iter().any(|(name, ..)| tells_identity(name));
        claims.then(|| Failure::new(kind, "a trailer says who calls"))
    }

    /// Whether the call may go on, as far as the newest table says; looked at once for each.
    fn review(&mut self) -> Result<(), Failure> {
        let epoch = self.worker.shared.epoch.load(Relaxed);
        if std::mem::replace(&mut self.client.epoch, epoch) == epoch { Ok(()) } else { self.ask_again() }
    }

    #[cold]
    fn ask_again(&self) -> Result<(), Failure> {
        let (side, view) = (self.side, View::of(&self.client.head));
        let endpoint = self.outcome.endpoint.as_deref();
        let arrives = endpoint.is_some_and(|endpoint| !matches!(endpoint.place, Place::Mesh { .. }));
        let review = Review {
            listener: &side.listener,
            caller: &side.caller,
            client: &side.client,
            certified: side.certified.as_deref(),
            start: self.lap.start,
            service: Some(self.forward.service.id()),
            came: view.head(),
            // The base where it arrives sees it with what was changed here.
            went: arrives.then(|| view.head()),
            claims: self.forward.claims.as_deref(),
            proven: self.forward.proven.as_ref(),
            meant: None,
        };
        review.still_allowed(&self.worker.shared.table.load())
    }

    fn trailers(&mut self, block: &Block) {
        self.outcome.grpc_status = grpc_status(block).or(self.outcome.grpc_status);
        self.client.sending.head(true, |encoder, out| {
            h2::write_fields(encoder, out, allowed(block.iter()));
        });
        self.down = Down::Done;
    }

    /// Something moved: once the head is out, only standing still ends the call.
    fn progress(&self) {
        if !matches!(self.down, Down::Head) {
            self.deadline.set_at(self.patience.due());
        }
    }

    fn conclude(mut self, stop: Stop, link: &Link, target: &Target) -> Ended {
        let begun = !matches!(self.down, Down::Head);
        let sent = self.client.sent();
        match stop {
            Stop::Answered => Ended::Answered,
            Stop::Again(status, wait) => Ended::Again(status, wait),
            Stop::ClientGone => Ended::ClientGone,
            Stop::Endpoint(gone) => {
                let failure = client_h2::answer_failure(gone, target, link);
                self.cut(begun, &failure);
                if begun { Ended::Cut(failure) } else { Ended::Failed(failure, sent) }
            }
            Stop::Failed(failure) => {
                self.sending.reset(h2_body::reset_reason(&failure));
                self.cut(begun, &failure);
                if begun { Ended::Cut(failure) } else { Ended::Failed(failure, sent) }
            }
        }
    }

    /// Tells the client that its response is not whole.
    fn cut(&mut self, begun: bool, failure: &Failure) {
        if begun {
            // Trailers cannot overtake what waits for room.
            let is_grpc = matches!(self.down, Down::Next) && is_grpc(&self.client.head);
            if is_grpc && failure.kind == Kind::Overtime {
                self.outcome.grpc_status = Some(failure.kind.grpc_status());
            }
            h2_body::cut(&mut self.client.sending, failure, is_grpc);
        }
    }
}

/// The status in a gRPC response's trailers, or in its head if it has nothing else.
fn grpc_status(block: &Block) -> Option<u8> {
    std::str::from_utf8(block.get(b"grpc-status")?).ok()?.parse().ok()
}

/// Writes a request that arrived as `head` for the next hop.
fn write_request(encoder: &mut h2::Encoder, out: &mut Vec<u8>, head: &Block, edits: &Edits, secure: bool) {
    let mut pseudo = Pseudo::of(head);
    for edit in edits.iter() {
        match edit {
            Edit::Target(target) => pseudo.path = std::str::from_utf8(target).unwrap_or(pseudo.path),
            Edit::Authority(name) => pseudo.authority = std::str::from_utf8(name).unwrap_or(pseudo.authority),
            Edit::Set(..) | Edit::Append(..) | Edit::Remove(_) => {}
        }
    }
    if secure {
        pseudo.scheme = "https";
    }
    h2::write_request(encoder, out, &pseudo, std::iter::empty());
    write_edited(encoder, out, head, edits, true);
}

/// Writes the fields of `head` that are no control data, with `edits` applied. The host of a request is control data.
fn write_edited(encoder: &mut h2::Encoder, out: &mut Vec<u8>, head: &Block, edits: &Edits, request: bool) {
    for (name, value, sensitive) in head.iter() {
        let control = name.first() == Some(&b':') || (request && name == b"host");
        let replaced = || std::str::from_utf8(name).is_ok_and(|name| edits.replaces(name));
        if !control && !replaced() {
            encoder.field(name, value, sensitive, out);
        }
    }
    for (name, value) in edits.added() {
        encoder.field(name.as_str().as_bytes(), value, false, out);
    }
}
