//! Sockets, TLS and identity, certificates, in-memory networks.
//!
//! Everything that touches a wire below the codecs lives here, and nothing above them: a [`stream::Stream`]
//! is bytes with an address and perhaps a proven [`identity::PeerIdentity`]. [`network::Network`] is the seam
//! behind which tests put an in-memory net. This crate spawns no tasks: what waits is a future of the
//! caller's, so shutdown and drain belong to the `dodai_core::task::Tasks` of whoever polls it.

pub mod ca;
pub mod certificate;
pub mod client_certificate;
pub mod datagram;
pub mod dial;
pub mod identity;
pub mod listen;
mod lives;
pub mod memory;
pub mod network;
pub mod origin;
pub mod pem;
mod procfs;
pub mod proxy_protocol;
pub mod revoked;
mod socket;
pub mod stream;
pub mod tls;
pub mod token;
pub mod trust;
