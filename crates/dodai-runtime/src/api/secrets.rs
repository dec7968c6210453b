//! The secrets API.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_capability::scopes;
use dodai_capability::secrets::{Store, Values};
use http::StatusCode;
use http::request::Parts;

use super::refusal::{Outcome, Refusal, encoded};
use super::{Api, patience, query};
use crate::components::{Block, Live};

fn revealed(values: &Values) -> BTreeMap<&str, &str> {
    values.iter().map(|(key, secret)| (key.as_str(), secret.reveal())).collect()
}

impl Api {
    fn secret_store(&self, name: &str) -> Result<(Arc<Live>, Arc<dyn Store>), Refusal> {
        self.component(Block::Secrets, name, |all| all.secrets.clone())
    }

    /// What the app may read of one store; without a rule, everything.
    fn secret_scope(&self, store: &str) -> scopes::Secrets {
        let terms = self.terms.load();
        let rule = terms.scopes.secrets.iter().find(|rule| rule.store == store);
        rule.map_or_else(scopes::Secrets::default, |rule| scopes::Secrets {
            deny_by_default: !rule.default_allow,
            allowed: rule.allowed.iter().cloned().collect(),
            denied: rule.denied.iter().cloned().collect(),
        })
    }

    pub(super) async fn get_secret(&self, store: &str, key: &str, head: &Parts) -> Outcome {
        let (_live, secrets) = self.secret_store(store)?;
        if !self.secret_scope(store).allow(key) {
            let message = format!("access denied by policy to get {key:?} from {store:?}");
            return Err(Refusal::new(StatusCode::FORBIDDEN, "ERR_PERMISSION_DENIED", message));
        }
        let metadata = query::metadata(head.uri.query());
        let wanted = self.wanted(store);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let values = patience::ask(patience, store, (), |()| secrets.get(key, &metadata)).await;
        let values = values.map_err(|error| {
            let message = format!("failed getting secret with key {key} from secret store {store}: {error}");
            Refusal::internal("ERR_SECRET_GET", message)
        })?;
        encoded(StatusCode::OK, &revealed(&values))
    }

    pub(super) async fn get_bulk_secret(&self, store: &str, head: &Parts) -> Outcome {
        let (_live, secrets) = self.secret_store(store)?;
        let metadata = query::metadata(head.uri.query());
        let wanted = self.wanted(store);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let all = patience::ask(patience, store, (), |()| secrets.get_all(&metadata)).await;
        let all = all.map_err(|error| {
            let message = format!("failed getting secrets from secret store {store}: {error}");
            Refusal::internal("ERR_SECRET_GET", message)
        })?;
        let scope = self.secret_scope(store);
        let shown: BTreeMap<&str, BTreeMap<&str, &str>> = all
            .iter()
            .filter(|(name, _)| scope.allow(name))
            .map(|(name, values)| (name.as_str(), revealed(values)))
            .collect();
        encoded(StatusCode::OK, &shown)
    }
}
