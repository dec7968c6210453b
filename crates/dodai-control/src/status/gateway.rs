//! Whether the listeners of a gateway listen, on every base where they should.

use std::collections::BTreeMap;

use dodai_api::{Gateway, Listener, Status};
use dodai_core::id::BaseId;
use serde_json::Value;

use super::{BASES_TOLD, Facts, condition};
use crate::name;
use crate::records::Sighting;
use crate::snapshot::{gateway_listener_names, has_gateways};

pub(super) fn status(facts: &Facts<'_>, gateway: &Gateway) -> Status {
    let id = name::app_id(&gateway.metadata);
    let names = gateway_listener_names(facts.documents);
    let connected = || facts.observed.bases().filter(|(_, base)| base.connected);
    let wanted: Vec<_> = connected().filter(|(base, _)| has_gateways(facts.documents, base)).collect();
    let mut addresses = Vec::new();
    let (mut nobody, mut partly) = (Vec::new(), Vec::new());
    for listener in &gateway.spec.listeners {
        let Some(own) = names.get(&(id.clone(), listener.name.to_string())) else { continue };
        let bound = facts.observed.bases().filter_map(|(_, base)| base.status.listeners.get(own));
        addresses.extend(bound.map(|address| Value::from(address.to_string())));
        let listens = |base: &Sighting| {
            base.status.listeners.contains_key(own) && !base.status.not_open.contains_key(own)
        };
        let deaf: Vec<_> = wanted.iter().filter(|(_, base)| !listens(base)).copied().collect();
        match deaf.len() {
            0 if !wanted.is_empty() => {}
            all if all == wanted.len() => nobody.push((listener, reasons(own, &deaf))),
            _ => partly.push((listener, reasons(own, &deaf), deaf)),
        }
    }
    addresses.dedup();
    let one = match (nobody.is_empty(), partly.is_empty()) {
        (true, true) => condition("Programmed", true, "Programmed", "every listener listens"),
        (false, _) => {
            let names: Vec<String> = nobody.iter().map(|(listener, _)| shown(listener)).collect();
            let why = nobody.first().map(|(_, why)| why.as_str()).unwrap_or_default();
            condition("Programmed", false, "Pending", format!("nobody listens for {}{why}", names.join(", ")))
        }
        (true, false) => {
            let told = |(listener, why, deaf): &(&Listener, String, Vec<(&BaseId, &Sighting)>)| {
                let bases: Vec<&str> = deaf.iter().take(BASES_TOLD).map(|(base, _)| base.as_str()).collect();
                format!("base {} does not listen for {}{why}", bases.join(", "), shown(listener))
            };
            let text: Vec<String> = partly.iter().map(told).collect();
            condition("Programmed", false, "NotEverywhere", text.join("; "))
        }
    };
    let details = BTreeMap::from([("addresses".to_owned(), Value::Array(addresses))]);
    Status { observed_generation: None, conditions: vec![one], details }
}

fn shown(listener: &Listener) -> String {
    format!("`{}` ({}:{})", listener.name, listener.address, listener.port)
}

/// What the bases say about the listener with that core name.
fn reasons(own: &str, deaf: &[(&BaseId, &Sighting)]) -> String {
    let why = |status: &dodai_core::status::Status| {
        let refused = status.refused.as_ref().map(|refused| refused.reason.clone());
        status.not_open.get(own).cloned().or(refused)
    };
    let reasons = deaf.iter().filter_map(|(base, one)| Some((base, why(&one.status)?)));
    let told: Vec<String> =
        reasons.take(BASES_TOLD).map(|(base, why)| format!("{why}, says base {base}")).collect();
    if told.is_empty() { String::new() } else { format!(": {}", told.join("; ")) }
}
