//! Real servers, started for a test on a free port with their data in a folder of its own; they end with the test.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A port that nobody has now. It is below those that connections are given, so a server that is down for a while finds
/// it free again.
pub fn free_port() -> u16 {
    const FIRST: u16 = 19_000;
    const COUNT: u16 = 9_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).expect("less than that");
    let next = || FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let mut candidates = std::iter::repeat_with(next).take(COUNT.into());
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    candidates.find(is_free).expect("a free port")
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

/// A PostgreSQL whose user is `dodai` with the password `open sesame`.
pub struct Postgres {
    process: Option<Child>,
    folder: tempfile::TempDir,
    pub port: u16,
}

/// Where Debian keeps the newest server.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL (Debian package postgresql)");
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let all = versions.filter_map(|entry| Some(entry.ok()?.path()));
    all.max_by_key(number).expect("a version of PostgreSQL").join("bin")
}

/// It does not run as root; Debian's package brings a user for it.
fn as_its_user(command: &mut Command, folder: &Path) {
    let id = |what: &str, of: &[&str]| -> Option<u32> {
        let out = Command::new("id").arg(what).args(of).output().ok()?.stdout;
        std::str::from_utf8(&out).ok()?.trim().parse().ok()
    };
    if id("-u", &[]) != Some(0) {
        return;
    }
    let user = id("-u", &["postgres"]).expect("the user `postgres` of Debian's package");
    let group = id("-g", &["postgres"]).expect("its group");
    std::os::unix::fs::chown(folder, Some(user), Some(group)).expect("its folder");
    command.uid(user).gid(group);
}

impl Postgres {
    pub fn start() -> Postgres {
        let folder = tempfile::tempdir().expect("a folder");
        let mut init = Command::new(programs().join("initdb"));
        as_its_user(&mut init, folder.path());
        std::fs::write(folder.path().join("password"), "open sesame").expect("written");
        let made = init
            .args([
                "--username",
                "dodai",
                "--auth",
                "scram-sha-256",
                "--no-sync",
                "--encoding",
                "UTF8",
                "--locale",
                "C",
            ])
            .args(["--pwfile".as_ref(), folder.path().join("password").as_os_str()])
            .args(["-D".as_ref(), folder.path().join("data").as_os_str()])
            .current_dir(folder.path())
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Postgres { process: None, folder, port: free_port() };
        postgres.up(&[]);
        postgres
    }

    /// Starts it again on what it kept, with more of its options.
    pub fn up(&mut self, more: &[&str]) {
        let mut command = Command::new(programs().join("postgres"));
        as_its_user(&mut command, self.folder.path());
        let mut process = command
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=40"])
            .args(more)
            .args(["-D".as_ref(), self.folder.path().join("data").as_os_str()])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("postgres runs");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let ready = lines.any(|line| {
            said.push(line);
            said.last().is_some_and(|line| line.contains("database system is ready to accept connections"))
        });
        assert!(ready, "postgres ended before it was ready: {said:#?}");
        // It goes on writing to its log.
        std::thread::spawn(move || lines.for_each(drop));
        self.process = Some(process);
    }

    /// Kills it: the first process with what it started, as a loss of power would.
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.id().to_string();
            let children = Command::new("pgrep").args(["-P", &pid]).output().expect("pgrep runs").stdout;
            process.kill().expect("it can be killed");
            process.wait().expect("it has ended");
            let children = String::from_utf8(children).expect("numbers");
            let ids: Vec<&str> = children.split_whitespace().collect();
            // They end by themselves once the first is gone; some may have done so.
            Command::new("kill").arg("-9").args(&ids).stderr(Stdio::null()).status().expect("kill runs");
            // While one is there the next server does not start: it holds the same memory.
            let end = Instant::now() + Duration::from_secs(30);
            for id in ids {
                let stat = format!("/proc/{id}/stat");
                while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                    assert!(Instant::now() < end, "process {id} of postgres does not end");
                    std::thread::yield_now();
                }
            }
        }
    }

    pub fn url(&self) -> String {
        format!("postgresql://dodai:open%20sesame@127.0.0.1:{}/postgres", self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection for looking behind the driver.
    pub async fn admin(&self) -> tokio_postgres::Client {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected");
        let mut config = tokio_postgres::Config::new();
        config.user("dodai").password("open sesame").dbname("postgres");
        let (client, connection) = config.connect_raw(stream, tokio_postgres::NoTls).await.expect("greeted");
        let tasks = dodai_core::task::Tasks::new();
        tasks.spawn(dodai_core::task::Kind::Loop, async move {
            let _ended = connection.await;
        });
        client
    }

    /// Cuts every connection but the one that asks.
    pub async fn cut(&self) {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'dodai'";
        self.admin().await.batch_execute(cut).await.expect("cut");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.down();
    }
}
