//! State in a component, through `wasi:keyvalue`.

use crate::Failure;
use crate::bindings::wasi::keyvalue::{atomics, store};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An open store: one state component of the base.
pub struct State {
    bucket: store::Bucket,
    name: &'static str,
}

impl State {
    /// Opens the state component of this name.
    pub fn open(name: &'static str) -> Result<State, Failure> {
        match store::open(name) {
            Ok(bucket) => Ok(State { bucket, name }),
            Err(error) => Err(unavailable(name, "open", &error)),
        }
    }

    /// The value under `key`, if there is one.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Failure> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(
                500,
                "bad-state",
                format!("{key} in {} is not what it should be: {error}", self.name),
            )
        })?;
        Ok(Some(value))
    }

    /// Puts `value` under `key`, whatever was there.
    pub fn set(&self, key: &str, value: &impl Serialize) -> Result<(), Failure> {
        let bytes =
            serde_json::to_vec(value).map_err(|error| Failure::new(500, "encoding", error.to_string()))?;
        self.bucket.set(key, &bytes).map_err(|error| unavailable(self.name, "set", &error))
    }

    /// A counter's value; zero before its first increment.
    pub fn count(&self, key: &str) -> Result<u64, Failure> {
        let Some(bytes) = self.bytes(key)? else { return Ok(0) };
        // Hosts keep counters as decimal text; one that does not is asked through the operation it does define.
        match std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()) {
            Some(count) => Ok(count),
            None => self.increment(key, 0),
        }
    }

    /// Adds to a counter in one step and returns its new value.
    pub fn increment(&self, key: &str, by: u64) -> Result<u64, Failure> {
        atomics::increment(&self.bucket, key, by).map_err(|error| unavailable(self.name, "increment", &error))
    }

    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.bucket.get(key).map_err(|error| unavailable(self.name, "get", &error))
    }
}

fn unavailable(name: &str, operation: &str, error: &store::Error) -> Failure {
    let reason = match error {
        store::Error::NoSuchStore => "no component of that name".to_owned(),
        store::Error::AccessDenied => "the component's scopes do not name this app".to_owned(),
        store::Error::Other(text) => text.clone(),
    };
    Failure::new(503, "state-unavailable", format!("{operation} on {name}: {reason}"))
}
