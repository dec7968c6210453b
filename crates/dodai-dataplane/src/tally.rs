//! What filters did, counted where it happens and read with the metrics.
//!
//! A filter keeps its counters as long as its rule stays the same; a rule that changes begins anew, which scrapers
//! take for a restart. Counting is one relaxed add.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! events {
    ($($(#[doc = $doc:literal])* $event:ident => $label:literal;)*) => {
        /// Something a filter did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $($(#[doc = $doc])* $event,)* }

        impl Event {
            /// Every event.
            pub const ALL: &'static [Event] = &[$(Event::$event,)*];

            /// The label value.
            pub fn as_str(self) -> &'static str { match self { $(Event::$event => $label,)* } }
        }
    };
}

events! {
    /// A preflight was answered.
    Preflight => "preflight";
    /// A page of an origin that is not allowed asked or called.
    OriginRefused => "origin_refused";
    /// A call had no token and needed one.
    TokenMissing => "token_missing";
    /// A call had a token that does not count.
    TokenBad => "token_bad";
    /// A call had a token that had been proved before.
    TokenKnown => "token_known";
    /// The service that decides who may call allowed a call.
    AuthorizerAllowed => "authorizer_allowed";
    /// It refused one.
    AuthorizerDenied => "authorizer_denied";
    /// It gave no answer.
    AuthorizerFailed => "authorizer_failed";
    /// A call was held back on purpose.
    FaultDelayed => "fault_delayed";
    /// A call was answered on purpose.
    FaultAborted => "fault_aborted";
    /// A call was cut on purpose.
    FaultReset => "fault_reset";
    /// An answer was slowed down on purpose.
    FaultThrottled => "fault_throttled";
    /// A call was shed: too many were under way.
    Shed => "shed";
    /// A call got a further try beside one that was slow.
    Hedged => "hedged";
    /// That try was the first with a good answer.
    HedgeWon => "hedge_won";
    /// A copy of a call was sent to a mirror.
    Mirrored => "mirrored";
    /// A copy was not: as many as may be were under way.
    MirrorBusy => "mirror_busy";
    /// A copy was not: the body was too large to be kept, or not here whole.
    MirrorBody => "mirror_body";
    /// A policy that is only tried would have refused a call.
    WouldRefuse => "would_refuse";
}

/// The counters of one filter.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; Event::ALL.len()]);

impl Tally {
    /// Counts one.
    pub fn count(&self, event: Event) {
        self.0[event as usize].fetch_add(1, Relaxed);
    }

    /// What was counted; events that never happened are left out.
    pub fn read(&self) -> impl Iterator<Item = (Event, u64)> {
        let all = Event::ALL.iter().map(|event| (*event, self.0[*event as usize].load(Relaxed)));
        all.filter(|(_, count)| *count > 0)
    }
}

/// A count of one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The rule, or the service for what is checked on arrival.
    pub rule: Arc<str>,
    /// What happened.
    pub event: Event,
    /// How often.
    pub count: u64,
}
