//! What the server does with its roots: signs for itself, tells the bases whom to trust, takes the steps of a
//! rotation when the bases have confirmed the one before, revokes.
//!
//! A step is on disk before anybody hears of it, and goes on to its end also when its client has left. What was told is
//! told again at every start and every now and then, so what was cut in between is made up for.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use dodai_admin::Refusal;
use dodai_admin::roots::{not_confirmed, out_of_order};
use dodai_admin::seam::{self, Pending, Root, RootStep, Trust};
use dodai_control::control::Control;
use dodai_control::trust::{Revocation, told};
use dodai_core::id::BaseId;
use dodai_core::snapshot::{self, Whose};
use dodai_core::status::Held;
use dodai_core::task::{Kind, Tasks};
use dodai_transport::ca::{Authorities, Authority, LEAF_VALIDITY, Names, Phase, Svid};
use dodai_transport::identity::PeerIdentity;
use dodai_transport::revoked::Revoked;
use dodai_transport::tls::Clock;
use dodai_transport::tls::mesh::LiveSvid;
use dodai_transport::tls::pinned::Pin;
use tokio::sync::{Mutex, oneshot, watch};

/// How often connections are looked at for certificates that have expired, and bases are told anew whom to trust.
const SWEEP: Duration = Duration::from_secs(15);

/// The server's certificate: signed by the root that everybody knows, the roots along, since who joins knows the root
/// by its pin only.
pub fn leaf(authorities: &Authorities) -> anyhow::Result<Svid> {
    let now = Clock::system().now();
    let bare = authorities.senior().issue(&PeerIdentity::Server, &Names::default(), LEAF_VALIDITY, now)?;
    let chain = format!("{}{}", bare.chain_pem(), authorities.trust().bundle().to_pem());
    Ok(Svid::from_pem(&chain, &bare.key_pem(), authorities.domain())?)
}

fn pin_of(authority: &Authority) -> anyhow::Result<String> {
    let bundle = authority.bundle()?;
    let root = bundle.roots().first().context("the certificate authority has no root")?;
    Ok(Pin::of(root).to_string())
}

/// What signs for the mesh.
pub struct Signs {
    authorities: Arc<Authorities>,
    own: LiveSvid,
    control: Control,
    /// How long certificates live.
    life: Duration,
    pin: watch::Sender<String>,
    /// One step at a time.
    steps: Mutex<()>,
}

/// How far one base is.
struct Standing {
    base: BaseId,
    connected: bool,
    held: Option<Held>,
    /// Why the next step has to wait for it.
    waits: Option<String>,
}

impl Signs {
    /// Signs with `authorities`, shows `own`.
    pub fn new(
        authorities: Arc<Authorities>,
        own: LiveSvid,
        control: Control,
        life: Duration,
    ) -> anyhow::Result<Signs> {
        let pin = watch::Sender::new(pin_of(&authorities.senior())?);
        Ok(Signs { authorities, own, control, life, pin, steps: Mutex::default() })
    }

    /// The pin of the root that the server shows.
    pub fn pin(&self) -> watch::Receiver<String> {
        self.pin.subscribe()
    }

    /// Tells the bases whom to trust, and heeds what is revoked.
    pub async fn tell(&self) -> anyhow::Result<()> {
        let revoked = told(&self.control.revocations().await?);
        let trust = self.authorities.trust();
        let swept = trust.revoke(Revoked::of(&revoked), self.control.clock().now());
        if swept.cut > 0 {
            tracing::info!(connections = swept.cut, "connections of revoked certificates were cut");
        }
        let signer = pin_of(&self.authorities.signer())?;
        self.control.tell_trust(&snapshot::Trust { bundle: trust.bundle().to_pem(), signer, revoked });
        Ok(())
    }

