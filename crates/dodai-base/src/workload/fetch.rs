//! Artefacts that come from elsewhere: whole and checked in the base's own folder before a module needs them.

use std::path::PathBuf;

use dodai_core::id::Digest;
use futures_util::future::BoxFuture;

use crate::node::Parts;

/// Where a base gets artefacts that it lacks.
pub trait Source: Send + Sync + 'static {
    /// Puts an artefact into `file`, whole and checked; goes on with what an earlier try left there.
    fn fetch(&self, digest: Digest, file: PathBuf) -> BoxFuture<'static, Result<(), String>>;
}

impl Parts {
    /// Whether an artefact has to be fetched first.
    pub(super) fn lacks(&self, digest: &Digest) -> bool {
        self.config.artifacts.is_some() && !self.modules.artifacts().contains(digest)
    }

    /// Fetches an artefact that is not here yet.
    pub(super) async fn fetch(&self, digest: &Digest) -> Result<(), String> {
        let Some(source) = &self.config.artifacts else { return Ok(()) };
        let _one_at_a_time = self.fetching.lock().await;
        let artifacts = self.modules.artifacts();
        if artifacts.contains(digest) {
            return Ok(());
        }
        let file = artifacts.incoming(digest).map_err(|error| error.to_string())?;
        source
            .fetch(digest.clone(), file)
            .await
            .map_err(|error| format!("its artefact {digest}: {error}"))?;
        artifacts.adopt(digest).map_err(|error| error.to_string())
    }
}
