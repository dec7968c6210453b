//! What is to be written on a connection: small frames in one run of bytes, large payloads beside it, uncopied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::frame::Header;

/// Payloads from this size on are not copied.
const LARGE: usize = 4096;
/// What an empty outbox may keep of its memory.
const KEPT: usize = 32 * 1024;

/// Bytes to be written, in order.
#[derive(Default)]
pub struct Outbox {
    small: Vec<u8>,
    /// How much of `small` is written.
    written: usize,
    /// Payloads, each with where in `small` it comes in.
    large: VecDeque<(usize, Bytes)>,
    large_bytes: usize,
}

impl Outbox {
    /// The bytes that wait.
    pub fn len(&self) -> usize {
        self.small.len() - self.written + self.large_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where small frames are appended.
    pub fn small(&mut self) -> &mut Vec<u8> {
        &mut self.small
    }

    /// Appends a frame.
    pub fn frame(&mut self, header: Header, payload: &[u8]) {
        self.small.extend_from_slice(&header.bytes());
        self.small.extend_from_slice(payload);
    }

    /// Appends a frame whose payload may be kept as it is.
    pub fn frame_of(&mut self, header: Header, payload: Bytes) {
        if payload.len() < LARGE {
            return self.frame(header, &payload);
        }
        self.small.extend_from_slice(&header.bytes());
        self.large_bytes += payload.len();
        self.large.push_back((self.small.len(), payload));
    }

    /// Fills `slices` with what comes first; says how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut at, mut filled) = (self.written, 0);
        let mut put = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let Some(slot) = slices.get_mut(filled) else { return false };
            *slot = IoSlice::new(bytes);
            filled += 1;
            true
        };
        for (end, payload) in &self.large {
            if !put(&self.small[at..*end]) || !put(payload) {
                return filled;
            }
            at = *end;
        }
        put(&self.small[at..]);
        filled
    }

    /// `count` bytes were written.
    pub fn advance(&mut self, mut count: usize) {
        while let Some((end, payload)) = self.large.front_mut() {
            let before = (*end - self.written).min(count);
            self.written += before;
            count -= before;
            if self.written < *end {
                break;
            }
            let of_payload = payload.len().min(count);
            payload.advance(of_payload);
            self.large_bytes -= of_payload;
            count -= of_payload;
            if !payload.is_empty() {
                break;
            }
            self.large.pop_front();
        }
        self.written += count;
        if self.large.is_empty() && self.written == self.small.len() {
            self.small.clear();
            self.written = 0;
            if self.small.capacity() > KEPT {
                self.small = Vec::new();
            }
        } else if self.written > KEPT {
            // A slow receiver never empties it.
            self.small.drain(..self.written);
            for (end, _) in &mut self.large {
                *end -= self.written;
            }
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(length: usize) -> Header {
        Header { length, kind: 0, flags: 0, stream: 1 }
    }

    proptest! {
        #[test]
        fn everything_is_written_once_and_in_order(
            frames in proptest::collection::vec((any::<u8>(), 0usize..9000), 0..30),
            steps in proptest::collection::vec(1usize..20_000, 1..40),
        ) {
            let (mut outbox, mut wanted, mut got) = (Outbox::default(), Vec::new(), Vec::new());
            let mut steps = steps.iter().cycle();
            for (fill, size) in frames {
                let payload = vec![fill; size];
                wanted.extend_from_slice(&header(size).bytes());
                wanted.extend_from_slice(&payload);
                outbox.frame_of(header(size), payload.into());
                write(&mut outbox, *steps.next().expect("endless"), &mut got);
            }
            while !outbox.is_empty() {
                write(&mut outbox, *steps.next().expect("endless"), &mut got);
            }
            prop_assert!(got == wanted);
            prop_assert!(outbox.large.is_empty() && outbox.small.is_empty());
        }
    }

    fn write(outbox: &mut Outbox, most: usize, to: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); 5];
        let filled = outbox.slices(&mut slices);
        let all: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
        let count = all.len().min(most);
        to.extend_from_slice(&all[..count]);
        outbox.advance(count);
    }
}
