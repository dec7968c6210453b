//! Puts the built console (`console/dist`) into the program: a table of its files, plain and compressed.
//! It needs no Node; whether the files are those of the sources is checked by `cargo xtask ci --stage console`.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() {
    #[expect(clippy::disallowed_methods, reason = "cargo tells a build script this way and no other")]
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where output goes"));
    // From the folder of this package, where cargo runs it now: where it was compiled may be another copy of the project.
    let dist = PathBuf::from("../../console/dist");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut files = Vec::new();
    find(&dist, &mut files);
    files.sort();
    assert!(
        !files.is_empty(),
        "{} is empty; build it with `npm ci && npm run build` in console/",
        dist.display()
    );
    let mut table = String::from("const FILES: &[File] = &[\n");
    for (number, file) in files.iter().enumerate() {
        let content =
            fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        let packed = out.join(format!("console-{number}.gz"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&content).expect("memory takes everything");
        fs::write(&packed, encoder.finish().expect("memory takes everything"))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", packed.display()));
        let name =
            file.strip_prefix(&dist).expect("it was found there").display().to_string().replace('\\', "/");
        let plain = file.canonicalize().expect("it was just read");
        writeln!(
            table,
            "    File {{ path: {:?}, kind: {:?}, etag: {:?}, plain: include_bytes!({:?}), gzip: include_bytes!({:?}) }},",
            format!("/{name}"),
            kind(&name),
            format!("\"{:016x}\"", mark(&content)),
            plain,
            packed,
        )
        .expect("memory takes everything");
    }
    table.push_str("];\n");
    fs::write(out.join("console.rs"), table).expect("the output folder can be written");
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// FNV-1a: an ETag tells versions of one file apart and keeps no secret.
fn mark(content: &[u8]) -> u64 {
    content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |mark, byte| (mark ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
