//! What guards calls, from documents to the words of the data path.

use std::time::Duration;

use dodai_api::{self as api, Metadata, Policy};
use dodai_core::id::{AppId, Name};
use dodai_core::snapshot::{
    Access, AccessExcept, AccessRule, Authorizer, AuthorizerProtocol, CertificateMatch, ClaimMatch, Cors,
    Filter, IdentityPattern, Jwt, JwtIssuer, JwtKeys, ValuePattern,
};
use dodai_transport::identity::TrustDomain;

use super::rule::value;
use super::service::resolve;
use crate::documents::Documents;
use crate::name;

pub(super) fn cors(cors: &api::Cors) -> Filter {
    Filter::Cors(Cors {
        allow_origins: cors.allow_origins.clone(),
        allow_methods: cors.allow_methods.clone(),
        allow_headers: cors.allow_headers.clone(),
        expose_headers: cors.expose_headers.clone(),
        allow_credentials: cors.allow_credentials,
        max_age: Duration::from_secs(cors.max_age.into()),
    })
}

/// A filter of a policy that is only tried.
pub(super) fn trial(policy: &Policy, filter: Filter) -> Filter {
    let policy = format!("{}/{}", policy.metadata.namespace, policy.metadata.name);
    Filter::Trial { policy, filter: Box::new(filter) }
}

pub(super) fn access(access: &api::Access, metadata: &Metadata, domain: &TrustDomain) -> Access {
    let own = &metadata.namespace;
    let rule = |rule: &api::AccessRule| {
        let from = rule.from.clone().unwrap_or_default();
        let app = |text: &String| match text.split_once('/') {
            Some(_) => AppId::parse(text).ok(),
            None => AppId::parse(&format!("{own}/{text}")).ok(),
        };
        AccessRule {
            allow: rule.action == api::AccessAction::Allow,
            apps: from.apps.iter().filter_map(app).collect(),
            namespaces: from.namespaces.iter().map(ToString::to_string).collect(),
            methods: rule.methods.clone(),
            paths: rule.paths.clone(),
            identities: from.identities.iter().map(|one| identity(one, domain)).collect(),
            addresses: from.addresses,
            certificates: from.certificates.iter().filter_map(|text| certificate(text)).collect(),
            hosts: rule.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            headers: rule.headers.iter().map(value).collect(),
            claims: rule.claims.iter().map(claim).collect(),
            except: AccessExcept {
                apps: from.not_apps.iter().filter_map(app).collect(),
                namespaces: from.not_namespaces.iter().map(ToString::to_string).collect(),
                identities: from.not_identities.iter().map(|one| identity(one, domain)).collect(),
                addresses: from.not_addresses,
                methods: rule.not_methods.clone(),
                paths: rule.not_paths.clone(),
                hosts: rule.not_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
                headers: rule.not_headers.iter().map(value).collect(),
                claims: rule.not_claims.iter().map(claim).collect(),
            },
            cel: rule.when.clone(),
        }
    };
    Access {
        default_allow: access.default == api::AccessAction::Allow,
        rules: access.rules.iter().map(rule).collect(),
    }
}

fn certificate(text: &str) -> Option<CertificateMatch> {
    let (part, value) = api::certificate_parts(text)?;
    Some(match part {
        api::CertificatePart::Uri => CertificateMatch::Uri(value.to_owned()),
        api::CertificatePart::Dns => CertificateMatch::Dns(value.to_ascii_lowercase()),
        api::CertificatePart::Subject => CertificateMatch::Subject(value.to_owned()),
        api::CertificatePart::Hash => CertificateMatch::Hash(value.to_ascii_lowercase()),
    })
}

fn claim(wanted: &api::ClaimMatch) -> ClaimMatch {
    let one = |text: &String| match wanted.kind {
        api::ValueMatchKind::Exact => ValuePattern::Exact(text.clone()),
        api::ValueMatchKind::RegularExpression => ValuePattern::Regex(text.clone()),
        api::ValueMatchKind::Present => ValuePattern::Present,
    };
    ClaimMatch { name: wanted.name.clone(), values: wanted.values.iter().map(one).collect() }
}

/// How often keys are fetched anew where nothing is said.
const REFRESH: Duration = Duration::from_secs(300);
/// How far clocks may be apart where nothing is said.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

