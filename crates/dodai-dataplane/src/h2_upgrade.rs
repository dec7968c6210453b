//! WebSockets towards endpoints that speak HTTP/2 only: the client's upgrade becomes a CONNECT with a protocol (RFC 8441),
//! where the endpoint says that it takes such. Clients of HTTP/2 come this way too, through `h2_tunnel`.

use std::future::poll_fn;
use std::task::Poll;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use bytes::Bytes;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::{Edits, RequestHead};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, UPGRADE};
use http::{HeaderMap, HeaderName, Method, request};
use tokio::time::Instant;

use crate::attempt::{Sent, Terms};
use crate::client_h2::{self, Link};
use crate::h2::{self, Block, Gone, Piece, Pseudo, Receiving, Sending};
use crate::reach::Target;
use crate::refused::{Refused, retry_after};
use crate::relay::{Again, Ended};
use crate::request::Request;
use crate::serve_h1::{Client, Next};
use crate::spine::{Forward, Outcome};
use crate::timer::Deadline;
use crate::wire::Broken;
use crate::{h1_message, h2_body, h2_head};

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// What a key is answered with (RFC 6455 section 1.3).
const ANSWER: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// One try at an endpoint.
pub async fn once(
    client: &Client,
    request: &mut Request,
    forward: &Forward,
    target: &Target,
    terms: &Terms<'_>,
    again: Again<'_>,
    outcome: &mut Outcome,
) -> Ended {
    let head = match request.parts() {
        Ok(head) => head,
        Err(failure) => return Ended::Failed(failure, Sent::NOTHING),
    };
    let Some(key) = key(&head) else {
        let text = "an endpoint that speaks HTTP/2 takes over connections for WebSockets only";
        return Ended::Failed(Failure::new(Kind::NotImplemented, text), Sent::NOTHING);
    };
    let asked = asking(&head, target.key.tls.is_some());
    let open = |link: &Link| link.open(false, false, |encoder, out| asked.write(encoder, out));
    let opening = client_h2::open_tunnel(&client.worker, target, &forward.service.spec.breaker, open);
    let late = |sent| {
        let text = format!("{} did not answer in time", target.key.address);
        Ended::Failed(Failure::new(Kind::Timeout, text), sent)
    };
    let (link, mut receiving, sending) = match client.deadline.bound(opening).await {
        Some(Ok(opened)) => opened,
        Some(Err(failure)) => return Ended::Failed(failure, Sent::NOTHING),
        None => return late(Sent::NOTHING),
    };
    let answer = match client.deadline.bound(answered(&mut receiving)).await {
        Some(Ok(answer)) => answer,
        Some(Err(gone)) => {
            return Ended::Failed(client_h2::answer_failure(gone, target, &link), Sent::HEAD);
        }
        None => return late(Sent::HEAD),
    };
    if answer.is_oversized() {
        let text = format!("{}: the response head is too large", target.key.address);
        return Ended::Failed(Failure::new(Kind::Protocol, text), Sent::HEAD);
    }
    let mut parts = match h2_head::response(&answer) {
        Ok(parts) => parts,
        Err(failure) => return Ended::Failed(failure, Sent::HEAD),
    };
    let mut edits = Edits::new();
    request.response_edits(Some(forward), outcome.endpoint.as_deref(), &mut edits);
    edits.apply_to(&mut parts.headers);
    if !parts.status.is_success() {
        let refused = Refused::of(parts.status.as_u16(), || retry_after(&parts.headers));
        if let Some(wait) = again(refused, Sent::HEAD) {
            return Ended::Again(parts.status.as_u16(), wait);
        }
        outcome.answered(&request.lap, Instant::now());
        outcome.status = parts.status.as_u16();
        drop(sending);
        let most = client.worker.shared.limits.trailer_bytes;
        let length = h2_body::announced(&parts.headers);
        let body = h2_body::received(receiving, length, most, Kind::Protocol);
        let reply = dodai_core::call::Reply { head: parts, body };
        return h1_message::write(client, request, forward, reply, terms.patience, outcome).await;
    }
    outcome.answered(&request.lap, Instant::now());
    outcome.status = 101;
    let out = switching(&parts.headers, &key);
    if client.wire.write_all(&out, &client.deadline).await.is_err()
        || client.wire.flush(&client.deadline).await.is_err()
    {
        return Ended::ClientGone;
    }
    outcome.failure = Box::pin(join(client, request, forward, receiving, sending, outcome)).await;
    Ended::Answered(Next::Close)
}

/// The key of a WebSocket that is asked for.
fn key(head: &request::Parts) -> Option<Vec<u8>> {
    let wanted = head.headers.get(UPGRADE)?.as_bytes();
    let key = head.headers.get(KEY)?;
    wanted.eq_ignore_ascii_case(b"websocket").then(|| key.as_bytes().to_vec())
}

/// The head that goes to the endpoint.
pub struct Asking {
    authority: String,
    path: String,
    scheme: &'static str,
    fields: HeaderMap,
}

/// What a WebSocket's request is over HTTP/2; `secure`: over TLS.
pub fn asking(head: &request::Parts, secure: bool) -> Asking {
    let view = RequestHead::Map(head);
    let mut fields = head.headers.clone();
    for name in [HOST, CONNECTION, UPGRADE, KEY, KEEP_ALIVE, TE, CONTENT_LENGTH] {
        fields.remove(name);
    }
    Asking {
        authority: view.authority().to_owned(),
        path: view.target().to_owned(),
        scheme: if secure { "https" } else { "http" },
        fields,
    }
}

