//! Who may call: rules over the caller, the client's address, the call's token and its head.
//!
//! Deny rules win, then allow rules, then the default. What a call means to an endpoint may be read in more than one
//! way (paths, repeated headers): a deny rule matches what may be meant, an allow rule only what must be.

use std::cell::OnceCell;
use std::net::IpAddr;

use dodai_cel::Program;
use dodai_core::call::Caller;
use dodai_core::failure::{Failure, Kind};
use dodai_core::head::RequestHead;
use dodai_core::id::AppId;
use dodai_core::snapshot::{self, CertificateMatch, IdentityPattern, ValueMatch, ValuePattern};
use dodai_transport::client_certificate::ClientCertificate;

use crate::filter::{Known, Seen};
use crate::identity::Certified;
use crate::jwt::Claims;
use crate::matcher::{self, Named};
use crate::path::Readings;
use crate::route::BadRule;

/// The roots that an expression may name.
const ROOTS: [&str; 3] = ["request", "source", "claims"];

/// Those of them that are known without a token.
const CALL_ROOTS: [&str; 2] = ["request", "source"];

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
    claims: Vec<Claim>,
    except: Except,
    expression: Option<Program>,
    /// Whether it asks for something that only a token tells.
    asks_claims: bool,
}

/// What a call must not be, as far as it is compiled.
#[derive(Debug)]
struct Except {
    networks: Vec<Network>,
    headers: Vec<Named>,
    claims: Vec<Claim>,
}

/// What a claim must be: one of the values, or just there if there are none.
#[derive(Debug)]
struct Claim {
    name: String,
    values: Vec<Named>,
}

