use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dodai_core::failure::Kind;
use dodai_core::task::{Kind as Task, Tasks};
use dodai_transport::listen::{BindError, Options};
use dodai_transport::memory::{BUFFER, Faults, Host, Line, Listener, Net};
use dodai_transport::network::Network;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::world::SECOND;

const NEAR: [u8; 4] = [10, 0, 0, 1];
const FAR: [u8; 4] = [10, 0, 0, 2];

fn hosts() -> (Net, Host, Listener, SocketAddr) {
    let net = Net::new();
    let listener = net.host(FAR).listen(80).expect("listening");
    let addr = listener.local_addr();
    (net.clone(), net.host(NEAR), listener, addr)
}

async fn line(near: &Host, listener: &mut Listener) -> (Line, Line) {
    let dialled = near.connect(listener.local_addr()).await.expect("connected");
    (dialled, listener.accept().await.expect("accepted"))
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_and_each_half_closes_by_itself() {
    let (_net, near, mut listener, addr) = hosts();
    let (mut a, mut b) = line(&near, &mut listener).await;
    assert_eq!((a.peer_addr(), b.peer_addr()), (addr, a.local_addr()));
    a.write_all(b"request").await.expect("written");
    a.shutdown().await.expect("half closed");
    let mut all = Vec::new();
    b.read_to_end(&mut all).await.expect("read");
    assert_eq!(all, b"request");
    b.write_all(b"answer").await.expect("the other half is open");
    drop(b);
    all.clear();
    a.read_to_end(&mut all).await.expect("read");
    assert_eq!(all, b"answer");
}

#[tokio::test(start_paused = true)]
async fn the_second_write_to_nobody_fails_as_with_sockets() {
    let (_net, near, mut listener, _) = hosts();
    let (mut a, mut b) = line(&near, &mut listener).await;
    b.write_all(b"bye").await.expect("written");
    drop(b);
    assert_eq!(a.write(b"lost").await.expect("who knows"), 4);
    assert_eq!(a.write(b"x").await.expect_err("now it is known").kind(), ErrorKind::BrokenPipe);
    let mut all = Vec::new();
    a.read_to_end(&mut all).await.expect("what was sent is still there");
    assert_eq!(all, b"bye");
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_slow_reader() {
    let (_net, near, mut listener, _) = hosts();
    let (mut a, mut b) = line(&near, &mut listener).await;
    a.write_all(&vec![1; BUFFER]).await.expect("fits");
    assert!(tokio::time::timeout(SECOND, a.write(b"more")).await.is_err(), "the buffer is bounded");
    let mut some = [0; 10];
    b.read_exact(&mut some).await.expect("read");
    assert_eq!(a.write(&[2; 100]).await.expect("room"), 10);
    let tasks = Tasks::new();
    tasks.spawn(Task::Connection, async move {
        a.write_all(&vec![3; BUFFER * 3]).await.expect("in the end");
    });
    let mut all = Vec::new();
    b.read_to_end(&mut all).await.expect("read");
    assert_eq!(all.len(), BUFFER * 4);
    assert!(tasks.drain(SECOND).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn refusal_reaches_the_caller_as_a_failure() {
    let (net, near, listener, addr) = hosts();
    let network = Network::Memory(near);
    net.set_faults(addr, Faults { refuse: true, ..Faults::default() });
    let failure = network.connect_addr(addr, SECOND).await.expect_err("refused");
    assert_eq!(failure.to_string(), "connect: connection refused by 10.0.0.2:80");
    net.set_faults(addr, Faults::default());
    network.connect_addr(addr, SECOND).await.expect("fine again");
    drop(listener);
    let failure = network.connect_addr(addr, SECOND).await.expect_err("nobody listens");
    assert_eq!(failure.kind, Kind::Connect);
}

#[tokio::test(start_paused = true)]
async fn names_resolve_as_told_and_addresses_are_tried_in_turn() {
    let (net, near, mut listener, _) = hosts();
    net.name("shop.example", &[IpAddr::from([10, 0, 0, 9]), IpAddr::from(FAR)]);
    let network = Network::Memory(near);
    network.connect("shop.example", 80, SECOND).await.expect("the second address");
    listener.accept().await.expect("accepted");
    let failure = network.connect("shop.example", 81, SECOND).await.expect_err("wrong port");
    assert_eq!(failure.detail, "connection refused by 10.0.0.9:81; connection refused by 10.0.0.2:81");
    let failure = network.connect("nowhere.example", 80, SECOND).await.expect_err("unknown");
    assert!(failure.detail.starts_with("no address for host `nowhere.example`"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn delays_take_the_time_they_say() {
    let (net, near, mut listener, addr) = hosts();
    let faults = Faults { connect_delay: 2 * SECOND, delay: 3 * SECOND, ..Faults::default() };
    net.set_faults(addr, faults);
    let start = Instant::now();
    let (mut a, mut b) = line(&near, &mut listener).await;
    assert_eq!(start.elapsed(), 2 * SECOND);
    a.write_all(b"x").await.expect("written");
    b.read_u8().await.expect("read");
    assert_eq!(start.elapsed(), 5 * SECOND);
    let network = Network::Memory(near);
    let failure = network.connect_addr(addr, SECOND).await.expect_err("too slow");
    assert_eq!(failure.detail, "no answer from 10.0.0.2:80 within 1s");
}

#[tokio::test(start_paused = true)]
async fn a_cut_line_delivers_what_was_under_way_and_then_breaks_both_ways() {
    let (net, near, mut listener, addr) = hosts();
    net.set_faults(addr, Faults { cut_outbound_after: Some(5), ..Faults::default() });
    let (mut a, mut b) = line(&near, &mut listener).await;
    a.write_all(b"a long request").await.expect("written");
    b.read_exact(&mut [0; 14]).await.expect("read");
    assert_eq!(b.write(b"answer").await.expect("a part"), 5);
    let mut all = Vec::new();
    assert_eq!(a.read_to_end(&mut all).await.expect_err("broken").kind(), ErrorKind::ConnectionReset);
    assert_eq!(all, b"answe");
    assert!(a.write(b"x").await.is_err() && b.write(b"x").await.is_err());
    assert_eq!(b.read(&mut [0; 1]).await.expect_err("broken").kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_reset_wakes_whoever_reads() {
    let (net, near, mut listener, addr) = hosts();
    let (mut a, mut b) = line(&near, &mut listener).await;
    a.write_all(b"lost").await.expect("written");
    let tasks = Tasks::new();
    let (done, ended) = tokio::sync::oneshot::channel();
    tasks.spawn(Task::Connection, async move {
        let _ = done.send(a.read(&mut [0; 1]).await.map_err(|error| error.kind()));
    });
    tokio::task::yield_now().await;
    assert_eq!(net.reset(addr), 1);
    assert_eq!(ended.await.expect("sent"), Err(ErrorKind::ConnectionReset));
    assert_eq!(
        b.read(&mut [0; 4]).await.expect_err("unread bytes are lost").kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(net.reset(addr), 0);
}

#[tokio::test(start_paused = true)]
async fn an_abrupt_end_is_a_reset_behind_the_last_byte() {
    for abrupt in [true, false] {
        let (_, near, mut listener, _) = hosts();
        let (mut dialled, mut accepted) = line(&near, &mut listener).await;
        dialled.set_abrupt(true);
        dialled.set_abrupt(abrupt);
        dialled.write_all(b"last").await.expect("written");
        drop(dialled);
        let mut last = [0; 4];
        accepted.read_exact(&mut last).await.expect("it was under way");
        let end = accepted.read(&mut last).await.map_err(|error| error.kind());
        assert_eq!(end, if abrupt { Err(ErrorKind::ConnectionReset) } else { Ok(0) });
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_a_partition_until_it_heals() {
    let (net, near, mut listener, addr) = hosts();
    let (mut a, mut b) = line(&near, &mut listener).await;
    net.partition(NEAR, FAR);
    a.write_all(b"x").await.expect("into the void");
    assert!(tokio::time::timeout(SECOND, b.read_u8()).await.is_err());
    let network = Network::Memory(near);
    let failure = network.connect_addr(addr, SECOND).await.expect_err("hangs");
    assert!(failure.detail.starts_with("no answer from"), "{failure}");
    network.connect_addr(([10, 0, 0, 3], 80).into(), SECOND).await.expect_err("others are not cut off");

    let tasks = Tasks::new();
    let (done, ended) = tokio::sync::oneshot::channel();
    tasks.spawn(Task::Connection, async move {
        let stream = network.connect_addr(addr, 10 * SECOND).await;
        let _ = done.send((b.read_u8().await, stream));
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    net.heal(NEAR, FAR);
    let (byte, stream) = ended.await.expect("sent");
    assert_eq!(byte.expect("what was under way arrives"), b'x');
    stream.expect("connects after healing");
}

#[tokio::test(start_paused = true)]
async fn a_taken_address_is_an_error_until_it_is_free() {
    let (net, _near, listener, addr) = hosts();
    let network = Network::Memory(net.host(FAR));
    let error = network.listen(addr, &Options::named("listeners[0].port")).expect_err("taken");
    assert!(matches!(error, BindError::Taken { .. }), "{error}");
    drop(listener);
    network.listen(addr, &Options::default()).expect("free again");
}
