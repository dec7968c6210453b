//! `bindings.localstorage`: files below a folder. The kernel keeps names within it (`RESOLVE_BENEATH`), links included.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dodai_capability::Answer;
use dodai_capability::binding::{Error, Output, Request, Response};
use dodai_capability::component::{Error as Refusal, Reader};
use dodai_capability::fault::{Fault, Kind};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::Errno;

/// Folders that hold no files of users.
const NOT_THERE: [&str; 5] = ["/proc", "/sys", "/boot", "/run/secrets", "/var/run/secrets"];
/// The longest file that is read.
const LONGEST: u64 = 64 << 20;
/// Files that are listed at most.
const MOST: usize = 100_000;
pub(super) const OPERATIONS: [&str; 4] = ["create", "get", "list", "delete"];

/// A folder.
pub struct Folder(Arc<Root>);

struct Root {
    path: PathBuf,
    folder: OwnedFd,
}

impl Folder {
    /// Reads `rootPath`; makes the folder if it is not there.
    ///
    /// # Errors
    /// It is missing, is where it may not be, or cannot be made.
    pub async fn read(read: &mut Reader<'_>, data_dir: &Path) -> Result<Folder, Refusal> {
        let path = data_dir.join(read.required(&["rootPath"])?);
        let opened = tokio::task::spawn_blocking(move || Root::open(&path)).await;
        let opened = opened.map_err(|error| Fault::new(Kind::Unavailable, error.to_string()));
        opened.and_then(|opened| opened).map(|root| Folder(Arc::new(root))).map_err(|fault| read.fault(fault))
    }
}

