//! One HTTP/1 client connection: reads heads, carries each call, keeps or ends the connection.
//!
//! Between two requests the connection holds no buffer. A call whose endpoint speaks HTTP/1 is relayed byte
//! for byte ([`crate::relay`]); any other is handed over as a parsed message ([`crate::h1_message`]).

use std::cell::OnceCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use dodai_core::call::FAILURE_HEADER;
use dodai_core::failure::{Failure, Kind};
use dodai_transport::stream::Stream;
use tokio::io::{AsyncRead, ReadBuf};

use crate::answer;
use crate::attempt::{DEFAULT_RETRY, Sent, Terms, Tries};
use crate::h1;
use crate::h1_message;
use crate::later;
use crate::pipe;
use crate::reach::{self, Reach};
use crate::refused::Refused;
use crate::relay::{self, Ended};
use crate::request::{self, Decided, Read, Request, Side};
use crate::roll::Speaks;
use crate::service::{self, Verdict, nanos, now_nanos};
use crate::spine::{self, Decision, Forward, Headers, Line, Outcome};
use crate::timer::Deadline;
use crate::wire::{Broken, Wire};
use crate::worker::Worker;

/// A client connection between and during calls.
pub struct Client {
    /// The thread it lives on.
    pub worker: Rc<Worker>,
    /// The connection.
    pub wire: Wire,
    /// Who is there.
    pub side: Side,
    /// For heads and responses.
    pub deadline: Deadline,
    /// For request bodies.
    pub upload: Deadline,
    /// Bytes that arrived beyond what was used.
    pub carry: std::cell::RefCell<Vec<u8>>,
}

/// Whether the connection lives on after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// For another request.
    Keep,
    /// Our last response is out; the client should see it whole before we close.
    Linger,
    /// At once.
    Close,
}

/// Serves a connection until it ends. `early` are bytes that were read already.
/// `deadline` is set for the end of the first head.
pub fn serve(
    worker: Rc<Worker>,
    stream: Stream,
    side: Side,
    early: Vec<u8>,
    deadline: Deadline,
) -> impl Future<Output = ()> {
    let upload = worker.deadlines.register();
    side.speaks(Speaks::Http1);
    let mut client = Client { wire: Wire::new(stream), side, deadline, upload, carry: early.into(), worker };
    // A block and not an `async fn`, which would keep its argument beside the variable that it becomes.
    async move {
        let mut first = true;
        while let Some(read) = client.next(first).await {
            first = false;
            client.side.belong_to(read.client());
            let next = match read {
                Read::More => Next::Close,
                Read::Ask(app) => {
                    Box::pin(client.worker.shared.wait_for(&app)).await;
                    client.worker.now();
                    continue;
                }
                Read::Bad(failure) => client.refuse(&failure).await,
                Read::Request(request, _) => client.call(request).await,
                Read::Connect(asked, _) => return Box::pin(pipe::connect(client, *asked)).await,
            };
            match next {
                Next::Keep if !client.is_ending() => {}
                Next::Keep | Next::Linger => return client.linger().await,
                Next::Close => return,
            }
        }
    }
}

impl Client {
    /// Whether the connection ends after the call under way.
    pub fn is_ending(&self) -> bool {
        let expired = || self.side.secure && self.wire.with(|stream| stream.is_retiring());
        let old = || self.side.left(self.worker.ticked()).is_some_and(|left| left.is_zero());
        self.worker.is_closing() || self.side.is_retired() || expired() || old()
    }

    /// Ends the connection once the client has seen our last answer whole.
    async fn linger(&self) {
        self.deadline.set(self.worker.shared.limits.linger_timeout);
        if self.wire.shutdown(&self.deadline).await.is_ok() {
            self.wire.discard(&self.worker, &self.deadline).await;
        }
    }