impl Claim {
    fn compile(rule: &str, source: &snapshot::ClaimMatch) -> Result<Claim, BadRule> {
        let value = |value: &ValuePattern| {
            Named::compile(rule, &ValueMatch { name: source.name.clone(), value: value.clone() })
        };
        let values = source.values.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Claim { name: source.name.clone(), values })
    }

    fn is_in(&self, claims: Option<&Claims>) -> bool {
        let Some(claims) = claims else { return false };
        let fits = |text: &str| self.values.iter().any(|value| value.matches(Some(text.as_bytes())));
        if self.values.is_empty() { claims.has(&self.name) } else { claims.any(&self.name, fits) }
    }
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
        let one = |source: &snapshot::AccessRule| Rule::compile(rule, source);
        let rules = source.rules.iter().map(one).collect::<Result<_, BadRule>>()?;
        Ok(Access { default_allow: source.default_allow, rules })
    }

    /// Whether a rule asks for headers of a call.
    pub fn asks_headers(&self) -> bool {
        let asks = |rule: &Rule| {
            !rule.headers.is_empty() || !rule.except.headers.is_empty() || rule.expression.is_some()
        };
        self.rules.iter().any(asks)
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

fn compiled<S, C>(
    rule: &str,
    sources: &[S],
    compile: impl Fn(&str, &S) -> Result<C, BadRule>,
) -> Result<Vec<C>, BadRule> {
    sources.iter().map(|source| compile(rule, source)).collect()
}

fn network(rule: &str, text: &str) -> Result<Network, BadRule> {
    let bad = || BadRule::Network { rule: rule.to_owned(), network: text.to_owned() };
    Network::parse(text).ok_or_else(bad)
}

impl Rule {
    fn compile(rule: &str, source: &snapshot::AccessRule) -> Result<Rule, BadRule> {
        let program = |text: &String| {
            Program::parse_over(text, &ROOTS)
                .map_err(|error| BadRule::Expression { rule: rule.to_owned(), reason: error.to_string() })
        };
        let except = &source.except;
        let tells = |text: &String| Program::parse_over(text, &CALL_ROOTS).is_err();
        Ok(Rule {
            asks_claims: !source.claims.is_empty()
                || !except.claims.is_empty()
                || source.cel.as_ref().is_some_and(tells),
            networks: compiled(rule, &source.addresses, |rule, text| network(rule, text))?,
            headers: compiled(rule, &source.headers, Named::compile)?,
            claims: compiled(rule, &source.claims, Claim::compile)?,
            except: Except {
                networks: compiled(rule, &except.addresses, |rule, text| network(rule, text))?,
                headers: compiled(rule, &except.headers, Named::compile)?,
                claims: compiled(rule, &except.claims, Claim::compile)?,
            },
            expression: source.cel.as_ref().map(program).transpose()?,
            source: source.clone(),
        })
    }

    fn matches<'a>(
        &self,
        seen: &Seen<'a>,
        claims: Option<&Claims>,
        readings: &OnceCell<Readings<'a>>,
    ) -> bool {
        let (source, head) = (&self.source, &seen.head);
        let readings = || readings.get_or_init(|| Readings::of(head.path()));
        let covers = |path: &String| {
            if source.allow { readings().must_be(path) } else { readings().may_be(path) }
        };
        // What is excepted is looked at the other way round: an allow rule is left by what may be meant.
        let excepts = |path: &String| {
            if source.allow { readings().may_be(path) } else { readings().must_be(path) }
        };
        let except = &source.except;
        // Methods differ by case (RFC 9110 section 9.1), but some apps take `delete` for `DELETE`.
        let meant = |method: &String| method.eq_ignore_ascii_case(head.method());
        let exactly = |method: &String| method == head.method();
        let is_method = |method: &String| if source.allow { exactly(method) } else { meant(method) };
        let is_excepted = |method: &String| if source.allow { meant(method) } else { exactly(method) };
        let is_called = |host: &String| is_host(host, head.host());
        self.is_from(seen.caller)
            && self.is_at(seen.client)
            && self.has_shown(seen.certified)
            && (source.methods.is_empty() || source.methods.iter().any(is_method))
            && !except.methods.iter().any(is_excepted)
            && (source.hosts.is_empty() || source.hosts.iter().any(is_called))
            && !except.hosts.iter().any(is_called)
            && (source.paths.is_empty() || source.paths.iter().any(covers))
            && !except.paths.iter().any(excepts)
            && self.doubt(seen.known).unwrap_or_else(|| {
                self.headers.iter().all(|named| has(named, head, source.allow))
                    && !self.except.headers.iter().any(|named| has(named, head, !source.allow))
                    && self.claims.iter().all(|claim| claim.is_in(claims))
                    && !self.except.claims.iter().any(|claim| claim.is_in(claims))
                    && self.holds(seen, claims)
            })
    }

    /// Whether the expression holds, if there is one. Where it has no answer, nobody is let in by it and everybody is kept
    /// out.
    fn holds(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> bool {
        let Some(program) = &self.expression else { return true };
        let call = matcher::Seen::new(&seen.head, seen.caller);
        let [request, source] = call.words().clone();
        let claims = claims.map_or_else(|| dodai_cel::Value::Map(Default::default()), Claims::words);
        program.holds_over(&[request, source, ("claims", claims)]).unwrap_or(!self.source.allow)
    }

    /// The benefit of the doubt for a call of which less is known than the rule asks for.
    fn doubt(&self, known: Known) -> Option<bool> {
        (known == Known::Head && self.asks_claims).then_some(self.source.allow)
    }

    /// Whether the caller is one of those named, if any are, and none of those excepted.
    fn is_from(&self, caller: &Caller) -> bool {
        let (source, except) = (&self.source, &self.source.except);
        let is_excepted = |app: &AppId| is_one_of(app, &except.apps, &except.namespaces, &except.identities);
        if caller.app().is_some_and(is_excepted) {
            return false;
        }
        if source.apps.is_empty() && source.namespaces.is_empty() && source.identities.is_empty() {
            return true;
        }
        let is_named = |app: &AppId| is_one_of(app, &source.apps, &source.namespaces, &source.identities);
        caller.app().is_some_and(is_named)
    }

    /// Whether the client is in one of the networks, if any are given, and in none of those excepted. One whose address is
    /// not known is in none; an allow rule that excepts some does not match it.
    fn is_at(&self, client: Option<&str>) -> bool {
        if self.networks.is_empty() && self.except.networks.is_empty() {
            return true;
        }
        let Some(address) = client.and_then(|client| client.parse::<IpAddr>().ok()) else {
            return self.networks.is_empty() && !self.source.allow;
        };
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.has(address));
        (self.networks.is_empty() || is_in(&self.networks)) && !is_in(&self.except.networks)
    }

    /// Whether the client has shown one of the certificates, if any are given.
    fn has_shown(&self, certified: Option<&Certified>) -> bool {
        let wanted = &self.source.certificates;
        let says = |certified: &Certified| wanted.iter().any(|one| is_shown(one, &certified.certificate));
        wanted.is_empty() || certified.is_some_and(says)
    }
}

