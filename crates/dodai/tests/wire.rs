//! A client that writes and reads the bytes of HTTP/1.1 itself.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::project::DEADLINE;

/// One connection.
pub struct Wire {
    stream: TcpStream,
    seen: Vec<u8>,
}

/// An answer as it came: the head as text, the body without its coding.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

impl Wire {
    pub fn to(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire { stream, seen: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Writes as long as the other side lets us.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(got) => {
                self.seen.extend_from_slice(&buffer[..got]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.seen)),
        }
    }

    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.seen.len() < count {
            assert!(self.more(), "the end came after {:?}", String::from_utf8_lossy(&self.seen));
        }
        self.seen.drain(..count).collect()
    }

    /// Everything up to and with `end`.
    pub fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.seen.windows(end.len()).position(|window| window == end.as_bytes()) {
                return String::from_utf8(self.take(at + end.len())).expect("text");
            }
            assert!(self.more(), "the end came after {:?}", String::from_utf8_lossy(&self.seen));
        }
    }

    /// Everything until the other side ends.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.seen)
    }

    /// One chunk of a chunked body; `None` at its end, when the trailers are next.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.until("\r\n");
        let size =
            usize::from_str_radix(line.trim_end().split(';').next().unwrap_or(""), 16).expect("a size");
        if size == 0 {
            return None;
        }
        let piece = self.take(size);
        assert_eq!(self.take(2), b"\r\n");
        Some(piece)
    }

    /// An answer with the body that its head announces.
    pub fn answer(&mut self) -> Answer {
        let mut answer = Answer { head: self.until("\r\n\r\n"), body: Vec::new(), trailers: String::new() };
        if matches!(answer.status(), 204 | 304) {
            return answer;
        }
        if answer.header("transfer-encoding").is_some() {
            while let Some(piece) = self.chunk() {
                answer.body.extend(piece);
            }
            while let line = self.until("\r\n")
                && line != "\r\n"
            {
                answer.trailers.push_str(&line);
            }
        } else if let Some(length) = answer.header("content-length") {
            answer.body = self.take(length.parse().expect("a length"));
        } else {
            answer.body = self.rest();
        }
        answer
    }

    /// Sends a request and reads the answer.
    pub fn ask(&mut self, request: &str) -> Answer {
        self.send(request);
        self.answer()
    }
}

/// A request without a body.
pub fn request(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: plain.test\r\n{more}\r\n")
}

/// One call on a connection of its own.
pub fn get(port: u16, path: &str) -> Answer {
    Wire::to(port).ask(&request("GET", path, "Connection: close\r\n"))
}