    /// The next request; `None` when the client is done or too slow to start one.
    async fn next(&self, first: bool) -> Option<Read> {
        let limits = &self.worker.shared.limits;
        if let Some(read) = self.read_carry() {
            return Some(read);
        }
        let mut started = !self.carry.borrow().is_empty();
        if !first {
            // A head has one deadline from its first byte: a trickle does not renew it.
            let timeout = if started { limits.head_timeout } else { limits.client_idle_timeout };
            self.deadline.set_at(self.worker.latest() + timeout);
        }
        loop {
            self.deadline.set_interruptible(!started);
            if !started && self.is_ending() {
                return None;
            }
            let got = self.wire.read(&self.worker, &self.deadline).await;
            self.deadline.set_interruptible(false);
            match got {
                Ok(0) | Err(Broken::Io(_)) => return None,
                Err(Broken::TimedOut) if started => {
                    return Some(Read::Bad(Failure::new(
                        Kind::ClientTimeout,
                        "the request head did not arrive in time",
                    )));
                }
                Err(Broken::TimedOut) => return None,
                Ok(got) => {
                    if let Some(read) = self.take(got) {
                        return Some(read);
                    }
                }
            }
            if !started && !first {
                self.deadline.set(limits.head_timeout);
            }
            started = true;
        }
    }

    /// Reads a head from what was left over.
    fn read_carry(&self) -> Option<Read> {
        let mut carry = self.carry.borrow_mut();
        if carry.is_empty() {
            return None;
        }
        let read = request::read(&carry, &self.worker, &self.side);
        match &read {
            Read::More => return None,
            Read::Ask(_) => {}
            Read::Request(_, used) | Read::Connect(_, used) => drop(carry.drain(..*used)),
            Read::Bad(_) => carry.clear(),
        }
        if carry.is_empty() {
            *carry = Vec::new();
        }
        Some(read)
    }

    /// Reads a head from `got` bytes of the scratch buffer, straight from there if nothing was left over.
    fn take(&self, got: usize) -> Option<Read> {
        if self.carry.borrow().is_empty() {
            let scratch = self.worker.scratch.borrow();
            let read = request::read(&scratch[..got], &self.worker, &self.side);
            let used = match &read {
                Read::More | Read::Ask(_) => 0,
                Read::Request(_, used) | Read::Connect(_, used) => *used,
                Read::Bad(_) => got,
            };
            self.carry.borrow_mut().extend_from_slice(&scratch[used..got]);
            return if matches!(read, Read::More) { None } else { Some(read) };
        }
        self.carry.borrow_mut().extend_from_slice(&self.worker.scratch.borrow()[..got]);
        self.read_carry()
    }

    /// Answers a request that could not be read.
    async fn refuse(&self, failure: &Failure) -> Next {
        let span = dodai_core::trace::Span::root(false);
        let lap = spine::Lap::new(
            spine::direction(&self.side.listener.role),
            self.side.label.clone(),
            span,
            self.worker.now(),
        );
        let outcome = Outcome {
            status: failure.kind.http_status(),
            failure: Some(failure.clone()),
            ..Outcome::default()
        };
        let line = || Line {
            listener: &self.side.listener.name,
            from: self.side.from(),
            headers: Headers::None,
            method: "-",
            target: "-",
            authority: "",
            protocol: "HTTP/1.1",
        };
        lap.finish(&self.worker, None, None, &outcome, line);
        self.answer_failure(failure, false, true).await;
        Next::Linger
    }

    /// Carries one call.
    async fn call(&self, mut decided: Box<Decided>) -> Next {
        // Worked on in its box: what lies here counts for every connection, also for idle ones.
        let Decided { request, decision, .. } = &mut *decided;
        if let Ok(Decision::Later(_)) = decision {
            Box::pin(self.resume(request, decision)).await;
            self.worker.now();
        }
        let mut outcome = Outcome::default();
        let (mut service, mut rule) = (None, None);
        let next = match decision {
            Ok(Decision::Forward(forward))
                if !request.upgrade && forward.hedge(request.idempotent).is_some() =>
            {
                let next = Box::pin(h1_message::hedged(self, request, forward, &mut outcome)).await;
                (service, rule) = (Some(&*forward.service), forward.rule.as_deref());
                next
            }
            Ok(Decision::Forward(forward)) => {
                let next = loop {
                    if let Some(next) = self.forward(request, forward, &mut outcome).await {
                        break next;
                    }
                    // All endpoints were closed by a newer table than the one that led here.
                    if let Some(newer) = forward.renewed(&self.worker) {
                        *forward = newer;
                    }
                };
                (service, rule) = (Some(&*forward.service), forward.rule.as_deref());
                next
            }
            Ok(Decision::External) => Box::pin(self.external(request, &mut outcome)).await,
            Ok(Decision::Later(_)) => {
                let failure = Failure::new(Kind::Internal, "a call was not decided");
                self.failed(request, failure, &mut outcome).await
            }
            Ok(Decision::Api) => Box::pin(h1_message::to_api(self, request, &mut outcome)).await,
            Ok(Decision::Answer(local)) => {
                outcome.status = local.status;
                outcome.failure = local.failure.clone();
                let next = Box::pin(self.answer_local(request, local)).await;
                rule = local.rule.as_deref();
                next
            }
            Ok(Decision::Refused(refused)) => {
                rule = Some(&*refused.1);
                self.failed(request, refused.0.clone(), &mut outcome).await
            }
            Err(failure) => self.failed(request, failure.clone(), &mut outcome).await,
        };
        self.finish(request, service, rule, &outcome);
        self.worker.recycle(std::mem::take(&mut request.bytes));
        self.worker.recycle(std::mem::take(&mut request.came));
        next
    }

