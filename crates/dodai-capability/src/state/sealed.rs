//! A state store that keeps values encrypted: what is behind it sees only sealed bytes.
//!
//! The format is daprd's, so that either reads what the other wrote: base64 of nonce, AES-GCM cipher text and tag,
//! then `||` and the name of the secret that the key came from. Values are sealed with the primary key and opened with
//! the key they name. Always holds: what is not sealed is refused and never handed out. Keys are not encrypted.

use std::sync::Arc;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{Delete, Error, Features, Get, Item, List, Operation, Page, Set, Store};
use crate::answer::Answer;
use crate::component::{self, Spec, Value};
use crate::fault::{Fault, Kind};
use crate::keys::SEPARATOR;
use crate::metadata::Metadata;

const PRIMARY: &str = "primaryEncryptionKey";
const SECONDARY: &str = "secondaryEncryptionKey";
const WANTED: &str = "16, 24 or 32 bytes in hexadecimal digits, as `openssl rand -hex 32` prints them";

struct Key {
    /// The secret it came from; values sealed with it bear this name.
    name: String,
    cipher: LessSafeKey,
}

/// The keys of one store.
pub(crate) struct Keys {
    store: String,
    primary: Key,
    secondary: Option<Key>,
}

impl Keys {
    /// The keys that a spec asks for, if it does.
    ///
    /// # Errors
    /// A key that is none, one that is written out, or a secondary key alone.
    pub fn read(spec: &Spec) -> Result<Option<Keys>, component::Error> {
        let (primary, secondary) = (Key::read(spec, PRIMARY)?, Key::read(spec, SECONDARY)?);
        match (primary, secondary) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(bad(
                spec,
                SECONDARY,
                "given alone, so new values would not be encrypted",
                "primaryEncryptionKey beside it",
            )),
            (Some(primary), secondary) => Ok(Some(Keys { store: spec.name.clone(), primary, secondary })),
        }
    }

    /// The same store with its values sealed.
    pub fn seal(self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Sealed { store, keys: self })
    }

    fn sealed(&self, mut set: Set) -> Result<Set, Error> {
        let failed =
            || Fault::new(Kind::Unavailable, format!("the value of `{}` could not be encrypted", set.key));
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failed())?;
        let mut text = set.value.to_vec();
        let cipher = &self.primary.cipher;
        cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| failed())?;
        let sealed = STANDARD.encode([&nonce[..], &text].concat());
        set.value = [&sealed, SEPARATOR, &self.primary.name].concat().into();
        Ok(set)
    }

    fn opened(&self, key: &str, mut item: Item) -> Result<Item, Error> {
        let corrupt = |what: &str| {
            let message = format!("the value of `{key}` in state store `{}` {what}", self.store);
            Error::from(Fault::new(Kind::Corrupt, message))
        };
        if item.value.is_empty() {
            return Ok(item);
        }
        let sealed = std::str::from_utf8(&item.value).ok().and_then(|text| text.split_once(SEPARATOR));
        let Some((sealed, name)) = sealed else {
            let what = "is not encrypted: it was written without primaryEncryptionKey; read it through a component without the key and write it again";
            return Err(corrupt(what));
        };
        let sealed = STANDARD.decode(sealed).map_err(|_| corrupt("is no sealed value: it is not base64"))?;
        let keys = [Some(&self.primary), self.secondary.as_ref()];
        let mut named = keys.into_iter().flatten().filter(|key| key.name == name).peekable();
        if named.peek().is_none() {
            let what = format!(
                "is encrypted with a key of the secret `{name}`, which is neither primaryEncryptionKey nor secondaryEncryptionKey; name that secret as the secondary key"
            );
            return Err(corrupt(&what));
        }
        let opened = named.find_map(|key| key.open(&sealed));
        item.value = opened.ok_or_else(|| {
            corrupt(&format!(
                "was not encrypted with the key that the secret `{name}` has now, or it was changed"
            ))
        })?;
        Ok(item)
    }
}

