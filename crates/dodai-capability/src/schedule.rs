//! Schedules: when something is to happen again, read from text.
//!
//! `@every 1h30m`, `@hourly` and the like, or fields of cron: seconds (which may be left out), minute, hour, day of the
//! month, month, day of the week. `TZ=Europe/Berlin` or `CRON_TZ=...` before them names the time zone, otherwise the
//! machine's. As in cron, two restricted days mean either of them. Written here because parsers that there are bring a
//! second library of dates with them.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// How far ahead a time is looked for: 29 February comes every eight years at the latest.
const YEARS: i16 = 9;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is to happen.
#[derive(Clone, Debug)]
pub struct Schedule(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Every(Duration),
    Cron(Box<Cron>),
}

/// Values that count, a bit for each.
#[derive(Clone, Debug)]
struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the field was not `*`.
    day_said: bool,
    weekday_said: bool,
    /// Whether the hours are `*` or steps of all: then an hour that comes twice counts twice.
    any_hour: bool,
    zone: TimeZone,
}

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no schedule: {why}")]
pub struct Bad {
    text: String,
    why: String,
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// It is none; the error says which part is wrong.
    pub fn parse(text: &str) -> Result<Schedule, Bad> {
        let bad = |why: String| Bad { text: text.to_owned(), why };
        let trimmed = text.trim();
        if let Some(every) = trimmed.strip_prefix("@every ") {
            let every = duration(every.trim()).filter(|every| *every >= Duration::from_millis(1));
            return every
                .map(|every| Schedule(Kind::Every(every)))
                .ok_or_else(|| bad("write how often, such as `@every 1h30m`".to_owned()));
        }
        let zone = trimmed.strip_prefix("CRON_TZ=").or_else(|| trimmed.strip_prefix("TZ="));
        let (zone, fields) = match zone.and_then(|rest| rest.split_once(char::is_whitespace)) {
            None => (TimeZone::system(), trimmed),
            Some((name, rest)) => {
                let zone = TimeZone::get(name)
                    .map_err(|_| bad(format!("`{name}` is no time zone that is known")))?;
                (zone, rest.trim())
            }
        };
        let fields = match fields {
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            "@monthly" => "0 0 0 1 * *",
            "@weekly" => "0 0 0 * * 0",
            "@daily" | "@midnight" => "0 0 0 * * *",
            "@hourly" => "0 0 * * * *",
            fields => fields,
        };
        let mut all: Vec<&str> = fields.split_whitespace().collect();
        match all.len() {
            5 => all.insert(0, "0"),
            6 => {}
            count => return Err(bad(format!("it has {count} fields, write 5 or, with seconds, 6"))),
        }
        let read = |at: usize, what: &str, from: u32, to: u32, names: &[&str]| {
            field(all[at], from, to, names)
                .ok_or_else(|| bad(format!("`{}` is no {what} ({from} to {to})", all[at])))
        };
        let weekdays = read(5, "day of the week", 0, 7, &DAYS)?;
        let said = |at: usize| !matches!(all[at], "*" | "?");
        Ok(Schedule(Kind::Cron(Box::new(Cron {
            seconds: read(0, "second", 0, 59, &[])?,
            minutes: read(1, "minute", 0, 59, &[])?,
            hours: read(2, "hour", 0, 23, &[])?,
            days: read(3, "day of the month", 1, 31, &[])?,
            months: read(4, "month", 1, 12, &MONTHS)?,
            // Sunday is 0 and 7.
            weekdays: weekdays | weekdays >> 7 & 1,
            day_said: said(3),
            weekday_said: said(5),
            any_hour: all[2].starts_with(['*', '?']),
            zone,
        }))))
    }

    /// The first time after `after`; `None` if there is none within some years.
    pub fn next(&self, after: SystemTime) -> Option<SystemTime> {
        match &self.0 {
            Kind::Every(every) => after.checked_add(*every),
            Kind::Cron(cron) => cron.next(after),
        }
    }

    /// The first time after `now`, in steps from `last`: what lies between the two is passed over. Milliseconds since
    /// 1970; `None` if there is none within some years.
    pub fn upcoming(&self, last_ms: i64, now_ms: i64) -> Option<i64> {
        if let Some(period) = self.period() {
            let steps = now_ms.saturating_sub(last_ms).max(0) / period + 1;
            return last_ms.checked_add(period.checked_mul(steps)?);
        }
        let after = Timestamp::from_millisecond(last_ms.max(now_ms)).ok()?;
        self.next(SystemTime::from(after))
            .and_then(|at| Timestamp::try_from(at).ok())
            .map(Timestamp::as_millisecond)
    }

