//! SOCKS 5 (RFC 1928) on outbound listeners, for clients that know no other proxy.
//!
//! What it leads to is what CONNECT leads to: TCP services by name, and hosts outside. A service that speaks HTTP is
//! served as one, so that its policies see calls. No login is asked for; one that is made is taken (RFC 1929): who
//! calls is known from the listener. Reading is pure and in pieces; only [`serve`] waits.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use dodai_core::failure::{Failure, Kind};
use dodai_core::snapshot::Protocol;
use dodai_core::trace::Span;
use dodai_transport::stream::Stream;
use thiserror::Error;
use tokio::time::Instant;

use crate::lap::Lap;
use crate::pipe;
use crate::request::Side;
use crate::roll::Speaks;
use crate::service::Service;
use crate::spine::{self, Headers, Line, Outcome};
use crate::timer::Deadline;
use crate::wire::Wire;
use crate::worker::Worker;

/// The version, and the first byte of every client.
pub const VERSION: u8 = 5;

const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const CONNECT: u8 = 1;

/// Why a client is sent away before it is known where it wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Bad {
    /// Another version.
    #[error("version {0} where SOCKS 5 was spoken")]
    Version(u8),
    /// None of its kinds of login is taken; how many it offered.
    #[error(
        "the client knows no login but those of {0} kinds that are not taken; none or a name with a password is"
    )]
    Logins(u8),
    /// Another command than CONNECT.
    #[error("the command {0} of SOCKS is not served; CONNECT is")]
    Command(u8),
    /// Neither an address nor a name.
    #[error("the address type {0} of SOCKS is unknown")]
    AddressType(u8),
    /// A name that no host has.
    #[error("a host name that is none")]
    Name,
}

impl Bad {
    /// What the client is answered.
    fn reply(self) -> Vec<u8> {
        match self {
            Bad::Version(_) => Vec::new(),
            Bad::Logins(_) => vec![VERSION, 0xff],
            Bad::Command(_) => reply(7),
            Bad::AddressType(_) => reply(8),
            Bad::Name => reply(1),
        }
    }
}

/// A message and how many bytes it has; `None` while it has not come whole.
pub type Parsed<T> = Result<Option<(T, usize)>, Bad>;

/// The kinds of login that a client knows: the one to use.
pub fn greeting(bytes: &[u8]) -> Parsed<u8> {
    match bytes {
        [VERSION, count, rest @ ..] => {
            let Some(kinds) = rest.get(..usize::from(*count)) else { return Ok(None) };
            let kind = [NO_LOGIN, LOGIN].into_iter().find(|kind| kinds.contains(kind));
            Ok(Some((kind.ok_or(Bad::Logins(*count))?, 2 + kinds.len())))
        }
        [VERSION] | [] => Ok(None),
        [other, ..] => Err(Bad::Version(*other)),
    }
}

/// A name and a password, which say nothing we want to know.
pub fn login(bytes: &[u8]) -> Parsed<()> {
    let Some((version, rest)) = bytes.split_first() else { return Ok(None) };
    if *version != 1 {
        return Err(Bad::Version(*version));
    }
    let mut at = 0;
    for _ in 0..2 {
        let Some(length) = rest.get(at) else { return Ok(None) };
        at += 1 + usize::from(*length);
    }
    Ok((rest.len() >= at).then_some(((), 1 + at)))
}

/// Where the client wants to go, as a host and a port.
pub fn request(bytes: &[u8]) -> Parsed<String> {
    let Some((version, rest)) = bytes.split_first() else { return Ok(None) };
    if *version != VERSION {
        return Err(Bad::Version(*version));
    }
    let [command, _reserved, kind, rest @ ..] = rest else { return Ok(None) };
    if *command != CONNECT {
        return Err(Bad::Command(*command));
    }
    let (skip, length) = match (kind, rest.first()) {
        (1, _) => (0, 4),
        (4, _) => (0, 16),
        (3, Some(length)) => (1, usize::from(*length)),
        (3, None) => return Ok(None),
        (other, _) => return Err(Bad::AddressType(*other)),
    };
    let (Some(host), Some(port)) =
        (rest.get(skip..skip + length), rest.get(skip + length..skip + length + 2))
    else {
        return Ok(None);
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    let authority = match (kind, host) {
        (1, &[a, b, c, d]) => format!("{}:{port}", Ipv4Addr::new(a, b, c, d)),
        (4, host) => {
            let octets: [u8; 16] = host.try_into().map_err(|_| Bad::Name)?;
            format!("[{}]:{port}", Ipv6Addr::from(octets))
        }
        (_, host) => format!("{}:{port}", name(host)?),
    };
    Ok(Some((authority, 4 + skip + length + 2)))
}

/// A host name, or an address written as one.
fn name(bytes: &[u8]) -> Result<&str, Bad> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match std::str::from_utf8(bytes) {
        Ok(name) if !name.is_empty() && bytes.iter().all(is_plain) => Ok(name),
        Ok(_) | Err(_) => Err(Bad::Name),
    }
}

