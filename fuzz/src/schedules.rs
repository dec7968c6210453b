//! Schedules of jobs and bindings, and the times of jobs: any text is read without a panic, what comes next lies ahead, and
//! a time that is written again is the same.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_capability::jobs::{Job, Outcome, Record};
use dodai_capability::metadata::rfc3339;
use dodai_capability::schedule::Schedule;

/// The seconds of all times that there are: until the year 10000.
const SECONDS: u64 = 253_402_207_200;
/// How far runs are followed.
const RUNS: usize = 4;

/// Five bytes say what time it is, the lines behind them what a job says: schedule, due time, time to live.
pub fn target(data: &[u8]) {
    let Some((now, text)) = data.split_first_chunk::<5>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let now = now.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)) % SECONDS;
    let now_ms = i64::try_from(now * 1000).expect("in range");
    let mut lines = text.split('\n');
    let mut line = || lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
    let (schedule, due_time, ttl) = (line(), line(), line());
    if let Some(schedule) = &schedule {
        comes(schedule, now, now_ms);
    }
    if let Some(due_time) = &due_time {
        is_written_again(due_time, now_ms);
    }
    let job = Job { name: "job".to_owned(), schedule, due_time, ttl, ..Job::default() };
    if let Ok(record) = job.start("id".to_owned(), now_ms) {
        runs(record, now_ms);
    }
}

fn comes(text: &str, now: u64, now_ms: i64) {
    let Ok(schedule) = Schedule::parse(text) else { return };
    let at = UNIX_EPOCH + Duration::from_secs(now);
    let next = schedule.next(at);
    assert!(next.is_none_or(|next| next > at), "{text:?} comes at {next:?} after {at:?}");
    let words: Vec<&str> = text.split_whitespace().collect();
    let again = Schedule::parse(&words.join(" ")).expect("the same with single blanks");
    assert_eq!(again.next(at), next, "{text:?}");
    if let Some(upcoming) = schedule.upcoming(now_ms, now_ms) {
        assert!(upcoming > now_ms, "{text:?}");
    }
    match (schedule.period(), next) {
        (Some(period), _) => {
            let late = schedule.upcoming(now_ms - 1, now_ms);
            assert!(late.is_none_or(|late| late > now_ms && (late - now_ms + 1) % period == 0), "{text:?}");
        }
        // Nothing of a calendar is passed over, whenever one looks.
        (None, Some(next)) => {
            let just_before = next - Duration::from_secs(1);
            assert_eq!(schedule.next(just_before.max(at)), Some(next), "{text:?} after {at:?}");
        }
        (None, None) => {}
    }
}

fn due(text: &str, now_ms: i64) -> Option<i64> {
    let job = Job { name: "job".to_owned(), due_time: Some(text.to_owned()), ..Job::default() };
    job.start("id".to_owned(), now_ms).ok().map(|record| record.progress.due_ms)
}

fn is_written_again(text: &str, now_ms: i64) {
    let Some(at_ms) = due(text, now_ms) else { return };
    let Ok(since) = u64::try_from(at_ms) else { return };
    if since % 1000 == 0 && since / 1000 < SECONDS {
        let moment = rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(since));
        assert_eq!(due(&moment, now_ms), Some(at_ms), "{text:?} is {moment}");
    }
    if let Ok(wait) = u64::try_from(at_ms - now_ms) {
        for duration in [format!("{wait}ms"), format!("{}s{}ms", wait / 1000, wait % 1000)] {
            assert_eq!(due(&duration, now_ms), Some(at_ms), "{text:?} is {duration} after {now_ms}");
        }
    }
}

/// Ticks follow each other, each ahead of the time at which the one before ended; none is behind the end of the job.
fn runs(mut record: Record, mut now_ms: i64) {
    for _ in 0..RUNS {
        let before = record.progress.clone();
        assert!(record.expires_ms.is_none_or(|end| before.tick_ms <= end), "{record:?}");
        if let Some(back) = record.set_back(now_ms.saturating_sub(90_000)) {
            assert!(back.due_ms < before.due_ms, "{record:?}");
        }
        now_ms = now_ms.max(before.due_ms);
        let failed = record.after(Outcome::Failed("no".to_owned()), now_ms);
        assert!(failed.is_none_or(|failed| failed.due_ms > now_ms), "{record:?}");
        let Some(next) = record.after(Outcome::Taken, now_ms) else { return };
        assert!(next.tick_ms > now_ms && next.ticks == before.ticks + 1, "{record:?} after {now_ms}");
        record.progress = next;
    }
}
