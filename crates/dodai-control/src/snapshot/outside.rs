//! What is outside the mesh. External apps are addresses, perhaps spoken to in TLS. HTTPEndpoints are called by a
//! name: each becomes a service with one address; a rule of it sets host, path and headers, and says who may call.
//!
//! Secrets stay references here; a base follows them before it uses the snapshot.

use dodai_api::dapr::{HttpEndpoint, TlsItem};
use dodai_api::{Destination, External, ProxyProtocolVersion};
use dodai_core::id::{AppId, Name, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Access, AccessRule, ClientTls, Endpoint, Endpoints, Filter, HeaderEdits, Match, PathMatch, PathRewrite,
    Pem, ProxyVersion, Resource, Rule, Service, Setting, Target, Value,
};

use super::{Frame, Input, component};
use crate::name;

/// The name of the one port of an endpoint.
const PORT: &str = "http";
/// The revision of what has none.
const REVISION: &str = "outside";

/// What is told of an endpoint, if apps of this base may call it.
pub(super) fn endpoint(input: &Input<'_>, frame: &Frame, document: &HttpEndpoint) -> Option<[Resource; 2]> {
    let id = id_of(document)?;
    // An app of the name wins; documents that are checked together cannot have both.
    let taken = input.documents.app(&id.owner).is_some() || input.documents.service(&id.owner).is_some();
    let told = frame.has(&id.owner) || frame.local.iter().any(|app| may_call(document, app));
    if taken || !told {
        return None;
    }
    let url = Url::read(&document.spec.base_url)?;
    let target = target(document, &url);
    let list = vec![Endpoint::new(RevisionId::new(REVISION), target)];
    let endpoints = Resource::Endpoints(Endpoints { service: id.clone(), list });
    Some([endpoints, Resource::Service(service(document, id, &url))])
}

fn id_of(document: &HttpEndpoint) -> Option<ServiceId> {
    let owner = AppId::new(
        name::name(&document.metadata.namespace),
        Name::new(document.metadata.name.as_str()).ok()?,
    );
    Some(ServiceId { owner, port: Name::new(PORT).ok()? })
}

fn may_call(document: &HttpEndpoint, app: &AppId) -> bool {
    app.namespace.as_str() == document.metadata.namespace.as_str()
        && (document.scopes.is_empty() || document.scopes.iter().any(|one| one == app.name.as_str()))
}

/// A base URL, taken apart.
struct Url<'a> {
    secure: bool,
    authority: &'a str,
    path: &'a str,
}

impl Url<'_> {
    fn read(url: &str) -> Option<Url<'_>> {
        let (scheme, rest) = url.split_once("://")?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        (!authority.is_empty()).then_some(Url { secure, authority, path })
    }

    fn with_port(&self) -> String {
        let host = self.authority.rsplit_once(']').map_or(self.authority, |(_, rest)| rest);
        let port = if self.secure { 443 } else { 80 };
        if host.contains(':') { self.authority.to_owned() } else { format!("{}:{port}", self.authority) }
    }
}

fn store(document: &HttpEndpoint) -> &str {
    document.auth.as_ref().map_or("", |auth| auth.secret_store.as_str())
}

fn target(document: &HttpEndpoint, url: &Url<'_>) -> Target {
    let address = url.with_port();
    if !url.secure {
        return Target::Address(address);
    }
    let pem = |item: &TlsItem| {
        let value =
            item.secret_key_ref.as_ref().map(|reference| component::secret(reference, store(document)));
        let text = || Some(Value::Plain(item.value.as_ref()?.as_str()?.to_owned()));
        value.or_else(text).map(Pem::Value)
    };
    let given = document.spec.client_tls.as_ref();
    let tls = ClientTls {
        server_name: None,
        roots: given.and_then(|tls| pem(tls.root_ca.as_ref()?)),
        certificate: given
            .and_then(|tls| Some((pem(tls.certificate.as_ref()?)?, pem(tls.private_key.as_ref()?)?))),
    };
    Target::Tls { address, tls }
}

