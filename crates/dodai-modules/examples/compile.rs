//! The compiling child, as a program of its own for tests: `compile MEMORY NAME IN OUT`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(dodai_modules::compile_main(std::env::args_os().skip(1)))
}
