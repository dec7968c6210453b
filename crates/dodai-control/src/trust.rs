//! Whom the bases are told to trust, and the list of what is revoked, which is kept in the store.
//!
//! An entry is forgotten when every certificate that it could mean has expired. Who may revoke is decided before.

use std::time::{Duration, UNIX_EPOCH};

use dodai_core::snapshot::{Revoked, Whose};
use dodai_store::{Cause, Txn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::documents::millis;
use crate::error::{Error, Result};
use crate::records::{Millis, bytes};

const PREFIX: &str = "/x/revoked/";

/// One entry of the list of certificates that are void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Whose certificates: `base/NAME`, `app/NAMESPACE/NAME` or `serial/HEX`.
    #[serde(with = "by_name")]
    #[schemars(with = "String")]
    pub whose: Whose,
    /// Those issued up to then, in seconds since 1970.
    pub until: u64,
    /// Who revoked them.
    pub actor: String,
    /// When the entry is forgotten, in milliseconds since 1970.
    pub forgotten_ms: Millis,
}

mod by_name {
    use dodai_core::snapshot::Whose;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(whose: &Whose, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(whose)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Whose, D::Error> {
        let text = String::deserialize(from)?;
        Whose::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` names no certificates")))
    }
}

/// The entries as a snapshot has them.
pub fn told(list: &[Revocation]) -> Vec<Revoked> {
    list.iter().map(|one| Revoked { whose: one.whose.clone(), until: one.until }).collect()
}

impl Control {
    /// Makes void what was issued until now. `longest` is how long certificates can live.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn revoke(&self, whose: &Whose, longest: Duration, actor: &str) -> Result<Revocation> {
        let now = self.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        let entry = Revocation {
            whose: whose.clone(),
            until: now.as_secs(),
            actor: actor.to_owned(),
            forgotten_ms: millis(self.clock()).saturating_add(longest),
        };
        let key = format!("{PREFIX}{whose}");
        let txn = Txn::new(Cause::new(actor, format!("revokes {whose}"))).put(&key, bytes(&entry));
        self.documents().store().txn(txn).await?;
        self.note(
            whose.to_string(),
            "Revoked",
            format!("the certificates of {whose} are void, says {actor}"),
        );
        Ok(entry)
    }

    /// Takes an entry from the list again. False if there is none.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn reinstate(&self, whose: &Whose, actor: &str) -> Result<bool> {
        let key = format!("{PREFIX}{whose}");
        let known = self.documents().store().get(&key).await?.kv.is_some();
        if known {
            self.documents().store().delete(&key, Cause::new(actor, format!("reinstates {whose}"))).await?;
            let text = format!("the certificates of {whose} are good again, says {actor}");
            self.note(whose.to_string(), "Reinstated", text);
        }
        Ok(known)
    }

    /// The list, without what every certificate has outlived.
    ///
    /// # Errors
    /// When the store cannot be read, or holds something else there.
    pub async fn revocations(&self) -> Result<Vec<Revocation>> {
        let now = millis(self.clock());
        let mut all = Vec::new();
        for kv in self.documents().store().list(PREFIX).await?.items {
            let entry: Revocation = serde_json::from_slice(&kv.value)
                .map_err(|error| Error::Unreadable { key: kv.key.clone(), detail: error.to_string() })?;
            if entry.forgotten_ms > now {
                all.push(entry);
            } else {
                self.documents().store().delete(&kv.key, Cause::new("control:trust", "expired")).await?;
            }
        }
        Ok(all)
    }
}
