//! Writes the JSON schemas of the documents into a folder: `cargo run --example write_schemas -- schema`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "schema".to_owned());
    std::fs::create_dir_all(&folder)?;
    for (name, schema) in dodai_api::schemas() {
        std::fs::write(Path::new(&folder).join(name), format!("{schema:#}\n"))?;
    }
    Ok(())
}
