//! The output of an instance: framed into lines, kept in a bounded ring, offered to followers, and written
//! to rotated files. Nothing here can block the app: when the disk is slower than the app, lines are
//! dropped from the file and counted, in the file as well.

mod capture;
mod file;
mod frame;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

pub(crate) use capture::Capture;
pub(super) use file::OpenFiles;

use super::LogPolicy;

/// Lines a follower may be behind; then it misses the oldest and is told how many.
const FOLLOW_CAPACITY: usize = 256;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The app's standard output.
    Stdout,
    /// The app's standard error.
    Stderr,
    /// The base's own remark about this log or its process.
    Note,
}

impl Stream {
    /// The word in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Note => "note",
        }
    }
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Rises by one for every line of the instance, restarts included.
    pub seq: u64,
    /// When the base read it.
    pub time: SystemTime,
    /// Where it came from.
    pub stream: Stream,
    /// The text without its line end. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

struct Ring {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    next_seq: u64,
    live: Option<broadcast::Sender<Arc<Line>>>,
}

struct Shared {
    ring: Mutex<Ring>,
    max_lines: usize,
    max_bytes: usize,
    path: PathBuf,
}

/// The log of one instance. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Shared>);

impl Logs {
    fn new(policy: &LogPolicy, path: PathBuf) -> Logs {
        let (live, _) = broadcast::channel(FOLLOW_CAPACITY);
        let ring = Ring { lines: VecDeque::new(), bytes: 0, next_seq: 1, live: Some(live) };
        Logs(Arc::new(Shared {
            ring: Mutex::new(ring),
            max_lines: policy.memory_lines.max(1),
            max_bytes: policy.memory_bytes,
            path,
        }))
    }

    /// The current file on disk; rotated ones are beside it with `.1`, `.2` and so on.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The last lines in memory, oldest first, at most `count`.
    pub fn tail(&self, count: usize) -> Vec<Arc<Line>> {
        tail(&self.ring(), count)
    }

    /// The last lines, and then every new one without a gap between the two.
    pub fn follow(&self, tail_count: usize) -> Follow {
        let ring = self.ring();
        let backlog = tail(&ring, tail_count).into();
        Follow { backlog, live: ring.live.as_ref().map(broadcast::Sender::subscribe) }
    }

    /// Adds a line to the ring and to followers.
    pub(crate) fn push(&self, time: SystemTime, stream: Stream, text: String) -> Arc<Line> {
        let mut ring = self.ring();
        let line = Arc::new(Line { seq: ring.next_seq, time, stream, text });
        ring.next_seq += 1;
        ring.bytes += line.text.len();
        ring.lines.push_back(line.clone());
        while ring.lines.len() > self.0.max_lines || (ring.bytes > self.0.max_bytes && ring.lines.len() > 1) {
            let Some(oldest) = ring.lines.pop_front() else { break };
            ring.bytes -= oldest.text.len();
        }
        if let Some(live) = &ring.live {
            // Nobody follows: that is no error.
            let _ = live.send(line.clone());
        }
        line
    }

    /// Ends every follower once it has read what there is.
    pub(crate) fn close(&self) {
        self.ring().live = None;
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tail(ring: &Ring, count: usize) -> Vec<Arc<Line>> {
    ring.lines.iter().skip(ring.lines.len().saturating_sub(count)).cloned().collect()
}

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Line(Arc<Line>),
    /// The follower was too slow for so many lines.
    Missed(u64),
}

/// A reader of new lines.
pub struct Follow {
    backlog: VecDeque<Arc<Line>>,
    live: Option<broadcast::Receiver<Arc<Line>>>,
}

impl Follow {
    /// Takes the lines from before out, oldest first: what comes next is new.
    pub fn past(&mut self) -> Vec<Arc<Line>> {
        std::mem::take(&mut self.backlog).into()
    }

    /// The next line; nothing once the instance has ended for good and all was read. Cancel safe.
    pub async fn next(&mut self) -> Option<Followed> {
        if let Some(line) = self.backlog.pop_front() {
            return Some(Followed::Line(line));
        }
        match self.live.as_mut()?.recv().await {
            Ok(line) => Some(Followed::Line(line)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Followed::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => {
                self.live = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(memory_lines: usize, memory_bytes: usize) -> Logs {
        Logs::new(&LogPolicy { memory_lines, memory_bytes, ..LogPolicy::under("/tmp") }, PathBuf::new())
    }

    fn push(logs: &Logs, text: &str) {
        logs.push(SystemTime::UNIX_EPOCH, Stream::Stdout, text.to_owned());
    }

    fn texts(lines: &[Arc<Line>]) -> Vec<(u64, &str)> {
        lines.iter().map(|line| (line.seq, line.text.as_str())).collect()
    }

    #[test]
    fn the_ring_is_bounded_by_lines_and_by_bytes() {
        let by_lines = logs(2, 1000);
        ["a", "b", "c"].iter().for_each(|text| push(&by_lines, text));
        assert_eq!(texts(&by_lines.tail(10)), [(2, "b"), (3, "c")]);
        assert_eq!(texts(&by_lines.tail(1)), [(3, "c")]);
        let by_bytes = logs(100, 4);
        ["aaa", "bb", "cc"].iter().for_each(|text| push(&by_bytes, text));
        assert_eq!(texts(&by_bytes.tail(10)), [(2, "bb"), (3, "cc")]);
        push(&by_bytes, "longer than the bound");
        assert_eq!(by_bytes.tail(10).len(), 1, "the newest line is always kept");
    }

    #[tokio::test]
    async fn a_follower_sees_the_tail_then_new_lines_then_the_end() {
        let logs = logs(100, 1000);
        ["a", "b"].iter().for_each(|text| push(&logs, text));
        let mut follow = logs.follow(1);
        push(&logs, "c");
        logs.close();
        let mut seen = Vec::new();
        while let Some(Followed::Line(line)) = follow.next().await {
            seen.push(line.seq);
        }
        assert_eq!(seen, [2, 3]);
    }

    #[tokio::test]
    async fn the_past_is_taken_once_and_no_line_is_lost() {
        let logs = logs(100, 1000);
        ["a", "b"].iter().for_each(|text| push(&logs, text));
        let mut follow = logs.follow(10);
        push(&logs, "c");
        assert_eq!(texts(&follow.past()), [(1, "a"), (2, "b")]);
        assert_eq!(texts(&follow.past()), []);
        assert!(matches!(follow.next().await, Some(Followed::Line(line)) if line.text == "c"));
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_how_much_it_missed() {
        let logs = logs(10, 1000);
        let mut follow = logs.follow(0);
        (0..FOLLOW_CAPACITY + 3).for_each(|_| push(&logs, "x"));
        assert_eq!(follow.next().await, Some(Followed::Missed(3)));
        assert!(matches!(follow.next().await, Some(Followed::Line(line)) if line.seq == 4));
    }
}
