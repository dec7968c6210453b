//! What a rate limit counts calls by: the parts of its key, and the mark of what one call has of them.
//!
//! A part that a call does not have is a value like others, so such calls share one bucket. Values are compared as they
//! came, without decoding.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use aws_lc_rs::digest::{SHA256, digest};
use dodai_core::snapshot::{RateKey, RateLimit};
use http::HeaderName;
use smallvec::SmallVec;

use crate::filter::Seen;
use crate::jwt::Claims;
use crate::matcher;
use crate::route::BadRule;

/// The key of a limit.
#[derive(Debug)]
pub struct Key {
    parts: Vec<RateKey>,
    marks: Marks,
}

/// How values become a mark.
#[derive(Debug)]
enum Marks {
    /// By a hash that is seeded by chance, so that nobody can choose values that meet in one bucket.
    Here(RandomState),
    /// By a digest, the same on every base for the limit of this name. No base tells the values themselves.
    Everywhere(String),
}

impl Key {
    /// Of a limit, if it has a key.
    pub fn of(limit: &RateLimit) -> Option<Key> {
        let marks = match &limit.shared {
            Some(shared) => Marks::Everywhere(shared.name.clone()),
            None => Marks::Here(RandomState::new()),
        };
        (!limit.key.is_empty()).then(|| Key { parts: limit.key.clone(), marks })
    }

    /// What stands for the values that a call has.
    pub fn mark(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> u64 {
        match &self.marks {
            Marks::Here(seed) => {
                let mut hasher = seed.build_hasher();
                self.show(seen, claims, |value| value.hash(&mut hasher));
                hasher.finish()
            }
            Marks::Everywhere(name) => {
                let mut bytes: SmallVec<[u8; 256]> = SmallVec::from_slice(name.as_bytes());
                self.show(seen, claims, |value| {
                    // Lengths keep what one value ends with apart from what the next begins with.
                    let length = value.map_or(u64::MAX, |value| value.len() as u64);
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(value.unwrap_or_default());
                });
                let digest = digest(&SHA256, &bytes);
                digest.as_ref().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
            }
        }
    }

    fn show(&self, seen: &Seen<'_>, claims: Option<&Claims>, mut to: impl FnMut(Option<&[u8]>)) {
        for part in &self.parts {
            show(part, seen, claims, &mut to);
        }
    }
}

/// Checks the parts of a key of `rule`.
///
/// # Errors
/// A header that is none.
pub fn check(rule: &str, parts: &[RateKey]) -> Result<(), BadRule> {
    for part in parts {
        if let RateKey::Header(header) = part {
            let bad = |_| BadRule::Header { rule: rule.to_owned(), header: header.clone() };
            HeaderName::from_bytes(header.as_bytes()).map_err(bad)?;
        }
    }
    Ok(())
}

/// Shows what a call has of a part, if it has it.
fn show(part: &RateKey, seen: &Seen<'_>, claims: Option<&Claims>, mut to: impl FnMut(Option<&[u8]>)) {
    match part {
        RateKey::Header(name) => to(seen.head.header(name)),
        RateKey::Cookie(name) => {
            let mut found = false;
            matcher::each_cookie(&seen.head, |named, value| {
                if !found && named == name {
                    found = true;
                    to(Some(value));
                }
            });
            if !found {
                to(None);
            }
        }
        RateKey::Query(name) => to(matcher::query_value(seen.head.query(), name)),
        RateKey::Claim(name) => {
            let text = claims.and_then(|claims| claims.text(name));
            to(text.as_ref().map(|text: &Cow<'_, str>| text.as_bytes()));
        }
        RateKey::App => match seen.caller.app() {
            Some(app) => {
                [&app.namespace, &app.name].iter().for_each(|name| to(Some(name.as_str().as_bytes())))
            }
            None => to(None),
        },
        RateKey::Address => to(seen.client.map(str::as_bytes)),
    }
}
