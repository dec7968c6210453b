//! Whole handshakes, real ports and in-memory networks.

mod authority;
mod files;
mod memory;
mod mesh;
mod sockets;
mod world;
