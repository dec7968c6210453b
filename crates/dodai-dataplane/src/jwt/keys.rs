//! The public keys of an issuer (JSON Web Key Set, RFC 7517).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::token::{Algorithm, Material, PublicKey, Token};

/// The most keys that are taken of one set.
const MAX_KEYS: usize = 64;

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<PublicKey>,
    generation: u64,
}

/// Sets are the same if their keys are, whenever they were read.
impl PartialEq for KeySet {
    fn eq(&self, other: &KeySet) -> bool {
        self.keys == other.keys
    }
}

impl Eq for KeySet {}

impl KeySet {
    /// Reads a set. Keys that are not for checking signatures, or of a kind that is not known, are left out; a set of
    /// none is an error, because nothing could ever be proved by it.
    pub fn parse(text: &[u8]) -> Result<KeySet, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| format!("no JSON: {error}"))?;
        let list = value
            .get("keys")
            .and_then(Value::as_array)
            .ok_or("no JSON Web Key Set: it has no list `keys`")?;
        let keys: Vec<_> = list.iter().filter_map(Value::as_object).filter_map(key).take(MAX_KEYS).collect();
        if keys.is_empty() {
            return Err("it has no public key for signatures (RSA, P-256, P-384 or Ed25519)".to_owned());
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(KeySet { keys, generation: NEXT.fetch_add(1, Relaxed) })
    }

    /// Unlike that of any other set that was read by this process.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a key of it has signed `token`.
    pub fn proves(&self, token: &Token<'_>) -> bool {
        self.keys.iter().any(|key| token.is_signed_by(key))
    }

    /// Whether it has a key that `token` names.
    pub fn knows(&self, token: &Token<'_>) -> bool {
        self.keys.iter().any(|key| token.names(key))
    }
}

fn key(of: &Map<String, Value>) -> Option<PublicKey> {
    let text = |name: &str| of.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let trimmed = |bytes: Vec<u8>| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    let point = |size: usize| {
        let (x, y) = (bytes("x")?, bytes("y")?);
        (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
    };
    let material = match (text("kty")?, text("crv")) {
        ("RSA", _) => Material::Rsa(trimmed(bytes("n")?), trimmed(bytes("e")?)),
        ("EC", Some("P-256")) => Material::P256(point(32)?),
        ("EC", Some("P-384")) => Material::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
        _ => return None,
    };
    let algorithm = match text("alg") {
        Some(name) => Some(Algorithm::parse(name)?),
        None => None,
    };
    Some(PublicKey { id: text("kid").map(str::to_owned), algorithm, material })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_keys_of_an_issuer_count() {
        let kept = |count: usize| {
            let one =
                serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([7; 32]) });
            let set = serde_json::json!({ "keys": vec![one; count] }).to_string();
            KeySet::parse(set.as_bytes()).expect("a set").keys.len()
        };
        assert_eq!((kept(MAX_KEYS), kept(MAX_KEYS + 1)), (MAX_KEYS, MAX_KEYS));
    }
}
