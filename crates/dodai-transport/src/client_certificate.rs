//! What the certificate that a client has shown says of it, in the words of Envoy's `X-Forwarded-Client-Cert`.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The most bytes of names that are kept of a certificate; what does not fit is left out.
pub const MAX_NAMES: usize = 4096;

/// A client by its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The SHA-256 of the certificate, in small hexadecimal digits.
    pub hash: String,
    /// The subject as RFC 2253 writes it, the most particular part first, in ASCII; may be empty.
    pub subject: String,
    /// The URIs among its alternative names.
    pub uris: Vec<String>,
    /// The DNS names among them, in small letters.
    pub dns: Vec<String>,
}

impl ClientCertificate {
    /// Of a certificate; none if it cannot be read.
    pub fn of(der: &CertificateDer<'_>) -> Option<ClientCertificate> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut shown =
            ClientCertificate { hash: hex(digest(&SHA256, der).as_ref()), ..ClientCertificate::default() };
        let mut room = MAX_NAMES;
        let mut keep = |text: &str, to: &mut Vec<String>| {
            // No URI and no host has others, which could end a header or a part of it.
            let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
            if text.len() <= room && text.bytes().all(is_plain) {
                room -= text.len();
                to.push(text.to_owned());
            }
        };
        let extension = certificate.subject_alternative_name().ok().flatten();
        for name in extension.iter().flat_map(|one| &one.value.general_names) {
            #[expect(clippy::wildcard_enum_match_arm, reason = "foreign enum; other names are not passed on")]
            match name {
                GeneralName::URI(uri) => keep(uri, &mut shown.uris),
                GeneralName::DNSName(name) => keep(&name.to_ascii_lowercase(), &mut shown.dns),
                _ => {}
            }
        }
        let subject = subject(certificate.subject());
        if subject.len() <= MAX_NAMES {
            shown.subject = subject;
        }
        Some(shown)
    }

    /// The name to call it by: the first URI, else the first DNS name, else the subject.
    pub fn name(&self) -> &str {
        self.uris.first().or(self.dns.first()).unwrap_or(&self.subject)
    }

    /// The value of `X-Forwarded-Client-Cert`.
    pub fn forwarded(&self) -> String {
        let mut out = format!("Hash={};Subject=\"{}\"", self.hash, self.subject);
        let uris = self.uris.iter().map(|uri| ("URI", uri));
        for (key, value) in uris.chain(self.dns.iter().map(|name| ("DNS", name))) {
            let quote = if value.contains([',', ';', '=']) { "\"" } else { "" };
            out.push_str(&format!(";{key}={quote}{value}{quote}"));
        }
        out
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

fn subject(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> =
        name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(one: &AttributeTypeAndValue<'_>) -> String {
    let kind = oid2abbrev(one.attr_type(), oid_registry())
        .map_or_else(|_| one.attr_type().to_id_string(), str::to_owned);
    match one.as_str() {
        Ok(value) => format!("{kind}={}", escaped(value)),
        Err(_) => format!("{kind}=#{}", hex(one.as_slice())),
    }
}

/// A value as RFC 2253 section 2.4 writes it; what is not ASCII is given byte by byte, and so is what would end the quotes
/// that it stands in.
fn escaped(value: &str) -> String {
    let (mut out, last) = (String::new(), value.len().saturating_sub(1));
    for (at, byte) in value.bytes().enumerate() {
        let at_edge = (byte == b' ' && (at == 0 || at == last)) || (byte == b'#' && at == 0);
        if at_edge || b",+<>;".contains(&byte) {
            out.push('\\');
            out.push(char::from(byte));
        } else if (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn shown(subject: &[(DnType, &str)], names: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = names;
        let key = KeyPair::generate().expect("a key");
        ClientCertificate::of(params.self_signed(&key).expect("a certificate").der()).expect("readable")
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().expect("ASCII"))
    }

    #[test]
    fn it_is_forwarded_as_envoy_writes_it() {
        let subject = [
            (DnType::CountryName, "US"),
            (DnType::OrganizationName, "Lyft, \"Inc\""),
            (DnType::CommonName, "Tëst "),
        ];
        let one =
            shown(&subject, vec![uri("spiffe://partner/a"), dns("A.partner.example"), dns("b.example")]);
        let subject = "CN=T\\C3\\ABst\\ ,O=Lyft\\, \\22Inc\\22,C=US";
        assert_eq!((one.subject.as_str(), one.name()), (subject, "spiffe://partner/a"));
        let names = "URI=spiffe://partner/a;DNS=a.partner.example;DNS=b.example";
        assert_eq!(one.forwarded(), format!("Hash={};Subject=\"{subject}\";{names}", one.hash));
        assert_eq!(one.hash.len(), 64);
        let bare = shown(&[], vec![]);
        assert!(bare.forwarded().ends_with(";Subject=\"\""), "{bare:?}");
        assert_eq!(shown(&[(DnType::CommonName, "x")], vec![dns("a")]).name(), "a");
        assert_eq!(shown(&[(DnType::CommonName, "x")], vec![]).name(), "CN=x");
    }

    #[test]
    fn names_cannot_break_out_of_the_header() {
        let one = shown(
            &[(DnType::CommonName, "a\r\nX: y\\")],
            vec![uri("a:b\";URI=a:c"), uri("a:b\r\nX: y"), uri("a:b;URI=a:c"), dns(&"x".repeat(MAX_NAMES))],
        );
        assert_eq!(one.uris, ["a:b;URI=a:c"]);
        assert_eq!(one.dns, [] as [&str; 0], "it does not fit any more");
        let said = one.forwarded();
        assert!(said.ends_with(";Subject=\"CN=a\\0D\\0AX: y\\5C\";URI=\"a:b;URI=a:c\""), "{said}");
    }
}
