//! Certificates an operator gives us as PEM files, and whose a client must show; replaced without a restart.
//!
//! A set of (chain, key) pairs answers by SNI: the exact name, then the wildcard, then the first pair. A
//! reload reads all files and swaps the set whole; when anything in it is bad the old one stays and the
//! caller learns which file to mend.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, io};

use arc_swap::ArcSwap;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls::{SupportedProtocolVersion, client::danger::HandshakeSignatureValid, version};
use thiserror::Error;
use webpki::EndEntityCert;

use super::clients::{self, Authorities};
use super::mesh::provider_signatures;
use super::{Acceptor, Alpn, Clock, provider, wire_names};
use crate::certificate::Facts;
use crate::pem::{self, BadPem};

/// Which versions of TLS clients may speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// 1.3 and 1.2.
    #[default]
    Usual,
    /// 1.3.
    OnlyNewest,
}

/// One certificate on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The leaf certificate and what leads up to a root, PEM.
    pub chain: PathBuf,
    /// Its private key, PEM, not encrypted.
    pub key: PathBuf,
}

/// Why certificates on disk cannot be served.
#[derive(Debug, Error)]
pub enum BadFiles {
    /// No pair was given.
    #[error("TLS needs at least one certificate: name a chain and a key file")]
    None,
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong.
        problem: BadPem,
    },
    /// The key is of a kind we cannot use, or is not the chain's.
    #[error("{key} is not the key of {chain}: {why}")]
    Mismatch {
        /// The key file.
        key: String,
        /// The chain file.
        chain: String,
        /// What the cryptography says.
        why: String,
    },
}

impl BadFiles {
    pub(super) fn pem(path: &Path, problem: BadPem) -> BadFiles {
        BadFiles::Pem { path: path.display().to_string(), problem }
    }
}

/// What is being served: for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The pair.
    pub pair: Pair,
    /// The DNS names in its leaf certificate.
    pub names: Vec<String>,
    /// When it expires.
    pub not_after: SystemTime,
    /// What the leaf says of itself.
    pub leaf: Facts,
}

struct Loaded {
    clients: Option<clients::Loaded>,
    served: Vec<Served>,
    /// The bytes that were read, to tell whether anything changed.
    read: Vec<(Vec<u8>, Vec<u8>)>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    fallback: Arc<CertifiedKey>,
}

/// A live set of certificates. Clones share it.
#[derive(Clone)]
pub struct Files(Arc<ArcSwap<Loaded>>);

impl Files {
    /// Loads all of `pairs`; the first one answers those who name no host, or one we do not have.
    pub fn load(pairs: Vec<Pair>) -> Result<Files, BadFiles> {
        Files::validating(pairs, None)
    }

    /// The same, for listeners that may ask clients for a certificate of some authority.
    pub fn validating(pairs: Vec<Pair>, clients: Option<Authorities>) -> Result<Files, BadFiles> {
        Ok(Files(Arc::new(ArcSwap::from_pointee(load(pairs, clients)?))))
    }

    /// Reads the files again. `Ok(true)` when something changed; on an error what was served stays.
    pub fn reload(&self) -> Result<bool, BadFiles> {
        let pairs = self.0.load().served.iter().map(|served| served.pair.clone()).collect();
        self.set(pairs)
    }

    /// Serves another set of files. `Ok(true)` when something changed; on an error the old set stays.
    pub fn set(&self, pairs: Vec<Pair>) -> Result<bool, BadFiles> {
        let old = self.0.load();
        let fresh = load(pairs, old.clients.as_ref().map(|clients| clients.source.clone()))?;
        let asked = |loaded: &Loaded| loaded.clients.as_ref().map(|clients| clients.read.clone());
        let changed = old.read != fresh.read || old.served != fresh.served || asked(&old) != asked(&fresh);
        if changed {
            self.0.store(Arc::new(fresh));
        }
        Ok(changed)
    }

    /// What is being served now.
    pub fn served(&self) -> Vec<Served> {
        self.0.load().served.clone()
    }

