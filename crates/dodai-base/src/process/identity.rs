//! From user and group names to the numbers a shim can take on.

use nix::unistd::{Gid, Group, User, getegid, geteuid, getgrouplist};

use super::{Error, Spec};
use crate::shim::wire::Identity;

/// Whom the spec's process becomes; nothing when it stays what the base is.
pub(super) fn resolve(spec: &Spec) -> Result<Option<Identity>, Error> {
    let refuse = |field, problem| Error::Spec { instance: spec.instance.clone(), field, problem };
    let user = spec.user.as_deref().map(find_user).transpose().map_err(|problem| refuse("user", problem))?;
    let group =
        spec.group.as_deref().map(find_group).transpose().map_err(|problem| refuse("group", problem))?;
    if user.is_none() && group.is_none() {
        return Ok(None);
    }
    let (uid, own_group, name) = match user {
        Some((uid, gid, name)) => (uid, gid, name),
        None => (geteuid().as_raw(), None, None),
    };
    let gid = match (group, own_group) {
        (Some(gid), _) | (None, Some(gid)) => gid,
        // A number without an entry: never keep root's group by accident.
        (None, None) => uid,
    };
    if !geteuid().is_root() {
        return if (uid, gid) == (geteuid().as_raw(), getegid().as_raw()) {
            Ok(None)
        } else {
            let field = if spec.user.is_some() { "user" } else { "group" };
            Err(refuse(
                field,
                "can only be another than the base's own as root; run the base as root or leave it out"
                    .into(),
            ))
        };
    }
    let listed = name.and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok());
    let groups = listed.map_or_else(|| vec![gid], |list| list.into_iter().map(Gid::as_raw).collect());
    Ok(Some(Identity { uid, gid, groups }))
}

type Found = (u32, Option<u32>, Option<std::ffi::CString>);

fn find_user(word: &str) -> Result<Found, String> {
    let number = word.parse::<u32>().ok();
    let entry = match number {
        Some(uid) => User::from_uid(uid.into()),
        None => User::from_name(word),
    };
    match (entry, number) {
        (Ok(Some(user)), _) => {
            Ok((user.uid.as_raw(), Some(user.gid.as_raw()), std::ffi::CString::new(user.name).ok()))
        }
        (_, Some(uid)) => Ok((uid, None, None)),
        (Ok(None), None) => Err(format!("{word:?} does not exist here; create it or name another")),
        (Err(error), None) => Err(format!("{word:?} could not be looked up: {}", error.desc())),
    }
}

fn find_group(word: &str) -> Result<u32, String> {
    if let Ok(gid) = word.parse() {
        return Ok(gid);
    }
    match Group::from_name(word) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("{word:?} does not exist here; create it or name another")),
        Err(error) => Err(format!("{word:?} could not be looked up: {}", error.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::LogPolicy;

    fn spec(user: Option<&str>, group: Option<&str>) -> Spec {
        let mut spec = Spec::new("a", "a-1", vec!["true".into()], LogPolicy::under("/tmp"));
        spec.user = user.map(Into::into);
        spec.group = group.map(Into::into);
        spec
    }

    #[test]
    fn names_that_do_not_exist_are_refused_with_their_field() {
        assert!(resolve(&spec(None, None)).unwrap().is_none());
        let error = resolve(&spec(Some("no-such-user"), None)).unwrap_err().to_string();
        assert!(error.contains("user \"no-such-user\""), "{error}");
        let error = resolve(&spec(None, Some("no-such-group"))).unwrap_err().to_string();
        assert!(error.contains("group \"no-such-group\""), "{error}");
    }

    #[test]
    fn a_bare_number_never_keeps_the_groups_of_root() {
        if !geteuid().is_root() {
            assert!(resolve(&spec(Some("54321"), None)).unwrap_err().to_string().contains("as root"));
            return;
        }
        let identity = resolve(&spec(Some("54321"), None)).unwrap().unwrap();
        assert_eq!(identity, Identity { uid: 54321, gid: 54321, groups: vec![54321] });
    }
}
