//! What all threads share of interception: what became of connections, and whether our own ones are marked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use dodai_core::seldom::Seldom;
use dodai_core::snapshot::{CaptureWay, Listener, Role};
use dodai_transport::listen::BindError;
use dodai_transport::network::Network;
use dodai_transport::origin::OWN_MARK;

/// What becomes of a connection that the kernel led here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its calls are routed.
    Routed,
    /// Its bytes are carried to a service.
    Carried,
    /// Its bytes are carried to the address it was meant for, of which nothing is known.
    Passed,
    /// It was meant for an address of which nothing is known, and such are not let through.
    Denied,
    /// It was meant for nobody, for us, for somebody who cannot be reached or takes no plain callers.
    Refused,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Fate; 5] = [Fate::Routed, Fate::Carried, Fate::Passed, Fate::Denied, Fate::Refused];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Routed => "routed",
            Fate::Carried => "carried",
            Fate::Passed => "passed",
            Fate::Denied => "denied",
            Fate::Refused => "refused",
        }
    }
}

/// How many connections had which fate: those that left, then those that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub [[u64; Fate::ALL.len()]; 2]);

impl Counts {
    /// The counts that are not zero, with their label values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let named = ["outbound", "inbound"].into_iter().zip(self.0);
        let all = named.flat_map(|(way, counts)| {
            Fate::ALL.into_iter().zip(counts).map(move |(fate, count)| (way, fate.as_str(), count))
        });
        all.filter(|(_, _, count)| *count > 0)
    }
}

/// What all threads share of interception.
#[derive(Debug, Default)]
pub struct Captures {
    counts: [[AtomicU64; Fate::ALL.len()]; 2],
    /// Whether our own connections are not marked, so that rules can only know them by their user.
    unmarked: AtomicBool,
    /// Warnings about connections that are refused.
    pub(crate) refused: Seldom,
}

impl Captures {
    /// Counts one connection.
    pub(crate) fn count(&self, way: &CaptureWay, fate: Fate) {
        let way = match way {
            CaptureWay::Outbound { .. } => 0,
            CaptureWay::Inbound => 1,
        };
        self.counts[way][fate as usize].fetch_add(1, Relaxed);
    }

    /// What was counted.
    pub fn read(&self) -> Counts {
        Counts(std::array::from_fn(|way| std::array::from_fn(|fate| self.counts[way][fate].load(Relaxed))))
    }

    /// Whether rules can only know our own connections by their user.
    pub(crate) fn is_unmarked(&self) -> bool {
        self.unmarked.load(Relaxed)
    }

    /// Makes our own connections known to rules of interception, if `listeners` take what those lead here.
    pub(crate) fn prepare<'a>(
        &self,
        mut listeners: impl Iterator<Item = &'a std::sync::Arc<Listener>>,
        network: &Network,
    ) {
        if !listeners.any(|listener| matches!(listener.role, Role::Captured(_))) {
            return;
        }
        let marked = network.set_mark(OWN_MARK);
        if let Err(error) = &marked
            && !self.unmarked.load(Relaxed)
        {
            let remedy = "give it CAP_NET_ADMIN, or run it as a user of its own and install the rules with \
                          `dodai intercept install --exclude-users USER`; TPROXY needs the former";
            tracing::warn!(%error, remedy, "this base cannot mark its own connections, so that rules of interception could not tell them from others");
        }
        self.unmarked.store(marked.is_err(), Relaxed);
    }

    /// The mark of sockets that take connections.
    pub(crate) fn mark(&self) -> u32 {
        if self.is_unmarked() { 0 } else { OWN_MARK }
    }
}

/// Whether a machine may do without that listener: one that has no IPv6 has no connections of it either.
pub fn is_dispensable(listener: &Listener, error: &BindError) -> bool {
    let no_such_family = |source: &std::io::Error| matches!(source.raw_os_error(), Some(EAFNOSUPPORT));
    let lacks = match error {
        BindError::NoSuchAddress { .. } => true,
        BindError::Other { source, .. } => no_such_family(source),
        BindError::Taken { .. } | BindError::Forbidden { .. } => false,
    };
    lacks && matches!(listener.role, Role::Captured(_)) && listener.address.is_ipv6()
}

/// errno(3): the kernel does not speak that protocol.
const EAFNOSUPPORT: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_way_and_fate() {
        let captures = Captures::default();
        captures.count(&CaptureWay::Inbound, Fate::Refused);
        captures.count(&CaptureWay::Outbound { callers: Vec::new() }, Fate::Routed);
        captures.count(&CaptureWay::Inbound, Fate::Refused);
        let counts: Vec<_> = captures.read().iter().collect();
        assert_eq!(counts, [("outbound", "routed", 1), ("inbound", "refused", 2)]);
    }
}
