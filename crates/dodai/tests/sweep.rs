//! The disk of a running project: what was uploaded and is not needed any more goes, what is needed stays.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::project::{Project, get, until};

/// As old as what is looked at only once in a while.
fn age(file: &Path) {
    File::open(file).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
}

/// An artefact that no document names.
fn plant(folder: &Path, digit: &str) -> PathBuf {
    let file = folder.join(format!("{}.wasm", digit.repeat(64)));
    std::fs::write(&file, "left by a project of long ago").unwrap();
    file
}

fn up(project: &Project) {
    let up = project.dodai(&["up", &project.path(), "-d", "--threads", "1", "--admin", "127.0.0.1:0"]);
    assert!(up.status.success(), "{}", up.all());
    assert!(get(project.port, "/").is_ok());
}

#[test]
fn artefacts_that_no_document_names_are_removed() {
    let project = Project::new("sweep");
    let folder = Path::new(&project.path()).join(".dodai/modules/artifacts");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
    let (old, new) = (plant(&folder, "a"), plant(&folder, "b"));
    age(&old);
    up(&project);
    until("what is old is gone", || !old.exists());
    assert!(new.exists(), "a document that names it may be on the way");
    let deploy = project.dodai(&["deploy", "hello", "artifacts/hello-v2.wasm", "--wait"]);
    assert!(deploy.status.success(), "{}", deploy.all());
    assert!(project.dodai(&["down"]).status.success());

    // All are old now; those of the current revision and of the one before it are named.
    for entry in std::fs::read_dir(&folder).unwrap() {
        age(&entry.unwrap().path());
    }
    up(&project);
    until("what nothing names is gone", || !new.exists());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "both revisions can be gone back to");
    assert_eq!(get(project.port, "/"), Ok("hello from v2\n".to_owned()));
    assert!(project.dodai(&["down"]).status.success());
}
