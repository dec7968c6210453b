//! The seam between what listens and dials, and the network: the machine's, or one in memory for tests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dodai_core::failure::Failure;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::dial::{self, System, in_turn};
use crate::listen::{self, BindError, Options};
use crate::memory;
use crate::stream::Stream;

/// Where connections come from and go to. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Network {
    /// The machine's own.
    System(System),
    /// A host of an in-memory network.
    Memory(memory::Host),
}

impl Network {
    /// The machine's own network.
    pub fn system() -> Network {
        Network::System(System::default())
    }

    /// Gives all connections that are opened from now on this mark (SO_MARK). Fails where the system does not let us,
    /// which on Linux needs CAP_NET_ADMIN; then none is given.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        match self {
            Network::System(system) => system.set_mark(mark),
            Network::Memory(_) => Ok(()),
        }
    }

    /// Listens on `addr`. In memory, the address is always the host's own, whatever `addr` says.
    pub fn listen(&self, addr: SocketAddr, options: &Options) -> Result<Listener, BindError> {
        let other = |source| BindError::Other { addr, setting: options.setting.clone(), source };
        match self {
            Network::System(_) => {
                let socket = listen::bind(addr, options)?;
                Listener::from_std(socket).map_err(other)
            }
            Network::Memory(host) => host.listen(addr.port()).map(Listener::Memory).map_err(|source| {
                if source.kind() == io::ErrorKind::AddrInUse {
                    let holder = listen::Holder::Us;
                    BindError::Taken { addr, holder, setting: options.setting.clone() }
                } else {
                    other(source)
                }
            }),
        }
    }

    /// The addresses of `host`, an IP address or a name, as the system orders them. Cancel safe.
    pub async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match self {
            Network::System(system) => system.resolver.resolve(host).await.map(|found| found.to_vec()),
            Network::Memory(from) => from.resolve(host).await,
        }
    }

    /// Connects to `host`, an IP address or a name, within `timeout`. Cancel safe.
    pub async fn connect(&self, host: &str, port: u16, timeout: Duration) -> Result<Stream, Failure> {
        match self {
            Network::System(system) => dial::connect(system, host, port, timeout).await,
            Network::Memory(from) => {
                let ips = dial::addresses(host, timeout, from.resolve(host)).await?;
                let addrs: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
                in_memory(from, &addrs, timeout).await
            }
        }
    }

    /// Connects to one address within `timeout`. Cancel safe.
    pub async fn connect_addr(&self, addr: SocketAddr, timeout: Duration) -> Result<Stream, Failure> {
        match self {
            Network::System(system) => dial::connect_addr(system, addr, timeout).await,
            Network::Memory(from) => in_memory(from, &[addr], timeout).await,
        }
    }
}

async fn in_memory(from: &memory::Host, addrs: &[SocketAddr], timeout: Duration) -> Result<Stream, Failure> {
    let open = |addr| async move { from.connect(addr).await.map(Stream::Memory) };
    in_turn(addrs.iter().copied(), Instant::now() + timeout, open).await
}

/// What accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A socket.
    Tcp(TcpListener),
    /// An address of an in-memory network.
    Memory(memory::Listener),
}

impl Listener {
    /// From a bound, non-blocking socket: one of [`listen::bind_set`], or one handed over by another process.
    /// Needs a `tokio` runtime with I/O around it.
    pub fn from_std(socket: std::net::TcpListener) -> io::Result<Listener> {
        TcpListener::from_std(socket).map(Listener::Tcp)
    }

    /// The socket: for its options, and to hand it over to another process.
    pub fn as_tcp(&self) -> Option<&TcpListener> {
        match self {
            Listener::Tcp(socket) => Some(socket),
            Listener::Memory(_) => None,
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Listener::Tcp(socket) => socket.local_addr(),
            Listener::Memory(listener) => Ok(listener.local_addr()),
        }
    }

    /// The next connection and who it comes from. After an error ask [`listen::after_accept_failure`].
    /// Cancel safe.
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                // It fails only on a connection that is gone already, which the first read will tell.
                let _ = stream.set_nodelay(true);
                Ok((stream.into(), peer))
            }
            Listener::Memory(listener) => {
                let line = listener.accept().await?;
                let peer = line.peer_addr();
                Ok((Stream::Memory(line), peer))
            }
        }
    }
}
