//! One line on the terminal that tells what is being waited for, gone when it is over.
//!
//! Drawn by the waiting itself, so that there is no task to end and nothing is left behind when it is cut.
//! Rejected: a library of bars; one line with a share and a time is all that is needed.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::output::Output;

/// How often the line is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// What is over sooner is not shown at all.
const PATIENCE: Duration = Duration::from_millis(300);
/// The most characters of a line, so that it never wraps.
const WIDTH: usize = 78;
/// How many characters a full bar has.
const BAR: usize = 20;
const TURN: [char; 4] = ['|', '/', '-', '\\'];

/// Where progress is shown, if it is.
#[derive(Clone, Copy)]
pub struct Progress {
    shown: bool,
}

impl Progress {
    /// Progress beside these results.
    pub fn on(output: &Output) -> Progress {
        Progress { shown: output.shows_progress() }
    }

    /// Does the work; `text` says what it is and how far. Cancel safe if the work is.
    pub async fn during<T>(self, text: impl Fn() -> String, work: impl Future<Output = T>) -> T {
        if !self.shown {
            return work.await;
        }
        let start = Instant::now();
        let mut draw = tokio::time::interval(DRAW);
        let mut line = Line { drawn: false };
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                // The work is polled on; a tick that is cut comes again.
                done = &mut work => return done,
                _ = draw.tick() => {
                    let elapsed = start.elapsed();
                    if elapsed >= PATIENCE {
                        line.draw(&shown(&text(), elapsed));
                    }
                }
            }
        }
    }
}

/// A line that wipes itself away, also when the wait is cut.
struct Line {
    drawn: bool,
}

impl Line {
    fn draw(&mut self, text: &str) {
        self.drawn = true;
        let mut err = std::io::stderr().lock();
        let _gone = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.drawn {
            let mut err = std::io::stderr().lock();
            let _gone = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}

/// The line after some time.
fn shown(text: &str, elapsed: Duration) -> String {
    let turn = TURN[(elapsed.as_millis() / DRAW.as_millis()) as usize % TURN.len()];
    let seconds = elapsed.as_secs_f64();
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let room = WIDTH.saturating_sub(12);
    let text = if text.chars().count() > room {
        text.chars().take(room - 3).chain("...".chars()).collect()
    } else {
        text
    };
    format!("{turn} {text} {seconds:.0} s")
}

/// How much of something large is done.
#[derive(Debug, Default)]
pub struct Share {
    done: AtomicU64,
    total: u64,
}

impl Share {
    /// Of so many bytes.
    pub fn of(total: u64) -> Share {
        Share { done: AtomicU64::new(0), total }
    }

    /// So many more are done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// As a bar and a percentage.
    pub fn bar(&self) -> String {
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        let percent = (done * 100).checked_div(self.total).unwrap_or(100);
        let full = usize::try_from(percent).unwrap_or(100) * BAR / 100;
        format!("[{}{}] {percent:3}%", "#".repeat(full), "-".repeat(BAR - full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_up_and_never_overflows() {
        let share = Share::of(200);
        assert_eq!(share.bar(), "[--------------------]   0%");
        share.add(50);
        assert_eq!(share.bar(), "[#####---------------]  25%");
        share.add(1000);
        assert_eq!(share.bar(), "[####################] 100%");
        assert_eq!(Share::of(0).bar(), "[####################] 100%", "nothing to do is done");
    }

    #[test]
    fn a_line_stays_on_one_line() {
        assert_eq!(shown("compiling", Duration::from_millis(1_200)), "| compiling 1 s");
        let long = shown(&"wörd ".repeat(40), Duration::from_secs(90));
        assert!(long.chars().count() <= WIDTH && long.ends_with("... 90 s"), "{long}");
        assert!(!shown("a\nb\x1b[2J", Duration::ZERO).contains(['\n', '\x1b']));
    }
}
