//! The PROXY protocol at both ends of this base: proxies in front say whose their connections are, and endpoints
//! outside the mesh are told.
//!
//! Only proxies that are trusted may say it, as what they say is what access rules and limits go by.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dodai_core::failure::{Failure, Kind};
use dodai_core::seldom::Seldom;
use dodai_core::snapshot::{ProxyProtocol, ProxyVersion};
use dodai_transport::proxy_protocol::{self, Ends, Header, MOST, Malformed, Read};
use dodai_transport::stream::Stream;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::access::Network;

/// What a listener wants to hear ahead of its connections.
pub struct Proxied {
    required: bool,
    trusted: Vec<Network>,
    refused: Seldom,
}

/// Why a connection is refused.
#[derive(Debug, Error)]
enum Refused {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("it has no PROXY header, which `proxyProtocol.mode: require` asks for")]
    Absent,
    #[error("its PROXY header did not come within {0:?}")]
    Late(Duration),
    #[error("its address is not among `proxyProtocol.trusted`, so it may not say whose its connections are")]
    Untrusted,
    #[error("it ended within its PROXY header: {0}")]
    Ended(std::io::Error),
}

impl Proxied {
    /// As a snapshot says.
    pub fn new(source: &ProxyProtocol) -> Proxied {
        Proxied { required: source.required, trusted: networks(&source.trusted), refused: Seldom::default() }
    }

    /// Reads what is said ahead on a connection from `peer`, within `patience`: the rest of the connection, and whose
    /// it is if that was said. `None` if it is refused.
    pub async fn hear(
        &self,
        stream: Stream,
        peer: SocketAddr,
        listener: &str,
        patience: Duration,
    ) -> Option<(Stream, Option<Ends>)> {
        match self.try_hear(stream, peer, patience).await {
            Ok(heard) => Some(heard),
            Err(reason @ (Refused::Late(_) | Refused::Ended(_))) if !self.required => {
                tracing::debug!(listener, %peer, %reason, "a client said nothing");
                None
            }
            Err(reason) => {
                if let Some(times) = self.refused.count(&peer.ip().to_string(), Instant::now()) {
                    tracing::warn!(listener, %peer, times, %reason, "a connection is refused");
                }
                None
            }
        }
    }

    async fn try_hear(
        &self,
        stream: Stream,
        peer: SocketAddr,
        patience: Duration,
    ) -> Result<(Stream, Option<Ends>), Refused> {
        let trusted = self.trusted.iter().any(|network| network.has(peer.ip()));
        if self.required && !trusted {
            return Err(Refused::Untrusted);
        }
        let heard = tokio::time::timeout(patience, read(stream));
        let (stream, mut bytes, read) = heard.await.map_err(|_| Refused::Late(patience))??;
        match read {
            Read::Header(..) if !trusted => Err(Refused::Untrusted),
            Read::Header(header, length) => {
                bytes.drain(..length);
                let ends = match header {
                    Header::Own => None,
                    Header::For(ends) => Some(ends),
                };
                Ok((stream.with_early(bytes), ends))
            }
            Read::More | Read::Absent if self.required => Err(Refused::Absent),
            Read::More | Read::Absent => Ok((stream.with_early(bytes), None)),
        }
    }
}

/// The networks of proxies that are trusted.
pub fn networks(trusted: &[String]) -> Vec<Network> {
    let network = |text: &String| {
        let network = Network::parse(text);
        if network.is_none() {
            tracing::error!(network = text, "no network, so no proxy is trusted by it");
        }
        network
    };
    trusted.iter().filter_map(network).collect()
}

/// Reads until it is known what the first bytes are. Those that end before that are no header either.
async fn read(mut stream: Stream) -> Result<(Stream, Vec<u8>, Read), Refused> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        let got = stream.read_buf(&mut bytes).await.map_err(Refused::Ended)?;
        let read = proxy_protocol::read(&bytes)?;
        if got == 0 || read != Read::More {
            return Ok((stream, bytes, read));
        }
        debug_assert!(bytes.len() < MOST, "longer headers are refused");
    }
}

/// How an endpoint is told for whom a connection is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Announce {
    /// How.
    pub version: ProxyVersion,
    /// For whom; `None` for calls that come from within the mesh, which are this base's own.
    pub ends: Option<Ends>,
}

impl Announce {
    /// Writes the header on a fresh connection to `address`.
    pub async fn tell(&self, stream: &mut Stream, address: &str, within: Duration) -> Result<(), Failure> {
        let failed = |why: String| {
            Failure::new(Kind::Connect, format!("the PROXY header for {address} cannot be sent: {why}"))
        };
        let own = || Some(Ends { source: stream.local_addr().ok()?, destination: stream.peer_addr().ok()? });
        let header = proxy_protocol::write(self.version, self.ends.or_else(own).as_ref());
        let written = tokio::time::timeout(within, async {
            stream.write_all(&header).await?;
            stream.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("not done within {within:?}"))),
        }
    }
}