    /// Renews the server's own certificate, and looks at what has expired, until the tasks close.
    pub async fn tend(self: Arc<Self>, tasks: Tasks) {
        loop {
            tokio::select! {
                // Both only wait.
                () = tasks.closing() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            let now = self.control.clock().now();
            self.authorities.trust().sweep(now);
            if self.own.load().needs_renewal(now)
                && let Err(error) = self.show_own()
            {
                tracing::error!(%error, "the server's certificate cannot be renewed");
            }
            if let Err(error) = self.tell_again().await {
                tracing::error!(error = format!("{error:#}"), "the bases cannot be told whom to trust");
            }
        }
    }

    /// Makes up for a step that was cut before it was told.
    async fn tell_again(&self) -> anyhow::Result<()> {
        let _one = self.steps.lock().await;
        // In the order of a step: the certificate first.
        if *self.pin.borrow() != pin_of(&self.authorities.senior())? {
            self.show_own()?;
        }
        self.tell().await
    }

    fn show_own(&self) -> anyhow::Result<()> {
        self.own.replace(leaf(&self.authorities)?)?;
        self.pin.send_replace(pin_of(&self.authorities.senior())?);
        Ok(())
    }

    /// How far every base is that ever joined.
    fn standings(&self) -> anyhow::Result<Vec<Standing>> {
        let phase = self.authorities.phase();
        let signer = pin_of(&self.authorities.signer())?;
        let second = self.authorities.second().map(|second| pin_of(&second)).transpose()?;
        let observed = self.control.observed();
        let view = self.control.view();
        let standing = |base: &dodai_api::Base| {
            let base = BaseId::new(base.metadata.name.as_str());
            let seen = observed.base(&base);
            let held = seen.and_then(|seen| seen.status.trust.clone());
            let waits = match (&held, seen) {
                _ if phase == Phase::Steady => None,
                (None, None) => Some("it has not come since the server started".to_owned()),
                (None, Some(_)) => Some("it does not say whom it trusts: an older version?".to_owned()),
                (Some(held), _) => lacks(held, phase, &signer, second.as_deref()),
            };
            Standing { base, connected: seen.is_some_and(|seen| seen.connected), held, waits }
        };
        Ok(view.documents.bases().map(standing).collect())
    }

    fn shown(&self, revoked: Vec<Revocation>) -> anyhow::Result<Trust> {
        let phase = self.authorities.phase();
        let signer = pin_of(&self.authorities.signer())?;
        let mut roots = Vec::new();
        for authority in [Some(self.authorities.senior()), self.authorities.second()].into_iter().flatten() {
            let pin = pin_of(&authority)?;
            let signs = pin == signer;
            let expires = authority.not_after().duration_since(UNIX_EPOCH).unwrap_or_default();
            let expires_ms = u64::try_from(expires.as_millis()).unwrap_or(u64::MAX);
            roots.push(Root { pin, signs, expires_ms });
        }
        let shown = |one: Standing| {
            let held = one.held.unwrap_or_default();
            seam::Standing {
                name: one.base.to_string(),
                connected: one.connected,
                trusts: held.roots,
                signed_by: held.signers,
                revoked: held.revoked,
                waits_for: one.waits,
            }
        };
        let bases = self.standings()?.into_iter().map(shown).collect();
        Ok(Trust { phase: phase.as_str().to_owned(), roots, bases, revoked })
    }

    async fn all(&self) -> Result<Trust, Refusal> {
        self.shown(self.control.revocations().await?).map_err(internal)
    }

    async fn take(&self, step: RootStep, force: bool, actor: String) -> Result<Trust, Refusal> {
        let _one = self.steps.lock().await;
        let before = self.authorities.phase();
        // Calling off asks nobody: both roots are trusted by all who may meet what either signed.
        let needs = matches!(step, RootStep::Issue | RootStep::Finish);
        let waits: Vec<String> = self
            .standings()
            .map_err(internal)?
            .into_iter()
            .filter_map(|one| one.waits.map(|why| format!("base {}: {why}", one.base)))
            .collect();
        if needs && !force && !waits.is_empty() {
            return Err(not_confirmed(&waits));
        }
        let now = self.control.clock().now();
        let done = match step {
            RootStep::Rotate => self.authorities.announce(now),
            RootStep::Issue => self.authorities.issue(),
            RootStep::Finish => self.authorities.finish(),
            RootStep::Cancel => self.authorities.cancel().map(|_| ()),
        };
        done.map_err(|error| out_of_order(error.to_string()))?;
        // The certificate first: who hears of the new roots must be able to check who says so.
        self.show_own().map_err(internal)?;
        self.tell().await.map_err(internal)?;
        let after = self.authorities.phase();
        let without = if force && !waits.is_empty() {
            format!(", without {}", waits.join("; "))
        } else {
            String::new()
        };
        let text = format!("the rotation of the root went from {before} to {after}, says {actor}{without}");
        self.control.note("ca".to_owned(), "RootRotation", text);
        self.all().await
    }

    /// Revokes, or takes that back.
    async fn void(&self, whose: Whose, undo: bool, actor: String) -> Result<Trust, Refusal> {
        let _one = self.steps.lock().await;
        if undo {
            if !self.control.reinstate(&whose, &actor).await? {
                return Err(Refusal::not_found(format!("{whose} is not revoked")));
            }
        } else {
            // Certificates that were signed with another setting live on.
            let longest = self.life.max(LEAF_VALIDITY) * 2;
            self.control.revoke(&whose, longest, &actor).await?;
        }
        self.tell().await.map_err(internal)?;
        self.all().await
    }
}

/// What a base lacks that the next step needs of it.
fn lacks(held: &Held, phase: Phase, signer: &str, second: Option<&str>) -> Option<String> {
    if second.is_some_and(|second| !held.roots.contains(second)) {
        return Some("it does not trust the new root yet".to_owned());
    }
    let all = !held.signers.is_empty() && held.signers.keys().all(|known| known == signer);
    match phase {
        Phase::Issuing | Phase::Returning | Phase::Finishing if !all => {
            Some("it has certificates of the root that is to be taken out".to_owned())
        }
        Phase::Steady | Phase::Announced | Phase::Issuing | Phase::Returning | Phase::Finishing => None,
    }
}

fn internal(error: anyhow::Error) -> Refusal {
    Refusal::internal(format!("{error:#}"))
}

/// What may be asked of [`Signs`]. Each thing is done in a task of its own: who asks may leave in the middle of it.
pub struct Steps {
    signs: Arc<Signs>,
    tasks: Tasks,
}

impl Steps {
    /// Steps of `signs`, as tasks of `tasks`.
    pub fn new(signs: Arc<Signs>, tasks: Tasks) -> Steps {
        Steps { signs, tasks }
    }

