//! Where a connection comes from and was meant to go, as the kernel tells.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::procfs;

/// The user that owns the far end of a connection within this machine. `local` and `peer` are the addresses
/// as the accepting side sees them. None when the far end is not on this machine, or closed already.
pub fn peer_uid(local: SocketAddr, peer: SocketAddr) -> Option<u32> {
    // From where the far end stands, its own address comes first.
    match diagnosis::owner(peer, local) {
        Ok(owner) => owner,
        Err(error) => {
            tracing::debug!(%error, "no socket diagnosis; reading /proc/net/tcp instead");
            procfs::owner(peer, local)
        }
    }
}

/// The mark (SO_MARK) of a base's own connections, by which rules of interception know them.
pub const OWN_MARK: u32 = 0xd0da;

/// Where a connection that the kernel led to a listener on `port` was meant to go: one that was redirected, or one that
/// was taken with its address as it is (TPROXY). None when it was meant for the listener itself.
pub fn meant_for(stream: &TcpStream, port: u16) -> Option<SocketAddr> {
    let original = match original_destination(stream) {
        Some(original) => original,
        None => stream.local_addr().ok()?,
    };
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    (original.port() != port || !is_own(original.ip())).then_some(original)
}

/// Whether this machine has that address.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// The user that this process runs as, where that can be told.
pub fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|own| own.uid())
}

/// Where a connection that netfilter redirected to us was meant to go. None when it was meant for us.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    let original = if local.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4().ok()?.as_socket()?
    } else {
        socket.original_dst_v6().ok()?.as_socket()?
    };
    #[cfg(not(target_os = "linux"))]
    let original = {
        let _ = socket;
        local
    };
    let same = original.port() == local.port() && original.ip().to_canonical() == local.ip().to_canonical();
    (!same).then_some(original)
}

/// Asks the kernel for one socket by its four coordinates (sock_diag(7), `linux/inet_diag.h`): the same cost
/// whether the machine has ten sockets or a million, which reading `/proc/net/tcp` has not.
#[cfg(target_os = "linux")]
mod diagnosis {
    use std::io::{self, Read as _};
    use std::net::{IpAddr, SocketAddr};
    use std::time::Duration;

    use socket2::{Domain, Protocol, Socket, Type};

    const AF_NETLINK: i32 = 16;
    const NETLINK_SOCK_DIAG: i32 = 4;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_REQUEST: u16 = 1;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    const ENOENT: i32 = 2;

    /// Lengths: `nlmsghdr`, `inet_diag_req_v2`, `inet_diag_sockid`.
    const HEADER: usize = 16;
    const REQUEST: usize = 8 + ID;
    const ID: usize = 48;
    /// Offsets in the answer: the socket's id, its owner and its inode in `inet_diag_msg`.
    const ANSWER_ID: usize = HEADER + 4;
    const ANSWER_UID: usize = ANSWER_ID + ID + 12;
    const ANSWER_INODE: usize = ANSWER_UID + 4;

    pub(super) fn owner(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
        let socket =
            Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let id = id(local, remote);
        socket.send(&request(local, &id))?;
        let mut answer = [0; 512];
        let length = (&socket).read(&mut answer)?;
        read_answer(&answer[..length], &id)
    }

    fn id(local: SocketAddr, remote: SocketAddr) -> [u8; ID] {
        let mut id = [0; ID];
        id[0..2].copy_from_slice(&local.port().to_be_bytes());
        id[2..4].copy_from_slice(&remote.port().to_be_bytes());
        put_ip(&mut id[4..20], local.ip().to_canonical());
        put_ip(&mut id[20..36], remote.ip().to_canonical());
        // INET_DIAG_NOCOOKIE: any incarnation of that socket.
        id[40..48].fill(0xff);
        id
    }

    fn put_ip(at: &mut [u8], ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => at[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => at.copy_from_slice(&ip.octets()),
        }
    }

    fn request(local: SocketAddr, id: &[u8; ID]) -> [u8; HEADER + REQUEST] {
        let mut message = [0; HEADER + REQUEST];
        let length = u32::try_from(message.len()).expect("72 fits");
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message[16] = if local.ip().to_canonical().is_ipv4() { AF_INET } else { AF_INET6 };
        message[17] = IPPROTO_TCP;
        message[20..24].fill(0xff);
        message[24..].copy_from_slice(id);
        message
    }

    pub(super) fn read_answer(answer: &[u8], asked: &[u8; ID]) -> io::Result<Option<u32>> {
        let short = || io::Error::new(io::ErrorKind::InvalidData, "a short answer of the kernel");
        let word = |at: usize| answer.get(at..at + 4).map(|bytes| bytes.try_into().expect("four bytes"));
        let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes(bytes.try_into().expect("two bytes")));
        match kind.ok_or_else(short)? {
            NLMSG_ERROR => {
                let code = -i32::from_ne_bytes(word(HEADER).ok_or_else(short)?);
                if code == ENOENT { Ok(None) } else { Err(io::Error::from_raw_os_error(code)) }
            }
            SOCK_DIAG_BY_FAMILY => {
                // Without a connection of that name the kernel falls back on the listener of that port.
                let family = *answer.get(HEADER).ok_or_else(short)?;
                let found = answer.get(ANSWER_ID..ANSWER_ID + 36).ok_or_else(short)?;
                let uid = u32::from_ne_bytes(word(ANSWER_UID).ok_or_else(short)?);
                let inode = u32::from_ne_bytes(word(ANSWER_INODE).ok_or_else(short)?);
                // A socket that nobody holds any more says uid 0, which must not pass for root.
                Ok((is_same(family, found, &asked[..36]) && inode != 0).then_some(uid))
            }
            other => Err(io::Error::other(format!("an answer of type {other}"))),
        }
    }

    /// Whether a socket is the one that was asked for. One of IPv6 that speaks IPv4 is found by its IPv4 addresses
    /// and told with mapped ones.
    fn is_same(family: u8, found: &[u8], asked: &[u8]) -> bool {
        let mapped = |at: usize| {
            found[at..at + 10] == [0; 10]
                && found[at + 10..at + 12] == [0xff; 2]
                && found[at + 12..at + 16] == asked[at..at + 4]
        };
        found == asked || (family == AF_INET6 && found[..4] == asked[..4] && mapped(4) && mapped(20))
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn any_answer_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u16..30) {
                let asked = [0; ID];
                let _ = read_answer(&bytes, &asked);
                let mut bytes = bytes;
                if let Some(at) = bytes.get_mut(4..6) {
                    at.copy_from_slice(&kind.to_ne_bytes());
                }
                let _ = read_answer(&bytes, &asked);
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod diagnosis {
    use std::io;
    use std::net::SocketAddr;

    pub(super) fn owner(_local: SocketAddr, _remote: SocketAddr) -> io::Result<Option<u32>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}
