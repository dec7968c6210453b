//! Calls of all bases as they end, for one listener: those of a base that comes while it listens, too.

use std::collections::BTreeSet;
use std::time::Duration;

use dodai_admin::Refusal;
use dodai_admin::seam::{CallFilter, Flow, Missed, Silent, Told};
use dodai_control::control::Control;
use dodai_control::stream::Asker;
use dodai_core::id::BaseId;
use futures_util::stream::{BoxStream, SelectAll, StreamExt, once, unfold};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::questions::Question;
use super::remote::{answers, connected};

/// How often it is looked which bases are there.
const LOOK: Duration = Duration::from_millis(500);

/// What a base said; `None` when it says no more.
type Step = (BaseId, Option<Result<Told, Refusal>>);

/// One listener.
struct Tap {
    control: Control,
    asker: Asker,
    question: Question,
    calls: SelectAll<BoxStream<'static, Step>>,
    /// The bases that tell.
    open: BTreeSet<BaseId>,
    /// Those of which it was said that they do not. They are asked again, and it is not said again.
    silent: BTreeSet<BaseId>,
    looks: Interval,
}

/// Calls for which `filter` holds, until nobody listens; [`Told::Silent`] where a base does not tell any.
pub(super) fn tapped(control: Control, asker: Asker, filter: CallFilter) -> Flow<Told> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let tap = Tap {
        control,
        asker,
        question: Question::Calls(filter),
        calls: SelectAll::new(),
        open: BTreeSet::new(),
        silent: BTreeSet::new(),
        looks,
    };
    unfold(tap, |mut tap| async move { Some((tap.next().await, tap)) }).boxed()
}

impl Tap {
    async fn next(&mut self) -> Told {
        loop {
            tokio::select! {
                // Both are cancel safe; an empty set of streams has nothing to give yet.
                _ = self.looks.tick() => self.look(),
                Some((base, told)) = self.calls.next(), if !self.calls.is_empty() => {
                    if let Some(value) = self.told(&base, told) {
                        return value;
                    }
                }
            }
        }
    }

    /// Asks the bases that are there and do not tell yet.
    fn look(&mut self) {
        for base in connected(&self.control) {
            if self.open.insert(base.clone()) {
                let (own, end) = (base.clone(), base.clone());
                let missed = |missed| Ok(Told::Missed(Missed { missed, base: None }));
                let told = answers(&self.asker, &base, &self.question, missed)
                    .map(move |told| (own.clone(), Some(told)));
                self.calls.push(told.chain(once(async move { (end, None) })).boxed());
            }
        }
    }

    /// What the listener gets for what a base said.
    fn told(&mut self, base: &BaseId, told: Option<Result<Told, Refusal>>) -> Option<Told> {
        let why = match told {
            Some(Ok(mut told)) => {
                self.silent.remove(base);
                match &mut told {
                    Told::Call(call) => call.base = Some(base.to_string()),
                    Told::Missed(missed) => missed.base = Some(base.to_string()),
                    Told::Silent(silent) => silent.base = base.to_string(),
                }
                return Some(told);
            }
            Some(Err(why)) => why.to_string(),
            None => {
                self.open.remove(base);
                return None;
            }
        };
        let silent = || Told::Silent(Silent { base: base.to_string(), ended: why });
        self.silent.insert(base.clone()).then(silent)
    }
}
