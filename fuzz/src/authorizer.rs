//! Answers of an authorizer over gRPC: any bytes are read without a panic, and what one changes is what it asked for, but
//! never where a message ends or who calls.

use dodai_core::call::tells_identity;
use dodai_dataplane::authorizer::{Verdict, answered};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that stay ours.
const OURS: &[&str] = &[
    "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "host",
];

/// The bytes as an answer, and each line of them as a header that an answer sets.
pub fn target(data: &[u8]) {
    match answered(data) {
        Ok(Verdict::Allowed(call, reply)) => {
            for edits in [call, reply] {
                let mut map = ours();
                edits.apply_to(&mut map);
                assert_eq!(kept(&map), kept(&ours()));
            }
        }
        Ok(Verdict::Denied(_, headers, _)) => assert!(kept(&headers).is_empty()),
        Err(_) => {}
    }
    let (mut asked, mut expect) = (Vec::new(), ours());
    for line in data.split(|byte| *byte == b'\n').take(20) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let Ok(name) = std::str::from_utf8(&line[..colon]) else { continue };
        let value = &line[colon + 1..];
        asked.push(set(name.as_bytes(), value));
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if !is_ours(&name) {
            expect.insert(name, value);
        }
    }
    let allowed: Vec<u8> = asked.iter().flat_map(|one| field(2, one)).collect();
    let message = field(3, &allowed);
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    let frame = [&[0][..], &length, &message].concat();
    let Ok(Verdict::Allowed(call, _)) = answered(&frame) else { panic!("it allows the call") };
    let mut map = ours();
    call.apply_to(&mut map);
    assert_eq!(map, expect);
    assert!(answered(&frame[..frame.len() - 1]).is_err(), "a part is not the whole");
}

fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(&name.as_str()) || tells_identity(name.as_str().as_bytes())
}

/// A head with everything that an authorizer must leave alone.
fn ours() -> HeaderMap {
    OURS.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("own"))).collect()
}

fn kept(map: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    map.iter().filter(|(name, _)| is_ours(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A header option of this name and these bytes.
fn set(name: &[u8], value: &[u8]) -> Vec<u8> {
    field(1, &[field(1, name), field(3, value)].concat())
}

/// A field of a message that has a length (Protocol Buffers, wire type 2).
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let (mut out, mut left) = (vec![number << 3 | 2], content.len());
    while left > 127 {
        out.push((left & 127) as u8 | 128);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend_from_slice(content);
    out
}
