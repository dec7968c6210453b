//! `wasi:keyvalue` (store, atomics, batch) for guests, on the buckets that the base opens.
//!
//! A guest may open the buckets that its spec names. Counters are decimal text, so that any API reads
//! them; an increment is a compare-and-set loop, so that it holds on every store that keeps versions.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use crate::guest::Guest;
use crate::plan::Plan;
use crate::seam::{Bucket, KeyValueError};

mod generated {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue.wit",
        world: "offered",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::Open },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::Trappable },
    });
}

use generated::wasi::keyvalue::{atomics, batch, store};

/// How often an increment is tried against other writers before it gives up.
const INCREMENT_TRIES: usize = 64;

/// Keys per page of `list-keys`.
const PAGE: usize = 100;

/// Cursors that an open bucket remembers; a guest that walks forward needs one.
const CURSORS: usize = 16;

/// The largest number of keys in one batch.
const MAX_BATCH: usize = 1_000;

/// A bucket that a guest holds open.
pub struct Open {
    bucket: Arc<dyn Bucket>,
    /// The next free cursor, and what the recent ones stand for.
    next_cursor: u64,
    cursors: VecDeque<(u64, String)>,
}

/// An error for the guest, or one that ends it.
pub type Trappable = wasmtime_wasi::TrappableError<store::Error>;

/// The view of one instance.
pub(crate) struct View<'a> {
    plan: &'a Arc<Plan>,
    table: &'a mut ResourceTable,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    fn view(guest: &mut Guest) -> View<'_> {
        View { plan: &guest.plan, table: &mut guest.table }
    }
    store::add_to_linker::<Guest, HasView>(linker, view)?;
    atomics::add_to_linker::<Guest, HasView>(linker, view)?;
    batch::add_to_linker::<Guest, HasView>(linker, view)
}

fn refused(error: KeyValueError) -> Trappable {
    match error {
        KeyValueError::NoSuchStore => store::Error::NoSuchStore,
        KeyValueError::Denied => store::Error::AccessDenied,
        KeyValueError::Failed(reason) => store::Error::Other(reason),
    }
    .into()
}

fn other(reason: impl Into<String>) -> Trappable {
    store::Error::Other(reason.into()).into()
}

impl View<'_> {
    fn bucket(&self, bucket: &Resource<Open>) -> Result<Arc<dyn Bucket>, Trappable> {
        Ok(self.table.get(bucket).map_err(Trappable::trap)?.bucket.clone())
    }
}

impl store::Host for View<'_> {
    async fn open(&mut self, identifier: String) -> Result<Resource<Open>, Trappable> {
        // "default" is how guests commonly spell the bucket without a name.
        let buckets = &self.plan.spec.keyvalue;
        let component = match (buckets.get(&identifier), identifier.as_str()) {
            (Some(component), _) => component,
            (None, "default") => buckets.get("").ok_or(store::Error::NoSuchStore)?,
            (None, _) => return Err(store::Error::NoSuchStore.into()),
        };
        let bucket = self.plan.seams.keyvalue.open(&self.plan.app, component).await.map_err(refused)?;
        let open = Open { bucket, next_cursor: 1, cursors: VecDeque::new() };
        self.table.push(open).map_err(Trappable::trap)
    }

    fn convert_error(&mut self, error: Trappable) -> wasmtime::Result<store::Error> {
        error.downcast()
    }
}

