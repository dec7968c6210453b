use std::fs;
use std::path::Path;

use dodai_transport::ca::{LEAF_VALIDITY, Names};
use dodai_transport::stream::Stream;
use dodai_transport::tls::files::{BadFiles, Files, Pair, Versions};
use dodai_transport::tls::public::{self, Roots};
use dodai_transport::tls::{Acceptor, Alpn};

use crate::world::{World, app, echo, pair};

fn write(world: &World, folder: &Path, stem: &str, dns: &[&str]) -> Pair {
    let names = Names { dns: dns.iter().map(ToString::to_string).collect(), ..Names::default() };
    let svid = world.authority.issue(&app("edge/gate"), &names, LEAF_VALIDITY, world.hands.now());
    let svid = svid.expect("issued");
    let pair = Pair { chain: folder.join(format!("{stem}.pem")), key: folder.join(format!("{stem}.key")) };
    fs::write(&pair.chain, svid.chain_pem()).expect("write");
    fs::write(&pair.key, svid.key_pem()).expect("write");
    pair
}

async fn call(world: &World, acceptor: &Acceptor, host: &str) -> Result<Stream, String> {
    let roots = Roots::given(world.authority.chain_pem().as_bytes()).expect("roots");
    let connector = public::Connector::new(&roots, Alpn::HTTP, world.hands.clock());
    let (near, far) = pair().await;
    let (near, far) = tokio::join!(connector.connect(near, host), acceptor.accept(far));
    let mut near = near.map_err(|failure| failure.detail.into_owned())?;
    let mut far = far.map_err(|error| error.to_string())?;
    assert_eq!(far.server_name(), Some(host));
    assert_eq!(far.identity(), None);
    echo(&mut near, &mut far).await.expect("bytes pass");
    Ok(near)
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_chosen_by_name() {
    let (world, dir) = (World::new(), tempfile::tempdir().expect("temp dir"));
    let first = write(&world, dir.path(), "first", &["one.example"]);
    let second = write(&world, dir.path(), "second", &["two.example", "*.two.example"]);
    let files = Files::load(vec![first, second]).expect("loaded");
    let acceptor = files.acceptor(Alpn::HTTP, Versions::Usual, world.hands.clock());
    for host in ["one.example", "two.example", "www.two.example"] {
        let stream = call(&world, &acceptor, host).await.expect(host);
        assert_eq!(stream.alpn(), Some(Alpn::H2));
    }
    for host in ["three.example", "a.b.two.example"] {
        let why = call(&world, &acceptor, host).await.expect_err(host);
        assert!(why.contains(&format!("is not for {host} but for")) && why.contains("one.example"), "{why}");
    }
    let served = files.served();
    assert_eq!(served[1].names, ["two.example", "*.two.example"]);
    assert_eq!(served[1].not_after, world.hands.now() + LEAF_VALIDITY);
}

#[tokio::test(start_paused = true)]
async fn new_files_are_served_without_a_restart() {
    let (world, dir) = (World::new(), tempfile::tempdir().expect("temp dir"));
    let pair = write(&world, dir.path(), "site", &["old.example"]);
    let files = Files::load(vec![pair]).expect("loaded");
    let acceptor = files.acceptor(Alpn::HTTP, Versions::Usual, world.hands.clock());
    assert!(!files.reload().expect("same files"), "nothing changed");
    write(&world, dir.path(), "site", &["new.example"]);
    assert!(call(&world, &acceptor, "new.example").await.is_err());
    assert!(files.reload().expect("good files"));
    call(&world, &acceptor, "new.example").await.expect("new certificate");
}

#[tokio::test(start_paused = true)]
async fn bad_files_are_named_and_the_old_certificate_stays() {
    let (world, dir) = (World::new(), tempfile::tempdir().expect("temp dir"));
    let site = write(&world, dir.path(), "site", &["site.example"]);
    let other = write(&world, dir.path(), "other", &["other.example"]);
    let files = Files::load(vec![site.clone()]).expect("loaded");
    let acceptor = files.acceptor(Alpn::HTTP, Versions::Usual, world.hands.clock());
    let (chain, key) = (fs::read(&site.chain).expect("read"), fs::read(&site.key).expect("read"));
    let refuse = |expect: &str| {
        let error = files.reload().expect_err(expect).to_string();
        assert!(error.contains(expect), "{error} lacks {expect}");
    };

    fs::copy(&other.key, &site.key).expect("copy");
    refuse("site.key is not the key of");
    fs::write(&site.key, "").expect("write");
    refuse("site.key: no private key in it");
    fs::write(&site.key, &key).expect("write");
    fs::write(&site.chain, &key).expect("write");
    refuse("site.pem: no certificate in it");
    fs::write(&site.chain, &chain[..chain.len() / 2]).expect("write");
    refuse("site.pem: not valid PEM");
    fs::remove_file(&site.chain).expect("remove");
    refuse("cannot read");
    assert!(matches!(files.set(Vec::new()), Err(BadFiles::None)));
    call(&world, &acceptor, "site.example").await.expect("the old one is still served");

    assert!(files.set(vec![other]).expect("another set"));
    call(&world, &acceptor, "other.example").await.expect("the other one");
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_the_callers_to_refuse() {
    let (world, dir) = (World::new(), tempfile::tempdir().expect("temp dir"));
    let pair = write(&world, dir.path(), "site", &["site.example"]);
    let files = Files::load(vec![pair]).expect("loaded");
    let acceptor = files.acceptor(Alpn::HTTP, Versions::Usual, world.hands.clock());
    world.hands.forward(LEAF_VALIDITY * 2);
    assert!(files.reload().is_ok());
    assert!(files.served()[0].not_after < world.hands.now());
    let why = call(&world, &acceptor, "site.example").await.expect_err("expired");
    assert!(why.contains("certificate expired"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_neither_keeps_a_renewed_certificate_back_nor_cuts_connections() {
    let (world, dir) = (World::new(), tempfile::tempdir().expect("temp dir"));
    let pair = write(&world, dir.path(), "site", &["site.example"]);
    let files = Files::load(vec![pair]).expect("loaded");
    let acceptor = files.acceptor(Alpn::HTTP, Versions::Usual, world.hands.clock());
    // One client all along: it comes back with the session tickets of before.
    let roots = Roots::given(world.authority.chain_pem().as_bytes()).expect("roots");
    let client = public::Connector::new(&roots, Alpn::HTTP, world.hands.clock());
    let shake = async || {
        let (near, far) = crate::world::pair().await;
        let (near, far) = tokio::join!(client.connect(near, "site.example"), acceptor.accept(far));
        let mut near = near.map_err(|failure| failure.detail.into_owned())?;
        let mut far = far.map_err(|error| error.to_string())?;
        echo(&mut near, &mut far).await.expect("bytes pass");
        Ok::<_, String>((near, far))
    };
    let (mut near, mut far) = shake().await.expect("good so far");
    let jump = LEAF_VALIDITY * 3;
    world.hands.forward(jump);
    assert!(!files.reload().expect("the same files"), "a jump alone changes nothing");
    let why = shake().await.expect_err("a client refuses what has expired, whatever ticket it has");
    assert!(why.contains("certificate expired"), "{why}");
    write(&world, dir.path(), "site", &["site.example"]);
    assert!(files.reload().expect("renewed"), "it is seen by what is in it");
    shake().await.expect("by a clock that is ahead a new one counts");
    world.hands.back(jump);
    assert!(!files.reload().expect("the same files"));
    let why = call(&world, &acceptor, "site.example").await.expect_err("issued in what is now the future");
    assert!(why.contains("valid only in"), "{why}");
    write(&world, dir.path(), "site", &["site.example"]);
    assert!(files.reload().expect("issued by the right clock"));
    call(&world, &acceptor, "site.example").await.expect("the clock is right again");
    shake().await.expect("who comes back with a ticket of the wrong time gets in, too");
    echo(&mut near, &mut far).await.expect("what was open went on all the time");
}
