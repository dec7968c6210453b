//! Artefacts and compiled code on disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dodai_core::id::Digest;
use dodai_core::task::Tasks;
use dodai_modules::{Artifacts, Child, Compiler, Error, Host, HostOptions, digest_of};

use crate::bad_files::compiler;
use crate::fixture::*;

#[test]
fn artifacts_are_found_by_content() {
    let folder = tempfile::tempdir().expect("a folder");
    let artifacts = Artifacts::open(folder.path().join("a")).expect("opened");
    let digest = artifacts.put(b"abc").expect("stored");
    assert_eq!(digest.as_str(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(artifacts.put(b"abc").expect("again"), digest);
    assert_eq!(artifacts.get(&digest).expect("there"), b"abc");
    let other = artifacts.put(b"other").expect("stored");
    assert_eq!(artifacts.prune(&BTreeSet::from([digest.clone()]), Duration::ZERO).expect("pruned"), 1);
    assert!(artifacts.contains(&digest) && !artifacts.contains(&other));
    assert!(matches!(artifacts.get(&other), Err(Error::Missing { .. })));
    for bad in ["", "sha256:", "sha256:../../etc/passwd", &digest.as_str().to_uppercase()] {
        assert!(matches!(artifacts.get(&Digest::new(bad)), Err(Error::BadDigest(_))), "{bad}");
    }
}

#[test]
fn what_a_crash_left_is_removed_but_not_what_is_being_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("1-0.part"), folder.path().join("2-0.part"));
    for path in [&old, &new] {
        fs::write(path, b"half").expect("written");
    }
    let file = fs::File::options().write(true).open(&old).expect("opened");
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(7200)).expect("aged");
    Artifacts::open(folder.path()).expect("opened");
    assert!(!old.exists() && new.exists());
}

#[test]
fn a_damaged_artifact_is_set_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let artifacts = Artifacts::open(folder.path()).expect("opened");
    let digest = artifacts.put(b"abc").expect("stored");
    let file = only_file(folder.path(), "wasm");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    fs::write(&file, b"abd").expect("written");
    let error = artifacts.get(&digest).expect_err("damaged");
    assert!(matches!(&error, Error::Damaged { found, .. } if *found == digest_of(b"abd")), "{error}");
    assert!(!artifacts.contains(&digest));
    artifacts.put(b"abc").expect("stored again");
    assert_eq!(artifacts.get(&digest).expect("sound"), b"abc");
}

fn only_file(folder: &Path, extension: &str) -> PathBuf {
    let mut files = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|of| of == extension));
    let file = files.next().unwrap_or_else(|| panic!("no .{extension}"));
    assert_eq!(files.next(), None);
    file
}

/// Installs hello in a new host on `options`, calls it, and shuts down.
async fn works(options: HostOptions) -> Result<(), Error> {
    let host = Host::open(options, &Tasks::new()).expect("a host");
    host.artifacts().put(&hello()).expect("stored");
    let world = Arc::new(World::default());
    let module = host.install(new_instance(), app(), spec(), world.seams()).await?;
    assert_eq!(get(&module, "/").await.expect("answered").0, 200);
    host.shutdown(PATIENCE).await;
    Ok(())
}

#[tokio::test]
async fn compiled_code_is_used_again_but_never_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = folder.path().join("code");
    let child = Child::new(vec![compiler().into_os_string()]);
    let with = |compiler: Compiler| HostOptions { compiler, ..HostOptions::new(folder.path()) };
    let broken = || with(Compiler::Child(Child::new(vec!["/nowhere/compiler".into()])));
    assert!(matches!(works(broken()).await, Err(Error::Compiler { .. })));
    works(with(Compiler::Child(child.clone()))).await.expect("compiled in a child");
    works(broken()).await.expect("needs no compiler a second time");

    let (file, seal) = (only_file(&code, "cwasm"), only_file(&code, "seal"));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let (whole, sealed) = (fs::read(&file).expect("read"), fs::read(&seal).expect("read"));
    let mut tampered = whole.clone();
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    let mut wrong_seal = sealed.clone();
    wrong_seal[0] ^= 1;
    for (what, bytes, seal_bytes) in [
        ("tampered", &tampered, &sealed),
        ("torn", &whole[..middle].to_vec(), &sealed),
        ("empty", &Vec::new(), &sealed),
        ("sealed by another", &whole, &wrong_seal),
    ] {
        fs::write(&file, bytes).expect("written");
        fs::write(&seal, seal_bytes).expect("written");
        assert!(matches!(works(broken()).await, Err(Error::Compiler { .. })), "{what} code was trusted");
    }
    works(with(Compiler::InProcess)).await.expect("compiled again");
    works(broken()).await.expect("and kept");
}

