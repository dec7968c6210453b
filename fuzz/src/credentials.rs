//! What proves who somebody is: tokens, pins, certificates, requests to sign one.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use dodai_transport::ca::{Authority, Names};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::tls::pinned::Pin;
use dodai_transport::token::{Purpose, Token, TokenHash};
use dodai_transport::trust::{Bundle, identity_in};

const VALIDITY: Duration = Duration::from_hours(1);

/// Reads the bytes as each kind of credential.
pub fn target(data: &[u8]) {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| {
        Authority::create(TrustDomain::default(), SystemTime::UNIX_EPOCH)
            .expect("the machine has random numbers")
    });
    let _ = identity_in(&data.into(), authority.domain());
    let Ok(text) = std::str::from_utf8(data) else { return };
    for purpose in [Purpose::Join, Purpose::Api] {
        if let Ok(token) = Token::parse(text, purpose) {
            let again = Token::parse(&token.reveal(), purpose).expect("what it reveals is a token");
            assert!(again.hash().matches(&token));
        }
    }
    if let Ok(pin) = Pin::parse(text) {
        assert_eq!(Pin::parse(&pin.to_string()), Ok(pin));
    }
    let _ = TokenHash::parse(text);
    if let Ok(bundle) = Bundle::from_pem(text) {
        let again = Bundle::from_pem(&bundle.to_pem()).expect("what we wrote is readable");
        assert_eq!(again.roots(), bundle.roots());
    }
    let now = SystemTime::UNIX_EPOCH;
    let _ = authority.sign(text, &PeerIdentity::Server, &Names::default(), VALIDITY, now);
}
