//! The steps of exchanging a root, and that each of them survives the end of the process.

use std::path::Path;

use dodai_transport::ca::{
    Authorities, Authority, KEY_FILE, Phase, ROOT_FILE, ROTATION_FILE, SECOND, StepError,
};
use dodai_transport::identity::TrustDomain;
use rustls::pki_types::CertificateDer;

use crate::world::{Hands, app, issue};

fn root(authority: &Authority) -> CertificateDer<'static> {
    authority.bundle().expect("a root").roots()[0].clone()
}

fn load(folder: &Path, hands: &Hands) -> Authorities {
    Authorities::load(TrustDomain::default(), folder, hands.now()).expect("loads").expect("there")
}

/// What an observer sees: the phase, which root signs, and how many are trusted.
fn look(all: &Authorities, first: &CertificateDer<'_>) -> (Phase, bool, usize) {
    (all.phase(), root(&all.signer()) == *first, all.trust().bundle().roots().len())
}

#[test]
fn every_step_is_taken_up_again_after_a_start() {
    let (hands, folder) = (Hands::new(), tempfile::tempdir().expect("a folder"));
    let empty = Authorities::load(TrustDomain::default(), folder.path(), hands.now());
    assert!(empty.expect("reads").is_none());
    let all = Authorities::create(TrustDomain::default(), folder.path(), hands.now()).expect("made");
    let first = root(&all.signer());
    let again = |expect| {
        let all = load(folder.path(), &hands);
        assert_eq!(look(&all, &first), expect);
        all
    };
    let all = again((Phase::Steady, true, 1));
    let error = all.issue().expect_err("nothing to issue by").to_string();
    assert!(error.contains("`steady`") && error.contains("dodai ca rotate"), "{error}");
    assert!(matches!(all.finish(), Err(StepError::Order { .. })));
    assert!(matches!(all.cancel(), Err(StepError::Order { .. })));

    all.announce(hands.now()).expect("announced");
    let all = again((Phase::Announced, true, 2));
    assert!(all.announce(hands.now()).expect_err("one at a time").to_string().contains("dodai ca issue"));
    assert!(all.finish().expect_err("nothing was renewed").to_string().contains("`announced`"));
    all.issue().expect("issues");
    let all = again((Phase::Issuing, false, 2));
    assert_eq!(root(&all.senior()), first, "who was away longest still knows the server");
    // A leaf of either root is good, and it is known which one signed it.
    for authority in [all.senior(), all.signer()] {
        let svid = issue(&authority, &app("shop/cart"), hands.now());
        assert_eq!(all.trust().signer_of(svid.chain()), Some(root(&authority)));
    }
    assert_eq!(all.cancel().expect("back"), Phase::Returning);
    let all = again((Phase::Returning, true, 2));
    all.issue().expect("and on after all");
    let all = again((Phase::Issuing, false, 2));
    let second = root(&all.signer());
    all.finish().expect("ends");
    assert_eq!((all.phase(), root(&all.signer())), (Phase::Steady, second.clone()));
    let all = again((Phase::Steady, false, 1));
    assert_eq!((root(&all.senior()), root(&all.signer())), (second.clone(), second));
    assert!(!folder.path().join(SECOND).exists() && !folder.path().join(ROTATION_FILE).exists());
}

#[test]
fn an_end_that_fails_in_the_middle_can_only_be_tried_again() {
    let (hands, folder) = (Hands::new(), tempfile::tempdir().expect("a folder"));
    let all = Authorities::create(TrustDomain::default(), folder.path(), hands.now()).expect("made");
    all.announce(hands.now()).expect("announced");
    all.issue().expect("issues");
    let second = root(&all.signer());
    // The key cannot be replaced while a folder is in the way of its new file.
    let in_the_way = folder.path().join(format!("{KEY_FILE}.new"));
    std::fs::create_dir(&in_the_way).expect("made");
    assert!(matches!(all.finish(), Err(StepError::Authority(_))));
    assert_eq!((all.phase(), root(&all.signer())), (Phase::Finishing, second.clone()));
    assert_eq!(all.trust().bundle().roots().len(), 2, "both are trusted until it has ended");
    for error in [all.cancel().map(drop), all.issue(), all.announce(hands.now())] {
        assert!(error.expect_err("no way back").to_string().contains("`dodai ca finish` tries again"));
    }
    std::fs::remove_dir(&in_the_way).expect("removed");
    all.finish().expect("ends");
    assert_eq!((all.phase(), root(&all.signer())), (Phase::Steady, second.clone()));
    assert_eq!(root(&load(folder.path(), &hands).signer()), second);
}

#[test]
fn calling_it_off_leaves_the_old_root_alone() {
    let (hands, folder) = (Hands::new(), tempfile::tempdir().expect("a folder"));
    let all = Authorities::create(TrustDomain::default(), folder.path(), hands.now()).expect("made");
    let first = root(&all.signer());
    all.announce(hands.now()).expect("announced");
    assert_eq!(all.cancel().expect("off"), Phase::Steady);
    assert_eq!(look(&load(folder.path(), &hands), &first), (Phase::Steady, true, 1));
    all.announce(hands.now()).expect("announced");
    all.issue().expect("issues");
    all.cancel().expect("back");
    assert_eq!(look(&all, &first), (Phase::Returning, true, 2));
    all.finish().expect("ends");
    assert_eq!(look(&all, &first), (Phase::Steady, true, 1));
    assert_eq!(look(&load(folder.path(), &hands), &first), (Phase::Steady, true, 1));
    assert!(!folder.path().join(SECOND).exists());
}

/// The last step writes several files; wherever it is cut, the next start ends it.
#[test]
fn a_crash_in_the_last_step_is_mended() {
    let hands = Hands::new();
    for cut in 0..4 {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let all = Authorities::create(TrustDomain::default(), folder, hands.now()).expect("made");
        all.announce(hands.now()).expect("announced");
        all.issue().expect("issues");
        let second = root(&all.signer());
        std::fs::write(folder.join(ROTATION_FILE), "finishing\n").expect("written");
        let copy = |name: &str| {
            std::fs::copy(folder.join(SECOND).join(name), folder.join(name)).expect("copied");
        };
        if cut >= 1 {
            copy(KEY_FILE);
        }
        if cut >= 2 {
            copy(ROOT_FILE);
        }
        if cut >= 3 {
            std::fs::remove_file(folder.join(SECOND).join(KEY_FILE)).expect("removed");
        }
        let all = load(folder, &hands);
        assert_eq!((all.phase(), root(&all.signer())), (Phase::Steady, second), "cut {cut}");
        assert!(!folder.join(SECOND).exists() && !folder.join(ROTATION_FILE).exists());
    }
}

#[test]
fn damage_is_told_and_not_passed_over() {
    let (hands, folder) = (Hands::new(), tempfile::tempdir().expect("a folder"));
    let all = Authorities::create(TrustDomain::default(), folder.path(), hands.now()).expect("made");
    all.announce(hands.now()).expect("announced");
    let read = || {
        let read = Authorities::load(TrustDomain::default(), folder.path(), hands.now());
        read.expect_err("damaged").to_string()
    };
    std::fs::write(folder.path().join(ROTATION_FILE), "dancing\n").expect("written");
    assert!(read().contains(ROTATION_FILE));
    std::fs::write(folder.path().join(ROTATION_FILE), "issuing\n").expect("written");
    std::fs::remove_dir_all(folder.path().join(SECOND)).expect("removed");
    assert!(read().contains(SECOND));
}
