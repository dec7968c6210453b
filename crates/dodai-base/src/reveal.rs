//! Secrets in what leaves the mesh: headers and certificates of endpoints outside, read from the base's secret stores.
//!
//! Control tells where a secret is, never what it is; what is read here lives in memory only, in the snapshot that
//! the data plane gets. While a secret cannot be read, the calls that need it are answered with the reason, and
//! everything else goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::id::{Name, ServiceId};
use dodai_core::snapshot::{
    Action, Endpoints, Filter, Pem, Resource, Service, Setting, Snapshot, Target, Value,
};
use dodai_runtime::{Error, Runtime};
use tokio::time::Instant;

/// How long a store that is just being opened is waited for.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);

/// Where values are read.
pub trait Vault {
    /// The value itself.
    fn read(&self, namespace: &Name, value: &Value) -> impl Future<Output = Result<String, Error>>;
}

impl Vault for Runtime {
    async fn read(&self, namespace: &Name, value: &Value) -> Result<String, Error> {
        self.secret(namespace, value).await
    }
}

/// The snapshot with its references followed, and whether all could be. A store that is not up is waited for
/// until `patience` is over.
pub async fn reveal(
    vault: &impl Vault,
    snapshot: &Arc<Snapshot>,
    patience: Duration,
) -> (Arc<Snapshot>, bool) {
    let wanted = snapshot.endpoints().filter(|one| one.list.iter().any(|one| in_target(&one.target)));
    let mut ids: BTreeSet<&ServiceId> = wanted.map(|one| &one.service).collect();
    ids.extend(snapshot.services().filter(|service| in_rules(service)).map(|service| &service.id));
    if ids.is_empty() {
        return (snapshot.clone(), true);
    }
    let until = Instant::now() + patience;
    let (mut next, mut whole) = (Snapshot::clone(snapshot), true);
    for id in ids {
        let Some(service) = snapshot.service(id) else { continue };
        let mut reading = Reading { vault, namespace: &id.owner.namespace, until };
        let (mut service, mut list) =
            (service.clone(), snapshot.endpoints_of(id).map(|(endpoints, _)| endpoints.clone()));
        if let Err(why) = reading.all(&mut service, list.as_mut()).await {
            if !patience.is_zero() {
                tracing::warn!(service = %id, why, "calls that need this secret are refused until it can be read");
            }
            whole = false;
            refuse(&mut service, list.as_mut(), &why);
        }
        next.insert(Resource::Service(service));
        if let Some(list) = list {
            next.insert(Resource::Endpoints(list));
        }
    }
    (Arc::new(next), whole)
}

fn pems(target: &Target) -> impl Iterator<Item = &Pem> {
    let tls = match target {
        Target::Tls { tls, .. } | Target::Announced { tls: Some(tls), .. } => Some(tls),
        Target::Address(_) | Target::Announced { tls: None, .. } | Target::Instance { .. } => None,
    };
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    tls.and_then(|tls| tls.roots.as_ref())
        .into_iter()
        .chain(certificate.into_iter().flat_map(|(chain, key)| [chain, key]))
}

fn in_target(target: &Target) -> bool {
    pems(target).any(|pem| matches!(pem, Pem::Value(value) if !matches!(value, Value::Plain(_))))
}

fn in_rules(service: &Service) -> bool {
    let mut filters = service.rules.iter().flat_map(|rule| &rule.filters);
    filters.any(|filter| matches!(filter, Filter::RequestHeaders(edits) if !edits.secrets.is_empty()))
}

/// Answers calls with the reason; nothing goes out without its secret.
fn refuse(service: &mut Service, list: Option<&mut Endpoints>, why: &str) {
    for rule in &mut service.rules {
        rule.action = Action::Respond { status: 503, body: format!("dodai: no_endpoint: {why}\n") };
    }
    if let Some(list) = list {
        list.list.retain(|one| !in_target(&one.target));
    }
}

/// Reads the values of one service.
struct Reading<'a, V> {
    vault: &'a V,
    namespace: &'a Name,
    until: Instant,
}

