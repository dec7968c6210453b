//! A parsed call over a kept HTTP/1 connection to an endpoint, and the reply as it arrives.
//!
//! The connection is driven by a task of its own, so that the reply's body can be pulled from anywhere;
//! dropping the reply ends the task and closes the connection.

use std::cell::Cell;
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
use dodai_transport::stream::Stream;
use tokio::sync::oneshot;

use crate::endpoint::{Keep, Taken};
use crate::h1::{self, Flow, Framing, HeaderList};
use crate::h1_message::push_end;
use crate::reach::{Address, Target};
use crate::timer::Deadline;
use crate::wire::{Broken, Wire};
use crate::worker::Worker;

/// Sends a call and waits for the head of the reply. The caller bounds the wait.
pub async fn send(worker: &Rc<Worker>, target: Target, call: Call, caps: &Breaker) -> Result<Reply, Failure> {
    let (stream, keep, reused) = match worker.pools.take(&target.key, caps).await? {
        Taken::Kept(lease) => {
            let (stream, keep) = lease.split();
            (stream, keep, true)
        }
        Taken::New(slot) => {
            let (stream, keep) = slot.fill(dial(worker, &target.address).await?).split();
            (stream, keep, false)
        }
    };
    let (answer, answered) = oneshot::channel();
    let name = target.key.address.clone();
    let drive = Drive { worker: worker.clone(), up: Wire::new(stream), deadline: worker.deadlines.register(), reused, name };
    worker.tasks.spawn_local(task::Kind::Call, drive.run(keep, call, answer));
    answered.await.unwrap_or_else(|_| Err(Failure::new(Kind::Internal, "the call's task ended without an answer")))
}

/// Connects to an endpoint.
pub async fn dial(worker: &Worker, address: &Address) -> Result<Stream, Failure> {
    let shared = &worker.shared;
    match address {
        Address::Socket(address) => shared.network.connect_addr(*address, shared.limits.connect_timeout).await,
        Address::Host(host, port) => shared.network.connect(host, *port, shared.limits.connect_timeout).await,
    }
}