/// Whether a header is as it should be. Of one that is repeated any value may be meant: with `surely` all must fit.
fn has(named: &Named, head: &RequestHead<'_>, surely: bool) -> bool {
    let (mut any, mut all) = (false, true);
    head.for_each_header(|name, value| {
        if name.eq_ignore_ascii_case(&named.name) {
            let fits = named.matches(Some(value));
            any |= fits;
            all &= fits;
        }
    });
    any && (all || !surely)
}

fn is_one_of(app: &AppId, apps: &[AppId], namespaces: &[String], identities: &[IdentityPattern]) -> bool {
    apps.contains(app)
        || namespaces.iter().any(|namespace| namespace == app.namespace.as_str())
        || identities.iter().any(|pattern| is_identity(pattern, app))
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
    use dodai_core::snapshot::{AccessExcept, AccessRule, ClaimMatch};
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
        let methods = || vec!["DELETE".to_owned()];
        let deny = snapshot::Access {
            default_allow: true,
            rules: vec![AccessRule { methods: methods(), ..AccessRule::default() }],
        };
        let delete = || http::Request::builder().method("delete").uri("/");
        assert!(!verdict(&deny, &shop(), None, delete()), "some apps take it for DELETE");
        let rule = AccessRule { methods: methods(), ..AccessRule::default() };
        assert!(!verdict(&only(AccessRule { allow: true, ..rule }), &shop(), None, delete()));
        let deny = snapshot::Access {
            default_allow: true,
            rules: vec![AccessRule { headers: vec![header("user")], ..AccessRule::default() }],
        };
        let request = || http::Request::get("/").header("x-role", "admin");
        assert!(!verdict(&deny, &shop(), None, request().header("x-role", "user")));
        assert!(verdict(&deny, &shop(), None, request()));
    }
    #[test]
    fn what_is_excepted_is_surely_left_out_by_an_allow_rule() {
        let apps = |name: &str| vec![AppId::parse(name).expect("valid")];
        let value = |value: &str| ValueMatch { name: "x".into(), value: ValuePattern::Exact(value.into()) };
        // Whether a rule that allows, and one that denies, matches.
        let check = |except: AccessExcept, client: Option<&str>, uri: &str, allows: bool, denies: bool| {
            let request = || http::Request::get(uri).header("x", "1").header("x", "2");
            let rule = |allow| AccessRule { allow, except: except.clone(), ..AccessRule::default() };
            let denying = snapshot::Access { default_allow: true, rules: vec![rule(false)] };
            let found = (
                verdict(&only(rule(true)), &shop(), client, request()),
                !verdict(&denying, &shop(), client, request()),
            );
            assert_eq!(found, (allows, denies), "{except:?} {client:?} {uri}");
        };
        let none = AccessExcept::default;
        check(AccessExcept { apps: apps("default/shop"), ..none() }, None, "/", false, false);
        check(AccessExcept { apps: apps("default/cart"), ..none() }, None, "/", true, true);
        check(AccessExcept { namespaces: vec!["default".into()], ..none() }, None, "/", false, false);
        let identity = IdentityPattern { namespace: "*".into(), app: "sh*".into() };
        check(AccessExcept { identities: vec![identity], ..none() }, None, "/", false, false);
        check(AccessExcept { methods: vec!["GET".into()], ..none() }, None, "/", false, false);
        check(AccessExcept { methods: vec!["POST".into()], ..none() }, None, "/", true, true);
        check(
            AccessExcept { hosts: vec!["*.example".into()], ..none() },
            None,
            "http://a.example/",
            false,
            false,
        );
        let admin = || AccessExcept { paths: vec!["/admin/*".into()], ..none() };
        check(admin(), None, "/a", true, true);
        check(admin(), None, "/admin/x", false, false);
        check(admin(), None, "/a/..;/admin/x", false, true);
        let net = || AccessExcept { addresses: vec!["10.0.0.0/8".into()], ..none() };
        check(net(), Some("10.1.1.1"), "/", false, false);
        check(net(), Some("192.0.2.1"), "/", true, true);
        check(net(), None, "/", false, true);
        check(AccessExcept { headers: vec![value("1")], ..none() }, None, "/", false, true);
        check(AccessExcept { headers: vec![value("3")], ..none() }, None, "/", true, true);
    }

    #[test]
    fn callers_that_are_no_app_are_none_that_is_excepted() {
        let except = AccessExcept { namespaces: vec!["default".into()], ..AccessExcept::default() };
        let rule = AccessRule { except, ..AccessRule::default() };
        assert!(verdict(&only(rule), &Caller::Outside, None, http::Request::get("/")));
    }

    #[test]
    fn expressions_and_claims_are_asked() {
        let claims = Claims::of(r#"{"role": "admin-eu", "groups": ["a", "b"], "org": {"id": 7}}"#);
        let check = |rule: AccessRule, claims: Option<&Claims>, allows: bool, denies: bool| {
            let (parts, ()) = http::Request::get("/a").body(()).expect("valid").into_parts();
            let (head, now, caller) = (RequestHead::Map(&parts), Instant::now(), shop());
            let seen = Seen { head, caller: &caller, client: None, certified: None, now, known: Known::All };
            let of = |allow: bool| snapshot::Access {
                default_allow: !allow,
                rules: vec![AccessRule { allow, ..rule.clone() }],
            };
            let is_let_in =
                |allow| Access::compile("r", &of(allow)).expect("compiles").check(&seen, claims).is_ok();
            assert_eq!((is_let_in(true), !is_let_in(false)), (allows, denies), "{rule:?} {claims:?}");
        };
        let when = |text: &str| AccessRule { cel: Some(text.to_owned()), ..AccessRule::default() };
        check(when("claims.role.startsWith('admin') && source.app == 'shop'"), Some(&claims), true, true);
        check(when("claims.org.id == 8"), Some(&claims), false, false);
        check(when("request.path == '/a'"), None, true, true);
        // Without an answer nobody is let in, and everybody kept out.
        check(when("claims.role == 'x'"), None, false, true);
        check(when("request.headers['none'] == 'x'"), Some(&claims), false, true);
        check(when("request.path"), Some(&claims), false, true);
        let claim =
            |name: &str, values: &[ValuePattern]| ClaimMatch { name: name.into(), values: values.to_vec() };
        let rule = |claim| AccessRule { claims: vec![claim], ..AccessRule::default() };
        check(rule(claim("role", &[ValuePattern::Regex("admin-..".into())])), Some(&claims), true, true);
        check(rule(claim("role", &[ValuePattern::Regex("admin".into())])), Some(&claims), false, false);
        check(rule(claim("groups", &[ValuePattern::Exact("b".into())])), Some(&claims), true, true);
        check(rule(claim("org", &[])), Some(&claims), true, true);
        check(rule(claim("none", &[])), Some(&claims), false, false);
        let except = |claim| AccessRule {
            except: AccessExcept { claims: vec![claim], ..AccessExcept::default() },
            ..AccessRule::default()
        };
        check(except(claim("groups", &[ValuePattern::Exact("b".into())])), Some(&claims), false, false);
        check(except(claim("groups", &[ValuePattern::Exact("c".into())])), None, true, true);
    }
}
