//! What came on a stream and was not taken.
//!
//! Small pieces are gathered while they wait, so that frames of a byte each take hardly more room than full ones and
//! leave as one. A piece that is taken before the next comes is copied no more than once, a large one not at all.

use std::collections::VecDeque;

use bytes::Bytes;

use super::frame;
use super::stream::Piece;

/// Data of no more bytes than this is gathered.
const SMALL: usize = 512;

/// Data as it comes.
pub enum Data<'a> {
    /// In the buffer that it was read into, to be copied out.
    Lent(&'a [u8]),
    /// In a buffer of its own.
    Own(Bytes),
}

impl Data<'_> {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Data::Lent(bytes) => bytes.len(),
            Data::Own(bytes) => bytes.len(),
        }
    }
}

/// Pieces in the order in which they came.
#[derive(Default)]
pub struct Inbox {
    pieces: VecDeque<Piece>,
    /// Small data that came after all of `pieces`.
    small: Vec<u8>,
}

impl Inbox {
    /// How many pieces wait.
    pub fn len(&self) -> usize {
        self.pieces.len() + usize::from(!self.small.is_empty())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    /// Adds a head or trailers.
    pub fn push(&mut self, piece: Piece) {
        self.gathered();
        self.pieces.push_back(piece);
    }

    /// Adds data of the body.
    pub fn data(&mut self, data: Data<'_>) {
        match data {
            Data::Lent(bytes) if bytes.len() > SMALL => self.push(Piece::Data(Bytes::copy_from_slice(bytes))),
            Data::Lent(bytes) => {
                // No more than what leaves as one frame everywhere.
                if self.small.len() + bytes.len() > frame::LARGEST {
                    self.gathered();
                }
                if self.small.is_empty() {
                    // As large as it is: most often it is taken before more comes.
                    self.small = bytes.to_vec();
                } else {
                    self.small.extend_from_slice(bytes);
                }
            }
            Data::Own(bytes) => self.push(Piece::Data(bytes)),
        }
    }

    /// Takes the oldest piece.
    pub fn pop(&mut self) -> Option<Piece> {
        if self.pieces.is_empty() {
            self.gathered();
        }
        self.pieces.pop_front()
    }

    /// Forgets everything; says how many bytes of data that were.
    pub fn clear(&mut self) -> usize {
        let left = std::mem::take(self);
        let data = left.pieces.iter().map(|piece| match piece {
            Piece::Data(data) => data.len(),
            Piece::Interim(_) | Piece::Head(_) | Piece::Trailers(_) => 0,
        });
        data.sum::<usize>() + left.small.len()
    }

    /// What was gathered is a piece.
    fn gathered(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(Piece::Data(std::mem::take(&mut self.small).into()));
        }
    }
}
