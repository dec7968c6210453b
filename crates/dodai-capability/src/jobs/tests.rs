use super::*;

const NOW: i64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z

fn job(schedule: Option<&str>, due_time: Option<&str>) -> Job {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Job { name: "j".to_owned(), schedule: owned(schedule), due_time: owned(due_time), ..Job::default() }
}

fn started(job: Job) -> Record {
    job.start("1".to_owned(), NOW).unwrap_or_else(|invalid| panic!("{invalid}"))
}

/// The record after a run that ended so, so many milliseconds after [`NOW`].
fn run(record: &Record, outcome: Outcome, at: i64) -> Option<Record> {
    Some(Record { progress: record.after(outcome, NOW + at)?, ..record.clone() })
}

fn failed() -> Outcome {
    Outcome::Failed("no".to_owned())
}

fn due(record: &Record) -> i64 {
    record.progress.due_ms - NOW
}

#[test]
fn first_runs() {
    assert_eq!(due(&started(job(Some("@every 10s"), None))), 10_000);
    assert_eq!(due(&started(job(Some("TZ=UTC 30 * * * * *"), None))), 30_000);
    assert_eq!(due(&started(job(Some("@every 10s"), Some("3s")))), 3_000);
    assert_eq!(due(&started(job(None, Some("PT1M")))), 60_000);
    assert_eq!(due(&started(job(None, Some("2025-12-31T23:59:59Z")))), -1_000, "late, not lost");
}

#[test]
fn what_is_wrong_is_named() {
    let check = |job: Job, expect: &str| {
        let invalid = job.start("1".to_owned(), NOW).expect_err(expect).to_string();
        assert!(invalid.contains(expect), "{invalid}");
    };
    let every = || job(Some("@every 1s"), None);
    for name in ["", "a/b", "a\\b", "a#b", "a?b", "a\0b", "a\nb", ".", "..", &"a".repeat(600)] {
        check(Job { name: name.to_owned(), ..every() }, "the name of a job");
    }
    for name in ["my|job@name", "a b", "\u{e9}", "..."] {
        started(Job { name: name.to_owned(), ..every() });
    }
    check(job(None, None), "a schedule, a dueTime or both");
    check(job(Some("* * *"), None), "it has 3 fields");
    check(job(None, Some("soon")), "dueTime `soon` is no time");
    for name in [" a", "a\u{a0}"] {
        check(Job { name: name.to_owned(), ..every() }, "no blanks at its ends");
    }
    check(job(Some("@every 999ms"), None), "1s or more");
    let value = Bytes::new();
    let typed = Data::Any { type_url: "x".repeat(1_025), value };
    check(Job { data: Some(typed), ..every() }, "the URL of the type of data has 1025 bytes, at most 1024");
    check(Job { ttl: Some("10".to_owned()), ..every() }, "ttl `10` is no time");
    check(Job { ttl: Some("500ms".to_owned()), ..every() }, "never run: its ttl ends before");
    check(Job { repeats: Some(0), ..every() }, "repeats must be 1");
    check(Job { repeats: Some(2), ..job(None, Some("1s")) }, "repeats needs a schedule");
    check(Job { ttl: Some("9s".to_owned()), ..job(None, Some("1s")) }, "ttl needs a schedule");
    check(job(Some("TZ=UTC 0 0 0 30 2 *"), None), "it would never run");
    let large = Data::Json("x".repeat(MAX_DATA + 1));
    check(Job { data: Some(large), ..every() }, "data has 1048577 bytes, at most 1048576");
}

#[test]
fn a_tick_follows_the_other_by_the_schedule_and_not_by_when_it_ran() {
    let record = started(job(Some("@every 10s"), Some("0s")));
    let second = run(&record, Outcome::Taken, 700).expect("goes on");
    assert_eq!((due(&second), second.progress.ticks), (10_000, 1));
    assert_eq!(second.progress.last, Some(Last { at_ms: NOW + 700, problem: None }));
}

#[test]
fn ticks_that_passed_are_one_late_run() {
    let record = started(job(Some("@every 10s"), None));
    let next = run(&record, Outcome::Taken, 86_400_003).expect("goes on");
    assert_eq!((due(&next), next.progress.ticks), (86_410_000, 1));
    let record = started(job(Some("TZ=UTC @hourly"), None));
    assert_eq!(due(&run(&record, Outcome::Taken, 5 * 3_600_000 + 1).expect("goes on")), 6 * 3_600_000);
}