    /// The accepting side with these certificates, TLS 1.3 and, unless only that is wanted, 1.2.
    pub fn acceptor(&self, protocols: &[Alpn], versions: Versions, clock: Clock) -> Acceptor {
        let versions: &[&'static SupportedProtocolVersion] = match versions {
            Versions::Usual => &[&version::TLS13, &version::TLS12],
            Versions::OnlyNewest => &[&version::TLS13],
        };
        let config = ServerConfig::builder_with_details(provider(), Arc::new(clock))
            .with_protocol_versions(versions)
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let asks = self.0.load().clients.is_some();
        let config = match asks {
            true => config.with_client_cert_verifier(Arc::new(self.clone())),
            false => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = wire_names(protocols);
        if asks {
            // Who resumes a session is not asked again, and may have been revoked meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            return Acceptor::new(config, None);
        }
        match rustls::crypto::aws_lc_rs::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!(%error, "no session tickets: returning clients handshake in full"),
        }
        Acceptor::new(config, None)
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.load().served.iter()).finish()
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(choose(&self.0.load(), hello.server_name()))
    }
}

/// With the authorities as they are now.
impl ClientCertVerifier for Files {
    fn client_auth_mandatory(&self) -> bool {
        self.0.load().clients.as_ref().is_some_and(|clients| !clients.source.is_optional)
    }

    /// None: they may change while the configuration stands, and clients have one certificate for us anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.0.load().clients {
            Some(clients) => clients.verifier.verify_client_cert(leaf, intermediates, now),
            None => Err(rustls::CertificateError::UnknownIssuer.into()),
        }
    }

    provider_signatures!();
}

fn choose(loaded: &Loaded, name: Option<&str>) -> Arc<CertifiedKey> {
    let found = name.and_then(|name| {
        let name = name.to_ascii_lowercase();
        let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        loaded.by_name.get(&name).or_else(|| loaded.by_name.get(&wildcard?))
    });
    found.unwrap_or(&loaded.fallback).clone()
}

fn load(pairs: Vec<Pair>, clients: Option<Authorities>) -> Result<Loaded, BadFiles> {
    let clients = clients.map(clients::load).transpose()?;
    let (mut served, mut read, mut by_name, mut fallback) = (Vec::new(), Vec::new(), HashMap::new(), None);
    for pair in pairs {
        let (bytes, one, key) = load_one(pair)?;
        for name in &one.names {
            by_name.entry(name.clone()).or_insert_with(|| key.clone());
        }
        fallback.get_or_insert(key);
        served.push(one);
        read.push(bytes);
    }
    Ok(Loaded { clients, served, read, by_name, fallback: fallback.ok_or(BadFiles::None)? })
}

type Bytes = (Vec<u8>, Vec<u8>);

fn load_one(pair: Pair) -> Result<(Bytes, Served, Arc<CertifiedKey>), BadFiles> {
    let (chain_path, key_path) = (pair.chain.display().to_string(), pair.key.display().to_string());
    let chain_text = read(&pair.chain)?;
    let key_text = read(&pair.key)?;
    let in_chain = |problem| BadFiles::Pem { path: chain_path.clone(), problem };
    let chain = pem::certificates(&chain_text).map_err(in_chain)?;
    let key =
        pem::private_key(&key_text).map_err(|problem| BadFiles::Pem { path: key_path.clone(), problem })?;
    let end = EndEntityCert::try_from(&chain[0]).map_err(|_| in_chain(BadPem::Certificate(1)))?;
    let names = end.valid_dns_names().map(str::to_ascii_lowercase).collect();
    let leaf = Facts::of(&chain[0]).ok_or_else(|| in_chain(BadPem::Certificate(1)))?;
    let not_after = leaf.not_after;
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| BadFiles::Mismatch {
        key: key_path.clone(),
        chain: chain_path.clone(),
        why: error.to_string(),
    })?;
    Ok(((chain_text, key_text), Served { pair, names, not_after, leaf }, Arc::new(certified)))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, BadFiles> {
    dodai_core::file::read_text(path)
        .map_err(|source| BadFiles::Read { path: path.display().to_string(), source })
}
