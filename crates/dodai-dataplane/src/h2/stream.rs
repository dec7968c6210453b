//! One stream: what came and was not taken, what may still be sent, and who waits for either.

use std::task::Waker;

use bytes::Bytes;

use super::Reason;
use super::block::Block;
use super::inbox::Inbox;

/// What comes on a stream.
#[derive(Debug)]
pub enum Piece {
    /// The head of an informational response (1xx); others follow.
    Interim(Block),
    /// The head: of a request, or of the final response.
    Head(Block),
    /// Bytes of the body.
    Data(Bytes),
    /// The trailers; nothing follows.
    Trailers(Block),
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// More may come.
    Open,
    /// It ended well.
    Ended,
    /// It was reset, or the connection is gone.
    Cut,
}

/// Why a stream was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The other side reset it.
    Reset(Reason),
    /// It broke the protocol, and we reset it.
    Refused(Reason),
    /// The other side went away without having looked at it.
    Unseen,
    /// The connection ended.
    Lost,
}

/// A stream that is under way.
pub struct Stream {
    pub id: u32,
    pub inbox: Inbox,
    pub incoming: Way,
    pub outgoing: Way,
    pub cut: Option<Cut>,
    /// Whether the head that ends a head exchange has come.
    pub headed: bool,
    /// Whether the answer has no body, whatever length it announces.
    pub bodiless: bool,
    /// Whether nobody reads what comes.
    pub unwanted: bool,
    /// Whether its sender waits among the connection's blocked ones.
    pub blocked: bool,
    /// What the other side may still send.
    pub window_in: i64,
    /// What was taken from the inbox and not yet given back to the other side.
    pub owed: u32,
    /// What we may still send.
    pub window_out: i64,
    /// What is missing of the announced length.
    pub expected: Option<u64>,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Halves that somebody holds.
    pub held: u8,
}

impl Stream {
    pub fn new(id: u32, window_in: u32, window_out: i64) -> Stream {
        Stream {
            id,
            inbox: Inbox::default(),
            incoming: Way::Open,
            outgoing: Way::Open,
            cut: None,
            headed: false,
            bodiless: false,
            unwanted: false,
            blocked: false,
            window_in: i64::from(window_in),
            owed: 0,
            window_out,
            expected: None,
            reader: None,
            writer: None,
            held: 0,
        }
    }

    /// Tells both halves that something happened.
    pub fn wake(&mut self) {
        self.wake_reader();
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    pub fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Cuts what has not ended.
    pub fn cut(&mut self, why: Cut) {
        for way in [&mut self.incoming, &mut self.outgoing] {
            if *way == Way::Open {
                *way = Way::Cut;
            }
        }
        self.cut.get_or_insert(why);
        self.wake();
    }

    /// Whether nothing more passes in either direction.
    pub fn is_done(&self) -> bool {
        self.incoming != Way::Open && self.outgoing != Way::Open
    }
}

/// The streams of a connection by number, in slots that keep their place while somebody holds a half.
#[derive(Default)]
pub struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    by_id: foldhash::HashMap<u32, usize>,
    /// Streams in which something may still pass.
    live: usize,
}

impl Streams {
    pub fn add(&mut self, stream: Stream) -> usize {
        let id = stream.id;
        let key = match self.free.pop() {
            Some(key) => {
                self.slots[key] = Some(stream);
                key
            }
            None => {
                self.slots.push(Some(stream));
                self.slots.len() - 1
            }
        };
        self.by_id.insert(id, key);
        self.live += 1;
        key
    }

    pub fn key(&self, id: u32) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    pub fn get(&self, key: usize) -> Option<&Stream> {
        self.slots.get(key)?.as_ref()
    }

    pub fn get_mut(&mut self, key: usize) -> Option<&mut Stream> {
        self.slots.get_mut(key)?.as_mut()
    }

    pub fn by_id(&mut self, id: u32) -> Option<&mut Stream> {
        let key = self.key(id)?;
        self.get_mut(key)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }

    /// Streams in which something may still pass.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// A stream is done: it has no number any more, and no slot once nobody holds a half of it.
    pub fn settle(&mut self, key: usize) {
        let Some(stream) = self.get(key) else { return };
        let (id, done, held) = (stream.id, stream.is_done(), stream.held);
        if !done {
            return;
        }
        if self.by_id.remove(&id).is_some() {
            self.live -= 1;
        }
        if held == 0 {
            self.slots[key] = None;
            self.free.push(key);
        }
        if self.is_empty() && self.slots.len() > 8 {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}
