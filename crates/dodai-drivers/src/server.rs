//! A server that a driver speaks to: where it is, how it is reached, and with what TLS. The one way to dial of all of
//! them, so that there is one TLS.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use dodai_capability::component::{Error, Reader};
use dodai_transport::network::Network;
use dodai_transport::pem;
use dodai_transport::stream::Stream;
use dodai_transport::tls::public::{Connector, Roots, RootsFrom};
use dodai_transport::tls::{Alpn, Clock};

/// What TLS offers: neither Redis nor PostgreSQL names its protocol.
const NO_PROTOCOLS: &[Alpn] = &[];

/// How to make TLS for one server.
#[derive(Clone, Default)]
pub struct Security {
    /// PEM of the roots to trust; `None`: those of the machine.
    pub roots: Option<String>,
    /// PEM of a certificate of ours and of its key.
    pub certificate: Option<(String, String)>,
}

impl Security {
    /// Reads `caCert`, `clientCert` and `clientKey`: PEM texts.
    ///
    /// # Errors
    /// A certificate is there without its key, or the other way round.
    pub fn read(read: &mut Reader<'_>) -> Result<Security, Error> {
        let roots = read.text(&["caCert"]).map(str::to_owned);
        let chain = read.text(&["clientCert"]).map(str::to_owned);
        let certificate = match (chain, read.text(&["clientKey"])) {
            (None, None) => None,
            (Some(_), None) => return Err(read.missing("clientKey")),
            (None, Some(_)) => return Err(read.missing("clientCert")),
            (Some(chain), Some(key)) => Some((chain, key.to_owned())),
        };
        Ok(Security { roots, certificate })
    }

    /// Makes what runs handshakes. Reads files, so not on a thread that carries calls.
    ///
    /// # Errors
    /// There are no usable roots, or the certificate does not go with its key; the text says which.
    pub fn connector(&self, from: &RootsFrom) -> Result<Connector, String> {
        let roots = match &self.roots {
            Some(text) => {
                Roots::given(text.as_bytes()).ok_or("caCert has no usable certificate; give PEM")?
            }
            None => from.load().map_err(|error| error.to_string())?,
        };
        let Some((chain, key)) = &self.certificate else {
            return Ok(Connector::new(&roots, NO_PROTOCOLS, Clock::system()));
        };
        let chain = pem::certificates(chain.as_bytes()).map_err(|error| format!("clientCert: {error}"))?;
        let key = pem::private_key(key.as_bytes()).map_err(|error| format!("clientKey: {error}"))?;
        let made = Connector::with_certificate(&roots, NO_PROTOCOLS, Clock::system(), chain, key);
        made.map_err(|failure| failure.detail.to_string())
    }
}

impl fmt::Debug for Security {
    /// The key of the certificate stays hidden.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificate = self.certificate.as_ref().map(|(chain, _)| chain);
        let mut shown = f.debug_struct("Security");
        shown.field("roots", &self.roots).field("certificate", &certificate).finish_non_exhaustive()
    }
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// A name or an address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Place {
    /// Reads `HOST`, `HOST:PORT`, `[V6]:PORT` or a bare address of version 6.
    pub fn parse(text: &str, port: u16) -> Option<Place> {
        let text = text.trim();
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, port),
            Some((host, rest)) => (host, rest.strip_prefix(':')?.parse().ok()?),
            None => match text.split_once(':') {
                None => (text, port),
                Some(_) if text.parse::<Ipv6Addr>().is_ok() => (text, port),
                Some((host, given)) => (host, given.parse().ok()?),
            },
        };
        // A login before the host is none of it, and a place is printed.
        (!host.is_empty() && !host.contains([',', '@']) && port > 0)
            .then(|| Place { host: host.to_owned(), port })
    }

    /// Connects within `timeout`. Cancel safe.
    ///
    /// # Errors
    /// It cannot be reached; the text says why.
    pub async fn connect(&self, timeout: Duration) -> Result<Stream, String> {
        let opened = Network::system().connect(&self.host, self.port, timeout).await;
        opened.map_err(|failure| failure.detail.to_string())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown() {
        let certificate = Some(("the chain".to_owned(), "the key".to_owned()));
        let shown = format!("{:?}", Security { roots: None, certificate });
        assert!(shown.contains("the chain") && !shown.contains("the key"), "{shown}");
    }

    #[test]
    fn places() {
        let check = |text: &str, expect: Option<&str>| {
            let found = Place::parse(text, 6379).map(|place| place.to_string());
            assert_eq!(found.as_deref(), expect, "{text}");
        };
        check("redis", Some("redis:6379"));
        check(" 10.0.0.1:7000 ", Some("10.0.0.1:7000"));
        check("[::1]:7000", Some("[::1]:7000"));
        check("[::1]", Some("[::1]:6379"));
        check("fd00::1", Some("[fd00::1]:6379"));
        check("redis:0", None);
        check("redis:port", None);
        check("one:1,two:2", None);
        check("one,two", None);
        check("me:pw@redis", None);
        check("pw@redis:6379", None);
        check(":6379", None);
        check("", None);
    }
}
