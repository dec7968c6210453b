use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use dodai_core::failure::Kind;
use dodai_transport::listen::{self, BindError, Holder, Options};
use dodai_transport::network::{Listener, Network};
use dodai_transport::origin::{original_destination, peer_uid};
use tokio::io::AsyncReadExt as _;

use crate::world::{SECOND, World, app, echo, name};

#[test]
fn a_port_taken_by_another_process_names_it() {
    let socket = listen::bind(([127, 0, 0, 1], 0).into(), &Options::default()).expect("bind");
    let addr = socket.local_addr().expect("addr");
    // The child inherits the socket as its standard input, and is the only one that holds it then.
    let mut child =
        Command::new("sleep").arg("60").stdin(OwnedFd::from(socket)).spawn().expect("the child starts");
    let error = listen::bind(addr, &Options::named("admin.port")).expect_err("taken");
    let (pid, port) = (child.id(), addr.port());
    child.kill().expect("killed");
    child.wait().expect("gone");
    let BindError::Taken { holder, .. } = &error else { panic!("{error}") };
    assert_eq!(holder, &Holder::Process { pid, name: "sleep".to_owned() });
    assert_eq!(
        error.to_string(),
        format!("port {port} is taken by pid {pid} (sleep); stop it or choose another port in admin.port")
    );
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
async fn a_far_end_of_ipv6_that_speaks_ipv4_is_known_as_well() {
    let own = std::fs::metadata("/proc/self").expect("proc").uid();
    let (mut listener, addr) = listener("127.0.0.1:0").await;
    let mapped = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), addr.port());
    // As clients do that open one socket for both: gRPC's C core, Java.
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("socket");
    socket.set_only_v6(false).expect("both");
    socket.connect(&mapped.into()).expect("connected");
    let (accepted, peer) = listener.accept().await.expect("accepted");
    assert_eq!(peer_uid(accepted.local_addr().expect("addr"), peer), Some(own));
}

#[tokio::test]
async fn another_user_at_the_far_end_is_told_from_us() {
    const NOBODY: u32 = 65_534;
    if std::fs::metadata("/proc/self").expect("proc").uid() != 0 {
        // Not `eprintln`, which the test harness keeps to itself when the test passes.
        let _said = writeln!(std::io::stderr(), "SKIPPED: only root can start a process of another user");
        return;
    }
    let (mut listener, addr) = listener("127.0.0.1:0").await;
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r _ <&3", addr.port());
    let mut child = Command::new("bash").args(["-c", &script]).uid(NOBODY).spawn().expect("bash");
    let accepted = tokio::time::timeout(10 * SECOND, listener.accept()).await.expect("in time");
    let (accepted, peer) = accepted.expect("accepted");
    let uid = peer_uid(accepted.local_addr().expect("addr"), peer);
    drop(accepted);
    child.wait().expect("it ends with its connection");
    assert_eq!(uid, Some(NOBODY));
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
async fn an_abrupt_end_is_a_reset_and_may_be_taken_back() {
    for abrupt in [true, false] {
        let (mut listener, addr) = listener("127.0.0.1:0").await;
        let mut dialled = tokio::net::TcpStream::connect(addr).await.expect("connect");
        let (mut accepted, _) = listener.accept().await.expect("accepted");
        accepted.set_abrupt(true);
        accepted.set_abrupt(abrupt);
        drop(accepted);
        let end = dialled.read(&mut [0; 1]).await.map_err(|error| error.kind());
        assert_eq!(end, if abrupt { Err(std::io::ErrorKind::ConnectionReset) } else { Ok(0) });
    }
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