    /// The milliseconds of `@every`, at least one; `None` for a calendar.
    pub fn period(&self) -> Option<i64> {
        match &self.0 {
            Kind::Every(every) => Some(i64::try_from(every.as_millis()).unwrap_or(i64::MAX).max(1)),
            Kind::Cron(_) => None,
        }
    }

    /// The name of the time zone that it is by.
    pub fn zone(&self) -> String {
        let name = match &self.0 {
            Kind::Every(_) => None,
            Kind::Cron(cron) => cron.zone.iana_name().map(str::to_owned),
        };
        name.unwrap_or_else(|| "Local".to_owned())
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set >> value & 1 == 1)
}

impl Cron {
    fn next(&self, after: SystemTime) -> Option<SystemTime> {
        let after = Timestamp::try_from(after).ok()?;
        let local = self.local(after);
        let from = local.with().subsec_nanosecond(0).build().ok()?.checked_add(1.second()).ok()?;
        let found = self.find(from, after);
        // Where the clocks go back before that, the day goes on from an earlier time.
        let turn = self.zone.following(after).next().map(|turn| turn.timestamp());
        let turn = turn.filter(|turn| self.any_hour && found.is_none_or(|found| *turn < found));
        let again = turn.and_then(|turn| {
            let from = turn.to_zoned(self.zone.clone()).datetime();
            self.find(from, turn.checked_sub(1.nanosecond()).ok()?)
        });
        found.into_iter().chain(again).min().map(SystemTime::from)
    }

    /// The local time. Right behind an hour that the clocks skip it is one of that hour, which is still taken as the one
    /// behind it.
    fn local(&self, at: Timestamp) -> DateTime {
        let now = self.zone.to_datetime(at);
        let skipped = || {
            let turn = self.zone.preceding(at.checked_add(1.nanosecond()).ok()?).next()?.timestamp();
            let before = self.zone.to_offset(turn.checked_sub(1.nanosecond()).ok()?).to_datetime(at);
            let is_skipped = at.duration_since(turn) < now.duration_since(before);
            is_skipped.then_some(before)
        };
        skipped().unwrap_or(now)
    }

    /// The first time that counts, from a local time on and after `after`.
    fn find(&self, from: DateTime, after: Timestamp) -> Option<Timestamp> {
        let mut at = from;
        let last = at.year().saturating_add(YEARS);
        while at.year() <= last {
            at = match self.miss(at) {
                Some(later) => later?,
                None => {
                    // A time that the clocks skip is taken as the one right behind; one that comes twice counts once
                    // where the hour is said.
                    let local = self.zone.to_ambiguous_zoned(at);
                    let second = if self.any_hour { local.clone().later().ok() } else { None };
                    let both = [local.compatible().ok(), second].into_iter().flatten();
                    if let Some(found) = both.map(|at| at.timestamp()).find(|found| *found > after) {
                        return Some(found);
                    }
                    at.checked_add(1.second()).ok()?
                }
            };
        }
        None
    }

    /// Where to go on if the time does not count; the outer `None` says that it does.
    fn miss(&self, at: DateTime) -> Option<Option<DateTime>> {
        let day = at.date();
        if !has(self.months, at.month()) {
            let next = day.first_of_month().checked_add(1.month()).ok();
            return Some(next.map(|next| next.at(0, 0, 0, 0)));
        }
        let (by_day, by_weekday) =
            (has(self.days, at.day()), has(self.weekdays, day.weekday().to_sunday_zero_offset()));
        let counts =
            if self.day_said && self.weekday_said { by_day || by_weekday } else { by_day && by_weekday };
        if !counts {
            return Some(day.tomorrow().ok().map(|next| next.at(0, 0, 0, 0)));
        }
        if !has(self.hours, at.hour()) {
            return Some(day.at(at.hour(), 0, 0, 0).checked_add(1.hour()).ok());
        }
        if !has(self.minutes, at.minute()) {
            return Some(day.at(at.hour(), at.minute(), 0, 0).checked_add(1.minute()).ok());
        }
        (!has(self.seconds, at.second())).then(|| at.checked_add(1.second()).ok())
    }
}

/// One field: parts with commas between them, each `*`, a value, a range, perhaps with `/` and a step.
fn field(text: &str, from: u32, to: u32, names: &[&str]) -> Option<u64> {
    let value = |text: &str| -> Option<u32> {
        let first = if names.len() == 12 { 1 } else { 0 };
        let named = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let value = match named {
            Some(at) => u32::try_from(at).ok()? + first,
            None => text.parse().ok()?,
        };
        (from..=to).contains(&value).then_some(value)
    };
    let mut set = 0_u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
        };
        let (first, last) = match range {
            "*" | "?" => (from, to),
            range => match range.split_once('-') {
                Some((first, last)) => (value(first)?, value(last)?),
                // `5/10` is from 5 on.
                None if step.is_some() => (value(range)?, to),
                None => (value(range)?, value(range)?),
            },
        };
        if first > last {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        (first..=last).step_by(step).for_each(|value| set |= 1 << value);
    }
    Some(set)
}

