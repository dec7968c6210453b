//! What a listener does with TLS: ends it with a certificate, or lets it through by the name the client wants.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use dodai_core::snapshot::{self, Protocol};
use dodai_transport::stream::Stream;
use dodai_transport::tls::clients::Authorities;
use dodai_transport::tls::{Acceptor, Alpn, Clock, HANDSHAKE_TIMEOUT, HandshakeError, Why, files, hello};
use tokio::io::AsyncReadExt;

/// The first byte of a TLS handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// How the connections of a listener begin. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Rules>);

struct Rules {
    /// Where TLS ends here.
    ends: Option<Acceptor>,
    /// Whether TLS goes through, by the wanted name; the first that matches decides.
    names: Vec<(Pattern, bool)>,
}

enum Pattern {
    All,
    /// What follows the `*`, with its dot.
    Suffix(String),
    Exact(String),
}

impl Pattern {
    fn new(host: &str) -> Pattern {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix('*') {
            Some("") => Pattern::All,
            Some(suffix) => Pattern::Suffix(suffix.to_owned()),
            None => Pattern::Exact(host),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            Pattern::Exact(host) => host == name,
        }
    }
}

impl Tls {
    /// TLS that ends here for everybody: other bases.
    pub fn ending(acceptor: Acceptor) -> Tls {
        Tls(Arc::new(Rules { ends: Some(acceptor), names: Vec::new() }))
    }

    /// What a snapshot says, and the files behind it. Relative paths begin at `folder`.
    pub fn load(
        spec: &snapshot::Tls,
        protocol: Protocol,
        folder: &Path,
    ) -> Result<(Tls, Option<files::Files>), files::BadFiles> {
        let pair = |one: &snapshot::Certificate| files::Pair {
            chain: folder.join(&one.chain_file),
            key: folder.join(&one.key_file),
        };
        let clients = spec.clients.as_ref().map(|clients| Authorities {
            roots: clients.files.iter().map(|file| folder.join(file)).collect(),
            revoked: clients.revoked_file.as_ref().map(|file| folder.join(file)),
            is_optional: clients.is_optional,
        });
        let passes = spec.names.iter().any(|name| name.passes);
        let files = match spec.certificates.iter().map(pair).collect::<Vec<_>>() {
            none if none.is_empty() && passes => None,
            pairs => Some(files::Files::validating(pairs, clients)?),
        };
        // Bytes that are not parsed are of a protocol we do not know, so none is agreed on.
        let protocols = if protocol == Protocol::Tcp { &[] } else { Alpn::HTTP };
        let versions = if spec.only_newest { files::Versions::OnlyNewest } else { files::Versions::Usual };
        let ends = files.as_ref().map(|files| files.acceptor(protocols, versions, Clock::system()));
        // Without a name that passes nobody's first message need be looked at.
        let names = spec.names.iter().filter(|_| passes);
        let names = names.map(|name| (Pattern::new(&name.host), name.passes)).collect();
        Ok((Tls(Arc::new(Rules { ends, names })), files))
    }

    /// Begins a connection. The stream that comes back is TLS where it ended here; otherwise it starts with the
    /// client's first message and knows the name in it.
    pub async fn open(&self, stream: Stream) -> Result<Stream, HandshakeError> {
        if self.0.names.is_empty() {
            return self.end(stream).await;
        }
        let stream = hello::peek(stream, HANDSHAKE_TIMEOUT).await?;
        let name = stream.server_name().unwrap_or_default().to_ascii_lowercase();
        let passes = self.0.names.iter().find(|(pattern, _)| pattern.matches(&name));
        match passes {
            Some((_, true)) => Ok(stream),
            Some((_, false)) | None => self.end(stream).await,
        }
    }

    /// As [`Tls::open`], but who begins with something else than a handshake goes on without one, as nobody.
    pub async fn open_either(&self, mut stream: Stream) -> Result<Stream, HandshakeError> {
        let mut first = [0; 1];
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.read(&mut first)).await {
            Err(_) => return Err(HandshakeError::TimedOut(HANDSHAKE_TIMEOUT)),
            Ok(Err(error)) => return Err(HandshakeError::Io(error)),
            Ok(Ok(0)) => return Err(HandshakeError::Io(ErrorKind::UnexpectedEof.into())),
            Ok(Ok(_)) => {}
        }
        let stream = stream.with_early(first.to_vec());
        if first == [HANDSHAKE] { self.open(stream).await } else { Ok(stream) }
    }

    async fn end(&self, stream: Stream) -> Result<Stream, HandshakeError> {
        match &self.0.ends {
            Some(acceptor) => acceptor.accept(stream).await,
            None => {
                let name = stream.server_name().unwrap_or("no name").to_owned();
                let text = format!("the client wants {name}, which does not go through here");
                Err(HandshakeError::Refused(text, Why::Name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_written() {
        let check = |host: &str, name: &str, expect: bool| {
            assert_eq!(Pattern::new(host).matches(name), expect, "{host} {name}");
        };
        check("*", "", true);
        check("*", "a.example", true);
        check("A.example", "a.example", true);
        check("a.example", "b.a.example", false);
        check("*.example", "b.a.example", true);
        check("*.example", "example", false);
        check("*.example", ".example", false);
        check("*.example", "badexample", false);
    }
}
