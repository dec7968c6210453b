//! State stores for in-process users that keep them: a store that follows changes of its component.

use std::sync::Arc;

use dodai_capability::fault::{Fault, Kind};
use dodai_capability::state::{Delete, Error, Features, Get, Item, List, Operation, Page, Set, Store};
use dodai_capability::{Answer, Metadata};
use dodai_core::id::AppId;

use crate::components::{Block, Components, Live, Slot};
use crate::error;
use crate::runtime::KeyValue;

/// The state store that is live in a slot at the moment of each call.
struct Following(Arc<Slot>);

/// Opens the state component of that name for an app.
pub(crate) fn open(components: &Components, app: &AppId, name: &str) -> Result<KeyValue, error::Error> {
    let (live, _) = components.own(&app.namespace, Block::State, name, |all| all.state.clone())?;
    let out_of_scope = || error::Error::OutOfScope { name: name.to_owned(), app: app.name.to_string() };
    let slot =
        components.slot(&app.namespace, name).filter(|slot| slot.serves(app)).ok_or_else(out_of_scope)?;
    Ok(KeyValue { prefix: live.prefix(app)?, store: Arc::new(Following(slot)) })
}

impl Following {
    fn now(&self) -> Result<(Arc<Live>, Arc<dyn Store>), Error> {
        let live = self.0.live();
        let found = live.and_then(|live| live.component.serves.state.clone().map(|store| (live, store)));
        found.ok_or_else(|| {
            let what = format!("state store `{}` is not ready: {}", self.0.name(), self.0.health().reason);
            Fault::new(Kind::Unavailable, what).into()
        })
    }
}

impl Store for Following {
    fn features(&self) -> Features {
        self.now().map(|(_, store)| store.features()).unwrap_or_default()
    }

    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>> {
        Answer::later(async move {
            let (_live, store) = self.now()?;
            store.get(request).await
        })
    }

    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let (_live, store) = self.now()?;
            store.set(request).await
        })
    }

    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let (_live, store) = self.now()?;
            store.delete(request).await
        })
    }

    fn transact(&self, operations: Vec<Operation>, metadata: Metadata) -> Answer<'_, Result<(), Error>> {
        Answer::later(async move {
            let (_live, store) = self.now()?;
            store.transact(operations, metadata).await
        })
    }

    fn list<'a>(&'a self, request: &'a List) -> Answer<'a, Result<Page, Error>> {
        Answer::later(async move {
            let (_live, store) = self.now()?;
            store.list(request).await
        })
    }
}
