//! The base's end of a shim: launching it, and the messages on its lease. Dropping a [`Link`] closes the
//! lease, upon which the shim ends everything. To hand an app over to another process it is enough to pass
//! on this socket and the two log pipes.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Error;
use crate::shim::wire::{self, Decoder, FromShim, Start, ToShim};

/// How long the shim may take to read a message; it does nothing long in between.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Room in each log pipe, so that the app need not wait for a base that is busy for a moment.
const PIPE_BYTES: i32 = 256 << 10;

/// A launched shim.
pub(super) struct Launched {
    pub child: Child,
    pub pid: i32,
    pub link: Link,
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
}

/// Starts a shim and sends it what to start.
pub(super) async fn launch(command: &[OsString], start: Start) -> Result<Launched, Error> {
    let (program, args) = command.split_first().ok_or(Error::NoShim)?;
    let channel = |what| move |source| Error::Channel { what, source };
    let (ours, theirs) = StdUnixStream::pair().map_err(channel("a socket"))?;
    ours.set_nonblocking(true).map_err(channel("a socket"))?;
    let socket = UnixStream::from_std(ours).map_err(channel("a socket"))?;
    let (stdout, out) = log_pipe().map_err(channel("a log pipe"))?;
    let (stderr, err) = log_pipe().map_err(channel("a log pipe"))?;
    let message =
        wire::encode(&ToShim::Start(Box::new(start))).map_err(|error| Error::Encode(error.to_string()))?;
    let shim = |source| Error::Shim { path: program.into(), source };
    // The environment of the base may hold secrets; a shim needs none.
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(shim)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let mut link = Link { socket, decoder: Decoder::default(), chunk: Vec::new() };
    link.write(&message).await.map_err(shim)?;
    Ok(Launched { child, pid, link, stdout, stderr })
}

fn log_pipe() -> io::Result<(pipe::Receiver, File)> {
    let (reader, writer) = io::pipe()?;
    // Best effort: a user may have used up what the kernel grants for large pipes.
    let _ = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, File::from(OwnedFd::from(writer))))
}

/// The lease.
pub(super) struct Link {
    socket: UnixStream,
    decoder: Decoder,
    chunk: Vec<u8>,
}

impl Link {
    /// The next message; nothing once the shim has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<FromShim> {
        loop {
            match self.decoder.next() {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "a shim sent a message that cannot be read; giving it up");
                    return None;
                }
            }
            self.chunk.clear();
            match self.socket.read_buf(&mut self.chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => self.decoder.push(&self.chunk),
            }
        }
    }

    /// Sends a message. A failure means that the shim is gone or hangs.
    pub(super) async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let bytes = wire::encode(message).map_err(io::Error::other)?;
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the shim does not read");
        timeout(WRITE_TIMEOUT, self.socket.write_all(bytes)).await.unwrap_or_else(|_| Err(late()))
    }
}
