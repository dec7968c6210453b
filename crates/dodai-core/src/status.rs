//! What a base tells control: what it runs, what it listens on, which snapshot it took or refused.
//!
//! A base and control are joined by a [`Link`]: snapshots one way, status the other. In `dodai up` the link
//! is two channels in one process; between machines the control stream carries the same values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::features::Blocks;
use crate::id::{AppId, BaseId, InstanceId, Name};
use crate::snapshot::Snapshot;

/// Everything a base reports. It is state, not events: a newer report replaces the older one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the snapshot in force.
    pub applied: u64,
    /// The newest snapshot that was refused, if none newer was applied.
    pub refused: Option<Refusal>,
    /// The instances this base runs or is getting rid of.
    pub instances: BTreeMap<InstanceId, InstanceStatus>,
    /// Where each listener listens.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// Listeners that are not as the snapshot in force says, with the reason; one that was open before goes on as it
    /// was, and is among [`Status::listeners`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_open: BTreeMap<String, String>,
    /// How each component is, by `namespace/name`.
    pub components: BTreeMap<String, Health>,
    /// What each component that is open serves, by the same names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blocks: BTreeMap<String, Blocks>,
    /// Where other bases reach this one.
    pub mesh: Option<SocketAddr>,
    /// Which services this base wants to know beside those its workloads and listeners name.
    pub wants: Wants,
    /// Calls per second that want to pass limits which all bases keep together, by limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub demand: BTreeMap<String, u64>,
    /// The same by key, for those of each limit that most calls come by, by their marks; at most
    /// [`crate::snapshot::BUSIEST_KEYS`] of a limit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub busiest: BTreeMap<String, BTreeMap<u64, u64>>,
    /// Whom it trusts, where it is told by a server; only those who say so are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Held>,
}

/// What a base holds of roots and certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The pins of the roots that it trusts.
    pub roots: BTreeSet<String>,
    /// How many of its certificates were signed by which root, by pin.
    pub signers: BTreeMap<String, u32>,
    /// How many entries of the list of revoked certificates it heeds.
    pub revoked: u32,
}

/// Which services a base wants to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wants {
    /// All of them: a single machine.
    All,
    /// Those of these apps, because something here called them.
    Only(BTreeSet<AppId>),
}

impl Default for Wants {
    fn default() -> Wants {
        Wants::Only(BTreeSet::new())
    }
}

/// A snapshot that a base did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its version.
    pub version: u64,
    /// Why, for the person who caused it.
    pub reason: String,
}

/// How one instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Where it stands.
    pub phase: Phase,
    /// Why, when that is not plain.
    pub reason: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Its process id, if it is a process.
    pub pid: Option<u32>,
    /// The ports it listens on, by service.
    pub ports: BTreeMap<Name, u16>,
    /// Calls in flight.
    pub in_flight: u32,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits for something: an app it depends on, its artefact.
    Waiting,
    /// It has been started and is not ready yet.
    Starting,
    /// It runs once and has not ended yet.
    Running,
    /// It gets calls.
    Ready,
    /// It runs but its readiness probe fails.
    Unready,
    /// It ended and will be started again.
    BackingOff,
    /// It takes no new calls and finishes those it has.
    Draining,
    /// It ran once and ended well.
    Succeeded,
    /// It will not be started again.
    Failed,
    /// It is gone; control may forget it.
    Gone,
    /// Its base is away, so nobody can tell.
    Unknown,
}

impl Phase {
    /// Its word, as documents and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Ready => "ready",
            Phase::Unready => "unready",
            Phase::BackingOff => "backing_off",
            Phase::Draining => "draining",
            Phase::Succeeded => "succeeded",
            Phase::Failed => "failed",
            Phase::Gone => "gone",
            Phase::Unknown => "unknown",
        }
    }
}

/// Why a component cannot be used that is being opened for the first time.
pub const OPENING: &str = "it is being opened";

/// How a component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Whether it can be used.
    pub ready: bool,
    /// Why not. Of one that can be used: why a change of it was not made, so that it serves as it was before.
    pub reason: String,
}

/// One base's end of its connection to control.
pub struct Link {
    /// The base.
    pub base: BaseId,
    /// What it should be.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What it is.
    pub status: watch::Sender<Status>,
}
