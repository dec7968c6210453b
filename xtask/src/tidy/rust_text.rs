//! Rust source with its comments and its literals told apart, so that a rule reads code where it means code.
//!
//! A small lexer rather than a parser: rules look for words, and a parser would be most of this crate's build time.

/// One file, twice: same length and same lines, with everything else blanked.
pub struct RustText {
    /// Only code: comments and the insides of literals are spaces.
    pub code: String,
    /// Only comments.
    pub comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Code,
    Comment,
    Literal,
}

impl RustText {
    pub fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut code = Vec::with_capacity(bytes.len());
        let mut comments = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let (part, end) = next(bytes, at);
            for &byte in &bytes[at..end] {
                let blank = if byte == b'\n' { b'\n' } else { b' ' };
                code.push(if part == Part::Code { byte } else { blank });
                comments.push(if part == Part::Comment { byte } else { blank });
            }
            at = end;
        }
        // Blanking cuts at the borders of comments and literals, which are ASCII, so what is left is still UTF-8.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: text(code), comments: text(comments) }
    }
}

/// The piece that starts at `at`: its kind and where it ends.
fn next(bytes: &[u8], at: usize) -> (Part, usize) {
    let rest = &bytes[at..];
    let in_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => (Part::Comment, at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => (Part::Comment, at + block_comment(rest)),
        [b'"', ..] => (Part::Literal, at + quoted(rest, b'"')),
        [b'r' | b'b' | b'c', ..] if !in_word => match raw_string(rest) {
            Some(length) => (Part::Literal, at + length),
            None => (Part::Code, at + 1),
        },
        [b'\'', ..] => match character(rest) {
            Some(length) => (Part::Literal, at + length),
            None => (Part::Code, at + 1),
        },
        _ => (Part::Code, at + 1),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            (b'/', b'*') => (depth, at) = (depth + 1, at + 2),
            (b'*', b'/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a literal with escapes, both quotes counted.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"..."`, `r#"..."#`, `br"..."`, `b"..."`, `c"..."`: the whole length, or none if it is a plain word.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    if prefix > 2 {
        return None;
    }
    if !rest[..prefix].contains(&b'r') {
        return (rest.get(prefix) == Some(&b'"')).then(|| prefix + quoted(&rest[prefix..], b'"'));
    }
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let found = rest[open + 1..].windows(close.len()).position(|window| window == close);
    Some(found.map_or(rest.len(), |at| open + 1 + at + close.len()))
}

/// A character literal, or none if the quote starts a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    match rest {
        [_, b'\\', ..] => Some(quoted(rest, b'\'')),
        [_, first, ..] => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
        }
        _ => None,
    }
}

/// The 1-based line of a byte offset.
pub fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count() + 1
}

/// Offsets where `needle` occurs with no word character directly before or behind it.
pub fn words<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(needle).map(|(at, _)| at).filter(move |&at| {
        let bytes = text.as_bytes();
        let before = at == 0 || !(is_word(bytes[at - 1]) && is_word(needle.as_bytes()[0]));
        let end = at + needle.len();
        let behind = end >= bytes.len() || !(is_word(bytes[end]) && is_word(bytes[end - 1]));
        before && behind
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        let split = RustText::new(text);
        assert_eq!(split.code.len(), text.len());
        split.code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a // b\nc"), "a c");
        assert_eq!(code("a /* b /* c */ d */ e"), "a e");
        assert_eq!(code(r#"a "b \" // c" d"#), "a d");
        assert_eq!(code("a r#\"b \" // c\"# d"), "a d");
        assert_eq!(code("a br\"b\\\" d"), "a d");
        assert_eq!(code("x b\"unsafe\" y b'\\'' z"), "x y b z");
        assert_eq!(code("'\"' a '\\'' b 'ü' c"), "a b c");
    }

    #[test]
    fn lifetimes_and_plain_words_are_code() {
        assert_eq!(code("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(code("for row in cr.br"), "for row in cr.br");
        assert_eq!(code("r#type"), "r#type");
    }

    #[test]
    fn comments_are_kept_apart() {
        assert_eq!(RustText::new("a // b").comments, "  // b");
        assert_eq!(RustText::new("\"// x\"").comments.trim(), "");
    }

    #[test]
    fn words_have_borders() {
        assert_eq!(words("unsafe_code unsafe", "unsafe").collect::<Vec<_>>(), [12]);
        assert_eq!(words("todo!() xtodo!()", "todo!").collect::<Vec<_>>(), [0]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
