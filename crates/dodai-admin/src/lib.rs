//! The management API: what the command line and the console ask of a running server.
//!
//! [`api::router`] answers over [`api::Parts`]; [`server::serve`] puts it on a listener. What can be asked is one table,
//! [`operations`], of which [`description`] makes the OpenAPI document. A request passes
//! [`gate`] (token, host, origin) first; documents go to control, everything about a running node goes
//! through the seams in [`seam`], which the binary implements. Always holds: secrets leave only as
//! [`mask::HIDDEN`], and every refusal is a [`Refusal`] with a code and, where there is one, a remedy.

pub mod api;
pub mod apps;
mod backup;
mod components;
mod console;
mod debug;
pub mod description;
mod documents;
pub mod externals;
mod feed;
pub mod gate;
pub mod history;
mod inside;
mod jobs;
pub mod joining;
pub mod live;
pub mod mask;
mod node;
pub mod operations;
mod refusal;
pub mod roots;
pub mod seam;
mod seats;
pub mod server;
pub mod session;
mod wire;

pub use refusal::Refusal;
