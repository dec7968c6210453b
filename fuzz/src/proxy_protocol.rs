//! The PROXY protocol: pieces come to what the whole comes to, and what was read is written and read again as it was.

use dodai_core::snapshot::ProxyVersion;
use dodai_transport::proxy_protocol::{Header, MOST, Read, read, write};

/// The first byte says where the rest is cut.
pub fn target(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = read(bytes);
    let part = read(&bytes[..usize::from(*cut).min(bytes.len())]);
    assert!(part == Ok(Read::More) || part == whole, "{part:?} of {whole:?}");
    if bytes.len() >= MOST {
        assert_ne!(whole, Ok(Read::More), "no header is longer");
    }
    let Ok(Read::Header(header, length)) = whole else { return };
    assert!(length <= bytes.len().min(MOST));
    assert_eq!(read(&bytes[..length]), whole, "it ends where it says");
    let ends = match &header {
        Header::Own => None,
        Header::For(ends) => Some(ends),
    };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let written = write(version, ends);
        assert_eq!(read(&written), Ok(Read::Header(header, written.len())));
    }
}
