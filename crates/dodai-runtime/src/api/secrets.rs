//! Secrets as apps read them: what their scopes allow.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_capability::secrets::{Store, Values};
use dodai_capability::{Metadata, scopes};
use http::StatusCode;

use super::refusal::Refusal;
use super::{Api, patience};
use crate::components::{Block, Live};

/// The values of a secret as they are, by key.
pub(super) fn revealed(values: &Values) -> BTreeMap<&str, &str> {
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

    pub(super) async fn get_secret(
        &self,
        store: &str,
        key: &str,
        metadata: &Metadata,
    ) -> Result<Values, Refusal> {
        let (_live, secrets) = self.secret_store(store)?;
        if !self.secret_scope(store).allow(key) {
            let message = format!("access denied by policy to get {key:?} from {store:?}");
            return Err(Refusal::new(StatusCode::FORBIDDEN, "ERR_PERMISSION_DENIED", message));
        }
        let wanted = self.wanted(store);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let values = patience::ask(patience, store, (), |()| secrets.get(key, metadata)).await;
        values.map_err(|error| {
            let message = format!("failed getting secret with key {key} from secret store {store}: {error}");
            Refusal::internal("ERR_SECRET_GET", message)
        })
    }

    /// Every secret that the app may read, by name.
    pub(super) async fn get_secrets(
        &self,
        store: &str,
        metadata: &Metadata,
    ) -> Result<BTreeMap<String, Values>, Refusal> {
        let (_live, secrets) = self.secret_store(store)?;
        let wanted = self.wanted(store);
        let patience = wanted.as_deref().map(|wanted| &wanted.outbound);
        let all = patience::ask(patience, store, (), |()| secrets.get_all(metadata)).await;
        let mut all = all.map_err(|error| {
            let message = format!("failed getting secrets from secret store {store}: {error}");
            Refusal::internal("ERR_SECRET_GET", message)
        })?;
        let scope = self.secret_scope(store);
        all.retain(|name, _| scope.allow(name));
        Ok(all)
    }
}
