//! What is noticed of an HTTP/2 connection to an endpoint while it is there: whether it still answers, and how long its
//! endpoint lets it be idle.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::client_h2::{Marks, State};
use crate::h2;
use crate::idle_life::{IdleLife, SHORTEST};
use crate::keep_alive::{KeepAlive, Next};
use crate::timer::Deadline;

/// Watches one connection.
pub struct Watch {
    alive: KeepAlive,
    marks: Rc<Marks>,
    deadline: Deadline,
    pongs: u64,
    /// Bytes that had come when it last looked.
    read: u64,
    /// Whether calls were under way then.
    busy: bool,
}

impl Watch {
    /// Of a connection that is made now.
    pub fn new(alive: KeepAlive, marks: Rc<Marks>, deadline: Deadline) -> Watch {
        Watch { alive, marks, deadline, pongs: 0, read: 0, busy: false }
    }

    /// Looks after something may have happened; ready once the other side did not answer a PING. `read` bytes have come.
    pub fn poll_dead(&mut self, at: &h2::Shared, read: u64, life: &IdleLife, cx: &Context<'_>) -> Poll<()> {
        let (pongs, busy, told) = {
            let connection = at.lock();
            (connection.pongs(), connection.live() > 0, connection.is_leaving())
        };
        let now = Instant::now();
        if read != self.read {
            self.read = read;
            if let Some(idle) = self.marks.taken.take() {
                // It may have come to say that the endpoint goes away, unless that was our wish.
                if told && self.marks.state.get() == State::Open {
                    self.died(idle, life, now);
                } else {
                    life.survived(idle);
                }
            }
        }
        if self.busy && !busy {
            self.marks.used.set(now);
        }
        self.busy = busy;
        if pongs != self.pongs {
            self.pongs = pongs;
            self.alive.pong(now, read);
        }
        let until = loop {
            match self.alive.look(now, read, busy) {
                Next::Dead => return Poll::Ready(()),
                // Sending it wakes the driver, which writes it out.
                Next::Ping => at.lock().ping(),
                Next::Wait(until) => break until,
                Next::Rest => {
                    self.deadline.clear();
                    return Poll::Pending;
                }
            }
        };
        self.deadline.set_at(until);
        let _not_yet = self.deadline.poll_fired(cx);
        Poll::Pending
    }

    /// The connection is over, and `end` says how; says it better where it had been idle. `read` bytes have come.
    pub fn ended(&self, end: State, at: &h2::Shared, read: u64, life: &IdleLife) -> State {
        if end != State::Closed || self.marks.state.get() != State::Open {
            return end;
        }
        let now = Instant::now();
        match self.marks.taken.take() {
            // It answered before it ended.
            Some(idle) if read != self.read && !at.lock().is_leaving() => {
                life.survived(idle);
                end
            }
            Some(idle) => {
                self.died(idle, life, now);
                State::Stale
            }
            None => {
                let idle = now.saturating_duration_since(self.marks.used.get());
                // One that ends with its last call, or soon after, has been told to go for another reason.
                if !self.busy && idle >= SHORTEST {
                    life.closed_at(idle, now);
                }
                end
            }
        }
    }

    /// A call met its end.
    fn died(&self, idle: Duration, life: &IdleLife, now: Instant) {
        if idle >= SHORTEST {
            life.died(idle, now);
        }
    }
}
