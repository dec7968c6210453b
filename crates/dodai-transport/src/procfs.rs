//! The kernel's table of TCP sockets, read from `/proc/net/tcp` and `/proc/net/tcp6`.
//!
//! Format: Documentation/networking/proc_net_tcp.rst of Linux. Used for error messages (who holds a port) and
//! where the kernel offers no socket diagnosis. On other systems the files are missing and nothing is found.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` of Linux' `include/net/tcp_states.h`.
const LISTEN: u8 = 0x0A;

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: u8,
    pub(crate) uid: u32,
    /// 0 for a socket that no file belongs to any more; its uid says nothing then.
    pub(crate) inode: u64,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// Every TCP socket of this network namespace.
pub(crate) fn sockets() -> impl Iterator<Item = Row> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().skip(1).filter_map(parse).collect::<Vec<_>>()
    })
}

/// The listening sockets that keep us from binding `wanted`.
pub(crate) fn listeners_against(wanted: SocketAddr) -> Vec<Row> {
    sockets().filter(|row| row.state == LISTEN && conflict(row.local, wanted)).collect()
}

fn conflict(held: SocketAddr, wanted: SocketAddr) -> bool {
    let dual = |addr: SocketAddr| addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let any = |addr: SocketAddr| addr.ip().is_unspecified();
    held.port() == wanted.port()
        && (held.ip().to_canonical() == wanted.ip().to_canonical()
            || held.is_ipv4() == wanted.is_ipv4() && (any(held) || any(wanted))
            || dual(held)
            || dual(wanted))
}

/// The process that holds the socket `inode`: the first found, for several may share it.
pub(crate) fn holder(inode: u64) -> Option<Process> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in pids {
        let pid: u32 = pid;
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()));
        if holds {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(Process { pid, name: name.trim_end().to_owned() });
        }
    }
    None
}

/// The user that owns the socket whose two ends are `local` and `remote`.
pub(crate) fn owner(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let same =
        |a: SocketAddr, b: SocketAddr| a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical();
    sockets()
        .find(|row| row.inode != 0 && same(row.local, local) && same(row.remote, remote))
        .map(|row| row.uid)
}

/// `sl local remote st tx:rx tr:when retrnsmt uid timeout inode ...`
fn parse(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Row { local, remote, state, uid, inode })
}

/// Words of an address are printed as integers of the host's byte order, the port as a plain number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernel_are_read() {
        let v4 = "   0: 0100007F:1F90 0200000A:D431 01 00000000:00000000 00:00000000 00000000  1000        0 43031 1 0 100 0 0 10 0";
        let row = parse(v4).expect("a row");
        assert_eq!(row.local, "127.0.0.1:8080".parse().expect("addr"));
        assert_eq!(row.remote, "10.0.0.2:54321".parse().expect("addr"));
        assert_eq!((row.state, row.uid, row.inode), (1, 1000, 43031));
        let v6 = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0";
        let row = parse(v6).expect("a row");
        assert_eq!(row.local, "[::1]:80".parse().expect("addr"));
        assert_eq!(row.state, LISTEN);
    }

    #[test]
    fn wildcards_conflict_within_their_family_and_dual_stack_with_both() {
        for (held, wanted, expect) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ] {
            let parse = |text: &str| text.parse().expect("addr");
            assert_eq!(conflict(parse(held), parse(wanted)), expect, "{held} {wanted}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_owner_of_a_live_socket_is_found() {
        use std::os::unix::fs::MetadataExt as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
        let (local, remote) = (client.local_addr().expect("addr"), client.peer_addr().expect("addr"));
        let own = fs::metadata("/proc/self").expect("proc").uid();
        assert_eq!(owner(local, remote), Some(own));
        drop(client);
        assert_eq!(owner(local, remote), None, "nobody holds it any more");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(line in "\\PC{0,200}", words in "[0-9A-F: ]{0,200}") {
            let _ = parse(&line);
            let _ = parse(&words);
        }
    }
}
