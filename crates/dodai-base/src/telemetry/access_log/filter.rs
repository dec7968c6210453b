//! Whether a call is logged, by the filters of the flags or of a document.
//!
//! What is known of every call is asked on the data path, before a record is built; headers and expressions are asked
//! by the writer, on its own thread. A drawn share is fixed by the call's span, so asking twice gives one answer.

use dodai_cel::Value;
use dodai_core::record::{Brief, Record};
use dodai_log::filter::CALL;
use dodai_log::{Filter, Filters, Term};

use crate::telemetry::line::Line;

/// What a share is counted in.
const WHOLE: u64 = 10_000;

/// Whether one of the filters may let a call through, as far as can be said before there is a record.
pub(super) fn may_let(filters: &Filters, call: &Brief<'_>) -> bool {
    filters.0.iter().any(|filter| may_pass(filter, call))
}

/// Whether one of the filters lets a call through.
pub(super) fn lets(filters: &Filters, record: &Record) -> bool {
    filters.0.iter().any(|filter| passes(filter, record))
}

fn may_pass(filter: &Filter, call: &Brief<'_>) -> bool {
    filter.0.iter().all(|term| may_hold(term, call))
}

fn passes(filter: &Filter, record: &Record) -> bool {
    let call = Brief {
        span: &record.span,
        effective_status: record.effective_status(),
        failure: record.failure,
        took: record.took,
        caller: &record.caller,
        service: &record.service,
        route: &record.route,
        logging: record.logging.as_ref(),
    };
    may_pass(filter, &call) && filter.0.iter().all(|term| holds(term, record))
}

fn may_hold(term: &Term, call: &Brief<'_>) -> bool {
    match term {
        Term::All | Term::Header(..) | Term::Cel(_) => true,
        Term::Failures => call.failure.is_some() || !(1..500).contains(&call.effective_status),
        Term::Sampled => call.span.sampled,
        Term::Status(least, most, gone) => {
            let status = call.effective_status;
            (*least..=*most).contains(&status) || (*gone && status == 0)
        }
        Term::SlowerThan(least) => call.took >= *least,
        Term::Route(name) => call.route == name,
        Term::App(app) => {
            call.caller == app
                || call.service.strip_prefix(app.as_str()).is_some_and(|rest| rest.starts_with('/'))
        }
        // The id is random, so its remainder is a draw.
        Term::Share(share) => call.span.id % WHOLE < *share,
    }
}

fn holds(term: &Term, record: &Record) -> bool {
    match term {
        Term::Header(name, wanted) => {
            let mut found = record.request_headers.iter().filter(|(known, _)| **known == **name);
            found.any(|(_, value)| wanted.as_ref().is_none_or(|wanted| wanted == value))
        }
        Term::Cel(program) => {
            let json = serde_json::to_value(Line::from(record)).unwrap_or_default();
            // An expression without an answer lets nothing through.
            program.holds_over(&[(CALL, Value::of(&json))]).unwrap_or(false)
        }
        Term::All
        | Term::Failures
        | Term::Sampled
        | Term::Status(..)
        | Term::SlowerThan(_)
        | Term::Route(_)
        | Term::App(_)
        | Term::Share(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::line::tests::record;
    use dodai_core::failure::Kind;
    use dodai_core::trace::Span;

    #[test]
    fn conditions_hold_for_the_calls_they_mean() {
        let plain = || Record {
            caller: "shop/front".into(),
            request_headers: vec![("x-lane".into(), "blue".to_owned())],
            ..record()
        };
        let with = |status, failure, sampled| Record {
            status,
            failure,
            span: Span { sampled, ..record().span },
            ..plain()
        };
        for (text, record, expect) in [
            ("all", with(200, None, false), true),
            ("failures", with(404, None, true), false),
            ("failures", with(404, Some(Kind::NoRoute), false), true),
            ("failures", with(500, None, false), true),
            ("failures", with(0, None, false), true),
            ("status>=400", with(399, None, false), false),
            ("status>=400", with(400, None, false), true),
            ("status>=400", with(0, None, false), true),
            ("status=404", with(404, None, false), true),
            ("status=4xx", with(500, None, false), false),
            ("status=4xx", with(0, None, false), false),
            ("status=500-503", with(503, None, false), true),
            ("sampled", with(200, None, true), true),
            ("sampled", with(500, Some(Kind::Internal), false), false),
            ("duration>=1ms", plain(), true),
            ("duration>=1501us", plain(), false),
            ("route=carts", plain(), true),
            ("route=cart", plain(), false),
            ("app=shop/front", plain(), true),
            ("app=shop/cart", plain(), true),
            ("app=shop/car", plain(), false),
            ("header:X-Lane", plain(), true),
            ("header:x-lane=blue", plain(), true),
            ("header:x-lane=red", plain(), false),
            ("share=100%", plain(), true),
            ("share=0%", plain(), false),
            ("status=2xx && duration>=1ms", plain(), true),
            ("status=2xx && duration>=2s", plain(), false),
            ("all && cel:call.status == 200 && call.took_us > 1000", plain(), true),
            ("cel:call.request_headers[\"x-lane\"] == \"red\"", plain(), false),
            ("cel:call.nothing.like_that == 1", plain(), false),
        ] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(passes(&filter, &record), expect, "{text} {record:?}");
        }
    }

    #[test]
    fn a_share_is_drawn_once_for_a_call() {
        let filter: Filter = "share=50%".parse().unwrap();
        let drawn = |id| passes(&filter, &Record { span: Span { id, ..record().span }, ..record() });
        let count = (0..10_000).filter(|id| drawn(*id)).count();
        assert_eq!(count, 5_000);
        assert_eq!(drawn(1), drawn(1));
    }
}
