//! Tests of the module host with a real guest: `examples/hello`.

mod artifacts;
mod bad_files;
mod fixture;
mod life;
mod limits;
mod outbound;
mod serving;
mod small_guests;
