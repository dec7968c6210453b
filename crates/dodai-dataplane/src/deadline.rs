//! How long a caller still waits, told from hop to hop: `grpc-timeout` of gRPC, and a header of ours between bases.
//!
//! What is told only shrinks: each hop honours it, and writes on what is left by its own policy. A further try tells
//! what is left by then.

use std::time::Duration;

use dodai_core::call::TIMEOUT_HEADER;
use dodai_core::head::{Edits, RequestHead};
use http::HeaderName;

use crate::service::Service;
use crate::spine::Forward;
use crate::timer::TICK;

const TIMEOUT: HeaderName = HeaderName::from_static(TIMEOUT_HEADER);
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// More is not told in our header, in milliseconds.
const LONGEST_MILLIS: u64 = 999_999_999_999;

/// How much longer another base is told that a try may take. Each base looks at deadlines once a tick, and the one that
/// made the try must be the one to end it, or its answer of 504 comes in place of another try.
const SLACK: Duration = TICK.saturating_mul(2);

/// What a try of `service` is told that may take as long as `each`.
pub fn of_try(each: Duration, service: &Service) -> Duration {
    if service.is_remote() { each.saturating_add(SLACK) } else { each }
}

/// What a head says of how long its caller waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    ours: Option<Duration>,
    grpc: Option<Duration>,
}

impl Told {
    fn of(head: &RequestHead<'_>) -> Told {
        let mut told = Told::default();
        head.for_each_header(|name, value| {
            // Nearly all names are told apart by their length.
            if name.len() == TIMEOUT_HEADER.len() && name.eq_ignore_ascii_case(TIMEOUT_HEADER) {
                told.ours = told.ours.or(millis(value));
            } else if name.len() == GRPC_TIMEOUT.as_str().len() && name.eq_ignore_ascii_case("grpc-timeout") {
                told.grpc = told.grpc.or(grpc(value));
            }
        });
        told
    }

