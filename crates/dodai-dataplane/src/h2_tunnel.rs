//! CONNECT over HTTP/2: as it is, and as WebSockets ask for it (RFC 8441).
//!
//! Such a stream is a connection of HTTP/1 in other clothes: it is served by the code for those over a line in memory,
//! so that routing, policies and pipes are the same. Tunnels are few; the copy costs nothing that counts.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use base64::Engine as _;
use bytes::Bytes;
use dodai_core::failure::{Failure, Kind};
use dodai_core::trace::random;
use dodai_transport::memory;
use dodai_transport::stream::Stream;

use crate::h1::{self, Flow, HeaderList, Parsed};
use crate::h2::{self, Block, Piece, Pseudo, Reason, Receiving, Sending};
use crate::request::Side;
use crate::serve_h1;
use crate::timer::Deadline;
use crate::wire::{Broken, Wire};
use crate::worker::Worker;

/// Serves a stream whose method is CONNECT, until the tunnel ends.
pub async fn serve(worker: &Rc<Worker>, side: &Side, head: &Block, receiving: Receiving, sending: Sending) {
    let (ours, theirs) = memory::connected(SocketAddr::from(([127, 0, 0, 1], 0)));
    let deadline = worker.deadlines.register();
    deadline.set(worker.shared.limits.head_timeout);
    // What is known of the connection is told of its streams, not of what one of them carries.
    let inner = Side { facts: None, ..side.clone() };
    let served = serve_h1::serve(worker.clone(), Stream::Memory(theirs), inner, written(head), deadline);
    let pseudo = Pseudo::of(head);
    let tunnel = Tunnel {
        worker,
        wire: Wire::new(Stream::Memory(ours)),
        never: worker.deadlines.register(),
        extended: pseudo.protocol.is_some(),
        with: side.client.as_ref(),
    };
    let mut served = std::pin::pin!(served);
    let mut carried = std::pin::pin!(tunnel.carry(receiving, sending));
    let mut serving = true;
    poll_fn(|cx| {
        // Its end says nothing: what it wrote last is still to be carried.
        serving = serving && served.as_mut().poll(cx).is_pending();
        carried.as_mut().poll(cx)
    })
    .await;
}

/// The request as HTTP/1 writes it: of a head that was checked and whose method is CONNECT.
pub fn written(head: &Block) -> Vec<u8> {
    let pseudo = Pseudo::of(head);
    let mut out = Vec::with_capacity(head.size() + 256);
    let mut line = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    line(b"host", pseudo.authority.as_bytes());
    if let Some(protocol) = pseudo.protocol {
        line(b"connection", b"upgrade");
        line(b"upgrade", protocol.as_bytes());
        if protocol.eq_ignore_ascii_case("websocket") {
            // HTTP/2 has none; who answers over HTTP/1 wants one.
            let key = [random().to_be_bytes(), random().to_be_bytes()].concat();
            line(b"sec-websocket-key", base64::engine::general_purpose::STANDARD.encode(key).as_bytes());
        }
    }
    // What follows is no content, whatever length it announces (RFC 9110 section 9.3.6).
    let own = |name: &[u8]| {
        name.starts_with(b":") || matches!(name, b"host" | b"sec-websocket-key" | b"content-length")
    };
    for (name, value, _) in head.iter().filter(|(name, ..)| !own(name)) {
        line(name, value);
    }
    out.extend_from_slice(b"\r\n");
    let first = match pseudo.protocol {
        Some(_) => format!("GET {} HTTP/1.1\r\n", pseudo.path),
        None => format!("CONNECT {} HTTP/1.1\r\n", pseudo.authority),
    };
    [first.as_bytes(), &out].concat()
}

struct Tunnel<'a> {
    worker: &'a Rc<Worker>,
    /// The client's end of the line.
    wire: Wire,
    /// The HTTP/1 side has the deadlines.
    never: Deadline,
    extended: bool,
    with: &'a str,
}