#[tokio::test]
async fn a_compiler_that_fails_is_reported_with_its_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let with =
        |child: Child| HostOptions { compiler: Compiler::Child(child), ..HostOptions::new(folder.path()) };
    let shell = |script: &str| Child::new(vec!["/bin/sh".into(), "-c".into(), script.into()]);
    let told = async |child: Child| works(with(child)).await.expect_err("no code").to_string();

    let slow = Child { timeout: Duration::from_millis(50), ..shell("exec sleep 60") };
    assert_eq!(told(slow).await, "compiling hello failed: it took longer than 50ms; it was stopped");
    let crash = told(shell("kill -9 $$")).await;
    assert!(crash.contains("the compiler was killed") && crash.contains("4096 MiB"), "{crash}");
    let odd = told(shell("echo out of order >&2; exit 3")).await;
    assert_eq!(odd, "compiling hello failed: the compiler ended with code 3: out of order");
    let small = Child { memory: 32 << 20, ..Child::new(vec![compiler().into_os_string()]) };
    let small = told(small).await;
    assert!(small.starts_with("compiling hello failed: "), "{small}");
    let left: Vec<_> = fs::read_dir(folder.path().join("code")).expect("a folder").collect();
    assert_eq!(left.len(), 1, "only the key is left: {left:?}");
}

#[tokio::test]
async fn pruning_keeps_what_is_wanted_what_is_new_and_what_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = Host::open(HostOptions::new(folder.path()), &Tasks::new()).expect("a host");
    let digest = host.artifacts().put(&hello()).expect("stored");
    host.prepare("hello.wasm", &digest).await.expect("compiled");
    let prune = |keep: &[&Digest], spare| {
        host.prune(&keep.iter().map(|digest| (*digest).clone()).collect(), spare).expect("pruned")
    };
    assert_eq!(prune(&[&digest], Duration::ZERO), 0);
    assert_eq!(prune(&[], Duration::from_secs(3600)), 0, "somebody may be about to ask for it");
    let world = Arc::new(World::default());
    let instance = new_instance();
    host.install(instance.clone(), app(), spec(), world.seams()).await.expect("installed");
    assert_eq!(host.in_use(), BTreeSet::from([digest.clone()]));
    assert_eq!(prune(&[], Duration::ZERO), 0, "it runs");
    host.remove(&instance, PATIENCE).await.expect("it was there");
    // The module's code goes with the last call's task, a moment after the drain.
    let start = std::time::Instant::now();
    while !host.in_use().is_empty() {
        assert!(start.elapsed() < PATIENCE, "it is kept for ever");
        tokio::task::yield_now().await;
    }
    assert_eq!(prune(&[], Duration::ZERO), 3);
    assert!(matches!(host.prepare("hello.wasm", &digest).await, Err(Error::Missing { .. })));
}

#[test]
fn what_is_stored_again_counts_as_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let artifacts = Artifacts::open(folder.path().join("a")).expect("opened");
    let digest = artifacts.put(b"abc").expect("stored");
    let file = fs::read_dir(folder.path().join("a")).expect("a folder").next().expect("it").expect("read");
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    fs::File::open(file.path()).expect("opened").set_modified(old).expect("ours");
    artifacts.put(b"abc").expect("stored");
    assert_eq!(artifacts.prune(&BTreeSet::new(), Duration::from_secs(3600)).expect("pruned"), 0);
    fs::File::open(file.path()).expect("opened").set_modified(old).expect("ours");
    assert_eq!(artifacts.prune(&BTreeSet::new(), Duration::from_secs(3600)).expect("pruned"), 1);
    assert!(!artifacts.contains(&digest));
}

#[test]
fn a_folder_that_others_can_put_code_into_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name: &str| Host::open(HostOptions::new(folder.path().join(name)), &Tasks::new());
    let told = |name: &str| open(name).err().expect("refused").to_string();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(folder.path().join(path), fs::Permissions::from_mode(mode)).expect("ours");
    };
    drop(open("one").expect("a host"));
    mode("one/code", 0o770);
    let error = told("one");
    assert!(error.contains("one/code may be written by others (mode 0770)"), "{error}");
    assert!(error.contains("chmod go-w"), "{error}");
    mode("one/code", 0o700);
    mode("one", 0o777);
    assert!(told("one").contains("one may be written by everybody (mode 0777)"), "{}", told("one"));
    mode("one", 0o1777);
    drop(open("one").expect("nobody can replace what is in a sticky folder"));
    mode("one", 0o755);
    drop(open("one").expect("a host"));

    if fs::metadata("/proc/self").expect("proc").uid() != 0 {
        aloud("a folder of somebody else: only root can make one");
        return;
    }
    fs::create_dir_all(folder.path().join("two/code")).expect("made");
    std::os::unix::fs::chown(folder.path().join("two/code"), Some(4242), None).expect("given away");
    let error = told("two");
    assert!(error.contains("two/code belongs to user 4242"), "{error}");
}

/// Says that a check was skipped; the harness keeps `eprintln` of a test that passes to itself.
fn aloud(what: &str) {
    use std::io::Write;
    let _said = writeln!(std::io::stderr(), "SKIPPED: {what}");
}