impl Root {
    fn open(path: &Path) -> Result<Root, Fault> {
        let failed = |error: &dyn std::fmt::Display| {
            Fault::new(Kind::Unavailable, format!("rootPath {}: {error}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(|error| failed(&error))?;
        let path = std::fs::canonicalize(path).map_err(|error| failed(&error))?;
        if NOT_THERE.iter().any(|not| path.starts_with(not)) {
            return Err(Fault::new(
                Kind::Invalid,
                format!("rootPath {} may not be there; name another folder", path.display()),
            ));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(&error))?;
        Ok(Root { path, folder })
    }

    fn at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        openat2(
            &self.folder,
            path,
            flags | OFlags::CLOEXEC,
            mode,
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn parent(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.at(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)
    }

    fn create(&self, path: &Path, data: &[u8]) -> Result<(), std::io::Error> {
        // Folders on the way, each made within its own parent.
        let mut on_the_way = PathBuf::new();
        for part in path.parent().unwrap_or(Path::new("")).components() {
            on_the_way.push(part);
            match mkdirat(self.parent(&on_the_way)?, part.as_os_str(), Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let file = self.at(path, OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?;
        let mut file = File::from(file);
        file.write_all(data)?;
        file.sync_data()
    }

    fn get(&self, path: &Path) -> Result<Vec<u8>, std::io::Error> {
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let length = file.metadata()?.len();
        let mut data = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut data)?;
        if data.len() as u64 > LONGEST {
            return Err(std::io::Error::other(format!(
                "it has {length} bytes, more than the {LONGEST} that are read"
            )));
        }
        Ok(data)
    }

    fn delete(&self, path: &Path) -> Result<(), std::io::Error> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        Ok(unlinkat(self.parent(path)?, name, AtFlags::empty())?)
    }

    /// Whole paths of all files below, links not followed.
    fn list(&self, path: &Path) -> Result<Vec<String>, std::io::Error> {
        let mut files = Vec::new();
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let open = self.at(&folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for entry in rustix::fs::Dir::new(open)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == "." || name == ".." {
                    continue;
                }
                let below = folder.join(&name);
                if entry.file_type() == rustix::fs::FileType::Directory {
                    folders.push(below);
                } else {
                    files.push(self.path.join(below).display().to_string());
                }
                if files.len() + folders.len() > MOST {
                    return Err(std::io::Error::other(format!(
                        "there are more than {MOST} files; name a folder below"
                    )));
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

/// The name within the folder; nothing that leads out of it.
fn within(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!name.contains('\0')).then_some(path)
}

/// What is to be written: a JSON text stands for its letters, and base64 for its bytes, as with Dapr.
fn content(data: &Bytes) -> Bytes {
    let text: Option<String> = serde_json::from_slice(data).ok();
    let data = text.map_or_else(|| data.clone(), Bytes::from);
    BASE64.decode(&data).map_or(data, Bytes::from)
}

fn invoke(root: &Root, request: &Request) -> Result<Response, Error> {
    let operation = request.operation.as_str();
    if !OPERATIONS.contains(&operation) {
        return Err(Error::unknown(operation, &OPERATIONS));
    }
    let drawn = uuid::Uuid::new_v4().to_string();
    let given = request.metadata.get("fileName").map(String::as_str).filter(|name| !name.is_empty());
    let name = match given {
        Some(name) => name,
        None if operation == "create" => drawn.as_str(),
        None if operation == "list" => "",
        None => {
            let what = format!("{operation} needs the metadata fileName");
            return Err(Fault::new(Kind::Invalid, what).into());
        }
    };
    let leads_out = || Fault::new(Kind::Invalid, format!("fileName `{name}` leads out of the folder"));
    let path = within(name).ok_or_else(leads_out)?;
    let failed = |error: std::io::Error| -> Error {
        if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) {
            return leads_out().into();
        }
        let is_full = [Errno::NOSPC, Errno::DQUOT]
            .map(|full| Some(full.raw_os_error()))
            .contains(&error.raw_os_error());
        let kind = if is_full { Kind::Full } else { Kind::Invalid };
        Fault::new(kind, format!("{operation} of {} failed: {error}", root.path.join(&path).display())).into()
    };
    let data = match operation {
        "create" => {
            root.create(&path, &content(&request.data)).map_err(failed)?;
            serde_json::json!({"fileName": path.display().to_string()}).to_string().into_bytes()
        }
        "get" => root.get(&path).map_err(failed)?,
        "list" => serde_json::json!(root.list(&path).map_err(failed)?).to_string().into_bytes(),
        _ => {
            root.delete(&path).map_err(failed)?;
            Vec::new()
        }
    };
    Ok(Response { data: data.into(), ..Response::default() })
}

impl Output for Folder {
    fn operations(&self) -> &'static [&'static str] {
        &OPERATIONS
    }

    fn invoke(&self, request: Request) -> Answer<'_, Result<Response, Error>> {
        let root = self.0.clone();
        Answer::later(async move {
            let done = tokio::task::spawn_blocking(move || invoke(&root, &request)).await;
            done.map_err(|error| Fault::new(Kind::Unavailable, error.to_string()))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_operation_is_told_the_known_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::open(folder.path()).expect("it opens");
        let request = Request { operation: "put".to_owned(), ..Request::default() };
        let said = invoke(&root, &request).expect_err("refused").to_string();
        assert!(said.contains("create, get, list, delete"), "{said}");
    }

    #[test]
    fn names_stay_within() {
        let check = |name: &str, expect: Option<&str>| {
            assert_eq!(within(name), expect.map(PathBuf::from), "{name}");
        };
        check("a/b.txt", Some("a/b.txt"));
        check("/a/./b", Some("a/b"));
        check("", Some(""));
        check("../a", None);
        check("a/../../b", None);
        check("a\0b", None);
    }

    #[test]
    fn what_is_written() {
        let check = |data: &'static str, expect: &'static [u8]| {
            assert_eq!(content(&Bytes::from_static(data.as_bytes())), expect, "{data}");
        };
        check("\"plain text\"", b"plain text");
        check("\"AP8=\"", b"\x00\xff");
        check("{\"a\": 1}", b"{\"a\": 1}");
    }
}