pub(super) fn jwt(jwt: &api::Jwt) -> Filter {
    let issuer = |one: &api::JwtIssuer| {
        let keys = match (&one.jwks, &one.jwks_file, &one.jwks_uri) {
            (Some(keys), ..) => JwtKeys::Inline(keys.clone()),
            (None, Some(path), _) => JwtKeys::File(path.clone()),
            (None, None, uri) => JwtKeys::Uri {
                uri: uri.clone().unwrap_or_default(),
                refresh: one.refresh.map_or(REFRESH, api::TimeSpan::get),
            },
        };
        let mut headers: Vec<_> =
            one.from_headers.iter().map(|header| (header.name.clone(), header.prefix.clone())).collect();
        if headers.is_empty() && one.from_cookies.is_empty() && one.from_params.is_empty() {
            headers.push(("authorization".to_owned(), "Bearer ".to_owned()));
        }
        let told = one.claims_to_headers.iter().map(|told| (told.claim.clone(), told.header.clone()));
        JwtIssuer {
            issuer: one.issuer.clone(),
            audiences: one.audiences.clone(),
            keys,
            headers,
            cookies: one.from_cookies.clone(),
            params: one.from_params.clone(),
            clock_skew: one.clock_skew.map_or(CLOCK_SKEW, api::TimeSpan::get),
            forward: one.forward,
            claims_to_headers: told.collect(),
        }
    };
    Filter::Jwt(Jwt { issuers: jwt.issuers.iter().map(issuer).collect(), optional: jwt.optional })
}

/// How long an authorizer may take where nothing is said.
const AUTHORIZER_TIMEOUT: Duration = Duration::from_secs(1);

/// The app or service that a policy asks who may call.
fn authorizer_owner(policy: &Policy) -> Option<AppId> {
    let to = &policy.spec.ext_authz.as_ref()?.backend_ref;
    Some(name::app_in(to.namespace.as_ref().unwrap_or(&policy.metadata.namespace), &to.name))
}

/// Everything that policies ask who may call.
pub(super) fn authorizers(documents: &Documents) -> impl Iterator<Item = AppId> {
    documents.policies().filter_map(authorizer_owner)
}

/// The filter of a policy that asks another service. One that is not there refuses, as one that is down does.
pub(super) fn authorizer(documents: &Documents, policy: &Policy) -> Option<Filter> {
    let asked = policy.spec.ext_authz.as_ref()?;
    let owner = authorizer_owner(policy)?;
    let port = asked.backend_ref.port.map(api::Port::get);
    let service = match resolve(documents, &owner, None, port) {
        Some(found) => found.id,
        None => dodai_core::id::ServiceId { owner, port: Name::new("http").ok()? },
    };
    let protocol = match asked.protocol {
        api::AuthorizerProtocol::Http => AuthorizerProtocol::Http { path_prefix: asked.path_prefix.clone() },
        api::AuthorizerProtocol::Grpc => AuthorizerProtocol::Grpc,
    };
    Some(Filter::Authorizer(Authorizer {
        service,
        protocol,
        timeout: asked.timeout.map_or(AUTHORIZER_TIMEOUT, api::TimeSpan::get),
        fail_open: asked.fail_open,
        request_headers: asked.request_headers.clone(),
        call_headers: asked.call_headers.clone(),
        client_headers: asked.client_headers.clone(),
    }))
}

/// Nobody of another mesh proves who he is here, so an identity of another trust domain is nobody's. It stays in the
/// rule: without it the rule might hold for everybody.
fn identity(text: &str, domain: &TrustDomain) -> IdentityPattern {
    let (namespace, app) = match api::identity_parts(text) {
        Some((of, namespace, app)) if of == domain.as_str() => (namespace, app),
        Some(_) | None => ("", ""),
    };
    IdentityPattern { namespace: namespace.to_owned(), app: app.to_owned() }
}

/// Puts what says of pages before everything else, because a preflight carries nothing that another filter could
/// know its caller by. Of several the last counts, which is that of the narrowest scope.
pub(super) fn pages_first(filters: &mut Vec<Filter>) {
    let is_cors = |filter: &Filter| matches!(filter, Filter::Cors(_));
    let Some(last) = filters.iter().rposition(is_cors) else { return };
    let last = filters.remove(last);
    filters.retain(|filter| !is_cors(filter));
    filters.insert(0, last);
}