impl Key {
    fn read(spec: &Spec, property: &'static str) -> Result<Option<Key>, component::Error> {
        let Some(value) = spec.properties.get(property) else { return Ok(None) };
        let Value::Secret(secret) = value else {
            let wanted = "it by `secretKeyRef` or `envRef`, so that it stands in no document";
            return Err(bad(spec, property, "written out", wanted));
        };
        let algorithm = |length| match length {
            16 => Some(&AES_128_GCM),
            24 => Some(&AES_192_GCM),
            32 => Some(&AES_256_GCM),
            _ => None,
        };
        let bytes = unhex(secret.reveal().trim());
        let cipher = bytes.and_then(|bytes| UnboundKey::new(algorithm(bytes.len())?, &bytes).ok());
        let cipher = cipher.ok_or_else(|| bad(spec, property, "***", WANTED))?;
        let name = spec.properties.secret_name(property).unwrap_or(property).to_owned();
        Ok(Some(Key { name, cipher: LessSafeKey::new(cipher) }))
    }

    fn open(&self, sealed: &[u8]) -> Option<Bytes> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let length = self.cipher.open_in_place(nonce, Aad::empty(), &mut text).ok()?.len();
        text.truncate(length);
        Some(text.into())
    }
}

fn bad(spec: &Spec, property: &str, given: &str, wanted: &str) -> component::Error {
    component::Error::BadProperty {
        name: spec.name.clone(),
        property: property.to_owned(),
        given: given.to_owned(),
        wanted: wanted.to_owned(),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

struct Sealed {
    store: Arc<dyn Store>,
    keys: Keys,
}

impl Sealed {
    fn open(&self, key: &str, found: Result<Option<Item>, Error>) -> Result<Option<Item>, Error> {
        found?.map(|item| self.keys.opened(key, item)).transpose()
    }
}

impl Store for Sealed {
    fn features(&self) -> Features {
        self.store.features()
    }

    fn get<'a>(&'a self, request: &'a Get) -> Answer<'a, Result<Option<Item>, Error>> {
        Answer::later(async move { self.open(&request.key, self.store.get(request).await) })
    }

    fn set(&self, request: Set) -> Answer<'_, Result<(), Error>> {
        match self.keys.sealed(request) {
            Ok(request) => self.store.set(request),
            Err(error) => Answer::ready(Err(error)),
        }
    }

    fn delete(&self, request: Delete) -> Answer<'_, Result<(), Error>> {
        self.store.delete(request)
    }

    fn transact(&self, operations: Vec<Operation>, metadata: Metadata) -> Answer<'_, Result<(), Error>> {
        let sealed = operations.into_iter().map(|operation| match operation {
            Operation::Upsert(set) => self.keys.sealed(set).map(Operation::Upsert),
            Operation::Delete(delete) => Ok(Operation::Delete(delete)),
        });
        match sealed.collect() {
            Ok(operations) => self.store.transact(operations, metadata),
            Err(error) => Answer::ready(Err(error)),
        }
    }

    fn get_many<'a>(
        &'a self,
        requests: &'a [Get],
        parallelism: usize,
    ) -> Answer<'a, Vec<Result<Option<Item>, Error>>> {
        Answer::later(async move {
            let found = self.store.get_many(requests, parallelism).await;
            requests.iter().zip(found).map(|(request, item)| self.open(&request.key, item)).collect()
        })
    }

    fn set_many(&self, requests: Vec<Set>) -> Answer<'_, Vec<Result<(), Error>>> {
        let count = requests.len();
        let sealed: Result<Vec<Set>, Error> = requests.into_iter().map(|set| self.keys.sealed(set)).collect();
        match sealed {
            Ok(requests) => self.store.set_many(requests),
            // No randomness: none of them is written.
            Err(error) => {
                let text = error.to_string();
                let failed = move |_| Err(Fault::new(Kind::Unavailable, text.clone()).into());
                Answer::ready((0..count).map(failed).collect())
            }
        }
    }

    fn delete_many(&self, requests: Vec<Delete>) -> Answer<'_, Vec<Result<(), Error>>> {
        self.store.delete_many(requests)
    }

    fn list<'a>(&'a self, request: &'a List) -> Answer<'a, Result<Page, Error>> {
        self.store.list(request)
    }
}

#[cfg(test)]
mod tests;
