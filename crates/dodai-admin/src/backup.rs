//! Backups: copies of the store, sent as they are read.
//!
//! A copy is made in the data folder, under a name that is gone as soon as it is open. Rejected: a path of the
//! caller's choice, which would let the holder of a token write anywhere on the server's machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use dodai_core::task::Kind;
use dodai_core::trace::random;
use futures_util::stream::unfold;
use http::header;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use crate::Refusal;
use crate::api::Shared;
use crate::seam::Ledger;
use crate::wire::{Nothing, Octets, Raw, Sent};

/// How much of a copy is sent at once, in bytes.
const PIECE: usize = 64 << 10;
/// The most bytes of a request that should have none.
const MAX_BODY: usize = 16 << 10;

/// `POST /v1/store/backup`: a copy of the store, as the answer's body.
pub(crate) async fn backup(State(parts): Shared, body: Sent<Nothing>) -> Result<Raw<Octets>, Refusal> {
    if !body.read(MAX_BODY).await?.is_empty() {
        let text = "a backup is not written on the server's machine: it is the answer to this request";
        return Err(Refusal::bad_request(text)
            .remedy("send no body and keep the answer, as `dodai store backup FILE` does"));
    }
    let path = parts.about.data.join(format!("store-{:016x}.backup", random()));
    let (send, made) = oneshot::channel();
    let ledger = parts.ledger.clone();
    // In a task of its own: a caller who leaves must not leave the copy behind.
    parts.tasks.spawn(Kind::Api, async move {
        let _left = send.send(copy(ledger, path).await);
    });
    let (file, length) = made.await.map_err(|_| Refusal::internal("the server is stopping"))??;
    let head = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    let pieces = unfold(Some(file), |file| async move {
        let mut file = file?;
        match piece(&mut file).await {
            Ok(piece) if piece.is_empty() => None,
            Ok(piece) => Some((Ok(piece), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Raw::new((head, Body::from_stream(pieces)).into_response()))
}

async fn piece(file: &mut File) -> io::Result<Bytes> {
    let mut piece = BytesMut::with_capacity(PIECE);
    file.read_buf(&mut piece).await?;
    Ok(piece.freeze())
}

/// Makes a copy and opens it. Its name is gone afterwards, whatever happened.
async fn copy(ledger: Arc<dyn Ledger>, path: PathBuf) -> Result<(File, u64), Refusal> {
    let made = ledger.backup(path.clone()).await;
    let opened = open(&path).await;
    let _there_or_not = tokio::fs::remove_file(&path).await;
    made?;
    opened.map_err(|error| Refusal::internal(format!("the backup cannot be read: {error}")))
}

async fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path).await?;
    let length = file.metadata().await?.len();
    Ok((file, length))
}
