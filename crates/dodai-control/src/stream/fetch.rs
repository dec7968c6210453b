//! Artefacts from the server to a base's disk: in pieces, going on where an earlier try broke off.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use dodai_core::id::Digest;
use dodai_proto::control as wire;
use tokio::io::AsyncWriteExt;

use super::remote::{Remote, RemoteError};

/// The largest artefact that is fetched, bytes.
const MAX_ARTIFACT: u64 = 1 << 30;
/// How often a broken fetch goes on at once; who needs the artefact asks again later.
const TRIES: u32 = 4;
/// The wait before the second try; doubles.
const WAIT: Duration = Duration::from_millis(250);
/// How long a piece may take.
const PIECE: Duration = Duration::from_secs(30);

impl Remote {
    /// Fetches an artefact into `file`, which holds all of it, checked, when this returns. What a broken try
    /// left in `file` is gone on with; only one may write a file at a time.
    ///
    /// # Errors
    /// When the server has no such artefact, cannot be reached, or sends another.
    pub async fn artifact(&self, digest: &Digest, file: &Path) -> Result<(), RemoteError> {
        let mut wait = WAIT;
        for _ in 1..TRIES {
            match self.rest(digest, file).await {
                Err(RemoteError::Refused(status)) if is_final(&status) => {
                    return Err(RemoteError::Refused(status));
                }
                Err(error @ RemoteError::Unwritten(_)) => return Err(error),
                Err(error) => tracing::debug!(%digest, %error, "fetching an artefact broke off"),
                Ok(()) => return check(digest, file).await,
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.rest(digest, file).await?;
        check(digest, file).await
    }

    /// Fetches what `file` lacks.
    async fn rest(&self, digest: &Digest, file: &Path) -> Result<(), RemoteError> {
        let unwritten = |error| RemoteError::Unwritten(format!("{}: {error}", file.display()));
        let mut out = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(file)
            .await
            .map_err(unwritten)?;
        let mut length = out.metadata().await.map_err(unwritten)?.len();
        let asked = wire::ArtifactRequest { digest: digest.to_string(), offset: length };
        let mut chunks = self.client().await?.artifact(asked).await?.into_inner();
        loop {
            let late = |_| RemoteError::Answer(format!("no piece of {digest} came for {PIECE:?}"));
            let Some(chunk) = tokio::time::timeout(PIECE, chunks.message()).await.map_err(late)?? else {
                break;
            };
            length += chunk.data.len() as u64;
            if length > MAX_ARTIFACT {
                // It never becomes whole, and what is there of it is of no use to another try.
                tokio::fs::remove_file(file).await.map_err(unwritten)?;
                let text = format!("{}: {digest} is larger than {MAX_ARTIFACT} bytes", file.display());
                return Err(RemoteError::Unwritten(text));
            }
            out.write_all(&chunk.data).await.map_err(unwritten)?;
        }
        out.flush().await.map_err(unwritten)
    }
}

/// Whether asking again at once would bring the same answer.
fn is_final(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::NotFound | tonic::Code::PermissionDenied | tonic::Code::Unauthenticated
    )
}

/// Whether the file is what it should be; if not it goes, so that the next try starts anew.
async fn check(digest: &Digest, file: &Path) -> Result<(), RemoteError> {
    let path = file.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&path)).await;
    let failed =
        |error: &dyn std::fmt::Display| RemoteError::Unwritten(format!("{}: {error}", file.display()));
    let found = hashed.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if digest.as_str() == found {
        return Ok(());
    }
    fs::remove_file(file).map_err(|error| failed(&error))?;
    Err(RemoteError::Answer(format!("{found} came instead of {digest}")))
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            got => context.update(&buffer[..got]),
        }
    }
    let digest: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{digest}"))
}
