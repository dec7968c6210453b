//! The shim as a program of its own, for tests and for [`supervise`](supervise.rs). In the product it is a
//! hidden subcommand of the one binary.

fn main() {
    dodai_base::shim::run()
}
