//! Datagrams that wait while the sessions of their clients are being opened, within what all of them may take.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// The most bytes that wait at one listener on one thread: clients are many, and whoever forges addresses is more.
const MOST: usize = 1024 * 1024;

/// What of [`MOST`] is taken.
#[derive(Default)]
pub struct Room(Rc<Cell<usize>>);

/// One datagram.
pub struct Waiting {
    data: Box<[u8]>,
    taken: Rc<Cell<usize>>,
}

impl Room {
    /// Keeps a datagram, if there is room for it.
    pub fn hold(&self, data: &[u8]) -> Option<Waiting> {
        let taken = self.0.get() + data.len();
        (taken <= MOST).then(|| {
            self.0.set(taken);
            Waiting { data: data.into(), taken: self.0.clone() }
        })
    }
}

impl Deref for Waiting {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - self.data.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_however_many_clients_there_are() {
        let (room, large) = (Room::default(), [7; 64 * 1024]);
        let mut held: Vec<Waiting> = std::iter::from_fn(|| room.hold(&large)).take(1000).collect();
        assert_eq!(held.len(), MOST / large.len());
        assert!(room.hold(&large[..1]).is_none());
        assert_eq!(*held.pop().expect("there are some"), large);
        assert!(room.hold(&large).is_some(), "what was sent or dropped makes room");
        assert!(room.hold(&large).is_some());
    }
}
