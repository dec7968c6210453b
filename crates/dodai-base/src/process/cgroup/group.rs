//! Making, filling, measuring and removing control groups.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use super::{Controller, Hierarchy, Version, field, hierarchies, needed, writes};
use crate::process::{Limits, Usage};

/// Where the base itself moves when its own group must have no process (version 2).
const LEAF: &str = "dodai.base";
/// How often, and after which pause, leftovers of a dead base are killed again before they are left alone.
const SWEEPS: usize = 100;
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// What the base of a sidecar is called, before its process id.
const SIDECAR: &str = "daprd-";
/// How often making the base's folder is tried.
const MAKE_TRIES: usize = 5;

/// The groups of one base: a directory in each usable hierarchy.
#[derive(Clone, Debug)]
pub(in crate::process) struct Groups {
    roots: Arc<[Root]>,
}

#[derive(Clone, Debug)]
struct Root {
    version: Version,
    /// `<own>/dodai/<base>`
    dir: PathBuf,
    controllers: BTreeSet<Controller>,
}

impl Groups {
    /// Makes the base's directories where that is allowed, and ends what a dead base of the same id left.
    /// Also says, once, what cannot be done here.
    pub(in crate::process) async fn open(base: &str) -> (Groups, Vec<String>) {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let found = hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let mut roots = Vec::new();
        let mut refusals = BTreeSet::new();
        for hierarchy in found {
            let own = hierarchy.own.clone();
            match open_root(hierarchy, base) {
                Ok(root) => roots.push(root),
                Err(error) => drop(refusals.insert(format!("{}: {error}", own.display()))),
            }
        }
        for root in &roots {
            sweep(&root.dir).await;
            root.dir.parent().into_iter().for_each(|shared| remove_dead(shared, is_alive));
        }
        let have: BTreeSet<Controller> =
            roots.iter().flat_map(|root| root.controllers.iter().copied()).collect();
        let all = [Controller::Memory, Controller::Cpu, Controller::Pids];
        let missing: Vec<&str> = all.iter().filter(|c| !have.contains(c)).map(|c| c.as_str()).collect();
        let mut conditions = Vec::new();
        if !missing.is_empty() {
            let why: Vec<String> = refusals.into_iter().collect();
            let why = if why.is_empty() { "no control group has them".to_owned() } else { why.join("; ") };
            let remedy = "run the base as root or as a systemd service with Delegate=yes";
            conditions.push(format!("limits not enforced: {} ({why}); {remedy}", missing.join(", ")));
        }
        (Groups { roots: roots.into() }, conditions)
    }

    /// No groups at all.
    pub(in crate::process) fn none() -> Groups {
        Groups { roots: Arc::new([]) }
    }

    /// Removes the base's own directories, if they are empty; at the end of the base.
    pub(in crate::process) fn remove_roots(&self) {
        self.roots.iter().for_each(Root::remove);
    }

    /// Makes the group of an instance and sets its limits. Also says which limits do not hold.
    pub(in crate::process) fn create(&self, instance: &str, limits: &Limits) -> (Group, Vec<String>) {
        let mut dirs = Vec::new();
        let mut conditions = Vec::new();
        let mut missing = needed(limits);
        for root in self.roots.iter() {
            let dir = root.dir.join(instance);
            if let Err(error) = make(&dir) {
                conditions.push(format!("control group {}: {error}", dir.display()));
                continue;
            }
            for (controller, file, value) in writes(root.version, limits) {
                if !root.controllers.contains(&controller) {
                    continue;
                }
                match fs::write(dir.join(file), &value) {
                    Ok(()) => drop(missing.remove(&controller)),
                    Err(error) => {
                        conditions.push(format!("write {value} to {}/{file}: {error}", dir.display()))
                    }
                }
            }
            dirs.push(Root { dir, ..root.clone() });
        }
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|controller| controller.as_str()).collect();
            conditions.push(format!("limits not enforced: {}", names.join(", ")));
        }
        (Group { dirs, pids_enforced: !missing.contains(&Controller::Pids) }, conditions)
    }
}

fn open_root(hierarchy: Hierarchy, base: &str) -> io::Result<Root> {
    let Hierarchy { version, own, top, controllers } = hierarchy;
    // A base that executed itself anew is in the leaf that it moved to before.
    let own = if own.ends_with(LEAF) { own.parent().unwrap_or(&own).to_owned() } else { own };
    let mine = open_at(&own, version, &controllers, base);
    if version == Version::V1 || own == top {
        return mine;
    }
    // In a login session our own group has other processes, and cannot hand controllers down. Root may go
    // to the top instead.
    let offered = read_controllers(&top.join("cgroup.controllers"));
    if mine.as_ref().is_ok_and(|root| root.controllers.is_superset(&offered)) {
        return mine;
    }
    let Ok(upper) = open_at(&top, version, &controllers, base) else { return mine };
    match mine {
        Ok(mine) if mine.controllers.len() >= upper.controllers.len() => {
            upper.remove();
            Ok(mine)
        }
        mine => {
            drop(mine.map(|mine| mine.remove()));
            Ok(upper)
        }
    }
}