impl Asking {
    /// Writes it.
    pub fn write(&self, encoder: &mut h2::Encoder, out: &mut Vec<u8>) {
        let head = Pseudo {
            method: Method::CONNECT.as_str(),
            scheme: self.scheme,
            authority: &self.authority,
            path: &self.path,
            protocol: Some("websocket"),
        };
        h2::write_request(encoder, out, &head, h2_head::of_map(&self.fields));
    }
}

/// The head of the answer.
async fn answered(receiving: &mut Receiving) -> Result<Block, Gone> {
    loop {
        match poll_fn(|cx| receiving.poll_piece(cx)).await {
            Some(Ok(Piece::Head(head))) => return Ok(head),
            Some(Ok(Piece::Interim(_))) => {}
            Some(Ok(Piece::Data(_) | Piece::Trailers(_))) | None => return Err(Gone::Lost),
            Some(Err(gone)) => return Err(gone),
        }
    }
}

/// The answer that opens the tunnel, as HTTP/1 writes it.
fn switching(headers: &HeaderMap, key: &[u8]) -> Vec<u8> {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ANSWER.as_bytes()].concat());
    let accept = base64::engine::general_purpose::STANDARD.encode(hash);
    let mut out =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n".to_vec();
    let own = [("sec-websocket-accept", accept.as_bytes())];
    let fields = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in own.into_iter().chain(fields.filter(|(name, _)| *name != "content-length")) {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Carries bytes both ways until both have ended; why it was cut, if it was.
async fn join(
    client: &Client,
    request: &Request,
    forward: &Forward,
    mut receiving: Receiving,
    sending: Sending,
    outcome: &mut Outcome,
) -> Option<Failure> {
    let (worker, deadline) = (&client.worker, &client.deadline);
    let idle = worker.shared.limits.pipe_idle_timeout;
    let watch = worker.live.enter_call(&client.side, request, forward);
    // Counted where others can see it while the tunnel is under way.
    let own = [std::cell::Cell::new(0_u64), std::cell::Cell::new(0_u64)];
    let facts = client.side.facts.as_deref();
    let [up, down] = facts.map_or([&own[0], &own[1]], |facts| [&facts.received, &facts.sent]);
    let before = [up.get(), down.get()];
    deadline.set(idle);
    let ahead = async {
        let first = Bytes::from(std::mem::take(&mut *client.carry.borrow_mut()));
        up.set(up.get() + first.len() as u64);
        send(&sending, first, false, deadline).await?;
        loop {
            let got = client.wire.read(worker, deadline).await.map_err(broken)?;
            deadline.set(idle);
            up.set(up.get() + got as u64);
            let data = Bytes::copy_from_slice(&worker.scratch.borrow()[..got]);
            send(&sending, data, got == 0, deadline).await?;
            if got == 0 {
                return Ok(());
            }
        }
    };
    let back = async {
        loop {
            let piece = deadline.bound(poll_fn(|cx| receiving.poll_piece(cx))).await;
            match piece.ok_or_else(|| broken(Broken::TimedOut))? {
                Some(Ok(Piece::Data(data))) => {
                    deadline.set(idle);
                    down.set(down.get() + data.len() as u64);
                    client.wire.write_all(&data, deadline).await.map_err(broken)?;
                    client.wire.flush(deadline).await.map_err(broken)?;
                }
                Some(Ok(Piece::Interim(_) | Piece::Head(_) | Piece::Trailers(_))) => {}
                Some(Err(gone)) => return Err(h2_body::failure(gone)),
                None => return client.wire.shutdown(deadline).await.map_err(broken),
            }
        }
    };
    let both = async { tokio::try_join!(ahead, back).map(|_| ()) };
    let mut both = std::pin::pin!(both);
    let ended = poll_fn(|cx| {
        if let Some(failure) = watch.as_ref().and_then(|watch| watch.poll_cut(cx)) {
            return Poll::Ready(Err(failure));
        }
        both.as_mut().poll(cx)
    })
    .await;
    (outcome.received, outcome.sent) = (up.get() - before[0], down.get() - before[1]);
    // That one of the two broke off is how tunnels end; what a policy says is told.
    ended.err().filter(|failure| failure.kind == Kind::Denied)
}

fn broken(broken: Broken) -> Failure {
    let text = match broken {
        Broken::TimedOut => "it stood still for too long".to_owned(),
        Broken::Io(error) => error.to_string(),
    };
    Failure::new(Kind::Reset, text)
}

async fn send(sending: &Sending, mut data: Bytes, end: bool, deadline: &Deadline) -> Result<(), Failure> {
    if data.is_empty() && !end {
        return Ok(());
    }
    let sent = deadline.bound(poll_fn(|cx| sending.poll_data(cx, &mut data, end))).await;
    sent.ok_or_else(|| broken(Broken::TimedOut))?.map_err(h2_body::failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_standard_says() {
        // RFC 6455 section 1.3.
        let out = switching(&HeaderMap::new(), b"dGhlIHNhbXBsZSBub25jZQ==");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
    }
}
