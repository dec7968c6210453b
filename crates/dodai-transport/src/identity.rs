//! Who the far side of a connection is: SPIFFE ids of apps, bases and the server, and the mesh's host names.
//!
//! `spiffe://<trust domain>/ns/<namespace>/<app>` is an app, `/base/<id>` a base, `/server` the control plane.
//! The form of an SVID (exactly one URI name) is that of the SPIFFE X509-SVID specification, section 2.

use std::fmt;
use std::sync::Arc;

use dodai_core::call::Caller;
use dodai_core::id::{AppId, BaseId, Name, ServiceId};
use rustls::pki_types::ServerName;
use thiserror::Error;

/// The trust domain of a mesh that chose no other.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Why a text is not an identity of this mesh.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadIdentity {
    /// Not a trust domain name.
    #[error("`{0}` is not a trust domain: use 1 to 255 of a-z, 0-9, `.`, `-` and `_`, without `spiffe://`")]
    TrustDomain(String),
    /// Not a base id that can stand in a SPIFFE id.
    #[error("`{0}` is not a base id: use 1 to 128 of A-Z, a-z, 0-9, `.`, `-` and `_`")]
    Base(String),
    /// A SPIFFE id of somebody else's mesh.
    #[error("`{id}` is not of trust domain `{expected}`")]
    OtherDomain {
        /// The id that was read.
        id: String,
        /// The trust domain of this mesh.
        expected: TrustDomain,
    },
    /// Inside the trust domain, but none of the three forms.
    #[error(
        "`{0}` is no identity of a mesh: expected spiffe://<trust domain>/ns/<namespace>/<app>, /base/<id> or /server"
    )]
    Form(String),
    /// Not a host name of the mesh.
    #[error("`{0}` is not of the form <port>.<service>.<namespace>.<zone>.<mesh>")]
    MeshName(String),
}

