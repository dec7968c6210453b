//! Whether a folder is ours alone. What is loaded from it runs with all that we may do, so nobody else may
//! be able to put anything there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::Error;

const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// Refuses a folder that belongs to somebody else or that others may write, and one that others could
/// replace as a whole because they may write the folder it is in.
pub(crate) fn check(folder: &Path) -> Result<(), Error> {
    belongs_to_us(folder)?;
    let mode = mode_of(folder)?;
    if mode & (OTHERS_WRITE | GROUP_WRITES) != 0 {
        let remedy = format!("`chmod go-w {}`, if nobody has put anything into it", folder.display());
        return Err(refused(folder, format!("may be written by others (mode {mode:04o})"), remedy));
    }
    let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    belongs_to_us(parent)?;
    let mode = mode_of(parent)?;
    // In a sticky folder, such as /tmp, nobody but its owner can replace what is there.
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        let remedy = format!("`chmod o-w {}`, if nobody has put anything into it", parent.display());
        return Err(refused(parent, format!("may be written by everybody (mode {mode:04o})"), remedy));
    }
    Ok(())
}

/// Ours or root's, and so is the link if it is one.
fn belongs_to_us(folder: &Path) -> Result<(), Error> {
    let me = rustix::process::geteuid().as_raw();
    let known = |read: std::io::Result<fs::Metadata>| {
        read.map_err(|error| Error::file("look at the folder", folder, error))
    };
    for owner in [known(fs::symlink_metadata(folder))?.uid(), known(fs::metadata(folder))?.uid()] {
        if owner != me && owner != 0 {
            let remedy = "remove it, or keep data in a folder of your own".to_owned();
            return Err(refused(folder, format!("belongs to user {owner}, not to you ({me})"), remedy));
        }
    }
    Ok(())
}

fn mode_of(folder: &Path) -> Result<u32, Error> {
    let known = fs::metadata(folder).map_err(|error| Error::file("look at the folder", folder, error))?;
    Ok(known.mode() & 0o7777)
}

fn refused(folder: &Path, problem: String, remedy: String) -> Error {
    Error::NotPrivate { folder: folder.to_owned(), problem, remedy }
}
