//! Exchanging the root of a mesh while it runs: two authorities side by side, and which of them signs.
//!
//! The step that was taken stands in one small file, replaced as a whole. Keys are written before it and removed
//! after it, so a crash at any point leaves a state that can be gone on from. When a step may be taken is for the
//! caller, who knows what the bases have confirmed. The server itself shows a certificate of the old root until the
//! end: so a base that was away comes back as long as its root is in the bundle at all.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use thiserror::Error;

use super::{Authority, AuthorityError, KEY_FILE, ROOT_FILE};
use crate::identity::TrustDomain;
use crate::pem;
use crate::trust::{BadBundle, Bundle, Trust};

/// The file that says which step was taken; none while there is one root only.
pub const ROTATION_FILE: &str = "rotation";
/// The folder of the second root, within that of the first.
pub const SECOND: &str = "second";

/// Where a rotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One root: nothing is being exchanged.
    Steady,
    /// A second root is trusted and signs nothing yet.
    Announced,
    /// The second root signs, the first is still trusted.
    Issuing,
    /// It was called off after the second had signed: the first signs again, the second is still trusted.
    Returning,
    /// The second is taking the place of the first, which did not come to its end: there is no way back.
    Finishing,
}

impl Phase {
    /// Its word, in files and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Steady => "steady",
            Phase::Announced => "announced",
            Phase::Issuing => "issuing",
            Phase::Returning => "returning",
            Phase::Finishing => FINISHING,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word in the file while the second root takes the place of the first.
const FINISHING: &str = "finishing";

/// Why a step of a rotation was not taken.
#[derive(Debug, Error)]
pub enum StepError {
    /// The rotation stands where this step leads nowhere.
    #[error("the rotation is `{phase}`: {remedy}")]
    Order {
        /// Where it stands.
        phase: Phase,
        /// What can be done there.
        remedy: &'static str,
    },
    /// A certificate, a key or a file.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<BadBundle> for StepError {
    fn from(error: BadBundle) -> StepError {
        StepError::Authority(error.into())
    }
}

/// The authorities of one mesh: the one that signs, and in a rotation the one beside it.
pub struct Authorities {
    domain: TrustDomain,
    /// None in tests, which keep nothing.
    folder: Option<PathBuf>,
    state: Mutex<State>,
    trust: Trust,
}

#[derive(Clone)]
struct State {
    phase: Phase,
    first: Arc<Authority>,
    second: Option<Arc<Authority>>,
}

impl State {
    fn bundle(&self) -> Result<Bundle, BadBundle> {
        let first = self.first.bundle()?;
        match &self.second {
            Some(second) => first.with(&second.bundle()?),
            None => Ok(first),
        }
    }
}

impl Authorities {
    /// One authority that is kept nowhere and cannot be exchanged beyond this process.
    pub fn only(authority: Arc<Authority>) -> Result<Authorities, AuthorityError> {
        let state = State { phase: Phase::Steady, first: authority, second: None };
        Authorities::with(None, state)
    }

    fn with(folder: Option<PathBuf>, state: State) -> Result<Authorities, AuthorityError> {
        let domain = state.first.domain().clone();
        let trust = Trust::new(domain.clone(), state.bundle()?);
        Ok(Authorities { domain, folder, state: Mutex::new(state), trust })
    }

    /// Makes the first root of a mesh and keeps it in `folder`.
    pub fn create(
        domain: TrustDomain,
        folder: &Path,
        now: SystemTime,
    ) -> Result<Authorities, AuthorityError> {
        let fresh = Authority::create(domain, now)?;
        fresh.save(folder)?;
        let state = State { phase: Phase::Steady, first: Arc::new(fresh), second: None };
        Authorities::with(Some(folder.to_owned()), state)
    }

