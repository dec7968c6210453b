//! The data plane over an in-memory network and paused time, against scripted peers that speak raw bytes.

mod access;
mod authorizer;
mod calls;
mod changes;
mod deadlines;
mod demand;
mod egress;
mod failures;
mod faults;
mod framing;
mod h2;
mod h2_bounds;
mod h2_tunnels;
mod hardship;
mod health;
mod idle;
mod matching;
mod pages;
mod picking;
mod serve;
mod shares;
mod support;
mod timeouts;
mod tls;
mod tokens;
mod tunnels;
