//! Prints the table of the data path's limits, for `cargo xtask defaults`.

use dodai_dataplane::limits::Limits;

fn main() {
    print!("{}", Limits::default().page());
}