    /// Reads what is kept in `folder`, and goes on with a step that a crash cut. `Ok(None)` if there is nothing.
    pub fn load(
        domain: TrustDomain,
        folder: &Path,
        now: SystemTime,
    ) -> Result<Option<Authorities>, AuthorityError> {
        let word = read_word(folder)?;
        let beside = folder.join(SECOND);
        if word == FINISHING {
            // The second is still whole, or is in the place of the first already.
            if let Some(second) = whole(&domain, &beside, now) {
                second.save(folder)?;
            }
            clear(folder)?;
        }
        let Some(first) = Authority::load(domain.clone(), folder, now)? else { return Ok(None) };
        let phase = match word.as_str() {
            "" | FINISHING => Phase::Steady,
            "announced" => Phase::Announced,
            "issuing" => Phase::Issuing,
            "returning" => Phase::Returning,
            other => {
                let text = format!("`{other}` is no step of a rotation");
                let source = io::Error::new(io::ErrorKind::InvalidData, text);
                return Err(AuthorityError::File { verb: "read", path: folder.join(ROTATION_FILE), source });
            }
        };
        let second = match phase {
            Phase::Steady | Phase::Finishing => None,
            Phase::Announced | Phase::Issuing | Phase::Returning => {
                let missing = || {
                    let source = io::Error::new(io::ErrorKind::NotFound, "the second root is gone");
                    AuthorityError::File { verb: "read", path: beside.clone(), source }
                };
                Some(Arc::new(Authority::load(domain, &beside, now)?.ok_or_else(missing)?))
            }
        };
        let state = State { phase, first: Arc::new(first), second };
        Authorities::with(Some(folder.to_owned()), state).map(Some)
    }

    /// Where the rotation stands.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// The one that signs for bases and apps.
    pub fn signer(&self) -> Arc<Authority> {
        let state = self.state();
        match (&state.second, state.phase) {
            (Some(second), Phase::Issuing | Phase::Finishing) => second.clone(),
            (_, _) => state.first.clone(),
        }
    }

    /// The one that signs for the server itself: who was away longest trusts it.
    pub fn senior(&self) -> Arc<Authority> {
        self.state().first.clone()
    }

