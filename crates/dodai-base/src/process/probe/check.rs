//! Asking a process once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Check, Probe};

/// Until a check is tried again that failed for want of file descriptors.
const OURS: Duration = Duration::from_millis(200);
/// The longest response head, interim ones included.
const MAX_HEAD: usize = 16 << 10;

/// A command to run beside the app, for the owner of the shim.
pub(in crate::process) struct ExecRequest {
    pub argv: Vec<String>,
    pub timeout: Duration,
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Does one check of a process.
pub(in crate::process) async fn ask(probe: Probe, exec: &mpsc::Sender<ExecRequest>) -> Result<(), String> {
    match probe.check {
        Check::HttpGet { address, path, host, headers } => {
            patiently(probe.timeout, || http_get(address, &path, host.as_deref(), &headers)).await
        }
        Check::TcpSocket { address } => patiently(probe.timeout, || tcp_socket(address)).await,
        // The shim holds the timeout, because it must also kill the command.
        Check::Exec { argv } => self::exec(argv, probe.timeout, exec).await,
    }
}

/// Why a check did not succeed.
enum Trouble {
    /// This process is out of file descriptors, which says nothing about the app.
    Ours,
    Theirs(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Trouble {
        Trouble::Theirs(reason)
    }
}

/// Checks within `limit`; while the trouble is ours, again and again without an answer.
async fn patiently<F: Future<Output = Result<(), Trouble>>>(
    limit: Duration,
    check: impl Fn() -> F,
) -> Result<(), String> {
    loop {
        match timeout(limit, check()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Trouble::Theirs(reason))) => return Err(reason),
            Ok(Err(Trouble::Ours)) => tokio::time::sleep(OURS).await,
            Err(_) => return Err(format!("no answer within {limit:?}")),
        }
    }
}

async fn tcp_socket(address: SocketAddr) -> Result<(), Trouble> {
    connect(address).await.map(drop)
}

async fn http_get(
    address: SocketAddr,
    path: &str,
    host: Option<&str>,
    headers: &[(String, String)],
) -> Result<(), Trouble> {
    let mut stream = connect(address).await?;
    let request = request(address, path, host, headers);
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write to {address}: {error}"))?;
    let status = read_status(&mut stream).await.map_err(|error| format!("read from {address}: {error}"))?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("GET {path} answered {status}").into()) }
}

/// Asks the owner of the shim to run a command.
async fn exec(
    argv: Vec<String>,
    timeout: Duration,
    requests: &mpsc::Sender<ExecRequest>,
) -> Result<(), String> {
    let (answer, result) = oneshot::channel();
    let gone = "the process is ending";
    requests.send(ExecRequest { argv, timeout, answer }).await.map_err(|_| gone)?;
    result.await.map_err(|_| gone)?
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Trouble> {
    TcpStream::connect(address).await.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => Trouble::Ours,
        Some(_) | None => Trouble::Theirs(format!("connect to {address}: {error}")),
    })
}

fn request(address: SocketAddr, path: &str, host: Option<&str>, headers: &[(String, String)]) -> String {
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, default) in [("User-Agent", "dodai-probe"), ("Accept", "*/*")] {
        if !headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)) {
            text.push_str(&format!("{name}: {default}\r\n"));
        }
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// The final status code; interim (1xx) responses are passed over.
async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut head = Vec::new();
    loop {
        if let Some(status) = parse_status(&head).map_err(io::Error::other)? {
            return Ok(status);
        }
        if head.len() >= MAX_HEAD {
            return Err(io::Error::other("a response head over 16 KiB"));
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::other("the connection closed before a response"));
        }
    }
}

/// The final status in these bytes; nothing while it has not arrived.
fn parse_status(mut head: &[u8]) -> Result<Option<u16>, &'static str> {
    const NOT_HTTP: &str = "the answer is not HTTP/1";
    loop {
        let prefix = b"HTTP/1.";
        let known = head.len().min(prefix.len());
        if head[..known] != prefix[..known] {
            return Err(NOT_HTTP);
        }
        let Some(end) = head.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        // "HTTP/1.1 200" and then a space or the end of the line.
        let status = match &head[prefix.len()..end] {
            [b'0' | b'1', b' ', a, b, c] | [b'0' | b'1', b' ', a, b, c, b' ', ..] => {
                let digits = [*a, *b, *c];
                if !digits.iter().all(u8::is_ascii_digit) {
                    return Err(NOT_HTTP);
                }
                digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'))
            }
            _ => return Err(NOT_HTTP),
        };
        if status < 100 {
            return Err(NOT_HTTP);
        }
        if status >= 200 || status == 101 {
            return Ok(Some(status));
        }
        let Some(blank) = head.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        head = &head[blank + 4..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_want_of_descriptors_is_not_the_fault_of_the_app() {
        let asked = std::cell::Cell::new(0);
        let check = || {
            asked.set(asked.get() + 1);
            std::future::ready(if asked.get() < 50 {
                Err(Trouble::Ours)
            } else {
                Err("no".to_owned().into())
            })
        };
        assert_eq!(patiently(Duration::from_secs(1), check).await, Err("no".to_owned()));
        assert_eq!(asked.get(), 50, "longer than its timeout");
        let never = || std::future::pending::<Result<(), Trouble>>();
        assert_eq!(patiently(Duration::from_secs(1), never).await, Err("no answer within 1s".to_owned()));
    }

    #[test]
    fn status_lines() {
        #[track_caller]
        fn check(head: &str, expect: Option<u16>) {
            assert_eq!(parse_status(head.as_bytes()), Ok(expect), "{head:?}");
        }
        check("", None);
        check("HTTP/1.1 20", None);
        check("HTTP/1.1 200", None);
        check("HTTP/1.1 200\r\n", Some(200));
        check("HTTP/1.0 404 Not Found\r\n", Some(404));
        check("HTTP/1.1 503 \r\nX: y\r\n", Some(503));
        check("HTTP/1.1 103 Early Hints\r\nLink: x\r\n", None);
        check("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n", Some(200));
        check("HTTP/1.1 101 Switching\r\n", Some(101));
    }

    #[test]
    fn what_is_not_http_is_refused_early() {
        for head in [
            "SSH-2.0\r\n",
            "HTTP/2 200\r\n",
            "HTTP/1.1 2x0 OK\r\n",
            "HTTP/1.1 2000\r\n",
            "HTTP/1.1  200\r\n",
            "x",
        ] {
            assert!(parse_status(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn own_headers_replace_the_defaults() {
        let headers = [("user-agent".to_owned(), "mine".to_owned())];
        let text = request(([127, 0, 0, 1], 80).into(), "/x", Some("shop"), &headers);
        assert!(text.starts_with("GET /x HTTP/1.1\r\nHost: shop\r\n"), "{text}");
        assert!(text.contains("user-agent: mine\r\n") && !text.contains("dodai-probe"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }
}
