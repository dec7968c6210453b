//! SPIFFE ids of apps as documents write them.

/// Trust domain, namespace and app of `spiffe://<trust domain>/ns/<namespace>/<app>`, where one `*` may stand in each of
/// the last two.
pub fn identity_parts(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.strip_prefix("spiffe://")?.split('/');
    let (domain, ns, namespace, app) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*');
    let part = |part: &str| !part.is_empty() && part.bytes().all(byte) && part.matches('*').count() <= 1;
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    let whole = parts.next().is_none() && ns == "ns" && !domain.is_empty() && domain.bytes().all(in_domain);
    (whole && part(namespace) && part(app)).then_some((domain, namespace, app))
}

/// What of a certificate is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePart {
    /// A URI among its alternative names.
    Uri,
    /// A DNS name among them.
    Dns,
    /// Its subject, as RFC 2253 writes it.
    Subject,
    /// Its SHA-256, in hexadecimal digits.
    Hash,
}

/// What is meant of a certificate, and what that must be: `URI=...`, `DNS=...`, `Subject=...` or `Hash=...`.
pub fn certificate_parts(text: &str) -> Option<(CertificatePart, &str)> {
    let (key, value) = text.split_once('=')?;
    let part = match key {
        "URI" => CertificatePart::Uri,
        "DNS" => CertificatePart::Dns,
        "Subject" => CertificatePart::Subject,
        "Hash" => CertificatePart::Hash,
        _ => return None,
    };
    (!value.is_empty() && value.matches('*').count() <= 1).then_some((part, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_four_parts_and_few_stars() {
        for (text, expect) in [
            ("spiffe://cluster.local/ns/shop/cart", Some(("cluster.local", "shop", "cart"))),
            ("spiffe://cluster.local/ns/shop/*", Some(("cluster.local", "shop", "*"))),
            ("spiffe://cluster.local/ns/*/ca*", Some(("cluster.local", "*", "ca*"))),
            ("spiffe://*/ns/shop/cart", None),
            ("spiffe://cluster.local/ns/shop/*a*", None),
            ("spiffe://cluster.local/ns/shop", None),
            ("spiffe://cluster.local/ns/shop/cart/x", None),
            ("spiffe://cluster.local/sa/shop/cart", None),
            ("cluster.local/ns/shop/cart", None),
            ("spiffe://cluster.local/ns//cart", None),
        ] {
            assert_eq!(identity_parts(text), expect, "{text}");
        }
    }
}
