//! From fork to exec: the only file here with `unsafe`. The shim has one thread, so the child may
//! allocate and use the standard library between the two. A failure in the child travels to the parent as
//! text over a pipe that exec closes.
#![expect(unsafe_code, reason = "fork, signal dispositions and close_range have no safe form")]

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdout, execve, getppid, setgid, setgroups, setsid,
    setuid,
};

use super::wire::Program;

/// Where a child looks for its program when its environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a child's output goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// To the shim's own descriptors 1 and 2.
    Inherit,
    /// Nowhere.
    Discard,
}

/// Forks this single-threaded process.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the shim refuses to run with more than one thread and starts none, so the child finds every
    // lock and the allocator in a consistent state.
    unsafe { nix::unistd::fork() }
}

/// An ended child: an exit code or the signal that killed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub pid: Pid,
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

/// Collects one ended child without waiting. `Ok(None)` while all live; `ECHILD` when there is none. Not
/// nix's `waitpid`, which takes an exit by a real-time signal for an error.
pub(super) fn reap() -> nix::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: writes one integer that lives on this stack.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    Ok((pid > 0).then_some(Ended { pid: Pid::from_raw(pid), code, signal }))
}

/// Starts a program in a new session; returns once it executes, or with the reason why it does not.
pub(super) fn spawn(program: &Program, output: Output, oom_score: Option<i32>) -> Result<Pid, String> {
    let (mut reader, mut writer) = io::pipe().map_err(|e| format!("open a pipe: {e}"))?;
    let parent = nix::unistd::getpid();
    match fork().map_err(|e| format!("fork: {e}; too many processes?"))? {
        ForkResult::Child => {
            drop(reader);
            let reason = become_program(program, output, oom_score, parent);
            let _ = writer.write_all(reason.as_bytes());
            // SAFETY: ends this process without running destructors or handlers that belong to the parent.
            unsafe { libc::_exit(126) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut reason = String::new();
            let read = reader.read_to_string(&mut reason);
            if read.is_ok() && reason.is_empty() {
                return Ok(child);
            }
            let _ = nix::sys::wait::waitpid(child, None);
            Err(if reason.is_empty() { "the child gave no reason".into() } else { reason })
        }
    }
}

/// Turns this process into the program. Returns only the reason why that failed.
fn become_program(program: &Program, output: Output, oom_score: Option<i32>, parent: Pid) -> String {
    match prepare(program, output, oom_score, parent) {
        Ok(()) => execute(program),
        Err(reason) => reason,
    }
}

fn prepare(program: &Program, output: Output, oom_score: Option<i32>, parent: Pid) -> Result<(), String> {
    // Always the first thing a fork does, so it leads no group yet and this cannot fail.
    let _ = setsid();
    if output == Output::Discard {
        let null =
            fs::File::options().write(true).open("/dev/null").map_err(|e| format!("open /dev/null: {e}"))?;
        dup2_stdout(&null).and_then(|()| dup2_stderr(&null)).map_err(|e| format!("discard output: {e}"))?;
    }
    for group in &program.cgroups {
        let procs = group.join("cgroup.procs");
        fs::write(&procs, "0").map_err(|e| format!("enter control group {}: {e}", procs.display()))?;
    }
    if let Some(score) = oom_score {
        let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    limit(Resource::RLIMIT_NOFILE, program.rlimits.open_files, "open files")?;
    limit(Resource::RLIMIT_NPROC, program.rlimits.processes, "processes")?;
    become_user(program)?;
    if let Some(cwd) = &program.cwd {
        chdir(cwd).map_err(|e| format!("enter directory {}: {}", cwd.display(), e.desc()))?;
    }
    umask(Mode::from_bits_truncate(0o022));
    // After the change of user, which would clear it. The shim has one thread, so this means its death.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid() != parent {
        return Err("the shim died".into());
    }
    reset_signals();
    close_on_exec_from(3);
    Ok(())
}

fn limit(resource: Resource, value: Option<u64>, what: &str) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    setrlimit(resource, value, value).map_err(|e| {
        let hard = getrlimit(resource).map_or(0, |(_, hard)| hard);
        format!("limit {what} to {value}: {} (the hard limit here is {hard})", e.desc())
    })
}

