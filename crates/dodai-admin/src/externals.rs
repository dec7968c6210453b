//! Apps that run elsewhere: where they are, and whether somebody accepts connections there, seen from here.

use std::time::Duration;

use axum::extract::State;
use dodai_control::control::View;
use dodai_core::id::AppId;
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::api::Shared;
use crate::wire::{Answer, json};

/// The longest that somebody may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many are asked at once.
const AT_ONCE: usize = 32;

/// One address of an app that runs elsewhere, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct External {
    /// The app, `namespace/name`.
    pub app: String,
    /// The address.
    pub address: String,
    /// The app's newest revision; empty until there is one.
    pub revision: String,
    /// Whether it accepts connections from the server.
    pub reachable: bool,
    /// Why not, and how it is started.
    pub reason: String,
    /// When the app was first written, RFC 3339 in UTC.
    pub created: Option<String>,
}

/// Apps that run elsewhere.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Externals {
    /// Each of their addresses.
    items: Vec<External>,
}

/// `GET /v1/externals`: tries every address, so it may take a second.
pub(crate) async fn list(State(parts): Shared) -> Answer<Externals> {
    let all = all(&parts.control.view());
    let items: Vec<External> = futures_util::stream::iter(all).map(tried).buffered(AT_ONCE).collect().await;
    json(&Externals { items })
}

/// Every address, with how its app is started; nothing is tried yet.
fn all(view: &View) -> Vec<(External, Option<String>)> {
    let mut found = Vec::new();
    for app in view.documents.apps() {
        let Some(external) = &app.spec.external else { continue };
        let id = format!("{}/{}", app.metadata.namespace, app.metadata.name);
        let record = AppId::parse(&id).ok().and_then(|id| view.records.app(&id));
        for address in &external.addresses {
            let one = External {
                app: id.clone(),
                address: address.to_string(),
                revision: record.map(|record| record.current.to_string()).unwrap_or_default(),
                reachable: false,
                reason: String::new(),
                created: app.metadata.creation_timestamp.clone(),
            };
            found.push((one, external.start.clone()));
        }
    }
    found
}

async fn tried((one, start): (External, Option<String>)) -> External {
    let why = match tokio::time::timeout(PATIENCE, TcpStream::connect(&one.address)).await {
        Ok(Ok(_accepted)) => return External { reachable: true, ..one },
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {PATIENCE:?}"),
    };
    let reason = match start {
        Some(start) => format!("{why}; start it: {start}"),
        None => why,
    };
    External { reason, ..one }
}
