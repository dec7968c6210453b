//! Whole handshakes, real ports and in-memory networks.

mod authority;
mod clients;
mod ends;
mod files;
mod memory;
mod mesh;
mod rotation;
mod sockets;
mod world;
