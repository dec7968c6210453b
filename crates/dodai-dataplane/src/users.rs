//! The users of this machine that apps run as, and who may use the listeners that speak for an app.
//!
//! Whoever connects to an app's listeners on loopback calls as that app. Where an app runs as a user of its own,
//! only that user may; and such a user may speak for no other app. Root may be anybody. Apps that share the
//! base's user cannot be told apart by the kernel: any process may use their listeners, unless it runs as the
//! user of another app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dodai_core::id::AppId;
use dodai_core::seldom::Seldom;
use dodai_core::snapshot::Role;
use dodai_transport::origin;
use dodai_transport::stream::Stream;

/// The users of the apps that run on a base.
#[derive(Default)]
pub struct Users {
    claims: Mutex<HashMap<AppId, Vec<u32>>>,
    refused: Seldom,
}

/// While it lives, an app has a user of its own.
pub struct Claim {
    users: Arc<Users>,
    app: AppId,
    user: u32,
}

impl Users {
    /// Processes of `app` run as `user`, which is not the base's own.
    pub fn claim(self: &Arc<Users>, app: AppId, user: u32) -> Claim {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).entry(app.clone()).or_default().push(user);
        Claim { users: self.clone(), app, user }
    }

    /// Whether the far end of a connection may use a listener of this role. Costs a question to the kernel when an
    /// app has a user of its own, otherwise nothing.
    pub(crate) fn admit(&self, role: &Role, stream: &Stream) -> bool {
        let app = match role {
            Role::Outbound { app } | Role::Dependency { app, .. } | Role::Api { app } => app,
            Role::Gateway { .. } | Role::Mesh | Role::Captured(_) => return true,
        };
        if self.claims.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return true;
        }
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return false };
        let user = origin::peer_uid(local, peer);
        let admitted = self.may_speak_for(app, user);
        if !admitted && let Some(times) = self.refused.count(&app.to_string(), Instant::now()) {
            let user = user.map_or_else(|| "unknown".to_owned(), |user| user.to_string());
            tracing::warn!(%app, user, times, "refused connections to the app's own listener: only the app's user may speak for it");
        }
        admitted
    }

    /// The app that has `user` for its own, if one has; and whether any app has one is asked first.
    pub(crate) fn app_of(&self, user: impl FnOnce() -> Option<u32>) -> Option<AppId> {
        if self.claims.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return None;
        }
        let user = user()?;
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.iter().find(|(_, own)| own.contains(&user)).map(|(app, _)| app.clone())
    }

    /// `None` is a far end that has closed already: whose it was cannot be told any more.
    fn may_speak_for(&self, app: &AppId, user: Option<u32>) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        match (user, claims.get(app)) {
            (None, _) => claims.is_empty(),
            (Some(0), _) => true,
            (Some(user), Some(own)) => own.contains(&user),
            (Some(user), None) => !claims.values().flatten().any(|other| *other == user),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.users.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = claims.get_mut(&self.app) else { return };
        if let Some(at) = own.iter().position(|user| *user == self.user) {
            own.swap_remove(at);
        }
        if own.is_empty() {
            claims.remove(&self.app);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppId {
        AppId::parse(name).expect("valid")
    }

    #[test]
    fn only_an_apps_own_user_speaks_for_it() {
        let users = Arc::new(Users::default());
        let check = |name: &str, user: Option<u32>, expect: bool| {
            assert_eq!(users.may_speak_for(&app(name), user), expect, "{user:?} for {name}");
        };
        check("shop/web", Some(33), true);
        check("shop/web", None, true);
        let first = users.claim(app("shop/pay"), 1001);
        let second = users.claim(app("shop/pay"), 1001);
        for (user, pay, web) in
            [(Some(1001), true, false), (Some(33), false, true), (Some(0), true, true), (None, false, false)]
        {
            check("shop/pay", user, pay);
            check("shop/web", user, web);
        }
        drop(first);
        check("shop/pay", Some(33), false);
        drop(second);
        check("shop/pay", Some(33), true);
        check("shop/web", Some(1001), true);
    }
}
