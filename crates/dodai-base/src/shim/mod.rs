//! The shim: a tiny process between the base and each app process, so that nothing an app starts outlives
//! its base. The binary calls [`run`] first thing for its hidden subcommand; the base talks to it over a
//! socket on descriptor 0, the *lease*. When the far end of the lease closes, however the base died, the
//! shim ends everything below it. Always holds: single threaded, no runtime, no network. As root it puts
//! the app into its own PID namespace, so that the kernel ends the tree even when the shim is killed;
//! otherwise it is a child subreaper and ends only once it has no descendant left. Rejected: PDEATHSIG on
//! the app alone, which fires when a thread ends and misses grandchildren.

mod child;
mod keep;
pub(crate) mod tree;
pub(crate) mod wire;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, geteuid, getpid, setsid};

use keep::{Keeper, Scope};
use wire::{Decoder, FromShim, Start, ToShim};

/// Exit code of a shim that could not do its work.
const EXIT_BROKEN: i32 = 125;
/// How far the shim is kept from the kernel's out-of-memory killer (root only).
const OOM_SCORE: i32 = -900;

/// Runs the shim and never returns. Call it before any thread is started, with the lease (one end of a
/// stream socket pair) on descriptor 0 and the app's log pipes on 1 and 2.
pub fn run() -> ! {
    std::process::exit(match serve() {
        Ok(code) => code,
        Err(reason) => {
            eprintln!("dodai shim: {reason}");
            EXIT_BROKEN
        }
    })
}

fn serve() -> Result<i32, String> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(format!("it must be called before any thread is started, but {threads} threads run"));
    }
    // Fails only when it leads a session already, which is just as well.
    let _ = setsid();
    // The mask outlives fork; each child lifts it again before it executes its program.
    block_signals().map_err(|e| format!("block signals: {e}"))?;
    let mut lease = take_lease()?;
    let mut decoder = Decoder::default();
    let Some(start) = first_message(&mut lease, &mut decoder)? else { return Ok(0) };
    if start.version != wire::VERSION {
        let reason = format!("the base speaks lease version {}, this shim {}", start.version, wire::VERSION);
        return refuse(&mut lease, reason);
    }
    // Nobody of the same user may read the app's secrets from the shim's memory.
    let _ = prctl::set_dumpable(false);
    let oom_score = shelter_from_oom();
    let isolated = start.isolate && geteuid().is_root() && unshare(CloneFlags::CLONE_NEWPID).is_ok();
    if isolated {
        in_namespace(lease, decoder, start, oom_score)
    } else {
        in_subtree(lease, decoder, start, oom_score)
    }
}

/// Root: the forked child is process 1 of a new PID namespace and keeps the app; this process only waits
/// for it, so that the base has a child to wait for.
fn in_namespace(
    lease: UnixStream,
    decoder: Decoder,
    start: Start,
    oom_score: Option<i32>,
) -> Result<i32, String> {
    let outer = getpid();
    match child::fork().map_err(|e| format!("fork: {e}"))? {
        ForkResult::Parent { child: init } => {
            drop((lease, decoder, start));
            let _ = detach_stdio();
            Ok(await_init(init))
        }
        ForkResult::Child => {
            // With one thread in the parent this means "when the outer shim dies". It reaches process 1,
            // and with process 1 the kernel ends the whole namespace.
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
            private_proc();
            // Process ids of a namespace start at 1, and apps use them in file names and ids. Start from
            // the outer id, so that two apps which share a directory differ.
            let _ = std::fs::write("/proc/sys/kernel/ns_last_pid", outer.as_raw().to_string());
            keep(Scope::Namespace, lease, decoder, start, oom_score)
        }
    }
}

fn in_subtree(
    lease: UnixStream,
    decoder: Decoder,
    start: Start,
    oom_score: Option<i32>,
) -> Result<i32, String> {
    prctl::set_child_subreaper(true).map_err(|e| format!("become the reaper of descendants: {e}"))?;
    keep(Scope::Subtree, lease, decoder, start, oom_score)
}

fn keep(
    scope: Scope,
    mut lease: UnixStream,
    decoder: Decoder,
    start: Start,
    oom_score: Option<i32>,
) -> Result<i32, String> {
    match child::spawn(&start.program, child::Output::Inherit, oom_score) {
        Ok(main) => {
            // From here on the log pipes belong to the app alone: their end means its end.
            detach_stdio().map_err(|e| format!("detach from the log pipes: {e}"))?;
            let _ = std::env::set_current_dir("/");
            let keeper = Keeper::new(scope, lease, decoder, start, main, oom_score);
            keeper.run().map(|()| 0).map_err(|e| format!("keep the process: {e}"))
        }
        Err(reason) => {
            keep::remove_groups(&start.program.cgroups);
            refuse(&mut lease, reason)
        }
    }
}

fn refuse(lease: &mut UnixStream, reason: String) -> Result<i32, String> {
    wire::send(lease, &FromShim::Refused { reason }).map_err(|e| format!("answer the base: {e}"))?;
    Ok(EXIT_BROKEN)
}

/// Duplicates descriptor 0 to a close-on-exec one, and points 0 at nothing.
fn take_lease() -> Result<UnixStream, String> {
    let lease: OwnedFd =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| format!("duplicate the lease: {e}"))?;
    let null = std::fs::File::open("/dev/null").map_err(|e| format!("open /dev/null: {e}"))?;
    dup2_stdin(&null).map_err(|e| format!("detach from the lease: {e}"))?;
    Ok(UnixStream::from(lease))
}

/// The first message; nothing if the base went away before it sent one.
fn first_message(lease: &mut UnixStream, decoder: &mut Decoder) -> Result<Option<Start>, String> {
    let mut chunk = [0; 4096];
    loop {
        match decoder.next::<ToShim>() {
            Ok(Some(ToShim::Start(start))) => return Ok(Some(*start)),
            Ok(Some(_)) => return Err("the lease did not begin with a start message".into()),
            Ok(None) => {}
            Err(error) => return Err(format!("read the start message: {error}")),
        }
        match lease.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(n) => decoder.push(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(format!(
                    "read the lease on descriptor 0 (only the base calls `dodai shim`): {error}"
                ));
            }
        }
    }
}

/// The shim ends by its lease only: a terminal's or an operator's signal to every `dodai` process must
/// leave the app alive while the base drains.
fn block_signals() -> nix::Result<()> {
    let mut set = SigSet::all();
    // A fault in the shim itself must still end it.
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT] {
        set.remove(fault);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)
}

fn detach_stdio() -> nix::Result<()> {
    let null = nix::fcntl::open(
        "/dev/null",
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

/// Lowers the shim's own score where that is allowed; returns the score that children get back.
fn shelter_from_oom() -> Option<i32> {
    let path = "/proc/self/oom_score_adj";
    let before: i32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    std::fs::write(path, before.min(OOM_SCORE).to_string()).ok()?;
    Some(before)
}

/// Gives the new PID namespace its own view of `/proc`. Best effort: some containers forbid the mount, and
/// then the app sees the `/proc` of the base.
fn private_proc() {
    let none: Option<&str> = None;
    if unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return;
    }
    // Mounts made later on the host still arrive here, ours never go back.
    if mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).is_err() {
        return;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("proc"), "/proc", Some("proc"), flags, none);
}

fn await_init(init: Pid) -> i32 {
    loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(..)) | Err(nix::Error::ECHILD) => return EXIT_BROKEN,
            Ok(_) | Err(_) => {}
        }
    }
}
