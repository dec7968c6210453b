//! What a server tells a base about trust: the roots, which of them signs, and what is revoked.
//!
//! Roots are on disk before they count and before the server hears that they do, so that a base that is started
//! again trusts what it said it trusts. Connections of what is revoked end at once, and those whose certificate has
//! expired take no further call.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dodai_core::snapshot::{self, Snapshot};
use dodai_core::status::{Held, Status};
use dodai_core::task::Tasks;
use dodai_transport::ca::Svid;
use dodai_transport::pem;
use dodai_transport::revoked::Revoked;
use dodai_transport::tls::pinned::Pin;
use dodai_transport::trust::Bundle;
use tokio::sync::watch;

use super::{BUNDLE_FILE, Inner, Membership};

/// How often open connections are looked at for certificates that have expired.
const SWEEP: Duration = Duration::from_secs(15);

impl Membership {
    /// Follows what the snapshots say of trust, and reports what is held, until the tasks close.
    pub(crate) async fn heed(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        status: watch::Sender<Status>,
        tasks: Tasks,
    ) {
        let inner = &*self.0;
        let mut signed = inner.signed.subscribe();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(told) = snapshot.trusts().next() {
                inner.take(told);
            }
            inner.settings.trust.sweep(inner.settings.clock.now());
            let held = inner.holds(&signed.borrow_and_update());
            status.send_if_modified(|status| {
                let is_news = status.trust.as_ref() != Some(&held);
                status.trust = Some(held);
                is_news
            });
            tokio::select! {
                // All only wait.
                () = tasks.closing() => return,
                () = tokio::time::sleep(SWEEP) => {}
                // The sender is ours.
                _ = signed.changed() => {}
                changed = snapshots.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Inner {
    /// Makes what was told count.
    fn take(&self, told: &snapshot::Trust) {
        if let Err(error) = self.take_bundle(&told.bundle) {
            tracing::error!(%error, "the roots that the server tells cannot be taken; those before stay");
        }
        let revoked = Revoked::of(&told.revoked);
        if *self.settings.trust.revoked() != revoked {
            let swept = self.settings.trust.revoke(revoked, self.settings.clock.now());
            tracing::info!(
                entries = told.revoked.len(),
                cut = swept.cut,
                "the list of revoked certificates changed"
            );
        }
        let mut known = self.told.write().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(told) {
            *known = Some(told.clone());
            drop(known);
            // What is to be signed by another root, or is revoked itself, is due now.
            self.turn.send_modify(|turn| *turn += 1);
        }
    }

    fn take_bundle(&self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Ok(());
        }
        let bundle = Bundle::from_pem(text).map_err(|error| error.to_string())?;
        if bundle == *self.settings.trust.bundle() {
            return Ok(());
        }
        let path = self.settings.folder.join(BUNDLE_FILE);
        pem::write_public(&path, &bundle.to_pem())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        tracing::info!(roots = bundle.roots().len(), "the roots that this base trusts changed");
        self.settings.trust.replace(bundle);
        Ok(())
    }

    fn holds(&self, signers: &BTreeMap<String, u32>) -> Held {
        let trust = &self.settings.trust;
        let roots = trust.bundle().roots().iter().map(|root| Pin::of(root).to_string()).collect();
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        let revoked = told.as_ref().map_or(0, |told| told.revoked.len());
        Held { roots, signers: signers.clone(), revoked: u32::try_from(revoked).unwrap_or(u32::MAX) }
    }

    /// The pin of the root that signed a certificate; empty if that is not trusted any more.
    pub(super) fn signer(&self, svid: &Svid) -> String {
        let root = self.settings.trust.signer_of(svid.chain());
        root.map(|root| Pin::of(&root).to_string()).unwrap_or_default()
    }

    /// Whether a certificate is to be exchanged before its time: another root signs now, or it is void.
    pub(super) fn is_outdated(&self, svid: &Svid, signer: &str) -> bool {
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = &*told else { return false };
        let other = !told.signer.is_empty() && told.signer != signer;
        other || self.settings.trust.is_void(svid)
    }
}