    /// Counts and records a call.
    fn finish(
        &self,
        request: &Request,
        service: Option<&crate::service::Service>,
        rule: Option<&crate::route::Rule>,
        outcome: &Outcome,
    ) {
        let text = OnceCell::new();
        let line = || {
            let text = text.get_or_init(|| String::from_utf8_lossy(&request.bytes[..request.head_len]));
            head_line(text, &self.side)
        };
        request.lap.finish(&self.worker, service, rule, outcome, line);
        if let Some(facts) = &self.side.facts {
            // What a tunnel carries was counted as it went.
            let bytes = if outcome.status == 101 { [0, 0] } else { [outcome.received, outcome.sent] };
            facts.called(bytes, self.worker.ticked());
        }
    }

    /// Tries endpoints of a service until one answers. `None` if all were closed and a newer table knows others.
    async fn forward(&self, request: &mut Request, forward: &Forward, outcome: &mut Outcome) -> Option<Next> {
        let (service, limits) = (&forward.service, &self.worker.shared.limits);
        let start = request.lap.start;
        let terms = forward.terms(start, limits);
        let retry = terms.retry.unwrap_or(&DEFAULT_RETRY);
        if let Some(next) = self.begin(request, forward, &terms, outcome).await {
            return Some(next);
        }
        let mut tries = Tries::new(&terms, request.idempotent, start, forward.left.map(|left| start + left));
        loop {
            // The first try follows at once upon the head.
            let now = if tries.tried().is_empty() { start } else { self.worker.now() };
            let nanos = nanos(now);
            let endpoint = match service.pick_at(nanos, &forward.wish(tries.tried())) {
                Ok(endpoint) => endpoint,
                Err(failure) => match forward.renewed(&self.worker) {
                    Some(_) => return None,
                    None => return Some(self.failed(request, failure, outcome).await),
                },
            };
            tries.begin(endpoint.id);
            outcome.retries = tries.retries();
            outcome.endpoint = Some(endpoint.clone());
            let attempt = endpoint.attempt(nanos);
            let deadline = tries.try_deadline(&terms, now);
            self.deadline.set_at(deadline);
            if now > start {
                self.tell_left(request, tries.told(&terms, service, now));
            }
            let again = |refused: Refused, sent: Sent| {
                tries.again_after_status(retry, refused, sent, &service.budget, tokio::time::Instant::now)
            };
            let arrived = if later::is_deep(&service.inbound) {
                match Box::pin(self.arrive(request, forward, &endpoint, outcome)).await {
                    Ok(Some(next)) => return Some(next),
                    Ok(None) => Ok(()),
                    Err(failure) => Err(failure),
                }
            } else {
                Ok(())
            };
            // Looked at where it lies: what is moved out of it would count twice for every connection.
            let ended = match arrived.and_then(|()| self.reach(request, forward, &endpoint)) {
                Err(failure) => Ended::Failed(failure, Sent::NOTHING),
                Ok(Reach::Http1(ref target)) if !request.http10 && !forward.is_throttled(request.upgrade) => {
                    relay::once(self, request, forward, target, &terms, &again, outcome).await
                }
                Ok(other) => {
                    Box::pin(h1_message::once(
                        self, request, forward, other, &terms, deadline, &again, outcome,
                    ))
                    .await
                }
            };
            match ended {
                Ended::Answered(next) => {
                    let at = outcome.answered_at.map_or_else(now_nanos, service::nanos);
                    service.answered(&attempt, Verdict::of(outcome.status, outcome.grpc_status), at);
                    return Some(next);
                }
                Ended::ClientGone => {
                    outcome.failure = Some(Failure::new(Kind::ClientGone, "the client went away"));
                    return Some(Next::Close);
                }
                Ended::Cut(failure) => {
                    service.broke(attempt, failure.kind);
                    outcome.failure = Some(failure);
                    return Some(Next::Close);
                }
                Ended::Failed(failure, sent) => {
                    // One that was closed before it got anything: a deploy may have come between.
                    if failure.kind == Kind::NoEndpoint && forward.renewed(&self.worker).is_some() {
                        return None;
                    }
                    if tries.is_forgivable(&failure, sent) {
                        tries.forgive();
                        continue;
                    }
                    service.broke(attempt, failure.kind);
                    let now = tokio::time::Instant::now();
                    match tries.again(retry, &failure, sent, &service.budget, now) {
                        Some(wait) => pause(wait).await,
                        None => return Some(self.failed(request, failure, outcome).await),
                    }
                }
                Ended::Again(status, wait) => {
                    service.failed(&attempt, Verdict::Status(status));
                    drop(attempt);
                    pause(wait).await;
                }
            }
        }
    }

