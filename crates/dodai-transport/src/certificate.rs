//! What a certificate says of itself, for people and for alarms: never its key.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The longest name that is kept of a certificate, in bytes.
const MAX_NAME: usize = 512;
/// The most alternative names that are kept.
const MAX_NAMES: usize = 100;

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is, as a distinguished name; often empty.
    pub subject: String,
    /// Who signed it, as a distinguished name.
    pub issuer: String,
    /// Its number, in hexadecimal with colons.
    pub serial: String,
    /// The names and addresses it is for: `DNS:...`, `URI:...`, `IP:...`, at most 100.
    pub names: Vec<String>,
    /// When its life begins.
    pub not_before: SystemTime,
    /// When its life ends.
    pub not_after: SystemTime,
}

impl Facts {
    /// Of a certificate; none if it cannot be read.
    pub fn of(der: &CertificateDer<'_>) -> Option<Facts> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let extension = cert.subject_alternative_name().ok().flatten();
        let names = extension.iter().flat_map(|one| &one.value.general_names);
        let validity = cert.validity();
        Some(Facts {
            subject: clipped(cert.subject().to_string()),
            issuer: clipped(cert.issuer().to_string()),
            serial: clipped(cert.raw_serial_as_string()),
            names: names.filter_map(shown).take(MAX_NAMES).collect(),
            not_before: time(validity.not_before.timestamp())?,
            not_after: time(validity.not_after.timestamp())?,
        })
    }
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enum; other names are of no use here")]
    let text = match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::RFC822Name(name) => format!("email:{name}"),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => format!("IP:{}", Ipv4Addr::from(four)),
            (_, Ok(sixteen)) => format!("IP:{}", Ipv6Addr::from(sixteen)),
            (Err(_), Err(_)) => return None,
        },
        _ => return None,
    };
    Some(clipped(text))
}

fn clipped(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_NAME));
    text
}

fn time(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_whose_it_is_and_how_long() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()])
            .expect("names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "the leaf");
        params.serial_number = Some(vec![1, 2, 0xab].into());
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 1, 2);
        let key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let facts = Facts::of(cert.der()).expect("readable");
        assert_eq!((&*facts.subject, &*facts.issuer), ("CN=the leaf", "CN=the leaf"));
        assert_eq!(facts.serial, "01:02:ab");
        assert_eq!(facts.names, ["DNS:a.example", "IP:10.0.0.1"]);
        assert_eq!(
            facts.not_after.duration_since(facts.not_before).expect("later"),
            Duration::from_secs(86_400)
        );
        assert!(Facts::of(&CertificateDer::from(vec![1, 2, 3])).is_none());
    }
}
