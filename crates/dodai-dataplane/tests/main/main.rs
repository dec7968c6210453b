//! The data plane over an in-memory network and paused time, against scripted peers that speak raw bytes.

mod calls;
mod changes;
mod demand;
mod egress;
mod failures;
mod framing;
mod h2;
mod h2_bounds;
mod serve;
mod support;
mod timeouts;
mod tls;
mod tunnels;