    /// What comes before the first try; what becomes of the connection, if none is made.
    async fn begin(
        &self,
        request: &Request,
        forward: &Forward,
        terms: &Terms<'_>,
        outcome: &mut Outcome,
    ) -> Option<Next> {
        if let Some(failure) = over_limit(request, terms.max_body) {
            return Some(self.failed(request, failure, outcome).await);
        }
        if let Some(fault) = &forward.fault {
            if let Some(next) = Box::pin(self.befall(request, fault, terms.timeout, outcome)).await {
                return Some(next);
            }
            self.worker.now();
        }
        if !forward.begun {
            forward.service.budget.deposit(terms.retry.unwrap_or(&DEFAULT_RETRY));
            if !forward.mirrors.is_empty() {
                self.mirror(request, forward);
            }
        }
        None
    }

    /// Sends copies of a call whose body is here whole.
    #[cold]
    fn mirror(&self, request: &Request, forward: &Forward) {
        let body = &request.bytes[request.head_len..];
        if !request.is_whole() || body.len() > crate::limits::KEPT_BODY {
            return crate::mirror::left_out(forward);
        }
        let mut content = Vec::new();
        let mut decoder = h1::Flow::new(request.framing, &self.worker.shared.limits);
        if let (Ok(head), Ok(_)) =
            (request.parts(), decoder.decode(body, |run| content.extend_from_slice(run)))
        {
            let span = request.lap.span;
            crate::mirror::send(&self.worker, forward, &self.side.caller, span, &head, &content.into());
        }
    }

    /// How to talk to the endpoint, after the callee's own checks if it is on this base.
    fn reach(
        &self,
        request: &Request,
        forward: &Forward,
        endpoint: &std::sync::Arc<crate::service::Endpoint>,
    ) -> Result<Reach, Failure> {
        request.lap.tried();
        let reach = reach::of(endpoint, &forward.service, &self.side.caller, &self.worker.shared)?;
        let reach = reach.by(forward.rule.as_deref()).behalf_of(&self.side);
        let inbound = &forward.service.inbound;
        if reach.is_checked_here() && !inbound.is_empty() && !later::is_deep(inbound) {
            request.parse_again(|line, headers| {
                let view = dodai_core::head::RequestHead::Raw(line.view(headers));
                spine::admit_inbound(
                    &forward.service,
                    &view,
                    &self.side.caller,
                    forward.counted.replace(true),
                )
            })??;
        }
        Ok(reach)
    }

    /// Sends a call to a host outside the mesh.
    async fn external(&self, request: &mut Request, outcome: &mut Outcome) -> Next {
        let shared = &self.worker.shared;
        let policy = dodai_core::snapshot::CallPolicy::default();
        let terms = Terms::of(None, &policy, &shared.limits);
        self.deadline.set(terms.timeout);
        let authority = request.parse_again(|line, _| line.authority.to_owned());
        let target = authority.and_then(|authority| reach::beyond(&self.side, &authority, 80));
        let ended = match target {
            Ok(target) => relay::external(self, request, &target, &terms, outcome).await,
            Err(failure) => Ended::Failed(failure, Sent::NOTHING),
        };
        match ended {
            Ended::Answered(next) => next,
            Ended::Failed(failure, _) => self.failed(request, failure, outcome).await,
            Ended::Cut(failure) => {
                outcome.failure = Some(failure);
                Next::Close
            }
            Ended::ClientGone | Ended::Again(..) => {
                outcome.failure = Some(Failure::new(Kind::ClientGone, "the client went away"));
                Next::Close
            }
        }
    }

