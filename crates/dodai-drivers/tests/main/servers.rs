//! Real servers, started for a test on a free port with their data in a folder of its own; they end with the test.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A port that nobody has now.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("bound").port()
}

/// A `redis-server` that keeps what it acknowledged.
pub struct Redis {
    process: Option<Child>,
    folder: tempfile::TempDir,
    pub port: u16,
    more: Vec<String>,
}

impl Redis {
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// With more of its options.
    pub fn with(more: &[&str]) -> Redis {
        let more = more.iter().map(|text| (*text).to_owned()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let mut redis = Redis { process: None, folder, port: free_port(), more };
        redis.up();
        redis
    }

    /// Starts it again on what it kept.
    pub fn up(&mut self) {
        let mut process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"])
            .args(["--dir".as_ref(), self.folder.path().as_os_str()])
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
            .args(&self.more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server runs (Debian package redis-server)");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        self.process = Some(process);
    }

    /// Kills it.
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it has ended");
        }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection for looking behind the driver.
    pub fn admin(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("an address");
        client.get_connection().expect("connected")
    }

    /// Cuts every connection but the one that asks.
    pub fn cut(&self) {
        let kill = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).to_owned();
        kill.exec(&mut self.admin()).expect("cut");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.down();
    }
}