    fn through<'a>(
        &self,
        work: impl Future<Output = Result<Trust, Refusal>> + Send + 'static,
    ) -> Pending<'a, Trust> {
        let (done, answer) = oneshot::channel();
        self.tasks.spawn(Kind::Api, async move {
            // Nobody may be left to hear it.
            let _heard = done.send(work.await);
        });
        let cut = |_| {
            Refusal::internal(
                "this process ended in the middle of the step; `dodai ca show` tells how far it came"
                    .to_owned(),
            )
        };
        Box::pin(async move { answer.await.map_err(cut)? })
    }
}

impl seam::Roots for Steps {
    fn show(&self) -> Pending<'_, Trust> {
        Box::pin(self.signs.all())
    }

    fn step(&self, step: RootStep, force: bool, actor: String) -> Pending<'_, Trust> {
        let signs = self.signs.clone();
        self.through(async move { signs.take(step, force, actor).await })
    }

    fn revoke(&self, whose: Whose, undo: bool, actor: String) -> Pending<'_, Trust> {
        let signs = self.signs.clone();
        self.through(async move { signs.void(whose, undo, actor).await })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use dodai_admin::seam::Roots as _;
    use dodai_control::control::Settings;
    use dodai_store::MemoryStore;
    use dodai_transport::identity::TrustDomain;

    use super::*;

    #[tokio::test]
    async fn what_was_revoked_is_told_though_the_client_left() {
        let tasks = Tasks::new();
        let store = Arc::new(MemoryStore::new(&tasks));
        let control = Control::start(store, Settings::default(), &tasks).await.expect("started");
        let root = Authority::create(TrustDomain::default(), SystemTime::now()).expect("a root");
        let authorities = Arc::new(Authorities::only(Arc::new(root)).expect("one root"));
        let own = LiveSvid::new(leaf(&authorities).expect("signed")).expect("usable");
        let signs = Signs::new(authorities.clone(), own, control, LEAF_VALIDITY).expect("signs");
        let steps = Steps::new(Arc::new(signs), tasks.clone());
        let one = Whose::Base(BaseId::new("one"));
        // A client that leaves at once.
        let asked = futures_util::future::poll_immediate(steps.revoke(one, false, "somebody".to_owned()));
        assert!(asked.await.is_none());
        let heeded = async {
            while authorities.trust().revoked().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heeded).await.expect("it is heeded all the same");
        tasks.close();
        tasks.drain(Duration::from_secs(5)).await;
    }

    #[test]
    fn a_base_is_waited_for_until_it_has_what_the_next_step_needs() {
        let held = |roots: &[&str], signers: &[(&str, u32)]| Held {
            roots: roots.iter().map(ToString::to_string).collect(),
            signers: signers.iter().map(|(name, count)| (name.to_string(), *count)).collect(),
            revoked: 0,
        };
        let check = |held: Held, phase: Phase, signer: &str, expect: Option<&str>| {
            let lacks = lacks(&held, phase, signer, Some("b"));
            assert_eq!(lacks.is_some(), expect.is_some(), "{held:?} {phase}: {lacks:?}");
            assert!(lacks.unwrap_or_default().contains(expect.unwrap_or_default()));
        };
        check(held(&["a"], &[("a", 2)]), Phase::Announced, "a", Some("does not trust"));
        check(held(&["a", "b"], &[("a", 2)]), Phase::Announced, "a", None);
        check(held(&["a", "b"], &[("a", 2)]), Phase::Issuing, "b", Some("taken out"));
        check(held(&["a", "b"], &[("a", 1), ("b", 1)]), Phase::Issuing, "b", Some("taken out"));
        check(held(&["a", "b"], &[]), Phase::Issuing, "b", Some("taken out"));
        check(held(&["a", "b"], &[("b", 2)]), Phase::Issuing, "b", None);
        check(held(&["a", "b"], &[("b", 2)]), Phase::Returning, "a", Some("taken out"));
        check(held(&["a", "b"], &[("a", 2)]), Phase::Returning, "a", None);
    }
}
