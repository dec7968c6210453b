//! Two processes under one base's name, as when a data folder was copied with its identity.
//!
//! Each process names itself by a number of its own. While one is connected, another is refused: otherwise they
//! would throw each other out for ever, or a copy would take the place of the one that serves. A process that was
//! started again is let in as soon as the connection of the one before has ended, which its death ends at once and
//! the loss of its machine within half a minute.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dodai_core::id::BaseId;
use dodai_core::seldom::Seldom;

/// Who came as which base.
#[derive(Default)]
pub(super) struct Rivals {
    bases: Mutex<BTreeMap<BaseId, Process>>,
    told: Seldom,
}

/// One process of a base.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// What it calls itself; empty if it is of a version that does not.
    pub run: String,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
}

/// Why a process does not get the place of its base.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rival {
    /// What is wrong and how to mend it.
    pub text: String,
    /// Whether this was not told for a while.
    pub is_news: bool,
}

impl Rivals {
    /// Lets a process have the place of its base, unless another has it. `is_connected` says whether anybody has.
    pub fn admit(&self, base: &BaseId, comes: Process, is_connected: bool) -> Result<(), Rival> {
        if comes.run.is_empty() {
            return Ok(());
        }
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(has) = bases.get(base).filter(|has| is_connected && has.run != comes.run) {
            let is_news = self.told.count(&format!("{base} {}", comes.run), Instant::now()).is_some();
            return Err(Rival { text: told(base, has, &comes), is_news });
        }
        bases.insert(base.clone(), comes);
        Ok(())
    }
}

fn told(base: &BaseId, has: &Process, comes: &Process) -> String {
    let place = |process: &Process| match process.address {
        Some(address) => format!("at {address}"),
        None => "elsewhere".to_owned(),
    };
    format!(
        "two processes run as base {base}: the one {} has its place, the one {} is refused; stop one of them, or \
         start it on another data folder, with a --name and a token of its own (`dodai token create`)",
        place(has),
        place(comes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_takes_over_and_a_copy_is_refused() {
        let (rivals, base) = (Rivals::default(), BaseId::new("web"));
        let admit = |run: &str, last: u8, is_connected| {
            let process = Process { run: run.to_owned(), address: Some(([10, 0, 0, last], 1).into()) };
            rivals.admit(&base, process, is_connected)
        };
        assert_eq!(admit("a", 1, false), Ok(()));
        assert_eq!(
            admit("a", 1, true),
            Ok(()),
            "it lost its connection and the server has not seen that yet"
        );
        let rival = admit("b", 2, true).expect_err("a copy");
        assert!(
            rival.is_news && rival.text.contains("10.0.0.1:1 has its place, the one at 10.0.0.2:1 is"),
            "{rival:?}"
        );
        assert!(!admit("b", 2, true).expect_err("still").is_news);
        assert_eq!(admit("a", 1, true), Ok(()), "it is not disturbed");
        assert_eq!(admit("b", 2, false), Ok(()), "the other has gone: a process that was started again");
        assert!(admit("a", 1, true).is_err());
        assert_eq!(admit("", 3, true), Ok(()), "an older version does not say");
        assert_eq!(
            rivals.admit(&BaseId::new("other"), Process { run: "a".into(), address: None }, false),
            Ok(())
        );
    }
}
