//! The look-out: one connection that waits on all topics of a component at once and takes nothing.
//!
//! What is published by this process wakes its members directly; this is for what others publish. It is a hint only:
//! members look by themselves now and then, so a connection that breaks costs time and no message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dodai_core::task::{Kind, Tasks};
use redis::{AsyncConnectionConfig, Value};

use super::super::link::Open;
use super::Shared;
use super::scripts::LAST;

/// How long the server holds one question. A topic that is new waits for the next.
const HOLD: Duration = Duration::from_millis(500);

/// Starts it. It ends with the component, which it does not keep alive.
pub(super) fn spawn(shared: &Arc<Shared>, tasks: &Tasks) {
    let (weak, link, ending) = (Arc::downgrade(shared), shared.link.clone(), tasks.clone());
    tasks.spawn(Kind::Loop, async move {
        let mut watch = Watch { open: None, seen: BTreeMap::new() };
        let mut failures = 0;
        while let Some(shared) = weak.upgrade().filter(|shared| !shared.link.is_closed()) {
            let round = async {
                match watch.round(&shared).await {
                    Ok(()) => failures = 0,
                    Err(reason) => {
                        watch.open = None;
                        failures += 1;
                        tracing::debug!(
                            component = shared.link.component(),
                            "topics are not watched: {reason}"
                        );
                        tokio::time::sleep(shared.link.pause(failures)).await;
                    }
                }
            };
            // A round that is dropped has taken nothing.
            tokio::select! {
                () = ending.closing() => return,
                () = link.closing() => return,
                () = round => {}
            }
        }
    });
}

struct Watch {
    open: Option<Open>,
    /// What was seen last, by topic.
    seen: BTreeMap<String, String>,
}

impl Watch {
    async fn round(&mut self, shared: &Shared) -> Result<(), String> {
        let topics = shared.watched();
        if topics.is_empty() {
            self.open = None;
            shared.more.notified().await;
            return Ok(());
        }
        let open = match &mut self.open {
            Some(open) if open.is_alive() => open,
            _ => {
                let settings = shared.link.settings();
                let config =
                    AsyncConnectionConfig::new().set_response_timeout(Some(HOLD + settings.answer_timeout));
                self.seen.clear();
                self.open.insert(shared.link.dial(&settings.login, config).await?)
            }
        };
        self.seen.retain(|topic, _| topics.contains(topic));
        // Where each topic is now; whoever waits is woken after that, so nothing falls between.
        let fresh: Vec<&String> = topics.iter().filter(|topic| !self.seen.contains_key(*topic)).collect();
        if !fresh.is_empty() {
            let mut pipe = redis::pipe();
            pipe.cmd("EVAL").arg(LAST).arg(fresh.len()).arg(&fresh);
            let (last,): (Vec<String>,) = open.query(&pipe).await.map_err(|error| error.to_string())?;
            for (topic, last) in fresh.into_iter().zip(last) {
                self.seen.insert(topic.clone(), last);
                shared.wake(topic);
            }
        }
        let mut pipe = redis::pipe();
        let read = pipe.cmd("XREAD").arg("COUNT").arg(1).arg("BLOCK").arg(HOLD.as_millis().to_string());
        read.arg("STREAMS");
        self.seen.keys().for_each(|topic| {
            read.arg(topic);
        });
        self.seen.values().for_each(|last| {
            read.arg(last);
        });
        type Streams = Option<Vec<(String, Value)>>;
        let (streams,): (Streams,) = open.query(&pipe).await.map_err(|error| error.to_string())?;
        for (topic, _) in streams.into_iter().flatten() {
            // Many may have come: the next round begins behind the last of them.
            self.seen.remove(&topic);
        }
        Ok(())
    }
}
