//! Sockets for datagrams: those that listen, and those towards one peer.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use dodai_core::failure::{Failure, Kind};
use socket2::{Domain, Protocol, Socket, Type};

use crate::dial::Resolver;
use crate::listen::{BindError, Options, explain};

/// Binds `addr` with `count` sockets between which the kernel spreads the clients: one per thread. The datagrams of one
/// client come to one of them as long as their number stays.
pub fn bind_set(addr: SocketAddr, count: usize, options: &Options) -> Result<Vec<UdpSocket>, BindError> {
    if addr.port() != 0 {
        // A socket that shares its port would bind beside a stranger's that does too; this one would not.
        drop(open(addr, false, options)?);
    }
    let mut sockets = Vec::with_capacity(count);
    let mut addr = addr;
    for _ in 0..count {
        let socket = open(addr, true, options)?;
        addr = socket.local_addr().map_err(|error| explain(error, addr, options))?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn open(addr: SocketAddr, share: bool, options: &Options) -> Result<UdpSocket, BindError> {
    let try_open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if share {
            socket.set_reuse_port(true)?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(options.v6_only)?;
        }
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    try_open().map(UdpSocket::from).map_err(|error| explain(error, addr, options))
}

/// A socket that sends to `peer` and hears only from it.
pub fn connect(peer: SocketAddr) -> Result<tokio::net::UdpSocket, Failure> {
    let from: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let open = || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(peer)?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    };
    open().map_err(|error| Failure::new(Kind::Connect, format!("no way to {peer} over UDP: {error}")))
}

/// The first address of `host`, an IP address or a name, found within `timeout`. Cancel safe.
pub async fn resolve(
    resolver: &Resolver,
    host: &str,
    port: u16,
    timeout: Duration,
) -> Result<SocketAddr, Failure> {
    let failed = |why: String| Failure::new(Kind::Connect, format!("no address for host `{host}`: {why}"));
    match tokio::time::timeout(timeout, resolver.resolve(host)).await {
        Ok(Ok(ips)) => match ips.first() {
            Some(ip) => Ok(SocketAddr::new(*ip, port)),
            None => Err(failed("it has none".to_owned())),
        },
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("not found within {timeout:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_shares_its_port_with_nobody_else() {
        let set = bind_set(([127, 0, 0, 1], 0).into(), 3, &Options::default()).expect("a set");
        let addr = set[0].local_addr().expect("bound");
        assert!(set.iter().all(|socket| socket.local_addr().expect("bound") == addr));
        assert!(matches!(bind_set(addr, 1, &Options::default()), Err(BindError::Taken { .. })));
    }

    #[tokio::test]
    async fn a_connected_socket_hears_only_its_peer() {
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a peer");
        let socket = connect(peer.local_addr().expect("bound")).expect("connected");
        socket.send(b"hi").await.expect("sent");
        let mut buffer = [0; 8];
        let (got, from) = peer.recv_from(&mut buffer).expect("heard");
        assert_eq!(&buffer[..got], b"hi");
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a stranger");
        stranger.send_to(b"no", from).expect("sent");
        peer.send_to(b"yes", from).expect("sent");
        let got = socket.recv(&mut buffer).await.expect("heard");
        assert_eq!(&buffer[..got], b"yes");
    }
}