fn become_user(program: &Program) -> Result<(), String> {
    let Some(identity) = &program.identity else { return Ok(()) };
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)
        .and_then(|()| setgid(Gid::from_raw(identity.gid)))
        .and_then(|()| setuid(Uid::from_raw(identity.uid)))
        .map_err(|e| format!("become user {} of group {}: {}", identity.uid, identity.gid, e.desc()))
}

/// A new program keeps ignored signals and the mask of the old one; an app expects neither.
fn reset_signals() {
    for number in Signal::iterator() {
        if number != Signal::SIGKILL && number != Signal::SIGSTOP {
            // SAFETY: the default disposition runs no code of ours.
            let _ = unsafe { signal(number, SigHandler::SigDfl) };
        }
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Ours are close-on-exec already; this is for those the base itself was born with. Linux 5.11 and later,
/// a no-op before.
fn close_on_exec_from(first: libc::c_uint) {
    // SAFETY: sets a flag on descriptors; none is closed in this process.
    let _ =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn execute(program: &Program) -> String {
    let Some(name) = program.argv.first() else { return "the command is empty".into() };
    let argv: Result<Vec<CString>, _> = program.argv.iter().map(|word| CString::new(word.as_str())).collect();
    let env: Result<Vec<CString>, _> =
        program.env.iter().map(|(k, v)| CString::new(format!("{k}={v}"))).collect();
    let (Ok(argv), Ok(env)) = (argv, env) else {
        return "the command or its environment has a zero byte".into();
    };
    let mut refused = None;
    for path in candidates(name, program) {
        let Ok(file) = CString::new(path.as_str()) else { continue };
        let Err(error) = execve(&file, &argv, &env);
        if error == Errno::EACCES {
            refused = Some((path, error));
        } else if error != Errno::ENOENT && error != Errno::ENOTDIR {
            return explain(&path, error);
        }
    }
    match refused {
        Some((path, error)) => explain(&path, error),
        None if name.contains('/') && Path::new(name).exists() => {
            format!("execute {name}: the interpreter it names does not exist")
        }
        None if name.contains('/') => format!("execute {name}: no such file"),
        None => format!("execute {name}: not found in PATH ({})", search_path(program)),
    }
}

fn explain(path: &str, error: Errno) -> String {
    let remedies = [
        (Errno::EACCES, "; make it executable and readable for its user"),
        (Errno::ENOEXEC, "; it is neither a binary for this machine nor a script with a #! line"),
        (Errno::E2BIG, "; arguments and environment are too long"),
    ];
    let remedy = remedies.iter().find(|(of, _)| *of == error).map_or("", |(_, remedy)| *remedy);
    format!("execute {path}: {}{remedy}", error.desc())
}

fn search_path(program: &Program) -> &str {
    program.env.iter().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, value)| value)
}

fn candidates(name: &str, program: &Program) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let folder =
        |folder: &str| if folder.is_empty() { format!("./{name}") } else { format!("{folder}/{name}") };
    search_path(program).split(':').map(folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::wire::Rlimits;

    fn program(env: &[(&str, &str)]) -> Program {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Program { argv: vec![], env, cwd: None, identity: None, rlimits: Rlimits::default(), cgroups: vec![] }
    }

    #[test]
    fn where_a_program_is_looked_for() {
        let path = program(&[("PATH", "/a::/b")]);
        assert_eq!(candidates("x", &path), ["/a/x", "./x", "/b/x"]);
        assert_eq!(candidates("./x", &path), ["./x"]);
        assert_eq!(candidates("sh", &program(&[])).last().map(String::as_str), Some("/bin/sh"));
    }
}
