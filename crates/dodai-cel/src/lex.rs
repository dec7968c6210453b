//! Text to tokens.

use super::Malformed;

/// A token and the character it begins at, from 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Name(String),
    Int(u64),
    Uint(u64),
    Double(f64),
    Text(String),
    /// An operator or bracket.
    Sign(&'static str),
    End,
}

/// Longer signs first, so that `<=` is not `<`.
const SIGNS: [&str; 24] = [
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ",", ".", "(", ")",
    "[", "]", "{", "}",
];

struct Lexer {
    text: Vec<char>,
    at: usize,
}

/// Splits a program into tokens; the last is [`Kind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Malformed> {
    let mut lexer = Lexer { text: source.chars().collect(), at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let at = lexer.at;
        let kind = lexer.next()?;
        let end = kind == Kind::End;
        tokens.push(Token { at, kind });
        if end {
            return Ok(tokens);
        }
    }
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts_with(&self, word: &str) -> bool {
        word.chars().enumerate().all(|(ahead, c)| self.peek(ahead) == Some(c))
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let from = self.at;
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
        self.text[from..self.at].iter().collect()
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn next(&mut self) -> Result<Kind, Malformed> {
        let Some(first) = self.peek(0) else { return Ok(Kind::End) };
        let second = self.peek(1);
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        if first.is_ascii_digit() || (first == '.' && is_digit(second)) {
            return self.number();
        }
        let is_quote = |c: Option<char>| matches!(c, Some('"' | '\''));
        if is_quote(Some(first)) {
            return self.quoted(false);
        }
        if matches!(first, 'r' | 'R') && is_quote(second) {
            self.at += 1;
            return self.quoted(true);
        }
        if matches!(first, 'b' | 'B') && is_quote(second) {
            return Err(Malformed::new(self.at, "byte strings are not served; write a text"));
        }
        if first.is_ascii_alphabetic() || first == '_' {
            return Ok(Kind::Name(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')));
        }
        let sign = SIGNS.iter().find(|sign| self.starts_with(sign));
        let sign = sign.ok_or_else(|| Malformed::new(self.at, format!("`{first}` means nothing here")))?;
        self.at += sign.len();
        Ok(Kind::Sign(sign))
    }

    fn number(&mut self) -> Result<Kind, Malformed> {
        let start = self.at;
        let bad = |text: &str| Malformed::new(start, format!("`{text}` is no number that can be held"));
        if self.starts_with("0x") || self.starts_with("0X") {
            self.at += 2;
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            let number = u64::from_str_radix(&digits, 16).map_err(|_| bad(&digits))?;
            return Ok(self.whole(number));
        }
        let mut text = self.take_while(|c| c.is_ascii_digit());
        let mut fraction = false;
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            fraction = true;
            self.at += 1;
            text.push('.');
            text.push_str(&self.take_while(|c| c.is_ascii_digit()));
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            fraction = true;
            self.at += 1;
            text.push('e');
            if let Some(sign @ ('+' | '-')) = self.peek(0) {
                self.at += 1;
                text.push(sign);
            }
            text.push_str(&self.take_while(|c| c.is_ascii_digit()));
        }
        if fraction {
            return text.parse().map(Kind::Double).map_err(|_| bad(&text));
        }
        let number = text.parse().map_err(|_| bad(&text))?;
        Ok(self.whole(number))
    }

    fn whole(&mut self, number: u64) -> Kind {
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return Kind::Uint(number);
        }
        Kind::Int(number)
    }

    /// A text in one or three quotes of either sort.
    fn quoted(&mut self, raw: bool) -> Result<Kind, Malformed> {
        let start = self.at;
        let quote = self.text[self.at];
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let end = if self.starts_with(&triple) { triple } else { quote.to_string() };
        self.at += end.len();
        let mut text = String::new();
        loop {
            if self.starts_with(&end) {
                self.at += end.len();
                return Ok(Kind::Text(text));
            }
            match self.peek(0) {
                None => return Err(Malformed::new(start, "the text has no end; close its quotes")),
                Some('\n') if end.len() == 1 => {
                    return Err(Malformed::new(start, "the text does not end on its line; close its quotes"));
                }
                Some('\\') if !raw => text.push(self.escaped()?),
                Some(c) => {
                    self.at += 1;
                    text.push(c);
                }
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Malformed> {
        let start = self.at;
        let bad = || Malformed::new(start, "an escape that means nothing; write `\\\\` for a backslash");
        let letter = self.peek(1).ok_or_else(bad)?;
        self.at += 2;
        let plain = match letter {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '"' | '\'' | '`' | '?' => letter,
            'x' | 'X' => return self.code(2, 16).ok_or_else(bad),
            'u' => return self.code(4, 16).ok_or_else(bad),
            'U' => return self.code(8, 16).ok_or_else(bad),
            '0'..='3' => {
                self.at -= 1;
                return self.code(3, 8).ok_or_else(bad);
            }
            _ => return Err(bad()),
        };
        Ok(plain)
    }

    fn code(&mut self, digits: usize, radix: u32) -> Option<char> {
        let text: String = self.text.get(self.at..self.at + digits)?.iter().collect();
        self.at += digits;
        char::from_u32(u32::from_str_radix(&text, radix).ok()?)
    }
}
