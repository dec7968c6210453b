//! Calling a server of which only the hash of its root is known: what a base does that wants to join.
//!
//! The server sends its root along with its chain. The root that fits the pin is trusted for this one
//! connection, and the server must prove to be the server of the mesh under it. Rejected: trust on first use,
//! which gives the join token to whoever answers first.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use dodai_core::failure::Failure;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme, version};
use thiserror::Error;

use super::mesh::provider_signatures;
use super::{Alpn, Callee, Clock, HANDSHAKE_TIMEOUT, dial, provider, wire_names};
use crate::identity::{PeerIdentity, TrustDomain};
use crate::stream::Stream;
use crate::trust::{Bundle, Trust, Usage, WrongPeer};

/// What a pin begins with.
const PREFIX: &str = "sha256:";

/// A text is no pin.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is no pin of a certificate authority: expected sha256: and 64 hex digits")]
pub struct BadPin(String);

/// The SHA-256 of a root certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a root.
    pub fn of(root: &CertificateDer<'_>) -> Pin {
        Pin(digest(&SHA256, root.as_ref()).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads what `to_string` gave.
    pub fn parse(text: &str) -> Result<Pin, BadPin> {
        let bad = || BadPin(text.to_owned());
        let digits = text.trim().strip_prefix(PREFIX).ok_or_else(bad)?.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let mut pin = [0; 32];
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Pin(pin))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// Runs the dialling side of handshakes with the server behind a pin. Presents no certificate.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    domain: TrustDomain,
}

impl Connector {
    /// Trusts the server of `domain` whose root has this pin.
    pub fn new(pin: Pin, domain: TrustDomain, protocols: &[Alpn], clock: Clock) -> Connector {
        let verifier = Arc::new(Pinned { pin, domain: domain.clone() });
        let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has suites for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = wire_names(protocols);
        Connector { config: Arc::new(config), domain }
    }

    /// Runs one handshake; `name` goes out as SNI.
    pub async fn connect(&self, stream: Stream, name: ServerName<'static>) -> Result<Stream, Failure> {
        dial(self.config.clone(), name, Callee::Unfollowed(&self.domain), stream, HANDSHAKE_TIMEOUT).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("pinned::Connector").field("domain", &self.domain).finish_non_exhaustive()
    }
}

/// The server's root is another.
#[derive(Debug, Error)]
#[error(
    "the server's certificate authority is not the one that is pinned ({pin}); is it the right server? `dodai token create` prints the pin of the one it runs on"
)]
struct WrongPin {
    pin: Pin,
}

#[derive(Debug)]
struct Pinned {
    pin: Pin,
    domain: TrustDomain,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wrong = || CertificateError::Other(OtherError(Arc::new(WrongPin { pin: self.pin })));
        let root = intermediates.iter().find(|found| Pin::of(found) == self.pin).ok_or_else(wrong)?;
        let bundle = Bundle::new([root.clone().into_owned()]).map_err(|_| wrong())?;
        let trust = Trust::new(self.domain.clone(), bundle);
        match trust.verify(leaf, intermediates, Usage::Server, now)? {
            PeerIdentity::Server => Ok(ServerCertVerified::assertion()),
            got @ (PeerIdentity::App(_) | PeerIdentity::Base(_)) => {
                Err(WrongPeer::Other { got, expected: PeerIdentity::Server.to_string() }.into())
            }
        }
    }

    provider_signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{Authority, LEAF_VALIDITY, Names, Svid};
    use crate::network::Network;
    use crate::tls::mesh::{LiveSvid, open_acceptor};
    use std::time::{Duration, SystemTime};

    /// One server with its root along; what a joining base makes of it.
    async fn join(authority: &Authority, identity: &PeerIdentity, pin: Pin) -> Result<(), String> {
        let domain = authority.domain().clone();
        let now = SystemTime::now();
        let svid = authority.issue(identity, &Names::default(), LEAF_VALIDITY, now).expect("issued");
        let chain = format!("{}{}", svid.chain_pem(), authority.bundle().expect("a root").to_pem());
        let svid = Svid::from_pem(&chain, &svid.key_pem(), &domain).expect("an SVID");
        let trust = Trust::new(domain.clone(), authority.bundle().expect("a root"));
        let keys = Arc::new(LiveSvid::new(svid).expect("usable"));
        let acceptor = open_acceptor(keys, trust, &[Alpn::H2], Clock::system());
        let network = Network::system();
        let options = crate::listen::Options::default();
        let mut listener = network.listen("127.0.0.1:0".parse().expect("valid"), &options).expect("binds");
        let at = listener.local_addr().expect("an address");
        let dial = async {
            let stream = network.connect_addr(at, Duration::from_secs(5)).await.map_err(|e| e.detail)?;
            let connector = Connector::new(pin, domain, &[Alpn::H2], Clock::system());
            let name = ServerName::try_from("server.dodai").expect("a name");
            connector.connect(stream, name).await.map_err(|failure| failure.detail.to_string())
        };
        let accept = async {
            let (stream, _) = listener.accept().await.expect("somebody comes");
            acceptor.accept(stream).await.map(|stream| assert_eq!(stream.identity(), None))
        };
        let (dialled, accepted) = tokio::join!(dial, accept);
        dialled.map(|_| accepted.expect("who has no certificate gets in"))
    }

    #[tokio::test]
    async fn only_the_server_behind_the_pin_is_trusted() {
        let create = || Authority::create(TrustDomain::default(), SystemTime::now()).expect("a root");
        let (authority, other) = (create(), create());
        let pin = |authority: &Authority| Pin::of(&authority.bundle().expect("a root").roots()[0]);
        assert_eq!(join(&authority, &PeerIdentity::Server, pin(&authority)).await, Ok(()));
        let error = join(&other, &PeerIdentity::Server, pin(&authority)).await.expect_err("another root");
        assert!(error.contains("is not the one that is pinned"), "{error}");
        let base = PeerIdentity::Base(dodai_core::id::BaseId::new("one"));
        let error = join(&authority, &base, pin(&authority)).await.expect_err("a base is no server");
        assert!(error.contains("base one, but the server was expected"), "{error}");
    }

    #[test]
    fn pins_read_back() {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).expect("a root");
        let pin = Pin::of(&authority.bundle().expect("a root").roots()[0]);
        assert_eq!(Pin::parse(&format!(" {pin}\n")), Ok(pin));
        for bad in ["", "sha256:", "sha256:12", &pin.to_string()[7..], "sha256:zz"] {
            assert!(Pin::parse(bad).is_err(), "{bad}");
        }
    }
}
