//! Names, SPIFFE ids and authorities: what is read back from what was written is the same.

use dodai_core::head::{host_of, port_of};
use dodai_core::id::{AppId, Name, ServiceId};

const TRUST_DOMAIN: &str = "cluster.local";

/// Reads the bytes as each kind of id.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(name) = Name::new(text) {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(app) = AppId::parse(text) {
        assert_eq!(app.to_string(), text);
        let spiffe = app.spiffe(TRUST_DOMAIN);
        assert_eq!(AppId::from_spiffe(&spiffe, TRUST_DOMAIN).expect("an id of ours is readable"), app);
    }
    if let Ok(app) = AppId::from_spiffe(text, TRUST_DOMAIN) {
        assert_eq!(app.spiffe(TRUST_DOMAIN), text, "two spellings of one identity");
    }
    if let Ok(service) = ServiceId::parse(text) {
        assert_eq!(service.to_string(), text);
    }
    let host = host_of(text);
    assert!(text.starts_with(host));
    if port_of(text).is_some() {
        assert!(text.len() > host.len());
    }
}