/// The name of a trust domain (SPIFFE-ID, section 2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks `text`.
    pub fn new(text: &str) -> Result<TrustDomain, BadIdentity> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(TrustDomain(text.into()))
        } else {
            Err(BadIdentity::TrustDomain(text.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> TrustDomain {
        TrustDomain(DEFAULT_TRUST_DOMAIN.into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An identity that a certificate of this mesh can prove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerIdentity {
    /// An app.
    App(AppId),
    /// A base acting for itself.
    Base(BaseId),
    /// The control plane.
    Server,
}

impl PeerIdentity {
    /// A base's identity; fails when the id cannot stand in a SPIFFE id.
    pub fn base(id: &BaseId) -> Result<PeerIdentity, BadIdentity> {
        check_base(id.as_str())?;
        Ok(PeerIdentity::Base(id.clone()))
    }

    /// The SPIFFE id in `domain`.
    pub fn spiffe(&self, domain: &TrustDomain) -> String {
        match self {
            PeerIdentity::App(app) => app.spiffe(domain.as_str()),
            PeerIdentity::Base(id) => format!("spiffe://{domain}/base/{id}"),
            PeerIdentity::Server => format!("spiffe://{domain}/server"),
        }
    }

    /// Reads a SPIFFE id of `domain` back.
    pub fn from_spiffe(id: &str, domain: &TrustDomain) -> Result<PeerIdentity, BadIdentity> {
        let form = || BadIdentity::Form(id.to_owned());
        let rest = id.strip_prefix("spiffe://").ok_or_else(form)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority != domain.as_str() {
            return Err(BadIdentity::OtherDomain { id: id.to_owned(), expected: domain.clone() });
        }
        if path == "server" {
            return Ok(PeerIdentity::Server);
        }
        if let Some(base) = path.strip_prefix("base/") {
            check_base(base)?;
            return Ok(PeerIdentity::Base(BaseId::new(base)));
        }
        AppId::from_spiffe(id, domain.as_str()).map(PeerIdentity::App).map_err(|_| form())
    }

    /// What this identity is to the data path. The server calls nobody's apps, so it is nobody there.
    pub fn caller(&self) -> Caller {
        match self {
            PeerIdentity::App(app) => Caller::App(app.clone()),
            PeerIdentity::Base(_) => Caller::Base,
            PeerIdentity::Server => Caller::Outside,
        }
    }

    /// The app, if it is one.
    pub fn app(&self) -> Option<&AppId> {
        match self {
            PeerIdentity::App(app) => Some(app),
            PeerIdentity::Base(_) | PeerIdentity::Server => None,
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerIdentity::App(app) => write!(f, "app {app}"),
            PeerIdentity::Base(id) => write!(f, "base {id}"),
            PeerIdentity::Server => f.write_str("the server"),
        }
    }
}

/// A base id as one path segment of a SPIFFE id (SPIFFE-ID, section 2.2).
fn check_base(id: &str) -> Result<(), BadIdentity> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if (1..=128).contains(&id.len()) && id.bytes().all(allowed) && id != "." && id != ".." {
        Ok(())
    } else {
        Err(BadIdentity::Base(id.to_owned()))
    }
}

/// What a base asks another base for in SNI: `<port>.<service>.<namespace>.<zone>.<mesh>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshName {
    /// The port of the service that is called.
    pub service: ServiceId,
    /// The zone the called instance lives in.
    pub zone: Name,
    /// The mesh: its trust domain.
    pub mesh: TrustDomain,
}

impl MeshName {
    /// Reads a host name of the mesh back; the inverse of `to_string`.
    pub fn parse(text: &str) -> Result<MeshName, BadIdentity> {
        let bad = || BadIdentity::MeshName(text.to_owned());
        let mut labels = text.splitn(5, '.');
        let mut name = || labels.next().and_then(|label| Name::new(label).ok()).ok_or_else(bad);
        let (port, service, namespace, zone) = (name()?, name()?, name()?, name()?);
        let mesh = labels.next().and_then(|rest| TrustDomain::new(rest).ok()).ok_or_else(bad)?;
        Ok(MeshName { service: ServiceId { owner: AppId::new(namespace, service), port }, zone, mesh })
    }

    /// The name as TLS wants it; fails when all labels together are longer than a host name may be.
    pub fn server_name(&self) -> Result<ServerName<'static>, BadIdentity> {
        let text = self.to_string();
        ServerName::try_from(text.clone()).map_err(|_| BadIdentity::MeshName(text))
    }
}

impl fmt::Display for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceId { owner, port } = &self.service;
        write!(f, "{port}.{}.{}.{}.{}", owner.name, owner.namespace, self.zone, self.mesh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identities_read_back() {
        let domain = TrustDomain::default();
        for (identity, text) in [
            (
                PeerIdentity::App(AppId::parse("shop/cart").expect("id")),
                "spiffe://cluster.local/ns/shop/cart",
            ),
            (PeerIdentity::Base(BaseId::new("Node_1.a")), "spiffe://cluster.local/base/Node_1.a"),
            (PeerIdentity::Server, "spiffe://cluster.local/server"),
        ] {
            assert_eq!(identity.spiffe(&domain), text);
            assert_eq!(PeerIdentity::from_spiffe(text, &domain), Ok(identity));
        }
    }

    #[test]
    fn foreign_and_malformed_ids_are_told_apart() {
        let domain = TrustDomain::default();
        for other in ["spiffe://cluster.localx/server", "spiffe://x/ns/a/b", "spiffe://"] {
            let error = PeerIdentity::from_spiffe(other, &domain).expect_err(other);
            assert!(matches!(error, BadIdentity::OtherDomain { .. }), "{error}");
        }
        for bad in
            ["", "http://cluster.local/server", "spiffe://cluster.local/ns/a", "spiffe://cluster.local"]
        {
            let error = PeerIdentity::from_spiffe(bad, &domain).expect_err(bad);
            assert!(matches!(error, BadIdentity::Form(_)), "{error}");
        }
        for bad in ["", "a/b", "..", "ä"] {
            let id = format!("spiffe://cluster.local/base/{bad}");
            assert_eq!(PeerIdentity::from_spiffe(&id, &domain), Err(BadIdentity::Base(bad.into())));
            assert!(PeerIdentity::base(&BaseId::new(bad)).is_err());
        }
    }

    #[test]
    fn mesh_names_read_back() {
        let text = "http.cart.shop.z1.cluster.local";
        let name = MeshName::parse(text).expect("valid");
        assert_eq!(name.service, ServiceId::parse("shop/cart/http").expect("valid"));
        assert_eq!((name.zone.as_str(), name.mesh.as_str()), ("z1", "cluster.local"));
        assert_eq!(name.to_string(), text);
        assert!(name.server_name().is_ok());
        for bad in ["", "cart.shop.z1.mesh", "http..shop.z1.mesh", "HTTP.cart.shop.z1.mesh"] {
            assert!(MeshName::parse(bad).is_err(), "{bad}");
        }
        let long = [("a".repeat(63) + ".").repeat(4), "mesh".to_owned()].concat();
        assert!(MeshName::parse(&long).expect("each label is fine").server_name().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_reads_back(text in "(spiffe://)?[a-z./_-]{0,30}") {
            let domain = TrustDomain::default();
            if let Ok(identity) = PeerIdentity::from_spiffe(&text, &domain) {
                prop_assert_eq!(identity.spiffe(&domain), text.clone());
            }
            if let Ok(name) = MeshName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
