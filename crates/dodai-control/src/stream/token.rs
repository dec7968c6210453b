//! Join tokens: one use each, kept as hashes, gone when they are used or have expired.

use std::time::Duration;

use dodai_core::id::BaseId;
use dodai_store::{Cause, Check, Ordering, Txn};
use dodai_transport::token::{BadToken, Purpose, Token};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::documents::millis;
use crate::error::{Error, Result};
use crate::records::{Millis, bytes};

const PREFIX: &str = "/x/join/";

#[derive(Serialize, Deserialize)]
struct Kept {
    /// The base that it is for; any new one if absent.
    base: Option<BaseId>,
    expires: Millis,
}

impl Control {
    /// Makes a token with which one base can join, once. Without a base it is good for any name that is new.
    ///
    /// # Errors
    /// When the store cannot be written, or the machine gives no random numbers.
    pub async fn join_token(&self, base: Option<BaseId>, ttl: Duration, actor: &str) -> Result<Token> {
        let token =
            Token::generate(Purpose::Join).map_err(|error: BadToken| Error::Token(error.to_string()))?;
        let lives = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.forget_expired().await?;
        let expires = millis(self.clock()).saturating_add(lives);
        let cause = Cause::new(actor, "a join token");
        let value = bytes(&Kept { base, expires });
        self.documents().store().create(&format!("{PREFIX}{}", token.hash()), value, cause).await?;
        Ok(token)
    }

    /// Takes away what nobody can use any more.
    async fn forget_expired(&self) -> Result<()> {
        let now = millis(self.clock());
        for kv in self.documents().store().list(PREFIX).await?.items {
            let over = |kept: Kept| kept.expires < now;
            if serde_json::from_slice(&kv.value).is_ok_and(over) {
                self.documents().store().delete(&kv.key, Cause::new("control:tokens", "expired")).await?;
            }
        }
        Ok(())
    }

    /// Uses a token up for `base`.
    ///
    /// # Errors
    /// [`Error::Token`] with the reason.
    pub(super) async fn use_token(&self, text: &str, base: &BaseId) -> Result<()> {
        let refuse = |why: &str| Error::Token(why.to_owned());
        let token = Token::parse(text, Purpose::Join).map_err(|error| Error::Token(error.to_string()))?;
        let key = format!("{PREFIX}{}", token.hash());
        let unknown = "the join token is unknown, used or expired; make another with `dodai token create`";
        let found = self.documents().store().get(&key).await?.kv.ok_or_else(|| refuse(unknown))?;
        let kept: Kept = serde_json::from_slice(&found.value).map_err(|_| refuse(unknown))?;
        if kept.expires < millis(self.clock()) {
            return Err(refuse("the join token has expired; make another with `dodai token create`"));
        }
        match &kept.base {
            Some(own) if own != base => {
                return Err(Error::Token(format!(
                    "the join token is for base `{own}`, not for `{base}`; join with `--name {own}`, or make one with `dodai token create --base {base}`"
                )));
            }
            None if self.view().documents.bases().any(|one| one.metadata.name.as_str() == base.as_str()) => {
                return Err(Error::Token(format!(
                    "a base named `{base}` is known here already; choose another name with `--name`, or make a token for this one with `dodai token create --base {base}`"
                )));
            }
            Some(_) | None => {}
        }
        let txn = Txn::new(Cause::new(format!("base:{base}"), "joins"))
            .when(&key, Check::ModRevision(Ordering::Equal, found.mod_revision))
            .delete(&key);
        if self.documents().store().txn(txn).await?.held { Ok(()) } else { Err(refuse(unknown)) }
    }
}
