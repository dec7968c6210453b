//! Buckets on a state store: what a guest writes through `wasi:keyvalue` is what the runtime API reads.

use std::sync::Arc;

use bytes::Bytes;
use dodai_capability::state::{Concurrency, Delete, Error, Etag, Get, List, Set, Store};

use crate::seam::{Bucket, Entry, KeyValueError, Page, Pending};

/// A bucket that is the part of a state store whose keys begin with a prefix.
pub struct StateBucket {
    store: Arc<dyn Store>,
    prefix: String,
}

impl StateBucket {
    /// The keys of `store` that begin with `prefix` (the app's, such as `catalog||`); guests do not see it.
    pub fn new(store: Arc<dyn Store>, prefix: impl Into<String>) -> StateBucket {
        StateBucket { store, prefix: prefix.into() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

fn failed(error: Error) -> KeyValueError {
    KeyValueError::Failed(error.to_string())
}

impl Bucket for StateBucket {
    fn get(&self, key: &str) -> Pending<'_, Option<Entry>> {
        let get = Get::new(self.full(key));
        Box::pin(async move {
            let item = self.store.get(&get).await.map_err(failed)?;
            Ok(item.map(|item| Entry {
                value: item.value,
                version: item.etag.map_or_else(String::new, |etag| etag.as_str().to_owned()),
            }))
        })
    }

    fn set(&self, key: &str, value: Bytes) -> Pending<'_, ()> {
        let set = Set::new(self.full(key), value);
        Box::pin(async move { self.store.set(set).await.map_err(failed) })
    }

    fn set_if(&self, key: &str, value: Bytes, version: Option<&str>) -> Pending<'_, bool> {
        let mut set = Set::new(self.full(key), value);
        set.concurrency = Concurrency::FirstWrite;
        set.etag = version.map(Etag::from);
        Box::pin(async move {
            let features = self.store.features();
            if !features.etag || !features.first_write {
                let reason = "the state store keeps no versions, so that nothing can be counted in it; use one that does";
                return Err(KeyValueError::Failed(reason.to_owned()));
            }
            match self.store.set(set).await {
                Ok(()) => Ok(true),
                Err(Error::EtagMismatch { .. }) => Ok(false),
                Err(
                    error @ (Error::EtagMalformed { .. } | Error::TooManyOperations { .. } | Error::Fault(_)),
                ) => Err(failed(error)),
            }
        })
    }

    fn delete(&self, key: &str) -> Pending<'_, ()> {
        let delete = Delete::new(self.full(key));
        Box::pin(async move { self.store.delete(delete).await.map_err(failed) })
    }

    fn keys(&self, after: Option<&str>, limit: usize) -> Pending<'_, Page> {
        let list = List { prefix: self.prefix.clone(), after: after.map(str::to_owned), limit };
        Box::pin(async move {
            let page = self.store.list(&list).await.map_err(failed)?;
            let short = |key: String| key.strip_prefix(&self.prefix).map(str::to_owned).unwrap_or(key);
            // `next` is the store's own mark: it goes back as it came.
            Ok(Page { keys: page.keys.into_iter().map(short).collect(), next: page.next })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_capability::memory::State as Memory;

    #[tokio::test]
    async fn a_bucket_sees_its_prefix_only_and_counts_versions() {
        let store: Arc<dyn Store> = Arc::new(Memory::new(1 << 20));
        let ours = StateBucket::new(store.clone(), "a||");
        let theirs = StateBucket::new(store, "b||");
        assert_eq!(ours.set_if("k", "1".into(), None).await, Ok(true));
        assert_eq!(ours.set_if("k", "2".into(), None).await, Ok(false), "it exists");
        let entry = ours.get("k").await.expect("readable").expect("there");
        assert_eq!(ours.set_if("k", "2".into(), Some(&entry.version)).await, Ok(true));
        assert_eq!(ours.set_if("k", "3".into(), Some(&entry.version)).await, Ok(false), "it changed");
        assert_eq!(theirs.get("k").await, Ok(None));
        for key in ["x", "y", "z"] {
            ours.set(key, Bytes::new()).await.expect("written");
            theirs.set(key, Bytes::new()).await.expect("written");
        }
        let first = ours.keys(None, 3).await.expect("listed");
        assert_eq!(first.keys, ["k", "x", "y"]);
        let rest = ours.keys(first.next.as_deref(), 3).await.expect("listed");
        assert_eq!((rest.keys, rest.next), (vec!["z".to_owned()], None));
        ours.delete("k").await.expect("gone");
        assert_eq!(ours.get("k").await, Ok(None));
    }
}
