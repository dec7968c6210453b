//! Listening sockets: bound with errors that tell who is in the way, and what to do when `accept` fails.

use std::borrow::Cow;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::procfs::{self, Process};

/// How a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many connections may wait for `accept`.
    pub backlog: u32,
    /// Whether other sockets of ours listen on the same port (one per thread).
    pub reuse_port: bool,
    /// Whether another process of ours may hold the port too: a binary that is replaced live. Without it a
    /// taken port is an error even where the other process would share it.
    pub share: bool,
    /// Whether a socket on `::` leaves IPv4 alone.
    pub v6_only: bool,
    /// Whether connections are for addresses that are not ours: the kernel leads them here.
    pub captures: bool,
    /// The mark (SO_MARK) of the socket and of what it accepts; 0 for none.
    pub mark: u32,
    /// The setting a user changes to get another port, for error messages: `listeners[0].port`.
    pub setting: Cow<'static, str>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            backlog: 1024,
            reuse_port: false,
            share: false,
            v6_only: true,
            captures: false,
            mark: 0,
            setting: "the port".into(),
        }
    }
}

impl Options {
    /// The defaults, with the setting that error messages name.
    pub fn named(setting: impl Into<Cow<'static, str>>) -> Options {
        Options { setting: setting.into(), ..Options::default() }
    }
}

/// Why a port cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("port {} is taken by {holder}; stop it or choose another port in {setting}", addr.port())]
    Taken {
        /// What was wanted.
        addr: SocketAddr,
        /// Who holds it.
        holder: Holder,
        /// Where the port is configured.
        setting: Cow<'static, str>,
    },
    /// It needs a privilege that we do not have.
    #[error(
        "port {} needs a privilege: give the program CAP_NET_BIND_SERVICE or choose a port from 1024 up in {setting}",
        addr.port()
    )]
    Forbidden {
        /// What was wanted.
        addr: SocketAddr,
        /// Where the port is configured.
        setting: Cow<'static, str>,
    },
    /// The machine has no such address.
    #[error("{} is no address of this machine; see `ip address` for those it has ({setting})", addr.ip())]
    NoSuchAddress {
        /// What was wanted.
        addr: SocketAddr,
        /// Where it is configured.
        setting: Cow<'static, str>,
    },
    /// Something else.
    #[error("cannot listen on {addr} ({setting}): {source}")]
    Other {
        /// What was wanted.
        addr: SocketAddr,
        /// Where it is configured.
        setting: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },
}

/// Who holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process we may see.
    Process {
        /// Its id.
        pid: u32,
        /// Its command name.
        name: String,
    },
    /// Ourselves.
    Us,
    /// A process we may not see, of this user.
    User(u32),
    /// Nobody who can be found: a socket that just closed, or one of another namespace.
    Unknown,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Process { pid, name } => write!(f, "pid {pid} ({name})"),
            Holder::Us => f.write_str("another listener of this process"),
            Holder::User(uid) => write!(f, "a process of uid {uid}"),
            Holder::Unknown => f.write_str("somebody who cannot be seen from here"),
        }
    }
}

/// Listens on `addr`. The socket is non-blocking, ready for `tokio`. Port 0 takes any free one.
pub fn bind(addr: SocketAddr, options: &Options) -> Result<TcpListener, BindError> {
    if options.reuse_port && !options.share && addr.port() != 0 {
        // A socket that shares its port would bind beside a stranger's that does too; this one would not.
        drop(open(addr, &Options { reuse_port: false, ..options.clone() })?);
    }
    open(addr, options)
}

/// Listens on `addr` with `count` sockets between which the kernel spreads connections: one per thread.
pub fn bind_set(addr: SocketAddr, count: usize, options: &Options) -> Result<Vec<TcpListener>, BindError> {
    let mut options = Options { reuse_port: true, ..options.clone() };
    let mut sockets = Vec::with_capacity(count);
    let mut addr = addr;
    for _ in 0..count {
        let socket = bind(addr, &options)?;
        addr = socket.local_addr().map_err(|error| explain(error, addr, &options))?;
        options.share = true;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn open(addr: SocketAddr, options: &Options) -> Result<TcpListener, BindError> {
    let try_open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Connections of an earlier run in TIME_WAIT do not keep us out; a live listener does.
        socket.set_reuse_address(true)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(options.v6_only)?;
        }
        #[cfg(target_os = "linux")]
        capture(&socket, addr, options)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        Ok(socket)
    };
    try_open().map(TcpListener::from).map_err(|error| explain(error, addr, options))
}