struct Drive {
    worker: Rc<Worker>,
    up: Wire,
    deadline: Deadline,
    reused: bool,
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
        let uploaded = Cell::new(false);
        let upload = async {
            let done = self.upload(out, body, framing).await;
            uploaded.set(done);
            if !done { std::future::pending::<()>().await }
        };
        let whole = {
            let mut upload = std::pin::pin!(upload);
            let mut respond = std::pin::pin!(self.respond(is_head, answer));
            let mut uploading = true;
            poll_fn(|cx| {
                if uploading && upload.as_mut().poll(cx).is_ready() {
                    uploading = false;
                }
                respond.as_mut().poll(cx)
            })
            .await
        };
        if whole && uploaded.get() {
            keep.keep(self.up.into_inner());
        }
    }

    /// Writes head and body; whether all went out.
    async fn upload(&self, mut out: Vec<u8>, mut body: Body, framing: Framing) -> bool {
        // Small whole bodies go with the head in one write.
        if let Framing::Length(length) = framing
            && length <= 4096
            && let Some(Ok(frame)) = poll_fn(|cx| {
                match http_body::Body::poll_frame(std::pin::Pin::new(&mut body), cx) {
                    Poll::Ready(frame) => Poll::Ready(frame),
                    Poll::Pending => Poll::Ready(None),
                }
            })
            .await
            && let Some(data) = frame.data_ref()
        {
            out.extend_from_slice(data);
        }
        if self.up.write_all(&out, &self.deadline).await.is_err() {
            return false;
        }
        self.worker.recycle(out);
        if framing == Framing::Empty {
            return self.up.flush().await.is_ok();
        }
        let mut chunk = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            chunk.clear();
            match frame.into_data() {
                Ok(data) if framing == Framing::Chunked && !data.is_empty() => {
                    chunk.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                    chunk.extend_from_slice(&data);
                    chunk.extend_from_slice(b"\r\n");
                }
                Ok(data) => chunk.extend_from_slice(&data),
                Err(frame) => {
                    if framing == Framing::Chunked {
                        push_end(&mut chunk, frame.trailers_ref());
                        return self.up.write_all(&chunk, &self.deadline).await.is_ok() && self.up.flush().await.is_ok();
                    }
                }
            }
            if self.up.write_all(&chunk, &self.deadline).await.is_err() {
                return false;
            }
        }
        if framing == Framing::Chunked && self.up.write_all(b"0\r\n\r\n", &self.deadline).await.is_err() {
            return false;
        }
        self.up.flush().await.is_ok()
    }

    /// Reads the response; whether the connection can be kept.
    async fn respond(&self, is_head: bool, mut answer: Sender) -> bool {
        let mut carry = Vec::new();
        let (head, parsed, used) = loop {
            let got = tokio::select! {
                // Both sides only wait: dropping either loses nothing.
                got = self.up.read(&self.worker, &self.deadline) => got,
                () = answer.closed() => return false,
            };
            let got = match got {
                Ok(0) => {
                    let error = std::io::ErrorKind::UnexpectedEof;
                    return self.broken(Broken::Io(error.into()), carry.is_empty(), answer);
                }
                Ok(got) => got,
                Err(broken) => return self.broken(broken, carry.is_empty(), answer),
            };
            carry.extend_from_slice(&self.worker.scratch.borrow()[..got]);
            match self.head(&carry, is_head) {
                Ok(None) => {}
                Ok(Some((parts, parsed))) if parts.status.is_informational() => {
                    if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
                        let failure = Failure::new(Kind::Protocol, format!("{} switched protocols", self.name));
                        return gone(answer.send(Err(failure)));
                    }
                    carry.drain(..parsed.len);
                }
                Ok(Some((parts, parsed))) => break (parts, parsed, parsed.len),
                Err(failure) => return gone(answer.send(Err(failure))),
            }
        };
        let mut flow = Flow::new(parsed.framing, &self.worker.shared.limits);
        let length = match parsed.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        let rest = carry.split_off(used);
        let mut content = Vec::new();
        let mut trailers = Vec::new();
        let decoded = flow.decode_with(&rest, |run| content.extend_from_slice(run), |byte| trailers.push(byte));
        let clean = decoded == Ok(rest.len());
        if flow.is_done() && trailers.len() <= 2 {
            let body = if is_head { Body::empty() } else { Body::full(content) };
            return answer.send(Ok(Reply { head, body })).is_ok() && clean && parsed.keep_alive;
        }
        let (mut writer, body) = pipe(CREDIT, length);
        if answer.send(Ok(Reply { head, body })).is_err() {
            return false;
        }
        if let Err(bad) = decoded {
            writer.fail(Failure::new(Kind::Protocol, bad.0));
            return false;
        }
        let _first = writer.push(Bytes::from(content));
        self.download(flow, writer, trailers).await && clean && parsed.keep_alive
    }

    /// Feeds the rest of the body to the reply; whether it ended well and nothing else came.
    async fn download(&self, mut flow: Flow, mut writer: Writer, mut trailers: Vec<u8>) -> bool {
        while !flow.is_done() {
            if poll_fn(|cx| writer.poll_ready(cx)).await.is_err() {
                return false;
            }
            let got = tokio::select! {
                // Both sides only wait: dropping either loses nothing.
                got = self.up.read(&self.worker, &self.deadline) => got,
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
                flow.decode_with(&scratch[..got], |run| content.extend_from_slice(run), |byte| trailers.push(byte))
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

    fn head(&self, bytes: &[u8], is_head: bool) -> Result<Option<(http::response::Parts, h1::Parsed)>, Failure> {
        let bad = |what: String| Failure::new(Kind::Protocol, format!("{} sent a response that is not HTTP/1.1: {what}", self.name));
        let mut headers = HeaderList::new();
        let Some((line, parsed)) =
            h1::parse_response(bytes, &mut headers, is_head, false).map_err(|error| bad(error.to_string()))?
        else {
            let limit = self.worker.shared.limits.head_bytes;
            return if bytes.len() > limit { Err(bad("its head is too large".to_owned())) } else { Ok(None) };
        };
        let mut response = http::Response::builder().status(line.status);
        for (index, header) in headers.iter().enumerate() {
            if !parsed.is_hop_by_hop(index) && !header.name.eq_ignore_ascii_case("transfer-encoding") {
                response = response.header(header.name, header.value);
            }
        }
        let (parts, ()) = response.body(()).map_err(|error| bad(error.to_string()))?.into_parts();
        Ok(Some((parts, parsed)))
    }

    fn broken(&self, broken: Broken, nothing_yet: bool, answer: Sender) -> bool {
        let failure = match broken {
            Broken::TimedOut => Failure::new(Kind::Timeout, format!("{} did not answer in time", self.name)),
            Broken::Io(_) if self.reused && nothing_yet => {
                Failure::new(Kind::Stale, format!("{} closed a kept connection", self.name))
            }
            Broken::Io(error) => Failure::new(Kind::Reset, format!("{} broke the connection: {error}", self.name)),
        };
        gone(answer.send(Err(failure)))
    }
}

/// The answer was sent, or nobody wants it; either way the connection is not kept.
fn gone<T>(_sent: Result<(), T>) -> bool {
    false
}
