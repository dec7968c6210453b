//! Files that a document or a flag names: only regular ones are read, and only up to so many bytes.
//!
//! A named pipe or a device would keep whoever opens it waiting, or never end; nothing here waits for either.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The most bytes of a file of text: secrets, certificates, keys.
pub const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// What the file system says, and [`io::ErrorKind::InvalidInput`] for what is no regular file or larger, before a
/// byte of it is read.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Without this flag, opening a pipe waits for somebody to write.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(no_device)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(refused(format!("it is {}, not a regular file", kind(about.file_type()))));
    }
    if about.len() > most {
        return Err(too_large(about.len(), most));
    }
    whole(file, most)
}

/// Reads text of at most [`MAX_TEXT_BYTES`].
///
/// # Errors
/// Those of [`read`].
pub fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    read(path, MAX_TEXT_BYTES)
}

/// What a file holds, which may have grown since it was looked at.
fn whole(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes)? as u64;
    if read > most { Err(too_large(read, most)) } else { Ok(bytes) }
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn too_large(size: u64, most: u64) -> io::Error {
    refused(format!("it has {size} bytes, and at most {most} are read"))
}

/// A socket cannot be opened; the system calls that a missing device.
fn no_device(error: io::Error) -> io::Error {
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::NXIO) => refused("it is a socket, not a regular file".to_owned()),
        Some(_) | None => error,
    }
}

fn kind(of: std::fs::FileType) -> &'static str {
    if of.is_dir() {
        "a folder"
    } else if of.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};

    #[test]
    fn only_regular_files_are_read_and_only_up_to_a_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("four"), "four").expect("written");
        std::os::unix::fs::symlink(at("four"), at("link")).expect("linked");
        for (name, kind) in [("pipe", FileType::Fifo), ("socket", FileType::Socket)] {
            mknodat(CWD, at(name), kind, 0o600.into(), 0).expect("made");
        }
        let check = |path: &Path, most: u64, expect: Result<&[u8], &str>| {
            let read = read(path, most).map_err(|error| error.to_string());
            assert_eq!(read, expect.map(<[u8]>::to_vec).map_err(str::to_owned), "{}", path.display());
        };
        check(&at("four"), 4, Ok(b"four"));
        check(&at("link"), 4, Ok(b"four"));
        check(&at("four"), 3, Err("it has 4 bytes, and at most 3 are read"));
        check(&at("pipe"), 4, Err("it is a named pipe, not a regular file"));
        check(&at("socket"), 4, Err("it is a socket, not a regular file"));
        check(folder.path(), 4, Err("it is a folder, not a regular file"));
        check(Path::new("/dev/zero"), 4, Err("it is a device, not a regular file"));
        // A file of the kernel says that it is empty, and is not.
        check(Path::new("/proc/self/status"), 4, Err("it has 5 bytes, and at most 4 are read"));
        assert_eq!(read(&at("none"), 4).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
