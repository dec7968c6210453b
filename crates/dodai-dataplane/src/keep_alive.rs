//! When an HTTP/2 connection to an endpoint is asked whether it still lives, and when it counts as dead.
//!
//! It is asked only while calls are under way on it and nothing came for a while: silence says nothing
//! otherwise, and the next call asks. Servers of gRPC count more than two pings in a row within five minutes, with no answer
//! of theirs in between, as an attack and hang up, so further questions about the same silence come ever later.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait between two questions, which gRPC servers allow for ever.
const LONGEST: Duration = Duration::from_secs(301);
/// The bytes of the answer: what else comes with it is traffic.
const PONG: u64 = 17;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask.
    Ping,
    /// Look again at this time, or when something comes.
    Wait(Instant),
    /// Nothing, until a call begins.
    Rest,
    /// It did not answer.
    Dead,
}

/// The state of one connection.
pub struct KeepAlive {
    interval: Duration,
    timeout: Duration,
    /// Bytes that had come by `heard`.
    read: u64,
    heard: Instant,
    asked: Option<Instant>,
    /// Questions in a row that brought nothing but their answer.
    quiet: u32,
}

impl KeepAlive {
    /// For a connection that is made now: asks after `interval` of silence, and waits `timeout` for the answer.
    pub fn new(interval: Duration, timeout: Duration, now: Instant) -> KeepAlive {
        KeepAlive { interval, timeout, read: 0, heard: now, asked: None, quiet: 0 }
    }

    /// Decides, when `read` bytes have come in all; `busy` says whether calls are under way.
    pub fn look(&mut self, now: Instant, read: u64, busy: bool) -> Next {
        if read != self.read {
            self.read = read;
            self.heard = now;
            if self.asked.is_none() {
                self.quiet = 0;
            }
        }
        if let Some(asked) = self.asked {
            let until = asked + self.timeout;
            return if now < until { Next::Wait(until) } else { Next::Dead };
        }
        if !busy {
            return Next::Rest;
        }
        let due = self.heard + self.wait();
        if now < due {
            return Next::Wait(due);
        }
        self.asked = Some(now);
        Next::Ping
    }

    /// The answer came; `read` bytes have come in all.
    pub fn pong(&mut self, now: Instant, read: u64) {
        let only = read.saturating_sub(self.read) <= PONG;
        self.quiet = if only { self.quiet + 1 } else { 0 };
        (self.asked, self.heard, self.read) = (None, now, read);
    }

    fn wait(&self) -> Duration {
        match self.quiet {
            0 => self.interval,
            1 => (self.interval * 3).min(LONGEST),
            2 => (self.interval * 9).min(LONGEST),
            _ => LONGEST.max(self.interval),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn silence_under_calls_is_asked_about_and_no_answer_is_death() {
        let start = Instant::now();
        let mut alive = KeepAlive::new(INTERVAL, TIMEOUT, start);
        assert_eq!(alive.look(start, 0, false), Next::Rest);
        assert_eq!(alive.look(start + secs(60), 0, false), Next::Rest, "nobody waits");
        assert_eq!(alive.look(start + secs(60), 9, true), Next::Wait(start + secs(70)), "something came");
        assert_eq!(alive.look(start + secs(69), 30, true), Next::Wait(start + secs(79)));
        assert_eq!(alive.look(start + secs(79), 30, true), Next::Ping);
        assert_eq!(alive.look(start + secs(80), 30, true), Next::Wait(start + secs(84)));
        assert_eq!(alive.look(start + secs(84), 30, false), Next::Dead, "also when the calls are gone");
    }

    #[test]
    fn a_call_on_a_connection_that_was_silent_for_long_asks_at_once() {
        let start = Instant::now();
        let mut alive = KeepAlive::new(INTERVAL, TIMEOUT, start);
        assert_eq!(alive.look(start + secs(25), 0, true), Next::Ping);
    }

    #[test]
    fn no_grpc_server_takes_the_questions_for_an_attack() {
        let start = Instant::now();
        let mut alive = KeepAlive::new(INTERVAL, TIMEOUT, start);
        let (mut now, mut read, mut last, mut strikes) = (start, 0, None::<Instant>, 0);
        for _ in 0..40 {
            match alive.look(now, read, true) {
                Next::Ping => {
                    strikes += u32::from(last.is_some_and(|last| now - last < secs(300)));
                    last = Some(now);
                    read += PONG;
                    now += Duration::from_millis(3);
                    alive.pong(now, read);
                }
                Next::Wait(until) => now = until,
                other @ (Next::Rest | Next::Dead) => panic!("{other:?}"),
            }
        }
        assert!(now - start > secs(3000) && strikes <= 2, "{strikes} strikes in {:?}", now - start);
        // Traffic begins the count anew.
        assert_eq!(alive.look(now, read + 100, true), Next::Wait(now + INTERVAL));
    }
}
