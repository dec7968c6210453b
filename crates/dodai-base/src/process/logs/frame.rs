//! Cutting a byte stream into lines of bounded length.

/// The longest line; a longer one is cut into several.
pub(super) const MAX_LINE: usize = 16 << 10;

/// Holds the beginning of a line whose end has not been read yet.
#[derive(Default)]
pub(super) struct Framer {
    partial: Vec<u8>,
}

impl Framer {
    /// Feeds bytes; calls `emit` for each whole line.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(String)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            // One byte further, so that a line of exactly the limit is not followed by an empty one.
            let window = &bytes[..bytes.len().min(room + 1)];
            let (take, skip) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, end + 1),
                None if window.len() > room => (room, room),
                None => {
                    self.partial.extend_from_slice(window);
                    return;
                }
            };
            self.partial.extend_from_slice(&bytes[..take]);
            emit(self.take());
            bytes = &bytes[skip..];
        }
    }

    /// The last line, if the stream ended without a line end.
    pub(super) fn finish(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let end = self.partial.strip_suffix(b"\r").map_or(self.partial.len(), <[u8]>::len);
        let text = String::from_utf8_lossy(&self.partial[..end]).into_owned();
        self.partial.clear();
        self.partial.shrink_to(1024);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut framer = Framer::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            framer.push(chunk, |line| lines.push(line));
        }
        lines.extend(framer.finish());
        lines
    }

    #[test]
    fn line_ends() {
        assert_eq!(lines(&[b"a\nb\r\n\nc"]), ["a", "b", "", "c"]);
        assert_eq!(lines(&[b"a", b"b", b"\n"]), ["ab"]);
        assert_eq!(lines(&[b"\xff\n"]), ["\u{fffd}"]);
        assert_eq!(lines(&[b""]), [""; 0]);
    }

    #[test]
    fn long_lines_are_cut_at_the_limit() {
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        let lengths: Vec<usize> = lines(&[&long, b"\nend\n"]).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 5, 3]);
        let exact = [vec![b'x'; MAX_LINE], b"\nend".to_vec()].concat();
        assert_eq!(lines(&[&exact]).len(), 2);
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_does_not_matter(text in "[ab\n]{0,200}", size in 1_usize..20) {
            let whole = lines(&[text.as_bytes()]);
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(lines(&chunks), whole);
        }
    }
}
