//! Connections between bases: mutual TLS, in which the dialling base speaks for the app that calls and the
//! accepting one for the app that is called.
//!
//! Both sides prove an identity, and SNI names the service, so the accepting base needs no parsing to know
//! what is meant. Without a [`Mesh`] nothing goes to another base: there is no plain-text fallback.

use std::sync::Arc;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{Name, ServiceId};
use dodai_transport::identity::{MeshName, PeerIdentity, TrustDomain};
use dodai_transport::stream::Stream;
use dodai_transport::tls::Acceptor;
use dodai_transport::tls::mesh::Connector;

/// Finds the connector that presents a caller's certificate: an app's own, the base's for everybody else.
/// `None` if this base holds no certificate of that app.
pub type Connectors = Arc<dyn Fn(&Caller) -> Option<Connector> + Send + Sync>;

/// What a base needs to take part in the mesh.
#[derive(Clone)]
pub struct Mesh {
    /// For calls that leave this base.
    pub connectors: Connectors,
    /// For calls that come from other bases, on listeners with [`dodai_core::snapshot::Role::Mesh`].
    pub acceptor: Acceptor,
    /// The zone that is written into SNI.
    pub zone: Name,
    /// The trust domain, which is the mesh's name.
    pub domain: TrustDomain,
}

/// Who calls whom over a connection to another base.
#[derive(Clone, Debug)]
pub struct Callee {
    /// The caller, whose certificate is presented.
    pub caller: Caller,
    /// The service, whose owner the other side must prove to be.
    pub service: ServiceId,
}

impl Mesh {
    /// Runs the handshake on a fresh connection.
    pub async fn secure(&self, stream: Stream, callee: &Callee) -> Result<Stream, Failure> {
        let Callee { caller, service } = callee;
        let connector = (self.connectors)(caller).ok_or_else(|| {
            Failure::new(Kind::Tls, format!("this base holds no certificate to call as {caller}"))
        })?;
        let name = MeshName { service: service.clone(), zone: self.zone.clone(), mesh: self.domain.clone() };
        let name = name.server_name().map_err(|error| Failure::new(Kind::Tls, error.to_string()))?;
        connector.connect(stream, name, &[PeerIdentity::App(service.owner.clone())]).await
    }
}
