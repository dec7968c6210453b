//! A parsed call over a kept HTTP/1 connection to an endpoint, and the reply as it arrives.
//!
//! The connection is driven by a task of its own, so that the reply's body can be pulled from anywhere;
//! dropping the reply ends the task and closes the connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use dodai_core::body::{Body, CREDIT, Writer, pipe};
use dodai_core::call::{Call, Reply};
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::snapshot::Breaker;
use dodai_core::task;
use tokio::sync::oneshot;

use crate::endpoint::{Keep, Need, Taken};
use crate::foreign;
use crate::h1::{self, Flow, Framing, HeaderList};
use crate::h1_message::{push_data, push_end};
use crate::reach::{Target, dial};
use crate::timer::Deadline;
use crate::wire::{Broken, Wire};
use crate::worker::Worker;

/// Sends a call and waits for the head of the reply. The caller bounds the wait.
pub async fn send(worker: &Rc<Worker>, target: Target, call: Call, caps: &Breaker) -> Result<Reply, Failure> {
    let need = Need::of(RequestHead::Map(&call.head).is_idempotent());
    let (stream, keep, reused) = match worker.pools.take(&target.key, caps, need).await? {
        Taken::Kept(lease) => {
            let (stream, keep) = lease.split();
            (stream, keep, true)
        }
        Taken::New(slot) => {
            // Connecting is rare; boxed, it costs a call nothing while it does not.
            let (stream, keep) = slot.fill(Box::pin(dial(worker, &target)).await?).split();
            (stream, keep, false)
        }
    };
    let (answer, answered) = oneshot::channel();
    let name = target.key.address.clone();
    let drive = Drive {
        worker: worker.clone(),
        up: Wire::new(stream),
        deadline: worker.deadlines.register(),
        reused,
        stale: std::cell::Cell::new(false),
        name,
    };
    // Boxed, as in `serve_h2`.
    worker.tasks.spawn_local(task::Kind::Call, Box::pin(drive.run(keep, call, answer)));
    answered
        .await
        .unwrap_or_else(|_| Err(Failure::new(Kind::Internal, "the call's task ended without an answer")))
}

struct Drive {
    worker: Rc<Worker>,
    up: Wire,
    deadline: Deadline,
    reused: bool,
    /// It had been closed before it took the call.
    stale: std::cell::Cell<bool>,
    name: std::sync::Arc<str>,
}

type Sender = oneshot::Sender<Result<Reply, Failure>>;