/// Prepares a socket for connections that the kernel leads to it.
#[cfg(target_os = "linux")]
fn capture(socket: &Socket, addr: SocketAddr, options: &Options) -> io::Result<()> {
    if options.captures {
        let taken = match addr {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
        };
        if let Err(error) = taken {
            // What is redirected comes in all the same.
            tracing::debug!(%addr, %error, "connections cannot be taken by TPROXY here");
        }
    }
    if options.mark != 0 {
        socket.set_mark(options.mark)?;
    }
    Ok(())
}

pub(crate) fn explain(source: io::Error, addr: SocketAddr, options: &Options) -> BindError {
    let setting = options.setting.clone();
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::Taken { addr, holder: find_holder(addr), setting }
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        BindError::Forbidden { addr, setting }
    } else if source.kind() == io::ErrorKind::AddrNotAvailable {
        BindError::NoSuchAddress { addr, setting }
    } else {
        BindError::Other { addr, setting, source }
    }
}

fn find_holder(addr: SocketAddr) -> Holder {
    let rows = procfs::listeners_against(addr);
    match rows.iter().find_map(|row| procfs::holder(row.inode)) {
        Some(Process { pid, .. }) if pid == std::process::id() => Holder::Us,
        Some(Process { pid, name }) => Holder::Process { pid, name },
        None => rows.first().map_or(Holder::Unknown, |row| Holder::User(row.uid)),
    }
}

/// What to do after `accept` failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Only that connection is lost: accept the next one.
    Next,
    /// We are out of something: let connections end for so long, or the loop would spin.
    Pause(Duration),
    /// The socket itself is broken.
    Stop,
}

/// Decides what to do after `accept` failed with `error`, `in_a_row` failures for want of something having
/// come just before.
pub fn after_accept_failure(error: &io::Error, in_a_row: u32) -> AfterFailure {
    // errno(3); those below 35 are the same on all systems we build for.
    const ENOMEM: i32 = 12;
    const EBADF: i32 = 9;
    const EINVAL: i32 = 22;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = if cfg!(target_os = "linux") { 105 } else { 55 };
    const ENOTSOCK: i32 = if cfg!(target_os = "linux") { 88 } else { 38 };
    match error.raw_os_error() {
        Some(EMFILE | ENFILE | ENOMEM | ENOBUFS) => {
            AfterFailure::Pause(Duration::from_millis(5) * 2u32.pow(in_a_row.min(7)))
        }
        Some(EBADF | EINVAL | ENOTSOCK) => AfterFailure::Stop,
        Some(_) | None => AfterFailure::Next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_something_pauses_for_longer_and_longer() {
        let out_of_files = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> = [0, 1, 2, 7, 100].map(|n| after_accept_failure(&out_of_files, n)).into();
        let pause = |millis| AfterFailure::Pause(Duration::from_millis(millis));
        assert_eq!(pauses, [pause(5), pause(10), pause(20), pause(640), pause(640)]);
    }

    #[test]
    fn a_lost_connection_is_not_the_end() {
        let lost = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(after_accept_failure(&lost, 3), AfterFailure::Next);
        assert_eq!(after_accept_failure(&io::Error::from_raw_os_error(9), 0), AfterFailure::Stop);
    }

    #[test]
    fn a_taken_port_names_its_holder_and_the_setting() {
        let first = bind(([127, 0, 0, 1], 0).into(), &Options::default()).expect("bind");
        let addr = first.local_addr().expect("addr");
        let again = bind(addr, &Options::named("listeners[0].port")).expect_err("taken");
        let port = addr.port();
        assert_eq!(
            again.to_string(),
            format!(
                "port {port} is taken by another listener of this process; stop it or choose another port in listeners[0].port"
            )
        );
        let wildcard = bind(([0, 0, 0, 0], port).into(), &Options::default()).expect_err("taken");
        assert!(matches!(wildcard, BindError::Taken { holder: Holder::Us, .. }), "{wildcard}");
    }

    #[test]
    fn a_shared_port_is_taken_for_all_but_its_set() {
        let set = bind_set(([127, 0, 0, 1], 0).into(), 3, &Options::default()).expect("set");
        let addr = set[0].local_addr().expect("addr");
        assert!(set.iter().all(|socket| socket.local_addr().expect("addr") == addr));
        let stranger = Options { reuse_port: true, ..Options::default() };
        assert!(matches!(bind(addr, &stranger), Err(BindError::Taken { .. })));
        let heir = Options { share: true, ..stranger };
        assert!(bind(addr, &heir).is_ok());
    }

    #[test]
    fn a_foreign_address_is_told() {
        let error = bind("192.0.2.1:0".parse().expect("addr"), &Options::default()).expect_err("foreign");
        assert!(matches!(error, BindError::NoSuchAddress { .. }), "{error}");
    }
}
