//! The chunked coding: any split of the bytes gives the same content, the same end or the same refusal.

use dodai_dataplane::h1::{BadChunk, Chunks};

/// The first byte says where the rest is split.
pub fn target(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let cut = usize::from(*cut).min(bytes.len());
    let whole = decode(&[bytes]);
    let split = decode(&[&bytes[..cut], &bytes[cut..]]);
    let each: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(whole, split);
    assert_eq!(whole, decode(&each));
}

/// Content, trailer bytes, and how much was used when it ended.
type Decoded = Result<(Vec<u8>, Vec<u8>, Option<usize>), BadChunk>;

fn decode(pieces: &[&[u8]]) -> Decoded {
    let (mut content, mut trailers, mut used) = (Vec::new(), Vec::new(), 0);
    let mut chunks = Chunks::new(64, 256);
    for piece in pieces {
        let fed =
            chunks.feed_with(piece, |run| content.extend_from_slice(run), |byte| trailers.push(byte))?;
        used += fed.used;
        if fed.end {
            return Ok((content, trailers, Some(used)));
        }
        assert_eq!(fed.used, piece.len());
    }
    Ok((content, trailers, None))
}
