//! HTTPEndpoints: something outside the mesh that apps call by a name. It becomes a service with one address;
//! a rule of it sets host, path and headers, and says who may call.

use std::collections::BTreeSet;

use dodai_api::dapr::{HttpEndpoint, MetadataItem};
use dodai_core::id::{AppId, Name, RevisionId, ServiceId};
use dodai_core::snapshot::{
    Access, AccessRule, Action, Backend, Balance, Breaker, CallPolicy, Endpoint, Endpoints, Filter,
    HeaderEdits, Match, PathMatch, PathRewrite, Protocol, Resource, Rule, Service, Target,
};

use super::{Input, Scope};
use crate::name;

/// The name of the one port of an endpoint.
const PORT: &str = "http";
/// The revision of what has none.
const REVISION: &str = "outside";

pub(super) fn endpoints(input: &Input<'_>, scope: &Scope, local: &BTreeSet<AppId>) -> Vec<Resource> {
    let mut all = Vec::new();
    for document in input.documents.endpoints() {
        let Some(id) = id_of(document) else { continue };
        // An app of the name wins; documents that are checked together cannot have both.
        let taken = input.documents.app(&id.owner).is_some() || input.documents.service(&id.owner).is_some();
        let told = scope.has(&id.owner) || local.iter().any(|app| may_call(document, app));
        if taken || !told {
            continue;
        }
        let Some((authority, path)) = address(&document.spec.base_url) else { continue };
        let target = Target::Address(with_port(authority));
        let list = vec![Endpoint { revision: RevisionId::new(REVISION), target, weight: 1 }];
        all.push(Resource::Endpoints(Endpoints { service: id.clone(), list }));
        all.push(Resource::Service(service(document, id, authority, path)));
    }
    all
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

/// Authority and path of a plain URL; others were refused when the document was read.
fn address(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    Some(rest.split_at(rest.find('/').unwrap_or(rest.len()))).filter(|(authority, _)| !authority.is_empty())
}

fn with_port(authority: &str) -> String {
    let host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    if host.contains(':') { authority.to_owned() } else { format!("{authority}:80") }
}

fn service(document: &HttpEndpoint, id: ServiceId, authority: &str, path: &str) -> Service {
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
    let header = |item: &MetadataItem| Some((item.name.clone(), item.text()?));
    let set = document.spec.headers.iter().filter_map(header).collect();
    let path = path.trim_end_matches('/');
    let filters = vec![
        Filter::Access(Access { default_allow: false, rules: vec![allowed] }),
        Filter::RequestHeaders(HeaderEdits { set, ..HeaderEdits::default() }),
        Filter::Rewrite {
            host: Some(authority.to_owned()),
            path: (!path.is_empty()).then(|| PathRewrite::Prefix(path.to_owned())),
        },
    ];
    let every = Match { path: Some(PathMatch::Prefix("/".to_owned())), ..Match::default() };
    let rule = Rule {
        name: format!("{}/endpoint", id.owner),
        matches: vec![every],
        filters,
        action: Action::Forward(vec![Backend { service: id.clone(), revision: None, weight: 1 }]),
        policy: CallPolicy::default(),
    };
    Service {
        id,
        protocol: Protocol::Http,
        port: None,
        target: None,
        default: true,
        rules: vec![rule],
        traffic: Vec::new(),
        balance: Balance::default(),
        policy: CallPolicy::default(),
        breaker: Breaker::default(),
        inbound: Vec::new(),
    }
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
            ("https://a.example", None),
            ("http:///x", None),
        ] {
            let found = address(url).map(|(authority, path)| (authority, with_port(authority), path));
            assert_eq!(
                found,
                expect.map(|(authority, port, path)| (authority, port.to_owned(), path)),
                "{url}"
            );
        }
    }
}