    /// Answers a call that failed before any response byte.
    pub async fn failed(&self, request: &Request, failure: Failure, outcome: &mut Outcome) -> Next {
        outcome.status = failure.kind.http_status();
        let next = self.fail(request, &failure).await;
        outcome.failure = Some(failure);
        next
    }

    async fn fail(&self, request: &Request, failure: &Failure) -> Next {
        let close = !request.keep_alive || !request.is_whole() || request.http10 || self.is_ending();
        if request.is_grpc {
            Box::pin(self.answer_grpc(failure, close)).await;
        } else {
            self.answer_failure(failure, request.is_head, close).await;
        }
        if close { Next::Linger } else { Next::Keep }
    }

    /// Whether the client has left. Bytes of a further request are kept.
    pub fn is_gone(&self, cx: &mut std::task::Context<'_>) -> bool {
        if !self.carry.borrow().is_empty() {
            return false;
        }
        let mut byte = [0u8; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        match self.wire.with(|stream| Pin::new(stream).poll_read(cx, &mut buffer)) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => true,
            Poll::Ready(Ok(())) => {
                self.carry.borrow_mut().extend_from_slice(buffer.filled());
                false
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    /// Writes the answer for `failure`.
    async fn answer_failure(&self, failure: &Failure, is_head: bool, close: bool) {
        let (status, headers, body) = answer::failure_answer(failure);
        let mut out = self.worker.buffer();
        h1::write_local_response(&mut out, status, &headers, &body, close, is_head);
        self.send(out).await;
    }

    /// Writes the answer for `failure` in gRPC's trailers-only form.
    async fn answer_grpc(&self, failure: &Failure, close: bool) {
        let status = failure.kind.grpc_status().to_string();
        let message = crate::answer::grpc_message(&failure.to_string());
        let code = failure.kind.code();
        let headers = [
            ("content-type", "application/grpc"),
            ("grpc-status", &status),
            ("grpc-message", &message),
            (FAILURE_HEADER, code),
        ];
        let mut out = self.worker.buffer();
        h1::write_local_response(&mut out, 200, &headers, "", close, false);
        self.send(out).await;
    }

    pub async fn answer_local(&self, request: &Request, local: &spine::Local) -> Next {
        let close = !request.keep_alive || !request.is_whole() || request.http10 || self.is_ending();
        let mut out = self.worker.buffer();
        if request.is_grpc {
            h1::write_local_map(&mut out, 200, &local.grpc().head.headers, "", close, false);
        } else {
            let (headers, is_head) = (&local.headers, request.is_head);
            h1::write_local_map(&mut out, local.status, headers, &local.body, close, is_head);
        }
        self.send(out).await;
        if close { Next::Linger } else { Next::Keep }
    }

    /// Writes a whole local answer; a client that does not take it is given up on.
    pub async fn send(&self, out: Vec<u8>) {
        self.deadline.set(self.worker.shared.limits.linger_timeout);
        if self.wire.write_all(&out, &self.deadline).await.is_ok() {
            let _gone = self.wire.flush(&self.deadline).await;
        }
        self.worker.recycle(out);
    }
}

/// Waits between two tries.
async fn pause(wait: Duration) {
    Box::pin(tokio::time::sleep(wait)).await;
}

/// Why a body is refused at once: by the length it announces, or by what came with the head.
pub fn over_limit(request: &Request, max: Option<u64>) -> Option<Failure> {
    let max = max?;
    let length = match request.framing {
        h1::Framing::Length(length) => length,
        h1::Framing::Empty | h1::Framing::Chunked | h1::Framing::UntilClose => {
            (request.bytes.len() - request.head_len) as u64 - request.upload.coding()
        }
    };
    let text = || format!("the body is {length} bytes or more; at most {max} are allowed here");
    (length > max).then(|| Failure::new(Kind::BodyTooLarge, text()))
}

/// The access log's view of a written head.
fn head_line<'a>(head: &'a str, side: &'a Side) -> Line<'a> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (method, target) = (words.next().unwrap_or("-"), words.next().unwrap_or("-"));
    let host =
        lines.find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("host")));
    let authority = host.map_or("", |(_, value)| value);
    let (listener, from, headers) = (&side.listener.name, side.from(), Headers::Text(head));
    Line { listener, from, headers, method, target, authority, protocol: "HTTP/1.1" }
}