/// Where an external app listens.
pub(super) fn targets(input: &Input<'_>, app: &AppId, external: &External) -> Vec<Target> {
    let file = |path: &String| match &input.settings.project {
        Some(project) => project.join(path).display().to_string(),
        None => path.clone(),
    };
    let own = |(certificate, key): (&String, &String)| (Pem::File(file(certificate)), Pem::File(file(key)));
    let tls = |address: &Destination| {
        external.tls.as_ref().map(|tls| ClientTls {
            // A name proves to be itself; who is behind an IP address is known by the app's.
            server_name: tls.server_name.clone().or_else(|| match address.name() {
                Some(_) => None,
                None => Some(app.name.to_string()),
            }),
            roots: tls.ca.as_ref().map(file).map(Pem::File),
            certificate: tls.certificate_file.as_ref().zip(tls.key_file.as_ref()).map(own),
        })
    };
    let version = external.proxy_protocol.map(|version| match version {
        ProxyProtocolVersion::V1 => ProxyVersion::V1,
        ProxyProtocolVersion::V2 => ProxyVersion::V2,
    });
    let target = |one: &Destination| match (version, tls(one), one.to_string()) {
        (Some(version), tls, address) => Target::Announced { address, tls, version },
        (None, Some(tls), address) => Target::Tls { address, tls },
        (None, None, address) => Target::Address(address),
    };
    external.addresses.iter().map(target).collect()
}

fn service(document: &HttpEndpoint, id: ServiceId, url: &Url<'_>) -> Service {
    let own = |app: &String| AppId::parse(&format!("{}/{app}", id.owner.namespace)).ok();
    let allowed = AccessRule {
        allow: true,
        apps: document.scopes.iter().filter_map(own).collect(),
        namespaces: if document.scopes.is_empty() {
            vec![id.owner.namespace.to_string()]
        } else {
            Vec::new()
        },
        ..AccessRule::default()
    };
    let mut edits = HeaderEdits::default();
    for item in &document.spec.headers {
        let Setting { name, value } = component::setting(item, store(document));
        match value {
            Value::Plain(text) => edits.set.push((name, text)),
            value @ (Value::Secret { .. } | Value::Config { .. } | Value::Environment(_)) => {
                edits.secrets.push(Setting { name, value });
            }
        }
    }
    let path = url.path.trim_end_matches('/');
    let filters = vec![
        Filter::Access(Access { default_allow: false, rules: vec![allowed] }),
        Filter::RequestHeaders(edits),
        Filter::Rewrite {
            host: Some(url.authority.to_owned()),
            path: (!path.is_empty()).then(|| PathRewrite::Prefix(path.to_owned())),
        },
    ];
    let every = Match { path: Some(PathMatch::Prefix("/".to_owned())), ..Match::default() };
    let rule =
        Rule { matches: vec![every], filters, ..Rule::forward(format!("{}/endpoint", id.owner), id.clone()) };
    Service { rules: vec![rule], ..Service::new(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, expect) in [
            ("http://a.example", Some(("a.example", "a.example:80", ""))),
            ("http://a.example:81/base/", Some(("a.example:81", "a.example:81", "/base/"))),
            ("http://[::1]/x?y", Some(("[::1]", "[::1]:80", "/x"))),
            ("http://[::1]:8/", Some(("[::1]:8", "[::1]:8", "/"))),
            ("https://a.example", Some(("a.example", "a.example:443", ""))),
            ("https://a.example:8443/x", Some(("a.example:8443", "a.example:8443", "/x"))),
            ("ftp://a.example", None),
            ("http:///x", None),
        ] {
            let found = Url::read(url);
            let found = found.as_ref().map(|found| (found.authority, found.with_port(), found.path));
            assert_eq!(
                found,
                expect.map(|(authority, port, path)| (authority, port.to_owned(), path)),
                "{url}"
            );
        }
    }
}
