//! A small mesh: an authority, a clock that tests set, and two hosts of an in-memory network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dodai_core::id::AppId;
use dodai_transport::ca::{Authority, LEAF_VALIDITY, Names, Svid};
use dodai_transport::identity::{PeerIdentity, TrustDomain};
use dodai_transport::memory::Net;
use dodai_transport::network::{Listener, Network};
use dodai_transport::stream::Stream;
use dodai_transport::tls::mesh::LiveSvid;
use dodai_transport::tls::{Alpn, Clock, mesh};
use dodai_transport::trust::Trust;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub const SECOND: Duration = Duration::from_secs(1);

/// A wall clock that stands still until it is moved.
#[derive(Clone)]
pub struct Hands(Arc<AtomicU64>);

impl Hands {
    pub fn new() -> Hands {
        Hands(Arc::new(AtomicU64::new(1_800_000_000)))
    }

    pub fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    pub fn forward(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    pub fn back(&self, by: Duration) {
        self.0.fetch_sub(by.as_secs(), Ordering::Relaxed);
    }

    pub fn clock(&self) -> Clock {
        let hands = self.clone();
        Clock::from_fn(move || hands.now())
    }
}

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).expect("trust domain")
}

pub fn app(text: &str) -> PeerIdentity {
    PeerIdentity::App(AppId::parse(text).expect("app id"))
}

pub fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).expect("host name")
}

pub struct World {
    pub hands: Hands,
    pub authority: Authority,
    pub trust: Trust,
}

impl World {
    pub fn new() -> World {
        World::of("cluster.local")
    }

    pub fn of(trust_domain: &str) -> World {
        let hands = Hands::new();
        let authority = Authority::create(domain(trust_domain), hands.now()).expect("authority");
        let trust = Trust::new(domain(trust_domain), authority.bundle().expect("bundle"));
        World { hands, authority, trust }
    }

    pub fn svid(&self, identity: &PeerIdentity) -> Svid {
        issue(&self.authority, identity, self.hands.now())
    }

    pub fn live(&self, identity: &PeerIdentity) -> LiveSvid {
        LiveSvid::new(self.svid(identity)).expect("svid")
    }

    pub fn acceptor(&self, identity: &PeerIdentity) -> dodai_transport::tls::Acceptor {
        let keys = Arc::new(self.live(identity));
        mesh::acceptor(keys, self.trust.clone(), Alpn::HTTP, self.hands.clock())
    }

    pub fn connector(&self, identity: &PeerIdentity) -> mesh::Connector {
        mesh::Connector::new(self.live(identity), self.trust.clone(), &[Alpn::H2], self.hands.clock())
    }
}

pub fn issue(authority: &Authority, identity: &PeerIdentity, now: SystemTime) -> Svid {
    authority.issue(identity, &Names::default(), LEAF_VALIDITY, now).expect("issued")
}

/// A connected pair of in-memory streams: dialler and listener.
pub async fn pair() -> (Stream, Stream) {
    let (mut listener, network, addr) = network();
    let dialled = network.connect_addr(addr, SECOND).await.expect("connected");
    let (accepted, _) = listener.accept().await.expect("accepted");
    (dialled, accepted)
}

pub fn network() -> (Listener, Network, SocketAddr) {
    let net = Net::new();
    let far = Network::Memory(net.host([10, 0, 0, 2]));
    let addr: SocketAddr = ([10, 0, 0, 2], 443).into();
    let listener = far.listen(addr, &Default::default()).expect("listening");
    (listener, Network::Memory(net.host([10, 0, 0, 1])), addr)
}

/// Sends a word through and back.
pub async fn echo(a: &mut Stream, b: &mut Stream) -> std::io::Result<()> {
    a.write_all(b"ping").await?;
    a.flush().await?;
    let mut word = [0; 4];
    b.read_exact(&mut word).await?;
    assert_eq!(&word, b"ping");
    b.write_all(b"pong").await?;
    b.flush().await?;
    a.read_exact(&mut word).await?;
    assert_eq!(&word, b"pong");
    Ok(())
}
