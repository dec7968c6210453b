//! Identities for simulated bases: one authority, and a certificate for whoever calls or is called.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use dodai_core::call::Caller;
use dodai_core::id::{AppId, BaseId, Name};
use dodai_dataplane::mesh::Mesh;
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::tls::mesh::{Connector, Keyring, LiveSvid, acceptor};
use dodai_transport::tls::{Alpn, Clock};
use dodai_transport::trust::Trust;

/// Signs for a simulated mesh.
pub struct Issuer {
    trust: Trust,
    apps: HashMap<AppId, LiveSvid>,
    bases: HashMap<BaseId, LiveSvid>,
}

impl Issuer {
    /// An authority that has signed for `apps` and `bases`.
    ///
    /// # Panics
    /// When certificates cannot be made, which has no cause outside this program.
    pub fn new(apps: &[AppId], bases: &[BaseId]) -> Issuer {
        let authority = Authority::create(TrustDomain::default(), SystemTime::now()).expect("created");
        let trust = Trust::new(TrustDomain::default(), authority.bundle().expect("a bundle"));
        let sign = |identity: &PeerIdentity| {
            let svid = authority.issue(identity, &Names::default(), LEAF_VALIDITY, SystemTime::now());
            LiveSvid::new(svid.expect("issued")).expect("usable")
        };
        let apps = apps.iter().map(|app| (app.clone(), sign(&PeerIdentity::App(app.clone())))).collect();
        let base = |base: &BaseId| (base.clone(), sign(&PeerIdentity::base(base).expect("a valid name")));
        Issuer { trust, apps, bases: bases.iter().map(base).collect() }
    }

    /// How `base` takes part.
    ///
    /// # Panics
    /// When nothing was signed for that base.
    pub fn mesh(&self, base: &BaseId) -> Mesh {
        let (own, apps, trust) = (self.bases[base].clone(), self.apps.clone(), self.trust.clone());
        let keys = Keyring::new(own.clone());
        keys.replace(apps.clone());
        let connectors = Arc::new(move |caller: &Caller| {
            let svid = match caller {
                Caller::App(app) => apps.get(app)?.clone(),
                Caller::Base | Caller::Outside => own.clone(),
            };
            Some(Connector::new(svid, trust.clone(), &[], Clock::system()))
        });
        Mesh {
            connectors,
            acceptor: acceptor(Arc::new(keys), self.trust.clone(), Alpn::HTTP, Clock::system()),
            zone: Name::new("z1").expect("a valid name"),
            domain: TrustDomain::default(),
        }
    }
}
