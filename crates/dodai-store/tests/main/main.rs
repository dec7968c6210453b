//! The store's tests: one suite for all back ends, a naive model, and what only a file can suffer.

mod backends;
mod crash;
mod model;
mod sqlite;
