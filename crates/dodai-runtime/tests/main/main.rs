//! The runtime in one process: in-memory drivers behind it, a scripted door before the apps, paused time.

mod bindings;
mod callbacks;
mod components;
mod configuration;
mod conformance;
mod deliveries;
mod drivers;
mod grpc;
mod grpc_errors;
mod in_hand;
mod invoke;
mod jobs;
mod properties;
mod routes;
mod shutdown;
mod streams;
mod world;
