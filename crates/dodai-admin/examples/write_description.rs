//! Writes what the management API is into a folder: `cargo run --example write_description -- schema`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "schema".to_owned());
    std::fs::create_dir_all(&folder)?;
    let description = dodai_admin::description::description();
    std::fs::write(Path::new(&folder).join("management.openapi.json"), format!("{description:#}\n"))
}