#[test]
fn a_job_ends_after_its_repeats_its_time_or_its_one_run() {
    let once = started(job(None, Some("1s")));
    assert_eq!(run(&once, Outcome::Taken, 1_000), None);
    let twice = started(Job { repeats: Some(2), ..job(Some("@every 1s"), None) });
    let second = run(&twice, Outcome::Taken, 1_000).expect("one more");
    assert_eq!(run(&second, Outcome::Refused("404".to_owned()), 2_000), None);
    // The time to live begins with the due time.
    let brief = started(Job { ttl: Some("2s".to_owned()), ..job(Some("@every 1s"), Some("10s")) });
    let mut ticks = Vec::new();
    let mut next = Some(brief);
    while let Some(record) = next {
        ticks.push(due(&record));
        next = run(&record, Outcome::Taken, due(&record));
    }
    assert_eq!(ticks, [10_000, 11_000, 12_000]);
}

#[test]
fn a_run_that_fails_is_tried_again_as_its_policy_says() {
    let record = started(job(Some("@every 60s"), None));
    let mut dues = Vec::new();
    let mut next = record;
    for _ in 0..4 {
        next = run(&next, failed(), due(&next)).expect("goes on");
        dues.push((due(&next), next.progress.failures));
    }
    assert_eq!(dues, [(61_000, 1), (62_000, 2), (63_000, 3), (120_000, 0)]);
    assert_eq!(next.progress.ticks, 1);
    assert_eq!(next.progress.last.expect("told").problem.as_deref(), Some("no"));

    let policy = FailurePolicy::Drop;
    let dropped = started(Job { policy, ..job(None, Some("1s")) });
    assert_eq!(run(&dropped, failed(), 1_000), None);
    let policy = FailurePolicy::Constant { interval: Duration::ZERO, retries: None };
    let mut stubborn = started(Job { policy, ..job(None, Some("1s")) });
    for _ in 0..1_000 {
        let again = run(&stubborn, failed(), due(&stubborn)).expect("goes on");
        assert_eq!(due(&again) - due(&stubborn), 100, "no policy makes a storm");
        stubborn = again;
    }
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let record = started(job(Some("@every 10s"), None));
    let hour_ago = NOW - 3_600_000;
    let moved = record.set_back(hour_ago).expect("moved");
    assert_eq!(moved.due_ms, hour_ago + 10_000);
    assert_eq!(record.set_back(NOW + 5_000), None, "a clock that goes on changes nothing");
    let failed = run(&record, failed(), 10_000).expect("tried again");
    assert_eq!(failed.set_back(hour_ago).expect("moved").due_ms, hour_ago + 1_000);
    // What a calendar says stays, and so does a first run that was asked for.
    assert_eq!(started(job(Some("TZ=UTC @daily"), None)).set_back(hour_ago), None);
    assert_eq!(started(job(Some("@every 10s"), Some("2026-01-01T01:00:00Z"))).set_back(hour_ago), None);
}

#[test]
fn a_clock_that_was_wrong_holds_up_no_calendar() {
    const DAY: i64 = 86_400_000;
    let check = |record: &Record, back: i64, expect: Option<i64>| {
        assert_eq!(record.set_back(NOW - back).map(|moved| moved.due_ms - NOW + back), expect, "{record:?}");
    };
    let daily = started(job(Some("TZ=UTC @daily"), None));
    check(&daily, DAY, None);
    check(&daily, 400 * DAY, Some(DAY));
    let ran = run(&daily, Outcome::Taken, DAY + 5).expect("goes on");
    check(&ran, 400 * DAY, Some(DAY));
    // What is tried again goes on by the new time, and its schedule too.
    let mut again = run(&daily, failed(), DAY).expect("tried again");
    again.progress = again.set_back(NOW - 400 * DAY).expect("moved");
    assert_eq!(due(&run(&again, Outcome::Taken, -400 * DAY + 1_000).expect("goes on")), -399 * DAY);
    // Once moved it stays, also where it is looked at again.
    let moved = Record { progress: daily.set_back(NOW - 400 * DAY).expect("moved"), ..daily };
    assert_eq!(moved.set_back(NOW - 400 * DAY + 5), None);
    check(&started(job(None, Some("90m"))), 7_200_000, Some(5_400_000));
    check(&started(job(Some("TZ=UTC @daily"), Some("90m"))), 7_200_000, Some(5_400_000));
    check(&started(job(None, Some("2027-01-01T00:00:00Z"))), 400 * DAY, None);
}

#[test]
fn nothing_is_tried_again_after_its_time_to_live() {
    let policy = FailurePolicy::Constant { interval: Duration::from_secs(10), retries: None };
    let brief = Job { ttl: Some("25s".to_owned()), policy, ..job(Some("@every 20s"), None) };
    let once = run(&started(brief), failed(), 14_000).expect("tried again");
    assert_eq!((due(&once), once.progress.failures), (24_000, 1));
    assert_eq!(run(&once, failed(), 24_000), None);
}