impl store::HostBucket for View<'_> {
    async fn get(&mut self, bucket: Resource<Open>, key: String) -> Result<Option<Vec<u8>>, Trappable> {
        let entry = self.bucket(&bucket)?.get(&key).await.map_err(refused)?;
        Ok(entry.map(|entry| entry.value.to_vec()))
    }

    async fn set(&mut self, bucket: Resource<Open>, key: String, value: Vec<u8>) -> Result<(), Trappable> {
        self.bucket(&bucket)?.set(&key, value.into()).await.map_err(refused)
    }

    async fn delete(&mut self, bucket: Resource<Open>, key: String) -> Result<(), Trappable> {
        self.bucket(&bucket)?.delete(&key).await.map_err(refused)
    }

    async fn exists(&mut self, bucket: Resource<Open>, key: String) -> Result<bool, Trappable> {
        Ok(self.bucket(&bucket)?.get(&key).await.map_err(refused)?.is_some())
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Open>,
        cursor: Option<u64>,
    ) -> Result<store::KeyResponse, Trappable> {
        let open = self.table.get_mut(&bucket).map_err(Trappable::trap)?;
        let after = match cursor {
            None => None,
            Some(cursor) => {
                let known = open.cursors.iter().find(|(known, _)| *known == cursor);
                let (_, after) = known.ok_or_else(|| other("the cursor is unknown or too old"))?;
                Some(after.clone())
            }
        };
        let page = open.bucket.keys(after.as_deref(), PAGE).await.map_err(refused)?;
        let cursor = page.next.map(|next| open.remember(next));
        Ok(store::KeyResponse { keys: page.keys, cursor })
    }

    async fn drop(&mut self, bucket: Resource<Open>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl Open {
    fn remember(&mut self, next: String) -> u64 {
        let cursor = self.next_cursor;
        self.next_cursor += 1;
        if self.cursors.len() == CURSORS {
            self.cursors.pop_front();
        }
        self.cursors.push_back((cursor, next));
        cursor
    }
}

impl atomics::Host for View<'_> {
    async fn increment(&mut self, bucket: Resource<Open>, key: String, delta: u64) -> Result<u64, Trappable> {
        let bucket = self.bucket(&bucket)?;
        for _ in 0..INCREMENT_TRIES {
            let entry = bucket.get(&key).await.map_err(refused)?;
            let now = match &entry {
                None => 0,
                Some(entry) => number(&entry.value)
                    .ok_or_else(|| other(format!("the value of `{key}` is not a decimal number")))?,
            };
            let sum = now
                .checked_add(delta)
                .ok_or_else(|| other(format!("`{key}` would pass the largest 64-bit number")))?;
            let version = entry.as_ref().map(|entry| entry.version.as_str());
            let value = Bytes::from(sum.to_string());
            if bucket.set_if(&key, value, version).await.map_err(refused)? {
                return Ok(sum);
            }
        }
        Err(other(format!("`{key}` was changed by others {INCREMENT_TRIES} times in a row; try again")))
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn check_batch(keys: usize) -> Result<(), Trappable> {
    if keys > MAX_BATCH {
        return Err(other(format!("{keys} keys in one batch; at most {MAX_BATCH} are taken, split it")));
    }
    Ok(())
}

impl batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Open>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Trappable> {
        check_batch(keys.len())?;
        let bucket = self.bucket(&bucket)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let entry = bucket.get(&key).await.map_err(refused)?;
            found.push(entry.map(|entry| (key, entry.value.to_vec())));
        }
        Ok(found)
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Open>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Trappable> {
        check_batch(key_values.len())?;
        let bucket = self.bucket(&bucket)?;
        for (key, value) in key_values {
            bucket.set(&key, value.into()).await.map_err(refused)?;
        }
        Ok(())
    }

    async fn delete_many(&mut self, bucket: Resource<Open>, keys: Vec<String>) -> Result<(), Trappable> {
        check_batch(keys.len())?;
        let bucket = self.bucket(&bucket)?;
        for key in keys {
            bucket.delete(&key).await.map_err(refused)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_so_many_keys_and_no_more() {
        assert!(check_batch(MAX_BATCH).is_ok());
        let error =
            check_batch(MAX_BATCH + 1).expect_err("too many").downcast().expect("the guest's own error");
        let store::Error::Other(told) = error else { panic!("{error:?}") };
        assert_eq!(told, "1001 keys in one batch; at most 1000 are taken, split it");
    }
}