impl Drive {
    async fn run(self, keep: Keep, call: Call, answer: Sender) {
        let Call { head, body, .. } = call;
        let is_head = head.method == http::Method::HEAD;
        let framing = match body.exact_length() {
            Some(0) if matches!(head.method.as_str(), "POST" | "PUT" | "PATCH") => Framing::Length(0),
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let mut out = self.worker.buffer();
        h1::write_map_request(&mut out, &head, RequestHead::Map(&head).authority(), framing);
        let mut uploaded = false;
        let mut answer = Some(answer);
        let ended = {
            let mut upload = std::pin::pin!(self.upload(out, body, framing));
            let mut respond = std::pin::pin!(self.respond(is_head, &mut answer));
            let mut uploading = true;
            poll_fn(|cx| {
                if uploading && let Poll::Ready(done) = upload.as_mut().poll(cx) {
                    uploading = false;
                    match done {
                        Ok(()) => uploaded = true,
                        // An endpoint that does not read on may still answer.
                        Err(Unsent::Endpoint) => {}
                        Err(Unsent::Body(failure)) => return Poll::Ready(Err(failure)),
                    }
                }
                respond.as_mut().poll(cx).map(Ok)
            })
            .await
        };
        match ended {
            Ok(true) if uploaded => keep.keep(self.up.into_inner(), tokio::time::Instant::now()),
            Ok(_) if self.stale.get() => keep.died(),
            Ok(_) => {}
            Err(failure) => {
                if let Some(answer) = answer {
                    gone(answer.send(Err(failure)));
                }
            }
        }
    }

    /// Writes head and body.
    async fn upload(&self, mut out: Vec<u8>, mut body: Body, framing: Framing) -> Result<(), Unsent> {
        let mut left = match framing {
            Framing::Length(length) => length,
            Framing::Empty | Framing::Chunked | Framing::UntilClose => u64::MAX,
        };
        loop {
            // What is at hand goes out in one write, the first of it with the head.
            let ready =
                poll_fn(|cx| Poll::Ready(http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)))
                    .await;
            let frame = match ready {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    self.write(&mut out).await?;
                    self.up.flush(&self.deadline).await?;
                    self.deadline.clear();
                    body.frame().await
                }
            };
            let Some(frame) = frame else { break };
            match frame.map_err(Unsent::Body)?.into_data() {
                Ok(data) => {
                    left = left.checked_sub(data.len() as u64).ok_or_else(|| uneven("longer"))?;
                    push_data(&mut out, &data, framing);
                }
                Err(frame) => {
                    if framing == Framing::Chunked {
                        push_end(&mut out, frame.trailers_ref());
                        self.write(&mut out).await?;
                        return Ok(self.up.flush(&self.deadline).await?);
                    }
                }
            }
            if out.len() >= 16 * 1024 {
                self.write(&mut out).await?;
            }
        }
        match framing {
            Framing::Chunked => push_end(&mut out, None),
            Framing::Length(_) if left > 0 => return Err(uneven("shorter")),
            Framing::Length(_) | Framing::Empty | Framing::UntilClose => {}
        }
        self.write(&mut out).await?;
        self.up.flush(&self.deadline).await?;
        self.deadline.clear();
        self.worker.recycle(out);
        Ok(())
    }

    /// Writes what there is, and empties it. An endpoint that does not take it for too long is given up on.
    async fn write(&self, out: &mut Vec<u8>) -> Result<(), Broken> {
        self.deadline.set(self.worker.shared.limits.idle_timeout);
        self.up.write_all(out, &self.deadline).await?;
        out.clear();
        Ok(())
    }

    /// Reads the response; whether the connection can be kept. The caller bounds the wait.
    async fn respond(&self, is_head: bool, answer: &mut Option<Sender>) -> bool {
        let mut carry = Vec::new();
        let never = self.worker.deadlines.register();
        let (head, parsed) = loop {
            // Behind an interim response the next head may be here already.
            match self.head(&carry, is_head) {
                Ok(None) => {}
                Ok(Some((parts, _))) if parts.status == http::StatusCode::SWITCHING_PROTOCOLS => {
                    let failure = Failure::new(Kind::Protocol, format!("{} switched protocols", self.name));
                    return tell(answer, Err(failure));
                }
                Ok(Some((parts, parsed))) if parts.status.is_informational() => {
                    carry.drain(..parsed.len);
                    continue;
                }
                Ok(Some(found)) => break found,
                Err(failure) => return tell(answer, Err(failure)),
            }
            let got = {
                let Some(waiting) = answer.as_mut() else { return false };
                tokio::select! {
                    // Both sides only wait: dropping either loses nothing.
                    got = self.up.read(&self.worker, &never) => got,
                    () = waiting.closed() => return false,
                }
            };
            match got {
                Ok(0) => {
                    let error = std::io::ErrorKind::UnexpectedEof;
                    return tell(answer, Err(self.broken(&Broken::Io(error.into()), carry.is_empty())));
                }
                Ok(got) => carry.extend_from_slice(&self.worker.scratch.borrow()[..got]),
                Err(broken) => return tell(answer, Err(self.broken(&broken, carry.is_empty()))),
            }
        };
        let mut flow = Flow::new(parsed.framing, &self.worker.shared.limits);
        let length = match parsed.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let rest = carry.split_off(parsed.len);
        let mut content = Vec::new();
        let mut trailers = Vec::new();
        let decoded =
            flow.decode_with(&rest, |run| content.extend_from_slice(run), |byte| trailers.push(byte));
        let clean = decoded == Ok(rest.len());
        if flow.is_done() && trailers.len() <= 2 {
            let body = if is_head { Body::empty() } else { Body::full(content) };
            return tell(answer, Ok(Reply { head, body })) && clean && parsed.keep_alive;
        }
        let (mut writer, body) = pipe(CREDIT, length);
        if !tell(answer, Ok(Reply { head, body })) {
            return false;
        }
        if let Err(bad) = decoded {
            writer.fail(Failure::new(Kind::Protocol, bad.0));
            return false;
        }
        let _first = writer.push(Bytes::from(content));
        self.download(flow, writer, trailers, &never).await && clean && parsed.keep_alive
    }

    /// Feeds the rest of the body to the reply; whether it ended well and nothing else came.
    async fn download(
        &self,
        mut flow: Flow,
        mut writer: Writer,
        mut trailers: Vec<u8>,
        never: &Deadline,
    ) -> bool {
        while !flow.is_done() {
            if poll_fn(|cx| writer.poll_ready(cx)).await.is_err() {
                return false;
            }
            let got = tokio::select! {
                // Both sides only wait: dropping either loses nothing.
                got = self.up.read(&self.worker, never) => got,
                () = writer.cancelled() => return false,
            };
            let got = match got {
                Ok(0) if matches!(flow, Flow::UntilClose) => break,
                Ok(0) => {
                    writer.fail(Failure::new(Kind::Reset, format!("{} ended in the middle", self.name)));
                    return false;
                }
                Ok(got) => got,
                Err(_) => {
                    writer.fail(Failure::new(Kind::Reset, format!("{} broke off in the middle", self.name)));
                    return false;
                }
            };
            let mut content = Vec::new();
            let decoded = {
                let scratch = self.worker.scratch.borrow();
                flow.decode_with(
                    &scratch[..got],
                    |run| content.extend_from_slice(run),
                    |byte| trailers.push(byte),
                )
            };
            let _cancelled = writer.push(Bytes::from(content));
            match decoded {
                Ok(used) if used == got => {}
                Ok(_) => {
                    writer.finish(h1::parse_trailers(&trailers));
                    return false;
                }
                Err(bad) => {
                    writer.fail(Failure::new(Kind::Protocol, bad.0));
                    return false;
                }
            }
        }
        let kept = flow.is_done();
        writer.finish(h1::parse_trailers(&trailers));
        kept
    }

    fn head(
        &self,
        bytes: &[u8],
        is_head: bool,
    ) -> Result<Option<(http::response::Parts, h1::Parsed)>, Failure> {
        let bad = |what: String| {
            Failure::new(
                Kind::Protocol,
                format!("{} sent a response that is not HTTP/1.1: {what}", self.name),
            )
        };
        let mut headers = HeaderList::new();
        let Some((line, parsed)) = h1::parse_response(bytes, &mut headers, is_head, false)
            .map_err(|error| bad(foreign::bad_answer(&error, bytes)))?
        else {
            let limit = self.worker.shared.limits.head_bytes;
            return if bytes.len() > limit { Err(bad("its head is too large".to_owned())) } else { Ok(None) };
        };
        if parsed.len > self.worker.shared.limits.head_bytes {
            return Err(bad("its head is too large".to_owned()));
        }
        let mut response = http::Response::builder().status(line.status);
        for (index, header) in headers.iter().enumerate() {
            if !parsed.is_hop_by_hop(index) && !header.name.eq_ignore_ascii_case("transfer-encoding") {
                response = response.header(header.name, header.value);
            }
        }
        let (parts, ()) = response.body(()).map_err(|error| bad(error.to_string()))?.into_parts();
        Ok(Some((parts, parsed)))
    }

    fn broken(&self, broken: &Broken, nothing_yet: bool) -> Failure {
        match broken {
            Broken::TimedOut => Failure::new(Kind::Timeout, format!("{} did not answer in time", self.name)),
            Broken::Io(_) if self.reused && nothing_yet => {
                self.stale.set(true);
                Failure::new(Kind::Stale, format!("{} closed a kept connection", self.name))
            }
            Broken::Io(error) => {
                Failure::new(Kind::Reset, format!("{} broke the connection: {error}", self.name))
            }
        }
    }
}

/// Why a request body did not go out whole.
enum Unsent {
    /// The endpoint does not take it.
    Endpoint,
    /// It failed before the endpoint.
    Body(Failure),
}

impl From<Broken> for Unsent {
    fn from(_: Broken) -> Unsent {
        Unsent::Endpoint
    }
}

/// A body that is not as long as its head says would shift the next message's start.
fn uneven(how: &str) -> Unsent {
    Unsent::Body(Failure::new(Kind::BadRequest, format!("the body is {how} than its Content-Length")))
}

/// Sends the answer if somebody still waits for it.
fn tell(answer: &mut Option<Sender>, reply: Result<Reply, Failure>) -> bool {
    let failed = reply.is_err();
    answer.take().is_some_and(|answer| answer.send(reply).is_ok()) && !failed
}

/// Nobody may want it any more, which is fine.
fn gone<T>(_sent: Result<(), T>) {}
