//! `bindings.cron`: an event whenever its schedule says so. Times that pass while nobody reads are not made up for.

use dodai_capability::Answer;
use dodai_capability::binding::{Error, Event, Events, Input, Source};
use dodai_capability::clock::Clock;
use dodai_capability::component::{Context, Error as Refusal, Lifecycle, Reader};
use dodai_capability::fault::{Fault, Kind};
use dodai_capability::metadata::rfc3339;
use dodai_capability::schedule::Schedule;
use tokio::sync::watch;

/// A clock that tells of times.
pub struct Cron {
    schedule: Schedule,
    clock: Clock,
    closed: watch::Sender<bool>,
}

impl Cron {
    /// Reads `schedule`.
    ///
    /// # Errors
    /// It is missing or cannot be read.
    pub fn read(read: &mut Reader<'_>, context: &Context) -> Result<Cron, Refusal> {
        let text = read.required(&["schedule"])?;
        let wrong =
            |bad: dodai_capability::schedule::Bad| read.fault(Fault::new(Kind::Invalid, bad.to_string()));
        let schedule = Schedule::parse(text).map_err(wrong)?;
        Ok(Cron { schedule, clock: context.clock.clone(), closed: watch::Sender::new(false) })
    }
}

struct Ticks {
    schedule: Schedule,
    clock: Clock,
    closed: watch::Receiver<bool>,
    /// The last time that was told of, or when the reading began.
    last: std::time::SystemTime,
}

impl Source for Ticks {
    fn next(&mut self) -> Answer<'_, Option<Event>> {
        Answer::later(async move {
            let closed = async |closed: &mut watch::Receiver<bool>| {
                // A sender that is gone says the same.
                let _told = closed.wait_for(|closed| *closed).await;
            };
            loop {
                let now = self.clock.now();
                // Behind the last in any case: a clock that is set back repeats nothing.
                let Some(due) = self.schedule.next(self.last.max(now)) else {
                    closed(&mut self.closed).await;
                    return None;
                };
                let wait = due.duration_since(now).unwrap_or_default();
                // Both are cancel safe.
                tokio::select! {
                    () = closed(&mut self.closed) => return None,
                    () = self.clock.sleep(wait) => {}
                }
                if self.clock.now() >= due {
                    self.last = due;
                    let metadata =
                        [("timeZone", self.schedule.zone()), ("readTimeUTC", rfc3339(self.clock.now()))];
                    let metadata = metadata.map(|(name, value)| (name.to_owned(), value)).into();
                    return Some(Event { metadata, ..Event::default() });
                }
            }
        })
    }
}

impl Input for Cron {
    fn read(&self) -> Answer<'_, Result<Events, Error>> {
        let ticks = Ticks {
            schedule: self.schedule.clone(),
            clock: self.clock.clone(),
            closed: self.closed.subscribe(),
            last: self.clock.now(),
        };
        Answer::ready(Ok(Events::new(ticks)))
    }
}

impl Lifecycle for Cron {
    fn close(&self) -> Answer<'_, ()> {
        self.closed.send_replace(true);
        Answer::ready(())
    }
}
