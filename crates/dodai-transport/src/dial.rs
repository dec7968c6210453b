//! Opening connections: names to addresses, addresses in turn, one deadline for all of it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::stream::Stream;

/// How long a looked-up name is good for; `getaddrinfo` does not tell the record's own time.
pub const NAME_LIFE: Duration = Duration::from_secs(10);

/// How many names are remembered.
pub const MAX_NAMES: usize = 1024;

/// How the machine's own network is used. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct System {
    /// Looks up names.
    pub resolver: Resolver,
    /// What connections are marked with (SO_MARK); 0 for nothing.
    mark: Arc<AtomicU32>,
}

impl System {
    /// Marks connections from now on, if that is allowed.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        let probe = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        put_mark(socket2::SockRef::from(&probe), mark)?;
        self.mark.store(mark, Relaxed);
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn put_mark(socket: socket2::SockRef<'_>, mark: u32) -> io::Result<()> {
    socket.set_mark(mark)
}

#[cfg(not(target_os = "linux"))]
fn put_mark(_socket: socket2::SockRef<'_>, _mark: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Looks up host names, with a small memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Resolver(Arc<Mutex<HashMap<Box<str>, Known>>>);

#[derive(Debug)]
struct Known {
    ips: Arc<[IpAddr]>,
    until: Instant,
}

impl Resolver {
    /// With nothing remembered yet.
    pub fn new() -> Resolver {
        Resolver::default()
    }

    /// The addresses of `host`, at least one. An IP address is its own. When the lookup fails, what was known
    /// before is used past its time: old addresses are better than none.
    pub async fn resolve(&self, host: &str) -> io::Result<Arc<[IpAddr]>> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Arc::new([ip]));
        }
        let known = self.recall(host);
        if let Some((ips, true)) = known {
            return Ok(ips);
        }
        match (look_up(host).await, known) {
            (Ok(ips), _) => {
                self.remember(host, ips.clone());
                Ok(ips)
            }
            (Err(error), Some((ips, _))) => {
                tracing::warn!(host, %error, "name lookup failed; the addresses known before are used");
                Ok(ips)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// What is known of `host`, and whether it is still good.
    fn recall(&self, host: &str) -> Option<(Arc<[IpAddr]>, bool)> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(host).map(|known| (known.ips.clone(), known.until > Instant::now()))
    }

    fn remember(&self, host: &str, ips: Arc<[IpAddr]>) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES && !names.contains_key(host) {
            let oldest = names.iter().min_by_key(|(_, known)| known.until).map(|(name, _)| name.clone());
            oldest.and_then(|name| names.remove(&name));
        }
        names.insert(host.into(), Known { ips, until: Instant::now() + NAME_LIFE });
    }
}

async fn look_up(host: &str) -> io::Result<Arc<[IpAddr]>> {
    let mut ips: Vec<IpAddr> = tokio::net::lookup_host((host, 0)).await?.map(|addr| addr.ip()).collect();
    ips.dedup();
    if ips.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(ips.into()) }
}

/// What `look_up` finds for `host` within `timeout`.
pub async fn addresses<T>(
    host: &str,
    timeout: Duration,
    look_up: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    let why = match tokio::time::timeout(timeout, look_up).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer of the name server within {timeout:?}"),
    };
    Err(Failure::new(Kind::Connect, format!("no address for host `{host}`: {why}")))
}

/// Connects to `host`, an IP address or a name, all within `timeout`.
pub async fn connect(system: &System, host: &str, port: u16, timeout: Duration) -> Result<Stream, Failure> {
    let deadline = Instant::now() + timeout;
    let ips = addresses(host, timeout, system.resolver.resolve(host)).await?;
    let mark = system.mark.load(Relaxed);
    in_turn(ips.iter().map(|ip| SocketAddr::new(*ip, port)), deadline, |addr| tcp(addr, mark)).await
}

/// Connects to one address within `timeout`.
pub async fn connect_addr(system: &System, addr: SocketAddr, timeout: Duration) -> Result<Stream, Failure> {
    let mark = system.mark.load(Relaxed);
    in_turn([addr].into_iter(), Instant::now() + timeout, |addr| tcp(addr, mark)).await
}

