use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use dodai_core::failure::Kind;
use dodai_transport::listen::{self, BindError, Holder, Options};
use dodai_transport::network::{Listener, Network};
use dodai_transport::origin::{original_destination, peer_uid};

use crate::world::{SECOND, World, app, echo, name};

/// Not a test of its own: another process that listens, run by the test below.
#[test]
#[ignore = "run as a child process by a_port_taken_by_another_process_names_it"]
fn child_that_holds_a_port() {
    let socket = listen::bind(([127, 0, 0, 1], 0).into(), &Options::default()).expect("bind");
    println!("\nlistening {}", socket.local_addr().expect("addr"));
    std::io::stdout().flush().expect("flush");
    // Until the parent goes away.
    let _ = std::io::stdin().read(&mut [0; 1]);
}

#[test]
fn a_port_taken_by_another_process_names_it() {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "sockets::child_that_holds_a_port", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let addr: SocketAddr = output
        .by_ref()
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening ")?.parse().ok())
        .expect("the child says where it listens");
    let error = listen::bind(addr, &Options::named("admin.port")).expect_err("taken");
    let BindError::Taken { holder: Holder::Process { pid, name }, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*pid, child.id());
    let expect = format!(
        "port {} is taken by pid {pid} ({name}); stop it or choose another port in admin.port",
        addr.port()
    );
    assert_eq!(error.to_string(), expect);
    assert!(!name.is_empty());
    drop(child.stdin.take());
    std::io::copy(&mut output, &mut std::io::sink()).expect("read to its end");
    assert!(child.wait().expect("ended").success());
    listen::bind(addr, &Options::default()).expect("free again");
}

async fn listener(addr: &str) -> (Listener, SocketAddr) {
    let listener = Network::system().listen(addr.parse().expect("addr"), &Options::default());
    let listener = listener.expect("listening");
    let addr = listener.local_addr().expect("addr");
    (listener, addr)
}

#[tokio::test]
async fn the_user_at_the_far_end_is_known_while_it_holds_its_socket() {
    let own = std::fs::metadata("/proc/self").expect("proc").uid();
    for ip in ["127.0.0.1:0", "[::1]:0"] {
        let (mut listener, addr) = listener(ip).await;
        let dialled = TcpStream::connect(addr).expect("connect");
        let (accepted, peer) = listener.accept().await.expect("accepted");
        let local = accepted.local_addr().expect("addr");
        assert_eq!(peer_uid(local, peer), Some(own), "{ip}");
        assert_eq!(peer_uid(peer, local), Some(own), "our own end, seen from there");
        // A socket that nobody holds any more must not be taken for root's.
        drop(dialled);
        assert_eq!(peer_uid(local, peer), None, "{ip}");
        // A port that only listens is no connection.
        assert_eq!(peer_uid(([127, 0, 0, 1], 9).into(), addr), None, "{ip}");
    }
}

#[tokio::test]
async fn a_connection_that_was_not_redirected_has_no_other_destination() {
    let (mut listener, addr) = listener("127.0.0.1:0").await;
    let _dialled = TcpStream::connect(addr).expect("connect");
    let (accepted, _) = listener.accept().await.expect("accepted");
    let tcp = accepted.as_tcp().expect("plain");
    assert_eq!(original_destination(tcp), None);
    assert!(tcp.nodelay().expect("option"));
}

#[tokio::test]
async fn names_are_looked_up_and_refusals_name_the_address() {
    let network = Network::system();
    let (mut listener, addr) = listener("127.0.0.1:0").await;
    let stream = network.connect("localhost", addr.port(), 5 * SECOND).await.expect("connected");
    assert!(stream.as_tcp().expect("plain").nodelay().expect("option"));
    listener.accept().await.expect("accepted");
    drop(listener);
    let failure = network.connect_addr(addr, 5 * SECOND).await.expect_err("nobody listens");
    assert_eq!(failure.kind, Kind::Connect);
    assert_eq!(failure.detail, format!("connection refused by {addr}"));
    let failure = network.connect("no-such-host.invalid", 1, 5 * SECOND).await.expect_err("no name");
    assert!(failure.detail.starts_with("no address for host `no-such-host.invalid`"), "{failure}");
}

#[tokio::test]
async fn a_handshake_over_real_sockets_passes_bytes() {
    let world = World::new();
    let cart = app("shop/cart");
    let (connector, acceptor) = (world.connector(&app("shop/web")), world.acceptor(&cart));
    let (mut listener, addr) = listener("127.0.0.1:0").await;
    let near = async {
        let plain = Network::system().connect_addr(addr, 5 * SECOND).await.expect("connected");
        connector.connect(plain, name("cart"), std::slice::from_ref(&cart)).await.expect("near")
    };
    let far = async {
        let (plain, _) = listener.accept().await.expect("accepted");
        acceptor.accept(plain).await.expect("far")
    };
    let (mut near, mut far) = tokio::join!(near, far);
    echo(&mut near, &mut far).await.expect("bytes pass");
    assert_eq!(near.peer_addr().expect("addr"), addr);
}

#[tokio::test]
async fn every_socket_of_a_set_accepts() {
    let set = listen::bind_set(([127, 0, 0, 1], 0).into(), 2, &Options::default()).expect("set");
    let addr = set[0].local_addr().expect("addr");
    let mut listeners = set.into_iter().map(|socket| Listener::from_std(socket).expect("listener"));
    let (mut a, mut b) = (listeners.next().expect("one"), listeners.next().expect("two"));
    // The kernel spreads connections by a hash of their addresses: some of many go to either.
    let mut seen = [0, 0];
    let mut open = Vec::new();
    while seen.contains(&0) {
        assert!(open.len() < 200, "all connections went to one socket: {seen:?}");
        open.push(TcpStream::connect(addr).expect("connect"));
        // Each branch is an accept, which loses nothing when it is cancelled.
        tokio::select! {
            accepted = a.accept() => { accepted.expect("accepted"); seen[0] += 1; }
            accepted = b.accept() => { accepted.expect("accepted"); seen[1] += 1; }
        }
    }
}