fn open_at(own: &Path, version: Version, controllers: &BTreeSet<Controller>, base: &str) -> io::Result<Root> {
    let dir = own.join("dodai").join(base);
    make_base(&own.join("dodai"), &dir)?;
    let controllers = if version == Version::V2 { enable(own, &dir) } else { controllers.clone() };
    Ok(Root { version, dir, controllers })
}

impl Root {
    /// Removes the base's directory and the one shared with other bases, if they are empty.
    fn remove(&self) {
        let _ = fs::remove_dir(&self.dir);
        if let Some(parent) = self.dir.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Another base that ends at this moment may remove the shared folder between the two steps.
fn make_base(shared: &Path, dir: &Path) -> io::Result<()> {
    let mut made = Ok(());
    for _ in 0..MAKE_TRIES {
        made = make(shared).and_then(|()| make(dir));
        if !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            break;
        }
    }
    made
}

/// Hands controllers down to the base's directory; those that arrive there.
fn enable(own: &Path, dir: &Path) -> BTreeSet<Controller> {
    let wanted = read_controllers(&own.join("cgroup.controllers"));
    for controller in wanted {
        let word = format!("+{}", controller.as_str());
        let hand_down = |dir: &Path| fs::write(dir.join("cgroup.subtree_control"), &word);
        // A group that hands controllers down must have no process of its own.
        let busy = |error: &io::Error| error.kind() == io::ErrorKind::ResourceBusy;
        if hand_down(own).is_err_and(|error| busy(&error)) && step_aside(own).is_ok() {
            let _ = hand_down(own);
        }
        if let Some(parent) = dir.parent() {
            let _ = hand_down(parent);
        }
        let _ = hand_down(dir);
    }
    read_controllers(&dir.join("cgroup.subtree_control"))
}

/// Moves this process, if it is alone in its group, into a leaf below.
fn step_aside(own: &Path) -> io::Result<()> {
    let members = fs::read_to_string(own.join("cgroup.procs"))?;
    if members.trim() != getpid().to_string() {
        return Err(io::Error::other("the group has other processes"));
    }
    let leaf = own.join(LEAF);
    make(&leaf)?;
    fs::write(leaf.join("cgroup.procs"), "0")
}

fn read_controllers(file: &Path) -> BTreeSet<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(Controller::parse).collect()
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Ends everything in the groups below a directory and removes them.
async fn sweep(dir: &Path) {
    for _ in 0..SWEEPS {
        let Ok(entries) = fs::read_dir(dir) else { return };
        let left: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir() && !clear(path))
            .collect();
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
    tracing::warn!(dir = %dir.display(), "control groups of an earlier base could not be removed");
}

/// Removes the folders of sidecars that are gone: they are named by their process, so none of them comes back to
/// its own. Folders in which something runs stay, whatever became of their base.
fn remove_dead(shared: &Path, is_alive: impl Fn(i32) -> bool) {
    for entry in fs::read_dir(shared).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(SIDECAR).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !is_alive(pid)) {
            for instance in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(instance.path());
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whether there is a process of this id, whoever it belongs to.
fn is_alive(pid: i32) -> bool {
    !matches!(kill(Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}

/// Kills what is in a group and tries to remove it.
fn clear(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    kill_members(dir);
    false
}

fn kill_members(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let me = getpid().as_raw();
    let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1 && *pid != me) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The group of one instance, in each hierarchy.
#[derive(Clone, Debug)]
pub(in crate::process) struct Group {
    dirs: Vec<Root>,
    pids_enforced: bool,
}

impl Group {
    /// The directories a process joins.
    pub(in crate::process) fn dirs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|root| root.dir.clone()).collect()
    }

    /// Whether a limit of processes, if one was asked for, is held by the kernel.
    pub(in crate::process) fn pids_enforced(&self) -> bool {
        self.pids_enforced
    }

    /// The file that counts kills for lack of memory.
    pub(in crate::process) fn oom_events(&self) -> Option<PathBuf> {
        let root = self.with(Controller::Memory)?;
        Some(root.dir.join(if root.version == Version::V1 { "memory.oom_control" } else { "memory.events" }))
    }

    /// What the instance uses; nothing if some of it is not accounted here.
    pub(in crate::process) fn usage(&self) -> Option<Usage> {
        let read = |root: &Root, file: &str| fs::read_to_string(root.dir.join(file)).ok();
        let number = |root: &Root, file: &str| read(root, file)?.trim().parse::<u64>().ok();
        let memory = self.with(Controller::Memory)?;
        let (total, idle) = match memory.version {
            Version::V1 => (number(memory, "memory.usage_in_bytes")?, "total_inactive_file"),
            Version::V2 => (number(memory, "memory.current")?, "inactive_file"),
        };
        // As kubelet counts: page cache that the kernel would give up at once is not held by the app.
        let idle = field(&read(memory, "memory.stat")?, idle).unwrap_or(0);
        let cpu = match self.with(Controller::Cpuacct) {
            Some(root) => Duration::from_nanos(number(root, "cpuacct.usage")?),
            None => {
                let root = self.dirs.iter().find(|root| root.version == Version::V2)?;
                Duration::from_micros(field(&read(root, "cpu.stat")?, "usage_usec")?)
            }
        };
        let processes = self.with(Controller::Pids).and_then(|root| number(root, "pids.current"));
        Some(Usage { cpu, memory_bytes: total.saturating_sub(idle), processes: processes? })
    }

    /// Ends what is left and removes the group; for a shim that was lost.
    pub(in crate::process) async fn clear(&self) {
        for root in &self.dirs {
            for _ in 0..SWEEPS {
                if clear(&root.dir) {
                    break;
                }
                tokio::time::sleep(SWEEP_PAUSE).await;
            }
        }
    }

    fn with(&self, controller: Controller) -> Option<&Root> {
        self.dirs.iter().find(|root| root.controllers.contains(&controller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain files in place of the kernel's: what is written where, and what is read.
    #[test]
    fn folders_of_dead_sidecars_go_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::create_dir_all(folder.path().join(name)).unwrap();
        let stays = ["daprd-7-0a0b0c0d", "daprd-x-0a0b0c0d", "local-8-0a0b0c0d", "daprd-9-0a0b0c0d"];
        ["daprd-8-0a0b0c0d/shop-1", "daprd-10-0a0b0c0d"].into_iter().chain(stays).for_each(make);
        // A control group that has processes cannot be removed; here a file stands for them.
        fs::write(folder.path().join("daprd-9-0a0b0c0d/process"), "").unwrap();
        remove_dead(folder.path(), |pid| pid == 7);
        let left =
            fs::read_dir(folder.path()).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.collect::<BTreeSet<_>>(), stays.map(str::to_owned).into());
        assert!(is_alive(getpid().as_raw()));
    }

    #[test]
    fn a_group_of_version_2() {
        let folder = tempfile::tempdir().unwrap();
        let controllers = BTreeSet::from([Controller::Memory, Controller::Cpu]);
        let root = Root { version: Version::V2, dir: folder.path().to_owned(), controllers };
        let groups = Groups { roots: vec![root].into() };
        let limits =
            Limits { memory: Some(1 << 20), cpu_millicores: Some(250), pids: Some(5), open_files: None };
        let (group, conditions) = groups.create("shop-1", &limits);
        assert_eq!(conditions, ["limits not enforced: pids"]);
        assert!(!group.pids_enforced());
        let dir = folder.path().join("shop-1");
        assert_eq!(group.dirs(), std::slice::from_ref(&dir));
        assert_eq!(fs::read_to_string(dir.join("memory.max")).unwrap(), "1048576");
        assert_eq!(fs::read_to_string(dir.join("cpu.max")).unwrap(), "25000 100000");
        assert_eq!(group.oom_events(), Some(dir.join("memory.events")));
        assert_eq!(group.usage(), None);
        let files = [
            ("memory.current", "9000\n"),
            ("memory.stat", "inactive_file 1000\n"),
            ("cpu.stat", "usage_usec 70\n"),
        ];
        files.iter().for_each(|(file, text)| fs::write(dir.join(file), text).unwrap());
        assert_eq!(group.usage(), None, "processes are not counted here, so all is taken from /proc");
        let with_pids = Root {
            controllers: BTreeSet::from([Controller::Memory, Controller::Pids]),
            ..group.dirs[0].clone()
        };
        fs::write(dir.join("pids.current"), "3\n").unwrap();
        let usage = Group { dirs: vec![with_pids], pids_enforced: true }.usage().unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_micros(70), memory_bytes: 8000, processes: 3 });
    }

    #[test]
    fn only_a_base_that_is_alone_steps_aside() {
        let folder = tempfile::tempdir().unwrap();
        let procs = folder.path().join("cgroup.procs");
        fs::write(&procs, format!("{}\n1\n", getpid())).unwrap();
        assert!(step_aside(folder.path()).is_err());
        assert!(!folder.path().join(LEAF).exists());
        fs::write(&procs, format!("{}\n", getpid())).unwrap();
        step_aside(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(LEAF).join("cgroup.procs")).unwrap(), "0");
    }
}
