//! JSON Web Tokens in compact form (RFC 7515, 7519): taken apart, and their signatures checked.
//!
//! Always holds: what a token says of itself chooses among the algorithms of public keys, never beyond them. `none` and
//! algorithms of shared secrets have no name here, so they cannot be asked for.

use std::ops::Range;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadToken(pub &'static str);

/// An algorithm of a public key (RFC 7518 section 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// The same with SHA-384.
    Rs384,
    /// The same with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// The same with SHA-384.
    Ps384,
    /// The same with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Reads the name of an algorithm.
    pub fn parse(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "EdDSA" | "Ed25519" => Algorithm::EdDsa,
            _ => return None,
        })
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
        }
    }
}

/// The number that a public key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    /// RSA: modulus and exponent, without leading zeros.
    Rsa(Vec<u8>, Vec<u8>),
    /// A point on P-256, uncompressed.
    P256(Vec<u8>),
    /// A point on P-384, uncompressed.
    P384(Vec<u8>),
    /// Ed25519.
    Ed25519(Vec<u8>),
}

impl Material {
    /// Whether `signature` is this key's over `message` by `algorithm`, which must be one for such keys.
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm) {
            (Material::Rsa(n, e), algorithm) => algorithm
                .rsa()
                .is_some_and(|with| RsaPublicKeyComponents { n, e }.verify(with, message, signature).is_ok()),
            (Material::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Material::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            (Material::Ed25519(key), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            (Material::P256(_) | Material::P384(_) | Material::Ed25519(_), _) => false,
        }
    }
}

/// A public key of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Its name among the issuer's keys.
    pub id: Option<String>,
    /// The one algorithm it is for, if it is said.
    pub algorithm: Option<Algorithm>,
    /// The key.
    pub material: Material,
}

/// A token taken apart; nothing in it is proved.
#[derive(Debug)]
pub struct Token<'a> {
    /// The algorithm that it says it is signed by.
    pub algorithm: Algorithm,
    /// The key that it says it is signed by.
    pub key_id: Option<String>,
    /// What it claims.
    pub claims: Map<String, Value>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

fn object(part: &str) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?) {
        Ok(Value::Object(object)) => Some(object),
        Ok(_) | Err(_) => None,
    }
}

impl<'a> Token<'a> {
    /// Takes `text` apart.
    pub fn parse(text: &'a str) -> Result<Token<'a>, BadToken> {
        let (signed, signature) = text.rsplit_once('.').ok_or(BadToken("it is no JSON Web Token"))?;
        let (header, payload) = signed.split_once('.').ok_or(BadToken("it is no JSON Web Token"))?;
        let header = object(header).ok_or(BadToken("its header is not JSON in base64url"))?;
        let claims = object(payload).ok_or(BadToken("its claims are not JSON in base64url"))?;
        if header.contains_key("crit") {
            return Err(BadToken("it wants extensions that are not known here"));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::parse);
        let algorithm = algorithm.ok_or(BadToken("its algorithm is not one of public keys"))?;
        let signature =
            URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadToken("its signature is not base64url"))?;
        let key_id = header.get("kid").and_then(Value::as_str).map(str::to_owned);
        Ok(Token { algorithm, key_id, claims, signed: signed.as_bytes(), signature })
    }

    /// Whether `key` may have signed it.
    pub fn names(&self, key: &PublicKey) -> bool {
        let by_id = match (&self.key_id, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            (None, _) | (_, None) => true,
        };
        by_id && key.algorithm.is_none_or(|only| only == self.algorithm)
    }

    /// Whether `key` has signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.names(key) && key.material.verifies(self.algorithm, self.signed, &self.signature)
    }

    /// Checks what it says of its time, `now` in seconds since the epoch, with clocks apart by at most `skew` seconds.
    pub fn check_time(&self, now: f64, skew: f64) -> Result<(), BadToken> {
        let time = |name: &str| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(BadToken("its times are no numbers")),
        };
        if time("exp")?.is_some_and(|end| now > end + skew) {
            return Err(BadToken("it has expired"));
        }
        if time("nbf")?.is_some_and(|start| now < start - skew) {
            return Err(BadToken("it does not count yet"));
        }
        Ok(())
    }

    /// From when until when it counts by its own word, in seconds since the epoch.
    pub fn counts(&self) -> Range<f64> {
        let time = |name: &str| self.claims.get(name).and_then(Value::as_f64);
        time("nbf").unwrap_or(f64::NEG_INFINITY)..time("exp").unwrap_or(f64::INFINITY)
    }

    /// Whether it is for one of `audiences`.
    pub fn is_for(&self, audiences: &[String]) -> bool {
        is_for(&self.claims, audiences)
    }
}

/// Whether a token with these claims is for one of `audiences`.
pub fn is_for(claims: &Map<String, Value>, audiences: &[String]) -> bool {
    let is = |value: &Value| value.as_str().is_some_and(|one| audiences.iter().any(|own| own == one));
    match claims.get("aud") {
        _ if audiences.is_empty() => true,
        Some(Value::Array(all)) => all.iter().any(is),
        Some(one) => is(one),
        None => false,
    }
}
