//! Who may call: rules over the caller, the client's address, the call's token and its head.
//!
//! Deny rules win, then allow rules, then the default. What a call means to an endpoint may be read in more than one
//! way (paths, repeated headers): a deny rule matches what may be meant, an allow rule only what must be.

use std::cell::OnceCell;
use std::net::IpAddr;

use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::id::AppId;
use dodai_core::snapshot::{self, CertificateMatch, IdentityPattern};
use dodai_transport::client_certificate::ClientCertificate;

use crate::filter::{Known, Seen};
use crate::identity::Certified;
use crate::jwt::Claims;
use crate::matcher::Named;
use crate::path::Readings;
use crate::route::BadRule;

/// Who may call, compiled.
#[derive(Debug)]
pub struct Access {
    default_allow: bool,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    source: snapshot::AccessRule,
    networks: Vec<Network>,
    headers: Vec<Named>,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: u128,
    /// Of the 128 bits, how many count. IPv4 stands where IPv6 maps it.
    bits: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, or one address.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (most, before) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let bits = bits.unwrap_or(most);
        (bits <= most).then(|| Network { address: number(address), bits: bits + before })
    }

    /// Whether `address` is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        let differing = self.address ^ number(address);
        differing.checked_shr(128 - self.bits).unwrap_or(0) == 0
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Access {
    /// Compiles `source` of `rule`.
    pub fn compile(rule: &str, source: &snapshot::Access) -> Result<Access, BadRule> {
        let one = |source: &snapshot::AccessRule| {
            let network = |text: &String| {
                let bad = || BadRule::Network { rule: rule.to_owned(), network: text.clone() };
                Network::parse(text).ok_or_else(bad)
            };
            Ok(Rule {
                networks: source.addresses.iter().map(network).collect::<Result<_, _>>()?,
                headers: source
                    .headers
                    .iter()
                    .map(|one| Named::compile(rule, one))
                    .collect::<Result<_, _>>()?,
                source: source.clone(),
            })
        };
        let rules = source.rules.iter().map(one).collect::<Result<_, BadRule>>()?;
        Ok(Access { default_allow: source.default_allow, rules })
    }

    /// Refuses a call that may not be made.
    pub fn check(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> Result<(), Failure> {
        if *seen.caller == Caller::Base {
            return Ok(());
        }
        let readings = OnceCell::new();
        let matches = |rule: &Rule| rule.matches(seen, claims, &readings);
        let denied = self.rules.iter().filter(|rule| !rule.source.allow).any(matches);
        let granted = || self.rules.iter().filter(|rule| rule.source.allow).any(matches);
        if denied || !(self.default_allow || granted()) {
            let text = format!("{} may not {} {}", seen.caller, seen.head.method(), seen.head.path());
            return Err(Failure::new(Kind::Denied, text));
        }
        Ok(())
    }
}

impl Rule {
    fn matches<'a>(
        &self,
        seen: &Seen<'a>,
        claims: Option<&Claims>,
        readings: &OnceCell<Readings<'a>>,
    ) -> bool {
        let (source, head) = (&self.source, &seen.head);
        let covers = |path: &String| {
            let readings = readings.get_or_init(|| Readings::of(head.path()));
            if source.allow { readings.must_be(path) } else { readings.may_be(path) }
        };
        self.is_from(seen.caller)
            && self.is_at(seen.client)
            && self.has_shown(seen.certified)
            && (source.methods.is_empty() || source.methods.iter().any(|method| method == head.method()))
            && (source.hosts.is_empty() || source.hosts.iter().any(|host| is_host(host, head.host())))
            && (source.paths.is_empty() || source.paths.iter().any(covers))
            && self.doubt(seen.known).unwrap_or_else(|| {
                let claim = |wanted| claims.is_some_and(|claims| claims.have(wanted));
                self.headers.iter().all(|named| self.has(named, head)) && source.claims.iter().all(claim)
            })
    }

    /// The benefit of the doubt for a call of which less is known than the rule asks for.
    fn doubt(&self, known: Known) -> Option<bool> {
        let lacks = match known {
            Known::All => false,
            Known::Head => !self.source.claims.is_empty(),
            Known::Line => !self.source.claims.is_empty() || !self.headers.is_empty(),
        };
        lacks.then_some(self.source.allow)
    }

    /// Whether the caller is one of those named, if any are.
    fn is_from(&self, caller: &Caller) -> bool {
        let source = &self.source;
        if source.apps.is_empty() && source.namespaces.is_empty() && source.identities.is_empty() {
            return true;
        }
        let Some(app) = caller.app() else { return false };
        source.apps.contains(app)
            || source.namespaces.iter().any(|ns| ns == app.namespace.as_str())
            || source.identities.iter().any(|pattern| is_identity(pattern, app))
    }

    /// Whether the client is in one of the networks, if any are given. One whose address is not known is in none.
    fn is_at(&self, client: Option<&str>) -> bool {
        if self.networks.is_empty() {
            return true;
        }
        let address = client.and_then(|client| client.parse::<IpAddr>().ok());
        address.is_some_and(|address| self.networks.iter().any(|network| network.has(address)))
    }

    /// Whether the client has shown one of the certificates, if any are given.
    fn has_shown(&self, certified: Option<&Certified>) -> bool {
        let wanted = &self.source.certificates;
        let says = |certified: &Certified| wanted.iter().any(|one| is_shown(one, &certified.certificate));
        wanted.is_empty() || certified.is_some_and(says)
    }

    /// Of a header that is repeated, any value may be meant.
    fn has(&self, named: &Named, head: &RequestHead<'_>) -> bool {
        let (mut any, mut all) = (false, true);
        head.for_each_header(|name, value| {
            if name.eq_ignore_ascii_case(&named.name) {
                let fits = named.matches(Some(value));
                any |= fits;
                all &= fits;
            }
        });
        any && (all || !self.source.allow)
    }
}

