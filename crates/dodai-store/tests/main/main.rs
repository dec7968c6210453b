//! The store's tests: one suite for all back ends, a naive model, and what only a file can suffer.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod backends;
mod crash;
mod model;
mod sqlite;
