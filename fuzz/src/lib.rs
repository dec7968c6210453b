//! What each fuzz target does with its bytes. Plain functions, so that a test can call them with a saved input.
//!
//! A target panics when a promise is broken; `fuzz_targets/` only hands over the bytes.

pub mod cel;
pub mod chunks;
pub mod credentials;
pub mod documents;
pub mod event;
pub mod guess;
pub mod h1_request;
pub mod h1_response;
pub mod h2;
pub mod hpack;
pub mod identity;
pub mod line_format;
pub mod messages;
pub mod proxy_protocol;
pub mod socks;
pub mod template;
pub mod tokens;
pub mod trace;
