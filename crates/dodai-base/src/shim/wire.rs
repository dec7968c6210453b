//! Messages on the lease between a base and a shim: a length (u32, little endian) and that many bytes of
//! JSON. A shim lives as long as its app and may meet a newer base after a hand-over: fields are only
//! added, with defaults, and anything else raises [`VERSION`].

use std::io::Write;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of these messages.
pub(crate) const VERSION: u32 = 1;
/// The longest message; above the kernel's limit for arguments and environment together.
pub(crate) const MAX_FRAME: usize = 4 << 20;

/// A program to execute. It carries secrets, so it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Where to start it.
    pub cwd: Option<PathBuf>,
    /// Whom to become.
    pub identity: Option<Identity>,
    /// Hard and soft limits.
    pub rlimits: Rlimits,
    /// Control group directories to join.
    pub cgroups: Vec<PathBuf>,
}

/// The user and groups of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// The resource limits that hold without control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimits {
    pub open_files: Option<u64>,
    pub processes: Option<u64>,
}

/// What to start and how to end it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub version: u32,
    pub program: Program,
    /// Use a PID namespace where permitted.
    pub isolate: bool,
    /// From SIGTERM to SIGKILL when the lease is lost.
    pub lease_grace_ms: u64,
    /// From SIGTERM to SIGKILL for what is left after the main process ended by itself.
    pub leftover_grace_ms: u64,
    /// The control group file that counts out-of-memory kills.
    pub oom_events: Option<PathBuf>,
}

/// From the base.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToShim {
    /// The first message.
    Start(Box<Start>),
    /// Signal the main process; kill everything after the grace.
    Stop { signal: i32, grace_ms: u64 },
    /// Kill everything now.
    Kill,
    /// Run a command beside the app (an exec probe); answered by [`FromShim::Ran`].
    Run { id: u64, program: Program, timeout_ms: u64 },
}

/// To the base. The end of the stream means that nothing of the app is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromShim {
    /// The program runs. With `isolated` the id is the one inside its namespace.
    Started { pid: i32, isolated: bool },
    /// The program could not be started.
    Refused { reason: String },
    /// The main process ended; what it left behind is being ended.
    Exited { code: Option<i32>, signal: Option<i32>, oom: bool },
    /// A command ended.
    Ran { id: u64, outcome: Ran },
    /// These processes (ids as the shim sees them) are still there seconds after SIGKILL.
    Stuck { pids: Vec<i32> },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ran {
    Exited { code: i32 },
    Signaled { signal: i32 },
    TimedOut,
    Refused { reason: String },
}

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a message of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLong(usize),
    #[error("malformed message")]
    Malformed(#[from] serde_json::Error),
}

/// The bytes of one message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameError::TooLong(length))?;
    bytes[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(bytes)
}

/// Writes one message; blocks.
pub(crate) fn send<T: Serialize>(to: &mut impl Write, message: &T) -> std::io::Result<()> {
    to.write_all(&encode(message).map_err(std::io::Error::other)?)
}

/// Cuts a byte stream into messages.
#[derive(Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one. After an error the stream is of no more use.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.buffer.drain(..4 + length);
        self.buffer.shrink_to(4096);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let sent = [
            FromShim::Started { pid: 7, isolated: true },
            FromShim::Exited { code: None, signal: Some(9), oom: true },
            FromShim::Ran { id: 3, outcome: Ran::TimedOut },
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(|m| encode(m).unwrap()).collect();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.push(chunk);
                while let Some(message) = decoder.next::<FromShim>().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, sent, "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_is_as_long_as_allowed_and_no_longer() {
        // As JSON it has two quotes.
        assert_eq!(encode(&"x".repeat(MAX_FRAME - 2)).unwrap().len(), 4 + MAX_FRAME);
        let error = encode(&"x".repeat(MAX_FRAME - 1)).unwrap_err();
        assert_eq!(error.to_string(), "a message of 4194305 bytes is over the limit of 4194304");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_buffered() {
        let next = |length: usize| {
            let mut decoder = Decoder::default();
            decoder.push(&u32::try_from(length).unwrap().to_le_bytes());
            decoder.next::<FromShim>()
        };
        assert!(matches!(next(MAX_FRAME), Ok(None)));
        assert!(matches!(next(MAX_FRAME + 1), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn garbage_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&3_u32.to_le_bytes());
        decoder.push(b"{]}");
        assert!(matches!(decoder.next::<FromShim>(), Err(FrameError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_refused_however_they_are_cut(
            texts in vec(vec(any::<u8>(), 0..60), 0..4),
            rest in vec(any::<u8>(), 0..12),
            step in 1_usize..20,
        ) {
            let frame = |text: &Vec<u8>| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text].concat();
            let bytes = [texts.iter().flat_map(frame).collect(), rest].concat();
            let read = |step: usize| {
                let (mut decoder, mut seen) = (Decoder::default(), 0);
                for piece in bytes.chunks(step) {
                    decoder.push(piece);
                    loop {
                        match decoder.next::<serde_json::Value>() {
                            Ok(Some(_)) => seen += 1,
                            Ok(None) => break,
                            Err(error) => return (seen, Some(error.to_string())),
                        }
                    }
                }
                (seen, None)
            };
            prop_assert_eq!(read(step), read(usize::MAX));
        }

        #[test]
        fn what_a_process_is_started_with_arrives_as_it_was(
            argv in vec(any::<String>(), 0..4),
            env in vec((any::<String>(), any::<String>()), 0..4),
        ) {
            let identity = Some(Identity { uid: 1, gid: 2, groups: vec![3] });
            let (cwd, rlimits, cgroups) = (Some("/tmp".into()), Rlimits::default(), Vec::new());
            let program = Program { argv, env, cwd, identity, rlimits, cgroups };
            let bytes = encode(&ToShim::Run { id: 7, program, timeout_ms: 9 }).unwrap();
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            let again = decoder.next::<ToShim>().unwrap().expect("it is whole");
            prop_assert!(encode(&again).unwrap() == bytes);
        }
    }
}