/// An answer to a request. The address in it is of no use to anybody, so it is none.
fn reply(code: u8) -> Vec<u8> {
    vec![VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// How a failure is told.
fn code(failure: &Failure) -> u8 {
    const NOT_ALLOWED: u8 = 2;
    const UNREACHABLE: u8 = 4;
    const REFUSED: u8 = 5;
    const FAILED: u8 = 1;
    if failure.kind == Kind::Denied {
        NOT_ALLOWED
    } else if failure.kind == Kind::Connect {
        REFUSED
    } else if matches!(failure.kind, Kind::NoEndpoint | Kind::BreakerOpen | Kind::Timeout) {
        UNREACHABLE
    } else {
        FAILED
    }
}

/// A client that is being understood.
struct Greeted<'a> {
    worker: &'a Worker,
    wire: Wire,
    /// What came and was not used yet.
    seen: Vec<u8>,
    deadline: &'a Deadline,
}

impl Greeted<'_> {
    /// The next message. `None` if the client left, said nothing in time, or was sent away.
    async fn next<T>(&mut self, parse: fn(&[u8]) -> Parsed<T>, listener: &str) -> Option<T> {
        loop {
            match parse(&self.seen) {
                Ok(Some((message, used))) => {
                    self.seen.drain(..used);
                    return Some(message);
                }
                Ok(None) => {}
                Err(bad) => {
                    tracing::warn!(listener, reason = %bad, "a SOCKS client was sent away");
                    self.say(&bad.reply()).await;
                    return None;
                }
            }
            match self.wire.read(self.worker, self.deadline).await {
                Ok(got) if got > 0 => {
                    self.seen.extend_from_slice(&self.worker.scratch.borrow()[..got]);
                }
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Whether the client could be told.
    async fn say(&self, bytes: &[u8]) -> bool {
        self.wire.write_all(bytes, self.deadline).await.is_ok()
            && self.wire.flush(self.deadline).await.is_ok()
    }

    /// Where the client wants to go.
    async fn wanted(&mut self, listener: &str) -> Option<String> {
        let kind = self.next(greeting, listener).await?;
        if !self.say(&[VERSION, kind]).await {
            return None;
        }
        if kind == LOGIN {
            self.next(login, listener).await?;
            if !self.say(&[1, 0]).await {
                return None;
            }
        }
        self.next(request, listener).await
    }
}

/// Serves a client that began with `early`. A connection that comes back is to be served as one that speaks HTTP.
pub async fn serve(
    worker: Rc<Worker>,
    stream: Stream,
    side: Side,
    early: Vec<u8>,
    deadline: Deadline,
) -> Option<(Stream, Side)> {
    let mut client = Greeted { worker: &worker, wire: Wire::new(stream), seen: early, deadline: &deadline };
    let authority = client.wanted(&side.listener.name).await?;
    let lap = Lap::new(
        spine::direction(&side.listener.role),
        side.label.clone(),
        Span::root(false),
        Instant::now(),
    );
    let mut service = pipe::named(&worker, &side, &authority).await;
    if service.as_ref().is_some_and(|service| service.spec.protocol != Protocol::Tcp) {
        let told = client.say(&reply(0)).await;
        let Greeted { wire, seen, .. } = client;
        return told.then(|| (wire.into_inner().with_early(seen), side));
    }
    let mut outcome = Outcome::default();
    let line = || Line {
        listener: &side.listener.name,
        from: side.from(),
        headers: Headers::None,
        method: "CONNECT",
        target: &authority,
        authority: &authority,
        protocol: "SOCKS5",
    };
    let meant = service.as_ref().map(|service| service.id().clone());
    let opened = pipe::open_named(&worker, &side, &mut service, &authority).await;
    deadline.set(worker.shared.limits.linger_timeout);
    match opened {
        Ok(opened) => {
            outcome.status = 200;
            outcome.endpoint = opened.endpoint();
            lap.opened(&worker, service.as_deref(), line);
            if client.say(&reply(0)).await {
                let (seen, up) = (std::mem::take(&mut client.seen), Wire::new(opened.stream));
                side.speaks(Speaks::Socks);
                let (wires, early) = ((&client.wire, &up), [seen, Vec::new()]);
                let ids = [service.as_deref().map(Service::id), meant.as_ref()];
                let joined = pipe::carry(&worker, &side, ids, wires, early, &deadline);
                ([outcome.received, outcome.sent], outcome.failure) = joined.await;
            }
        }
        Err(failure) => {
            client.say(&reply(code(&failure))).await;
            outcome.status = failure.kind.http_status();
            outcome.failure = Some(failure);
        }
    }
    lap.finish(&worker, service.as_deref(), None, &outcome, line);
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_client_says_how_and_where() {
        assert_eq!(greeting(&[5, 2, 2, 0, 9]), Ok(Some((NO_LOGIN, 4))));
        assert_eq!(greeting(&[5, 1, 2]), Ok(Some((LOGIN, 3))));
        assert_eq!(greeting(&[5, 1, 1]), Err(Bad::Logins(1)));
        assert_eq!(greeting(&[5, 2, 0]), Ok(None));
        assert_eq!(greeting(&[4, 1]), Err(Bad::Version(4)));
        assert_eq!(login(b"\x01\x02me\x03pwd!"), Ok(Some(((), 8))));
        assert_eq!(login(b"\x01\x00\x00"), Ok(Some(((), 3))));
        assert_eq!(login(b"\x01\x02me\x03pw"), Ok(None));
        assert_eq!(login(b"\x05"), Err(Bad::Version(5)));
        let check = |bytes: &[u8], expect: Result<Option<&str>, Bad>| {
            let found = request(bytes);
            let whole = |(authority, used): (String, usize)| {
                assert_eq!(used, bytes.len());
                authority
            };
            assert_eq!(
                found.map(|found| found.map(whole)),
                expect.map(|one| one.map(str::to_owned)),
                "{bytes:?}"
            );
        };
        check(&[5, 1, 0, 1, 10, 0, 0, 1, 0, 80], Ok(Some("10.0.0.1:80")));
        check(b"\x05\x01\x00\x03\x02db\x15\x38", Ok(Some("db:5432")));
        check(b"\x05\x01\x00\x03\x03d\rb\x15\x38", Err(Bad::Name));
        check(b"\x05\x01\x00\x03\x00\x15\x38", Err(Bad::Name));
        check(b"\x05\x01\x00\x03\x05[::1]\x15\x38", Err(Bad::Name));
        check(&[&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat(), Ok(Some("[::1]:80")));
        check(&[5, 2, 0, 1], Err(Bad::Command(2)));
        check(&[5, 1, 0, 2, 0], Err(Bad::AddressType(2)));
        check(&[5, 1, 0, 3], Ok(None));
        check(&[5, 1, 0, 1, 10, 0, 0, 1, 0], Ok(None));
    }

    proptest! {
        #[test]
        fn pieces_come_to_the_same(kind in 0u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [&[VERSION, 1, 0, kind][..], &bytes].concat();
            let whole = request(&bytes);
            for end in 0..bytes.len() {
                let part = request(&bytes[..end]);
                prop_assert!(part == Ok(None) || part == whole, "{:?} of {:?}", part, whole);
            }
            for end in 0..bytes.len() {
                let (part, whole) = (greeting(&bytes[..end]), greeting(&bytes));
                prop_assert!(part == Ok(None) || part == whole, "{:?} of {:?}", part, whole);
            }
            let _ = login(&bytes[1..]);
        }
    }
}