    /// The second one, in a rotation.
    pub fn second(&self) -> Option<Arc<Authority>> {
        self.state().second.clone()
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Whom the mesh trusts; follows every step.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Makes a second root, which is trusted from now on and signs nothing yet.
    ///
    /// # Errors
    /// When a rotation is under way, or files cannot be written.
    pub fn announce(&self, now: SystemTime) -> Result<(), StepError> {
        let mut state = self.state();
        if state.phase != Phase::Steady {
            return Err(wrong(state.phase));
        }
        let fresh = Authority::create(self.domain.clone(), now)?;
        if let Some(folder) = &self.folder {
            let beside = folder.join(SECOND);
            make(&beside)?;
            fresh.save(&beside)?;
        }
        let next = State { phase: Phase::Announced, second: Some(Arc::new(fresh)), ..state.clone() };
        self.enter(&mut state, next)
    }

    /// Lets the second root sign.
    ///
    /// # Errors
    /// When there is none, or it signs already.
    pub fn issue(&self) -> Result<(), StepError> {
        let mut state = self.state();
        match state.phase {
            Phase::Announced | Phase::Returning => {
                let next = State { phase: Phase::Issuing, ..state.clone() };
                self.enter(&mut state, next)
            }
            Phase::Steady | Phase::Issuing | Phase::Finishing => Err(wrong(state.phase)),
        }
    }

    /// Calls the rotation off. What the second root has signed is to be exchanged first: then this is a rotation
    /// back, to be finished as any.
    ///
    /// # Errors
    /// When there is none, or it was called off already.
    pub fn cancel(&self) -> Result<Phase, StepError> {
        let mut state = self.state();
        match state.phase {
            Phase::Announced => self.drop_second(&mut state)?,
            Phase::Issuing => {
                let next = State { phase: Phase::Returning, ..state.clone() };
                self.enter(&mut state, next)?;
            }
            Phase::Steady | Phase::Returning | Phase::Finishing => return Err(wrong(state.phase)),
        }
        Ok(state.phase)
    }

    /// Takes out the root that does not sign any more. There is no way back.
    ///
    /// # Errors
    /// When none is to be taken out.
    pub fn finish(&self) -> Result<(), StepError> {
        let mut state = self.state();
        match (state.phase, state.second.clone()) {
            (Phase::Returning, _) => self.drop_second(&mut state),
            (Phase::Issuing | Phase::Finishing, Some(second)) => {
                if let Some(folder) = &self.folder {
                    write_word(folder, FINISHING)?;
                    // From here on the first root may be half gone: what fails now is to be finished, not called off.
                    state.phase = Phase::Finishing;
                    second.save(folder)?;
                    clear(folder)?;
                }
                *state = State { phase: Phase::Steady, first: second, second: None };
                self.trust.replace(state.bundle()?);
                Ok(())
            }
            (phase @ (Phase::Steady | Phase::Announced | Phase::Issuing | Phase::Finishing), _) => {
                Err(wrong(phase))
            }
        }
    }

    fn drop_second(&self, state: &mut State) -> Result<(), StepError> {
        if let Some(folder) = &self.folder {
            clear(folder)?;
        }
        *state = State { phase: Phase::Steady, first: state.first.clone(), second: None };
        self.trust.replace(state.bundle()?);
        Ok(())
    }

    fn enter(&self, state: &mut State, next: State) -> Result<(), StepError> {
        let bundle = next.bundle()?;
        if let Some(folder) = &self.folder {
            write_word(folder, next.phase.as_str())?;
        }
        *state = next;
        self.trust.replace(bundle);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("domain", &self.domain).field("phase", &self.phase()).finish()
    }
}

fn wrong(phase: Phase) -> StepError {
    let remedy = match phase {
        Phase::Steady => "no root is being exchanged; `dodai ca rotate` begins",
        Phase::Announced => {
            "the new root is being made known; `dodai ca issue` goes on, `dodai ca cancel` goes back"
        }
        Phase::Issuing => {
            "the new root signs; `dodai ca finish` takes the old one out, `dodai ca cancel` goes back"
        }
        Phase::Returning => {
            "it was called off; `dodai ca finish` takes the new root out, `dodai ca issue` goes on with it after all"
        }
        Phase::Finishing => "the old root is being taken out, which failed; `dodai ca finish` tries again",
    };
    StepError::Order { phase, remedy }
}

fn make(folder: &Path) -> Result<(), AuthorityError> {
    let made =
        std::os::unix::fs::DirBuilderExt::mode(fs::DirBuilder::new().recursive(true), 0o700).create(folder);
    made.map_err(failed("write", folder))
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> AuthorityError + use<> {
    let path = path.to_owned();
    move |source| AuthorityError::File { verb, path: path.clone(), source }
}

fn read_word(folder: &Path) -> Result<String, AuthorityError> {
    let path = folder.join(ROTATION_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

fn write_word(folder: &Path, word: &str) -> Result<(), AuthorityError> {
    let path = folder.join(ROTATION_FILE);
    pem::write_public(&path, &format!("{word}\n")).map_err(failed("write", &path))
}

/// An authority whose files are both there and sound.
fn whole(domain: &TrustDomain, folder: &Path, now: SystemTime) -> Option<Authority> {
    let both = folder.join(KEY_FILE).exists() && folder.join(ROOT_FILE).exists();
    if both { Authority::load(domain.clone(), folder, now).ok().flatten() } else { None }
}

/// Ends a rotation on disk: first the word goes, then what it stood for.
fn clear(folder: &Path) -> Result<(), AuthorityError> {
    let gone = |result: io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    };
    let (word, beside) = (folder.join(ROTATION_FILE), folder.join(SECOND));
    gone(fs::remove_file(&word), &word)?;
    gone(fs::remove_dir_all(&beside), &beside)
}