/// A duration as Go writes it: `1h30m`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    crate::component::duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> Option<String> {
        let schedule = Schedule::parse(schedule).unwrap_or_else(|bad| panic!("{bad}"));
        let after: Timestamp = after.parse().expect("a time");
        schedule
            .next(SystemTime::from(after))
            .map(|at| Timestamp::try_from(at).expect("in range").to_string())
    }

    #[test]
    fn the_next_time() {
        let check = |schedule: &str, after: &str, expect: &str| {
            let schedule =
                if schedule.starts_with('@') && !schedule.starts_with("@every") || !schedule.contains('@') {
                    format!("TZ=UTC {schedule}")
                } else {
                    schedule.to_owned()
                };
            assert_eq!(next(&schedule, after).as_deref(), Some(expect), "{schedule} after {after}");
        };
        check("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00.5Z");
        check("15 * * * * *", "2026-01-01T00:00:15Z", "2026-01-01T00:01:15Z");
        check("*/5 * * * *", "2026-01-01T00:04:59.9Z", "2026-01-01T00:05:00Z");
        check("0 30 * * * *", "2026-01-01T00:29:59Z", "2026-01-01T00:30:00Z");
        check("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
        check("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("@monthly", "2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z");
        check("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z");
        check("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("0 0 13 * fri", "2026-01-01T12:00:00Z", "2026-01-02T00:00:00Z");
        check("5/20 * * * * *", "2026-01-01T00:00:05Z", "2026-01-01T00:00:25Z");
        check("0 0 1,15 * *", "2026-01-02T00:00:00Z", "2026-01-15T00:00:00Z");
    }

    #[test]
    fn time_zones_and_their_changes() {
        let berlin = "TZ=Europe/Berlin 30 2 * * *";
        assert_eq!(next(berlin, "2026-01-01T00:00:00Z").as_deref(), Some("2026-01-01T01:30:00Z"));
        // 02:30 does not exist on 29 March 2026, and comes twice on 25 October.
        assert_eq!(next(berlin, "2026-03-29T00:00:00Z").as_deref(), Some("2026-03-29T01:30:00Z"));
        assert_eq!(next(berlin, "2026-03-29T01:10:00Z").as_deref(), Some("2026-03-29T01:30:00Z"));
        assert_eq!(next(berlin, "2026-03-29T01:30:00Z").as_deref(), Some("2026-03-30T00:30:00Z"));
        assert_eq!(next(berlin, "2026-10-24T23:00:00Z").as_deref(), Some("2026-10-25T00:30:00Z"));
        assert_eq!(next(berlin, "2026-10-25T00:30:00Z").as_deref(), Some("2026-10-26T01:30:00Z"));
        assert_eq!(Schedule::parse(berlin).expect("right").zone(), "Europe/Berlin");
        // Where any hour will do, the hour that comes twice has all its times, and none is missing.
        for (schedule, step, count) in
            [("* * * * *", 1, 300), ("*/15 * * * *", 15, 20), ("0 0 * * * *", 60, 5), ("30 */1 * * *", 60, 5)]
        {
            let schedule = Schedule::parse(&format!("TZ=Europe/Berlin {schedule}")).expect("right");
            let start: Timestamp = "2026-10-24T22:30:00Z".parse().expect("a time");
            let mut at = schedule.next(SystemTime::from(start)).expect("comes");
            for _ in 0..count {
                let next = schedule.next(at).expect("comes");
                assert_eq!(
                    next.duration_since(at).expect("later"),
                    Duration::from_secs(60 * step),
                    "{schedule:?}"
                );
                at = next;
            }
        }
    }

    #[test]
    fn what_never_comes() {
        assert_eq!(next("TZ=UTC 0 0 30 feb *", "2026-01-01T00:00:00Z"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expect) in [
            ("", "it has 0 fields"),
            ("* * *", "it has 3 fields"),
            ("60 * * * *", "`60` is no minute (0 to 59)"),
            ("* * 0 * *", "`0` is no day of the month (1 to 31)"),
            ("* * * * 5-2", "`5-2` is no day of the week"),
            ("*/0 * * * *", "`*/0` is no minute"),
            ("TZ=Nowhere/Town * * * * *", "`Nowhere/Town` is no time zone"),
            ("@every soon", "write how often"),
            ("@often", "it has 1 fields"),
        ] {
            let bad = Schedule::parse(text).expect_err(text).to_string();
            assert!(bad.contains(expect), "{bad}");
        }
    }
}
