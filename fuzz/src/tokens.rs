//! Tokens of users and the key sets of their issuers.

use dodai_dataplane::jwt::{KeySet, Token};

/// The text before the first line feed is a token, what follows a key set.
pub fn target(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (token, rest) = data.split_at(cut);
    let keys = KeySet::parse(rest.get(1..).unwrap_or_default());
    let Ok(text) = std::str::from_utf8(token) else { return };
    let Ok(token) = Token::parse(text) else { return };
    assert_eq!(text.split('.').count(), 3, "a token has three parts");
    let _ = token.check_time(0.0, 0.0);
    assert!(token.is_for(&[]), "no audience means any");
    if let Ok(keys) = keys {
        // What a fuzzer makes up is signed by nobody, and a key that proves a token is one that it may name.
        assert!(!keys.proves(&token) || keys.knows(&token));
    }
}
