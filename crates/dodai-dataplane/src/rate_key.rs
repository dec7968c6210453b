//! What a rate limit counts calls by: the parts of its key, and the mark of what one call has of them.
//!
//! A part that a call does not have is a value like others, so such calls share one bucket. Values are compared as they
//! came, without decoding.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use dodai_core::snapshot::RateKey;
use http::HeaderName;

use crate::filter::Seen;
use crate::jwt::Claims;
use crate::matcher;
use crate::route::BadRule;

/// The key of a limit.
#[derive(Debug)]
pub struct Key {
    parts: Vec<RateKey>,
    /// Seeded by chance, so that nobody can choose values that meet in one bucket.
    hasher: RandomState,
}

impl Key {
    /// Of these parts.
    pub fn new(parts: &[RateKey]) -> Key {
        Key { parts: parts.to_vec(), hasher: RandomState::new() }
    }

    /// What stands for the values that a call has.
    pub fn mark(&self, seen: &Seen<'_>, claims: Option<&Claims>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for part in &self.parts {
            show(part, seen, claims, |value| value.hash(&mut hasher));
        }
        hasher.finish()
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