    fn shortest(self) -> Option<Duration> {
        match (self.ours, self.grpc) {
            (Some(ours), Some(grpc)) => Some(ours.min(grpc)),
            (ours, grpc) => ours.or(grpc),
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

fn millis(value: &[u8]) -> Option<Duration> {
    (value.len() <= 12).then(|| number(value)).flatten().map(Duration::from_millis)
}

/// Up to eight digits and a unit (gRPC over HTTP/2).
fn grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let count = (digits.len() <= 8).then(|| number(digits)).flatten()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Notes in `forward` how long the caller waits, and in `edits` what the next hop is told of it when the call has
/// `waited` here.
pub fn shrink(forward: &mut Forward, head: &RequestHead<'_>, waited: Duration, edits: &mut Edits) {
    let told = Told::of(head);
    let policies = || forward.rule.iter().map(|rule| &rule.policy).chain([&forward.service.spec.policy]);
    let (whole, each) =
        (policies().find_map(|policy| policy.timeout), policies().find_map(|policy| policy.try_timeout));
    let total = policies().find_map(|policy| policy.total_timeout);
    // What goes out is one try; whatever it leaves of the call is for the next.
    let rest = |whole: Duration| whole.saturating_sub(waited);
    let each = each.map(|each| of_try(each, &forward.service));
    let own = whole.map(rest).into_iter().chain(total.map(rest)).chain(each).min();
    forward.left = told.shortest();
    // gRPC counts to the trailers.
    forward.whole = total.into_iter().chain(told.grpc).min();
    let left = match (forward.left.map(|left| left.saturating_sub(waited)), own) {
        (Some(left), Some(own)) => left.min(own),
        (Some(left), None) => left,
        // Only another base makes something of what a policy here says.
        (None, Some(own)) if forward.service.is_remote() => own,
        (None, _) => return,
    };
    if told.ours.is_some() || told.grpc.is_none() || forward.service.is_remote() {
        edits.set(TIMEOUT, as_millis(left, &mut itoa::Buffer::new()));
    }
    if told.grpc.is_some() {
        edits.set(GRPC_TIMEOUT, &as_grpc(left, &mut itoa::Buffer::new()));
    }
}

/// What a further try, which is told that it may take as long as `left`, tells anew of what `head` says as it goes out.
#[cold]
pub fn anew(head: &RequestHead<'_>, left: Duration) -> Edits {
    let (told, mut edits) = (Told::of(head), Edits::new());
    if told.ours.is_some() {
        edits.set(TIMEOUT, as_millis(left, &mut itoa::Buffer::new()));
    }
    if told.grpc.is_some() {
        edits.set(GRPC_TIMEOUT, &as_grpc(left, &mut itoa::Buffer::new()));
    }
    edits
}

/// The same where what goes out is in `edits`.
#[cold]
pub fn retell(edits: &mut Edits, left: Duration) {
    edits.set_anew(&TIMEOUT, as_millis(left, &mut itoa::Buffer::new()));
    edits.set_anew(&GRPC_TIMEOUT, &as_grpc(left, &mut itoa::Buffer::new()));
}

/// As bases write it, and read it: at most what twelve digits hold.
fn as_millis(left: Duration, digits: &mut itoa::Buffer) -> &[u8] {
    digits.format(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(LONGEST_MILLIS)).as_bytes()
}

/// As gRPC writes it, to the millisecond where that fits in eight digits.
fn as_grpc(left: Duration, digits: &mut itoa::Buffer) -> smallvec::SmallVec<[u8; 16]> {
    let (count, unit) = match u32::try_from(left.as_millis()) {
        Ok(millis) if millis < 100_000_000 => (millis, b'm'),
        Ok(_) | Err(_) => (u32::try_from(left.as_secs()).unwrap_or(u32::MAX).min(99_999_999), b'S'),
    };
    let mut value = smallvec::SmallVec::from_slice(digits.format(count).as_bytes());
    value.push(unit);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timeouts_are_read_and_written() {
        for (text, expect) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("5", None),
            ("S", None),
            ("-5S", None),
            ("5s", None),
        ] {
            assert_eq!(grpc(text.as_bytes()), expect, "{text}");
        }
        assert_eq!(millis(b"1500"), Some(Duration::from_millis(1500)));
        assert_eq!((millis(b"1.5"), millis(b""), millis(b"99999999999999")), (None, None, None));
        let write = |left| String::from_utf8(as_grpc(left, &mut itoa::Buffer::new()).to_vec()).expect("text");
        assert_eq!(write(Duration::from_millis(1500)), "1500m");
        assert_eq!(write(Duration::from_secs(200_000)), "200000S");
    }

    proptest! {
        #[test]
        fn any_value_is_a_time_or_none_and_what_is_told_never_grows(
            value in proptest::collection::vec(any::<u8>(), 0..14),
            digits in 0_u64..1_000_000_000,
            unit in "[HMSmunx]",
        ) {
            let _ = (grpc(&value), millis(&value));
            let text = format!("{digits}{unit}");
            let Some(read) = grpc(text.as_bytes()) else {
                prop_assert!(digits > 99_999_999 || unit == "x");
                return Ok(());
            };
            let told = grpc(&as_grpc(read, &mut itoa::Buffer::new())).expect("what we write we read");
            // Below a day it is told to the millisecond, else to the second, and at most what eight digits hold.
            let unit = if read < Duration::from_hours(24) { Duration::from_millis(1) } else { Duration::from_secs(1) };
            prop_assert!(told <= read && (read - told < unit || told.as_secs() == 99_999_999), "{text}: {told:?}");
            let ours = millis(as_millis(read, &mut itoa::Buffer::new())).expect("what we write we read");
            let longest = Duration::from_millis(LONGEST_MILLIS);
            prop_assert!(ours <= read && (read - ours < Duration::from_millis(1) || ours == longest));
        }
    }
}
