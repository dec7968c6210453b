//! Tests of the module host with real guests: `examples/hello`, and `examples/hello-async` for WASI 0.3.

mod artifacts;
mod bad_files;
mod fixture;
mod life;
mod limits;
mod outbound;
mod preview3;
mod serving;
mod small_guests;
