//! Tokens that people paste: join tokens (a base proves itself once) and API tokens.
//!
//! A token is 256 random bits behind a prefix that says what it opens, so that a mix-up gets a clear word and
//! scanners find leaked ones. Only its SHA-256 is stored; with 256 bits of chance in it, no salt or slow hash
//! is needed. That a join token is used once is for whoever stores the hashes: forget it when it was used.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

/// What a token opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// A base may join the mesh, once.
    Join,
    /// A person or program may use an API.
    Api,
}

impl Purpose {
    fn prefix(self) -> &'static str {
        match self {
            Purpose::Join => "dodai-join-",
            Purpose::Api => "dodai-api-",
        }
    }

    fn other(self) -> Purpose {
        match self {
            Purpose::Join => Purpose::Api,
            Purpose::Api => Purpose::Join,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Join => "a join token",
            Purpose::Api => "an API token",
        })
    }
}

/// Why a text is not a token. Never holds the text: it may be a token of something else.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadToken {
    /// It is a token for something else.
    #[error("this is {got}; {wanted} is needed, which begins with `{}`", wanted.prefix())]
    Other {
        /// What it is.
        got: Purpose,
        /// What is needed.
        wanted: Purpose,
    },
    /// It is no token.
    #[error("this is not {0}: expected `{prefix}` and 52 characters of a-z and 2-7; was it cut off?", prefix = .0.prefix())]
    Malformed(Purpose),
    /// The stored hash is damaged.
    #[error("this is no hash of a token: expected 64 hex digits")]
    Hash,
    /// The machine gives no random numbers.
    #[error("the machine gives no random numbers")]
    Random,
}

/// A token. It shows itself only through [`Token::reveal`].
#[derive(Clone)]
pub struct Token {
    purpose: Purpose,
    bits: [u8; 32],
}

impl Token {
    /// Makes a new one.
    pub fn generate(purpose: Purpose) -> Result<Token, BadToken> {
        let mut bits = [0; 32];
        aws_lc_rs::rand::fill(&mut bits).map_err(|_| BadToken::Random)?;
        Ok(Token { purpose, bits })
    }

    /// Reads what [`Token::reveal`] showed; space around it is ignored.
    pub fn parse(text: &str, purpose: Purpose) -> Result<Token, BadToken> {
        let text = text.trim();
        if text.starts_with(purpose.other().prefix()) {
            return Err(BadToken::Other { got: purpose.other(), wanted: purpose });
        }
        let bits = text.strip_prefix(purpose.prefix()).and_then(base32_decode);
        Ok(Token { purpose, bits: bits.ok_or(BadToken::Malformed(purpose))? })
    }

    /// The text to hand out. A secret.
    pub fn reveal(&self) -> String {
        format!("{}{}", self.purpose.prefix(), base32_encode(&self.bits))
    }

    /// What to store.
    pub fn hash(&self) -> TokenHash {
        let hash = digest(&SHA256, self.reveal().as_bytes());
        TokenHash(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.purpose)
    }
}

/// The hash of a token. Comparing two takes the same time wherever they differ.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Whether `token` is the one that was hashed.
    pub fn matches(&self, token: &Token) -> bool {
        *self == token.hash()
    }

    /// Reads what `to_string` gave: 64 hex digits.
    pub fn parse(text: &str) -> Result<TokenHash, BadToken> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BadToken::Hash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadToken::Hash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadToken::Hash)?;
        }
        Ok(TokenHash(hash))
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &TokenHash) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

/// RFC 4648, section 6, in lower case and without padding.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32_encode(bits: &[u8; 32]) -> String {
    let bit = |index: usize| bits.get(index / 8).map_or(0, |byte| byte >> (7 - index % 8) & 1);
    let digit = |at: usize| (0..5).fold(0, |value, offset| value << 1 | bit(at * 5 + offset));
    (0..52).map(|at| char::from(ALPHABET[usize::from(digit(at))])).collect()
}

/// Only what the encoder gives reads back: the four bits of padding in the last digit must be zero.
fn base32_decode(text: &str) -> Option<[u8; 32]> {
    let mut bits = [0u8; 32];
    if text.len() != 52 {
        return None;
    }
    for (at, digit) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        for offset in 0..5 {
            let (index, bit) = (at * 5 + offset, value >> (4 - offset) & 1);
            match bits.get_mut(index / 8) {
                Some(byte) => *byte |= (bit as u8) << (7 - index % 8),
                None if bit == 1 => return None,
                None => {}
            }
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_reads_back_and_matches_only_itself() {
        let token = Token::generate(Purpose::Join).expect("random");
        let again = Token::parse(&format!(" {}\n", token.reveal()), Purpose::Join).expect("reads back");
        let stored = TokenHash::parse(&token.hash().to_string()).expect("hash reads back");
        assert!(stored.matches(&again));
        assert!(!stored.matches(&Token::generate(Purpose::Join).expect("random")));
        let same_bits = Token { purpose: Purpose::Api, bits: token.bits };
        assert!(!stored.matches(&same_bits));
        assert!(!format!("{token:?}").contains(&base32_encode(&token.bits)));
    }

    #[test]
    fn a_mix_up_is_named() {
        let api = Token::generate(Purpose::Api).expect("random").reveal();
        let error = Token::parse(&api, Purpose::Join).expect_err("wrong kind");
        assert_eq!(
            error.to_string(),
            "this is an API token; a join token is needed, which begins with `dodai-join-`"
        );
        for bad in ["", "hello", &api[..30], &format!("{api}a"), &api.to_uppercase()] {
            assert_eq!(Token::parse(bad, Purpose::Api).expect_err(bad), BadToken::Malformed(Purpose::Api));
        }
    }

    #[test]
    fn base32_is_the_standard_one() {
        // RFC 4648, section 10: BASE32("foobar") = "MZXW6YTBOI======".
        let mut bits = [0; 32];
        bits[..6].copy_from_slice(b"foobar");
        assert!(base32_encode(&bits).starts_with("mzxw6ytboi"));
    }

    proptest! {
        #[test]
        fn base32_reads_back(bits in any::<[u8; 32]>()) {
            prop_assert_eq!(base32_decode(&base32_encode(&bits)), Some(bits));
        }

        #[test]
        fn parsing_garbage_never_panics(text in "\\PC{0,70}", hex in "[0-9a-fxé]{60,66}") {
            let _ = Token::parse(&text, Purpose::Join);
            let _ = Token::parse(&format!("dodai-join-{text}"), Purpose::Join);
            if let Ok(hash) = TokenHash::parse(&hex) {
                prop_assert_eq!(hash.to_string(), hex);
            }
        }
    }
}