fn is_host(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            let at = host.len().saturating_sub(suffix.len());
            at > 0 && host[at..].eq_ignore_ascii_case(suffix.as_bytes())
        }
        None => host.eq_ignore_ascii_case(pattern.as_bytes()),
    }
}

fn is_identity(pattern: &IdentityPattern, app: &AppId) -> bool {
    fits(&pattern.namespace, app.namespace.as_str()) && fits(&pattern.app, app.name.as_str())
}

fn is_shown(wanted: &CertificateMatch, certificate: &ClientCertificate) -> bool {
    let any = |pattern: &str, all: &[String]| all.iter().any(|one| fits(pattern, one));
    match wanted {
        CertificateMatch::Uri(pattern) => any(pattern, &certificate.uris),
        CertificateMatch::Dns(pattern) => any(pattern, &certificate.dns),
        CertificateMatch::Subject(pattern) => fits(pattern, &certificate.subject),
        CertificateMatch::Hash(pattern) => fits(pattern, &certificate.hash),
    }
}

/// Whether `text` is as `pattern` says, in which one `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some((before, after)) => {
            text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
        }
        None => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_core::snapshot::{AccessRule, ValueMatch, ValuePattern};
    use tokio::time::Instant;

    fn verdict(
        access: &snapshot::Access,
        caller: &Caller,
        client: Option<&str>,
        request: http::request::Builder,
    ) -> bool {
        let (parts, ()) = request.body(()).expect("valid").into_parts();
        let (head, now) = (RequestHead::Map(&parts), Instant::now());
        let seen = Seen { head, caller, client, certified: None, now, known: Known::All };
        Access::compile("r", access).expect("compiles").check(&seen, None).is_ok()
    }

    fn shop() -> Caller {
        Caller::App(AppId::parse("default/shop").expect("valid"))
    }

    #[test]
    fn it_is_decided_by_deny_then_allow_then_default() {
        let rule = |allow, paths: &[&str]| AccessRule {
            allow,
            apps: vec![AppId::parse("default/shop").expect("valid")],
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            ..AccessRule::default()
        };
        let access = snapshot::Access {
            default_allow: false,
            rules: vec![rule(true, &[]), rule(false, &["/admin/*", "/exact"])],
        };
        let check = |caller: Caller, uri: &str, expect: bool| {
            assert_eq!(verdict(&access, &caller, None, http::Request::get(uri)), expect, "{caller} {uri}");
        };
        check(shop(), "/", true);
        check(shop(), "/admin/x", false);
        check(shop(), "/administrator", true);
        check(shop(), "//admin/x", false);
        check(shop(), "/a/..;/admin/x", false);
        check(shop(), "/exact", false);
        check(shop(), "/exact/below", true);
        check(Caller::Outside, "/", false);
        check(Caller::Base, "/admin", true);
    }

    /// One rule that allows, and nothing else.
    fn only(rule: AccessRule) -> snapshot::Access {
        snapshot::Access { default_allow: false, rules: vec![AccessRule { allow: true, ..rule }] }
    }

    #[test]
    fn networks_are_by_their_first_bits() {
        let check = |network: &str, address: &str, expect: bool| {
            let rule = AccessRule { addresses: vec![network.to_owned()], ..AccessRule::default() };
            let found = verdict(&only(rule), &Caller::Outside, Some(address), http::Request::get("/"));
            assert_eq!(found, expect, "{address} in {network}");
        };
        check("10.0.0.0/8", "10.1.2.3", true);
        check("10.0.0.0/8", "11.1.2.3", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("0.0.0.0/0", "192.0.2.1", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("::/0", "2001:db8::1", true);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.8", false);
        check("10.0.0.0/8", "", false);
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "::/129", "10.0.0.0/"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn certificates_are_by_what_they_say() {
        let certificate = ClientCertificate {
            hash: "ab12".into(),
            subject: "CN=shop,O=Partner".into(),
            uris: vec!["spiffe://partner.example/shop".into(), "urn:b".into()],
            dns: vec!["shop.partner.example".into()],
        };
        let check = |wanted: CertificateMatch, expect: bool| {
            assert_eq!(is_shown(&wanted, &certificate), expect, "{wanted:?}");
        };
        check(CertificateMatch::Uri("spiffe://partner.example/*".into()), true);
        check(CertificateMatch::Uri("urn:b".into()), true);
        check(CertificateMatch::Uri("spiffe://partner.example".into()), false);
        check(CertificateMatch::Uri("shop.partner.example".into()), false);
        check(CertificateMatch::Dns("*.partner.example".into()), true);
        check(CertificateMatch::Dns("partner.example".into()), false);
        check(CertificateMatch::Subject("*,O=Partner".into()), true);
        check(CertificateMatch::Subject("O=Partner".into()), false);
        check(CertificateMatch::Hash("ab12".into()), true);
        check(CertificateMatch::Hash("ab".into()), false);
        // Who has shown none is none of them.
        let rule =
            || AccessRule { certificates: vec![CertificateMatch::Uri("*".into())], ..AccessRule::default() };
        assert!(!verdict(&only(rule()), &Caller::Outside, None, http::Request::get("/")));
    }

    #[test]
    fn identities_hosts_and_headers() {
        let check = |rule: AccessRule, expect: bool| {
            let request = http::Request::get("http://Api.Shop.example/")
                .header("x-role", "admin")
                .header("x-role", "user");
            assert_eq!(verdict(&only(rule.clone()), &shop(), None, request), expect, "{rule:?}");
        };
        let identity = |namespace: &str, app: &str| AccessRule {
            identities: vec![IdentityPattern { namespace: namespace.into(), app: app.into() }],
            ..AccessRule::default()
        };
        check(identity("default", "*"), true);
        check(identity("default", "sh*"), true);
        check(identity("def*", "shop"), true);
        check(identity("default", "shop*p"), false);
        check(identity("other", "*"), false);
        check(identity("", ""), false);
        let host = |host: &str| AccessRule { hosts: vec![host.into()], ..AccessRule::default() };
        check(host("api.shop.example"), true);
        check(host("*.shop.example"), true);
        check(host("*.api.shop.example"), false);
        check(host("shop.example"), false);
        let header =
            |value: &str| ValueMatch { name: "X-Role".into(), value: ValuePattern::Exact(value.into()) };
        // The endpoint may take either value.
        check(AccessRule { headers: vec![header("admin")], ..AccessRule::default() }, false);
        let deny = snapshot::Access {
            default_allow: true,
            rules: vec![AccessRule { headers: vec![header("user")], ..AccessRule::default() }],
        };
        let request = || http::Request::get("/").header("x-role", "admin");
        assert!(!verdict(&deny, &shop(), None, request().header("x-role", "user")));
        assert!(verdict(&deny, &shop(), None, request()));
    }
}
