//! Which certificates are void before their time, and what a certificate says that this goes by.
//!
//! Certificates live for hours, so the list is short: it names a base, an app or one serial number, and the moment
//! up to which what was issued is void. What is issued later is good: a base that joins again is not the one that
//! was thrown out. A base's name stands in every certificate that was issued to it, also in those of its apps.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_core::id::{AppId, BaseId};
use dodai_core::snapshot;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::BACKDATE;
use crate::identity::PeerIdentity;

/// What a certificate says beside its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whom it proves.
    pub identity: PeerIdentity,
    /// The base it was issued to, where it says so.
    pub holder: Option<BaseId>,
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// When it expires.
    pub expires: SystemTime,
}

impl Facts {
    /// Reads a certificate that was verified. None if it cannot be read, which a verified one can.
    pub fn of(leaf: &CertificateDer<'_>, identity: PeerIdentity) -> Option<Facts> {
        let (_, cert) = X509Certificate::from_der(leaf).ok()?;
        let seconds = |time: i64| u64::try_from(time).ok();
        let named = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let holder = match &identity {
            PeerIdentity::Base(base) => Some(base.clone()),
            PeerIdentity::App(_) => named.map(BaseId::new),
            PeerIdentity::Server => None,
        };
        let expires = seconds(cert.validity().not_after.timestamp())?;
        Some(Facts {
            identity,
            holder,
            serial: cert.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            issued: seconds(cert.validity().not_before.timestamp())? + BACKDATE.as_secs(),
            expires: UNIX_EPOCH.checked_add(Duration::from_secs(expires))?,
        })
    }
}

/// The certificates that are void. The times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    bases: HashMap<BaseId, u64>,
    apps: HashMap<AppId, u64>,
    serials: HashSet<String>,
}

impl Revoked {
    /// As a snapshot says it.
    pub fn of(list: &[snapshot::Revoked]) -> Revoked {
        let mut all = Revoked::default();
        for one in list {
            match &one.whose {
                snapshot::Whose::Base(base) => later(&mut all.bases, base, one.until),
                snapshot::Whose::App(app) => later(&mut all.apps, app, one.until),
                snapshot::Whose::Serial(serial) => {
                    all.serials.insert(serial.to_ascii_lowercase());
                }
            }
        }
        all
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.bases.is_empty() && self.apps.is_empty() && self.serials.is_empty()
    }

    /// Up to when what was issued to a base for an identity is void; 1970 if nothing is.
    pub fn until(&self, identity: &PeerIdentity, base: &BaseId) -> SystemTime {
        let of_app = identity.app().and_then(|app| self.apps.get(app));
        let until = self.bases.get(base).max(of_app).copied().unwrap_or_default();
        UNIX_EPOCH.checked_add(Duration::from_secs(until)).unwrap_or(UNIX_EPOCH)
    }

    /// Whether a certificate is void.
    pub fn has(&self, facts: &Facts) -> bool {
        let until = |until: Option<&u64>| until.is_some_and(|until| facts.issued <= *until);
        let base = facts.holder.as_ref().and_then(|holder| self.bases.get(holder));
        let app = facts.identity.app().and_then(|app| self.apps.get(app));
        until(base) || until(app) || self.serials.contains(&facts.serial)
    }
}

fn later<K: Clone + Eq + std::hash::Hash>(map: &mut HashMap<K, u64>, key: &K, until: u64) {
    let known = map.entry(key.clone()).or_insert(until);
    *known = until.max(*known);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{Authority, LEAF_VALIDITY, Names};
    use crate::identity::TrustDomain;
    use dodai_core::snapshot::{Revoked as Entry, Whose};

    fn facts(identity: &PeerIdentity, holder: Option<&str>, now: SystemTime) -> Facts {
        let authority = Authority::create(TrustDomain::default(), now).expect("a root");
        let names = Names { holder: holder.map(BaseId::new), ..Names::default() };
        let svid = authority.issue(identity, &names, LEAF_VALIDITY, now).expect("issued");
        Facts::of(&svid.chain()[0], identity.clone()).expect("readable")
    }

    #[test]
    fn what_was_issued_up_to_then_is_void_and_what_comes_later_is_not() {
        let at = 1_800_000_000;
        let time = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let shop = AppId::parse("default/shop").expect("valid");
        let app = PeerIdentity::App(shop.clone());
        let base = PeerIdentity::Base(BaseId::new("one"));
        let revoked = |whose: Whose| Revoked::of(&[Entry { whose, until: at }]);
        let check = |whose: &Whose, facts: &Facts, expect: bool| {
            assert_eq!(revoked(whose.clone()).has(facts), expect, "{whose:?} {facts:?}");
        };
        let old = facts(&app, Some("one"), time(at));
        assert_eq!((old.issued, old.expires), (at, time(at) + LEAF_VALIDITY));
        let one = Whose::Base(BaseId::new("one"));
        check(&one, &old, true);
        check(&one, &facts(&base, None, time(at - 100)), true);
        check(&one, &facts(&base, None, time(at + 1)), false);
        check(&one, &facts(&app, Some("two"), time(at)), false);
        check(&one, &facts(&app, None, time(at)), false);
        let of_app = Whose::App(shop);
        check(&of_app, &facts(&app, Some("two"), time(at)), true);
        check(&of_app, &facts(&app, Some("two"), time(at + 1)), false);
        check(&of_app, &facts(&base, None, time(at)), false);
        check(&Whose::Serial(old.serial.to_uppercase()), &old, true);
        check(&Whose::Serial("00".to_owned()), &old, false);
        assert!(Revoked::of(&[]).is_empty() && !Revoked::default().has(&old));
    }
}
