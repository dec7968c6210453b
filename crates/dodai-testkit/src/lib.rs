//! Tests' own parts: an in-process cluster under paused time, and seeded schedules of faults.
//!
//! A [`cluster::Cluster`] is the real control over a store in memory and real data planes on an in-memory
//! network, joined by [`wire`]s that can be cut and delayed. Only what runs apps is played ([`node`]): an
//! instance is a function that answers with its name. Everything runs on one thread; a [`seed::Seed`] decides.

pub mod cluster;
pub mod mesh;
pub mod node;
pub mod seed;
pub mod wire;
