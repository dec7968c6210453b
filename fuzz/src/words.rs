//! Short texts of documents and commands: what is read and written again is read as the same.

use std::fmt::Display;
use std::str::FromStr;

use dodai_api::{ByteSize, DocumentKey, Kind, MilliCpu, SocketAddress, TimeSpan};
use dodai_core::snapshot::Whose;
use dodai_log::{Filter, Format};

/// The whole input is one of each.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    again::<ByteSize>(text);
    again::<DocumentKey>(text);
    again::<Kind>(text);
    again::<MilliCpu>(text);
    again::<SocketAddress>(text);
    again::<TimeSpan>(text);
    if let Some(whose) = Whose::parse(text) {
        assert_eq!(Whose::parse(&whose.to_string()), Some(whose));
    }
    let _ = text.parse::<Filter>();
    let _ = text.parse::<Format>();
}

fn again<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) {
    let Ok(read) = text.parse::<T>() else { return };
    let written = read.to_string();
    assert!(written.parse::<T>().is_ok_and(|again| again == read), "{text:?} is written as {written:?}");
}
