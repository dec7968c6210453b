//! More than one machine: the server that decides, and bases that join it.

pub mod join;
mod kept;
mod measures;
mod questions;
mod remote;
mod roots;
mod server;
mod tapped;

pub use server::{AUTHORITY, run as serve};