async fn tcp(addr: SocketAddr, mark: u32) -> io::Result<Stream> {
    let stream = if mark == 0 {
        TcpStream::connect(addr).await?
    } else {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        put_mark(socket2::SockRef::from(&socket), mark)?;
        socket.connect(addr).await?
    };
    // Without it a request split over two writes waits for the far side's delayed acknowledgement.
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

/// Tries addresses one after the other; each gets an equal share of the time that is left.
pub(crate) async fn in_turn<F>(
    addrs: impl ExactSizeIterator<Item = SocketAddr>,
    deadline: Instant,
    open: impl Fn(SocketAddr) -> F,
) -> Result<Stream, Failure>
where
    F: Future<Output = io::Result<Stream>>,
{
    let (mut left, mut failed) = (addrs.len(), None::<Failure>);
    for addr in addrs {
        let share = deadline.duration_since(Instant::now()) / u32::try_from(left.max(1)).unwrap_or(u32::MAX);
        left -= 1;
        let failure = match tokio::time::timeout(share, open(addr)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => explain(&error, addr),
            Err(_) => Failure::new(Kind::Connect, format!("no answer from {addr} within {share:?}")),
        };
        failed = Some(match failed {
            Some(earlier) => Failure::new(failure.kind, format!("{}; {}", earlier.detail, failure.detail)),
            None => failure,
        });
    }
    Err(failed.unwrap_or_else(|| Failure::new(Kind::Connect, "no address to connect to")))
}

fn explain(error: &io::Error, addr: SocketAddr) -> Failure {
    // ENFILE and EMFILE of errno(3): our fault, and trying again would not help.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        let detail = format!("no file descriptor left to connect to {addr}; raise the limit (ulimit -n)");
        return Failure::new(Kind::Internal, detail);
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Failure::new(Kind::Connect, format!("connection refused by {addr}"));
    }
    if matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) {
        return Failure::new(Kind::Connect, format!("no route to {addr}"));
    }
    Failure::new(Kind::Connect, format!("cannot connect to {addr}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|last| ([10, 0, 0, last], 80).into()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_gets_its_share_of_the_time() {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(4);
        let error = in_turn(addrs(2).into_iter(), deadline, |addr| async move {
            if addr.ip().to_string() == "10.0.0.1" {
                std::future::pending::<()>().await;
            }
            Err(io::ErrorKind::ConnectionRefused.into())
        })
        .await
        .expect_err("none answers");
        assert_eq!(error.detail, "no answer from 10.0.0.1:80 within 2s; connection refused by 10.0.0.2:80");
        assert_eq!(error.kind, Kind::Connect);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_no_panic() {
        let error = in_turn(addrs(1).into_iter(), Instant::now(), |_| std::future::pending())
            .await
            .expect_err("no time");
        assert_eq!(error.kind, Kind::Connect);
    }

    #[test]
    fn want_of_files_is_our_fault() {
        let failure = explain(&io::Error::from_raw_os_error(24), addrs(1)[0]);
        assert_eq!(failure.kind, Kind::Internal);
    }

    #[tokio::test]
    async fn the_memory_of_names_is_bounded_and_forgets_the_oldest() {
        let resolver = Resolver::new();
        tokio::time::pause();
        for index in 0..=MAX_NAMES {
            resolver.remember(&format!("host-{index}"), Arc::new([IpAddr::from([10, 0, 0, 1])]));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(resolver.recall("host-0").is_none());
        assert!(matches!(resolver.recall("host-1"), Some((_, true))));
        tokio::time::advance(NAME_LIFE).await;
        assert!(matches!(resolver.recall("host-1"), Some((_, false))));
    }

    #[tokio::test]
    async fn a_literal_address_is_not_looked_up() {
        for (host, expect) in [("::1", "::1"), ("[::1]", "::1"), ("10.0.0.1", "10.0.0.1")] {
            let ips = Resolver::new().resolve(host).await.expect("literal");
            assert_eq!(ips[0].to_string(), expect);
        }
    }
}