impl Tunnel<'_> {
    async fn carry(&self, mut receiving: Receiving, sending: Sending) {
        let ended = tokio::select! {
            ended = self.answer(&mut receiving, &sending) => ended,
            // A reset ends the tunnel: everything is dropped.
            _gone = poll_fn(|cx| sending.poll_gone(cx)) => return,
        };
        if let Err(failure) = ended {
            tracing::debug!(client = self.with, %failure, "a tunnel over HTTP/2 broke");
            sending.reset(Reason(CONNECT_ERROR));
        }
    }

    /// Carries the answer and, if it opens the tunnel, what follows.
    async fn answer(&self, receiving: &mut Receiving, sending: &Sending) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let (status, head, parsed) = loop {
            if let Some(found) = self.head(&bytes)? {
                break found;
            }
            let got = self.wire.read(self.worker, &self.never).await.map_err(broken)?;
            if got == 0 {
                return Err(Failure::new(Kind::Reset, "there was no answer"));
            }
            bytes.extend_from_slice(&self.worker.scratch.borrow()[..got]);
        };
        let opened = if self.extended { status == 101 } else { (200..300).contains(&status) };
        let status = if opened { 200 } else { status };
        sending.head(false, |encoder, out| h2::write_response(encoder, out, status, head.iter()));
        let rest = Bytes::from(bytes.split_off(parsed.len));
        if opened {
            return self.both_ways(rest, receiving, sending).await;
        }
        self.body(Flow::new(parsed.framing, &self.worker.shared.limits), rest, sending).await
    }

    /// Reads the head of the answer, once it is there whole.
    fn head(&self, bytes: &[u8]) -> Result<Option<(u16, Block, Parsed)>, Failure> {
        let mut headers = HeaderList::new();
        let bad = |error: h1::BadHead| Failure::new(Kind::Protocol, format!("the answer: {error}"));
        let Some((line, parsed)) =
            h1::parse_response(bytes, &mut headers, false, !self.extended).map_err(bad)?
        else {
            return Ok(None);
        };
        let mut head = Block::new();
        for (index, header) in headers.iter().enumerate() {
            let name = header.name.to_ascii_lowercase();
            let own = matches!(name.as_str(), "transfer-encoding" | "sec-websocket-accept");
            if !own && !parsed.is_hop_by_hop(index) {
                head.push(name.as_bytes(), header.value, false);
            }
        }
        Ok(Some((line.status, head, parsed)))
    }

    /// Carries the body of an answer that opens no tunnel.
    async fn body(&self, mut flow: Flow, first: Bytes, sending: &Sending) -> Result<(), Failure> {
        let mut bytes = first;
        loop {
            let mut content = Vec::new();
            let decoded = flow.decode(&bytes, |run| content.extend_from_slice(run));
            decoded.map_err(|bad| Failure::new(Kind::Protocol, bad.0))?;
            send(sending, content.into(), false).await?;
            if flow.is_done() {
                break;
            }
            let got = self.wire.read(self.worker, &self.never).await.map_err(broken)?;
            if got == 0 {
                break;
            }
            bytes = Bytes::copy_from_slice(&self.worker.scratch.borrow()[..got]);
        }
        send(sending, Bytes::new(), true).await
    }

    /// Carries bytes both ways until both have ended.
    async fn both_ways(
        &self,
        first: Bytes,
        receiving: &mut Receiving,
        sending: &Sending,
    ) -> Result<(), Failure> {
        let back = async {
            send(sending, first, false).await?;
            loop {
                let got = self.wire.read(self.worker, &self.never).await.map_err(broken)?;
                let data = Bytes::copy_from_slice(&self.worker.scratch.borrow()[..got]);
                send(sending, data, got == 0).await?;
                if got == 0 {
                    return Ok(());
                }
            }
        };
        let ahead = async {
            loop {
                match poll_fn(|cx| receiving.poll_piece(cx)).await {
                    Some(Ok(Piece::Data(data))) => {
                        self.wire.write_all(&data, &self.never).await.map_err(broken)?;
                    }
                    Some(Ok(Piece::Interim(_) | Piece::Head(_) | Piece::Trailers(_))) => {}
                    Some(Err(gone)) => return Err(crate::h2_body::failure(gone)),
                    None => return self.wire.shutdown(&self.never).await.map_err(broken),
                }
            }
        };
        tokio::try_join!(back, ahead).map(|_| ())
    }
}

/// The tunnel broke (RFC 9113 section 7).
const CONNECT_ERROR: u32 = 10;

fn broken(broken: Broken) -> Failure {
    let text = match broken {
        Broken::TimedOut => "it stood still for too long".to_owned(),
        Broken::Io(error) => error.to_string(),
    };
    Failure::new(Kind::Reset, text)
}

async fn send(sending: &Sending, mut data: Bytes, end: bool) -> Result<(), Failure> {
    if data.is_empty() && !end {
        return Ok(());
    }
    poll_fn(|cx| sending.poll_data(cx, &mut data, end)).await.map_err(crate::h2_body::failure)
}
