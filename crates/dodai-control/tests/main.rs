//! The tests of control: documents, plans, snapshots, and the loop with a base that is played.

#[path = "main/attached.rs"]
mod attached;
#[path = "main/away.rs"]
mod away;
#[path = "main/bearing.rs"]
mod bearing;
#[path = "main/compiled.rs"]
mod compiled;
#[path = "main/components.rs"]
mod components;
#[path = "main/depending.rs"]
mod depending;
#[path = "main/documents.rs"]
mod documents;
#[path = "main/gateways.rs"]
mod gateways;
#[path = "main/guards.rs"]
mod guards;
#[path = "main/interception.rs"]
mod interception;
#[path = "main/looping.rs"]
mod looping;
#[path = "main/outside.rs"]
mod outside;
#[path = "main/placement.rs"]
mod placement;
#[path = "main/plans.rs"]
mod plans;
#[path = "main/played.rs"]
mod played;
#[path = "main/precedence.rs"]
mod precedence;
#[path = "main/rollback.rs"]
mod rollback;
#[path = "main/routing.rs"]
mod routing;
#[path = "main/shares.rs"]
mod shares;
#[path = "main/simulation.rs"]
mod simulation;
#[path = "main/snapshots.rs"]
mod snapshots;
#[path = "main/store_faults.rs"]
mod store_faults;
#[path = "main/streams.rs"]
mod streams;
