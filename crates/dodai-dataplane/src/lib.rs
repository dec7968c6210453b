//! The six stations that every call passes: listen, codec, route, filter, attempt, endpoint.
//!
//! [`plane::DataPlane`] owns threads, listeners and the live [`table::Table`]. A connection is accepted in
//! `connection`, read by `serve_h1` or `serve_h2`, decided in [`spine`], and carried by `relay` (bytes between
//! two HTTP/1 connections), `message` (parsed messages) or `pipe` (tunnels). This crate knows no documents;
//! it is told what to be by a [`dodai_core::snapshot::Snapshot`].

mod access;
pub mod attempt;
mod authorizer;
mod bodies;
mod client_h1;
mod client_h2;
mod connection;
mod cors;
mod deadline;
pub mod demand;
pub mod door;
mod endpoint;
mod fault;
pub mod filter;
pub mod gauges;
pub mod h1;
mod h1_later;
mod h1_message;
pub mod h2;
mod h2_body;
mod h2_call;
mod h2_drive;
mod h2_head;
mod h2_relay;
mod h2_tunnel;
mod identity;
pub mod jwt;
mod keep_alive;
mod lap;
mod later;
pub mod limits;
mod live;
pub mod local;
pub mod mesh;
mod message;
mod mirror;
mod path;
mod pipe;
pub mod plane;
pub mod rate;
mod reach;
mod relay;
mod replay;
mod request;
pub mod route;
mod secure;
mod serve_h1;
mod serve_h2;
pub mod service;
pub mod spine;
pub mod stats;
pub mod table;
pub mod tally;
mod timer;
mod tls;
mod trial;
pub mod users;
mod wire;
mod worker;