impl<V: Vault> Reading<'_, V> {
    async fn all(&mut self, service: &mut Service, list: Option<&mut Endpoints>) -> Result<(), String> {
        for filter in service.rules.iter_mut().flat_map(|rule| &mut rule.filters) {
            let Filter::RequestHeaders(edits) = filter else { continue };
            while let Some(Setting { name, value }) = edits.secrets.pop() {
                let what = format!("the header `{name}`");
                let text = self.one(&what, &value).await?;
                // A file that holds a secret ends with a line end as a rule.
                let text = text.trim_end_matches(['\r', '\n']).to_owned();
                if !text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 127)) {
                    return Err(format!("{what}: its secret holds what cannot stand in a header"));
                }
                edits.set.push((name, text));
            }
        }
        for one in list.into_iter().flat_map(|list| &mut list.list) {
            let (Target::Tls { tls, .. } | Target::Announced { tls: Some(tls), .. }) = &mut one.target else {
                continue;
            };
            let certificate = tls.certificate.iter_mut().flat_map(|(chain, key)| [chain, key]);
            for pem in tls.roots.iter_mut().chain(certificate) {
                if let Pem::Value(value) = pem
                    && !matches!(value, Value::Plain(_))
                {
                    *value = Value::Plain(self.one("its TLS settings", value).await?);
                }
            }
        }
        Ok(())
    }

    async fn one(&self, what: &str, value: &Value) -> Result<String, String> {
        loop {
            match self.vault.read(self.namespace, value).await {
                Ok(text) => return Ok(text),
                Err(Error::NotReady { .. }) if Instant::now() < self.until => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(format!("{what} cannot be read: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use dodai_core::id::RevisionId;
    use dodai_core::snapshot::{ClientTls, Endpoint, HeaderEdits, Rule};

    /// Has one secret, once it was asked often enough.
    struct Fake(Cell<u32>);

    impl Vault for Fake {
        async fn read(&self, _: &Name, value: &Value) -> Result<String, Error> {
            if self.0.get() > 0 {
                self.0.set(self.0.get() - 1);
                return Err(Error::NotReady { name: "vault".into(), reason: "it is being opened".into() });
            }
            match value {
                Value::Secret { name, .. } => Ok(format!("Bearer {name}\n")),
                other @ (Value::Plain(_) | Value::Config { .. } | Value::Environment(_)) => {
                    Err(Error::Variable { name: format!("{other:?}"), problem: "is not set" })
                }
            }
        }
    }

    fn world(header: Value, roots: Option<Pem>) -> Arc<Snapshot> {
        let id = ServiceId::parse("shop/pay/http").expect("valid");
        let secrets = vec![Setting { name: "authorization".into(), value: header }];
        let edits = HeaderEdits { secrets, ..HeaderEdits::default() };
        let rule = Rule { filters: vec![Filter::RequestHeaders(edits)], ..Rule::forward("r", id.clone()) };
        let service = Service { rules: vec![rule], ..Service::new(id.clone()) };
        let tls = ClientTls { roots, ..ClientTls::default() };
        let target = Target::Tls { address: "pay.example:443".into(), tls };
        let list = vec![Endpoint::new(RevisionId::new("r"), target)];
        let endpoints = Endpoints { service: id, list };
        Arc::new(Snapshot::of(3, [Resource::Service(service), Resource::Endpoints(endpoints)]))
    }

    fn secret(name: &str) -> Value {
        Value::Secret { store: "vault".into(), name: name.into(), key: name.into() }
    }

    async fn check(vault: Fake, snapshot: &Arc<Snapshot>) -> (Service, Vec<Endpoint>, bool) {
        let (next, whole) = reveal(&vault, snapshot, PATIENCE).await;
        assert_eq!(next.version, snapshot.version);
        let service = next.services().next().expect("it stays").clone();
        (service, next.endpoints().next().expect("it stays").list.clone(), whole)
    }

    #[tokio::test(start_paused = true)]
    async fn references_are_followed_once_the_store_is_up() {
        let snapshot = world(secret("token"), Some(Pem::Value(secret("ca"))));
        let (service, list, whole) = check(Fake(Cell::new(3)), &snapshot).await;
        assert!(whole);
        let Filter::RequestHeaders(edits) = &service.rules[0].filters[0] else { panic!("headers") };
        assert_eq!(edits.set, [("authorization".to_owned(), "Bearer token".to_owned())]);
        assert!(edits.secrets.is_empty());
        let Target::Tls { tls, .. } = &list[0].target else { panic!("TLS") };
        assert_eq!(tls.roots, Some(Pem::Value(Value::Plain("Bearer ca\n".to_owned()))));
    }

    #[tokio::test(start_paused = true)]
    async fn without_its_secret_nothing_goes_out() {
        for (vault, header, why) in [
            (Fake(Cell::new(1000)), secret("token"), "component `vault` is not ready"),
            (
                Fake(Cell::new(0)),
                Value::Environment("TOKEN".into()),
                "the header `authorization` cannot be read",
            ),
            (Fake(Cell::new(0)), secret("a\nb"), "cannot stand in a header"),
        ] {
            let (service, _, whole) = check(vault, &world(header, None)).await;
            assert!(!whole);
            let Action::Respond { status: 503, body } = &service.rules[0].action else { panic!("{why}") };
            assert!(body.contains(why), "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_reference_is_left_as_it_is() {
        let plain = Arc::new(Snapshot::of(1, []));
        let (next, whole) = reveal(&Fake(Cell::new(0)), &plain, PATIENCE).await;
        assert!(whole && Arc::ptr_eq(&next, &plain));
    }
}
