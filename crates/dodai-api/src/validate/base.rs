//! Rules within a Base.

use super::Findings;
use crate::base::BaseSpec;
use crate::interception::Interception;
use crate::read::Code;

pub(super) fn check(spec: &BaseSpec, found: &mut Findings) {
    if let Some(interception) = &spec.interception {
        check_interception(interception, found);
    }
}

fn check_interception(interception: &Interception, found: &mut Findings) {
    let path = "spec.interception";
    let (outbound, inbound) = (&interception.outbound, &interception.inbound);
    if outbound.is_none() && inbound.is_none() {
        let remedy = "add `outbound: {}`, `inbound: {}` or both, or leave `interception` out";
        found.error(Code::MissingKey, path, "it is not said which connections are taken", remedy);
    }
    if let (Some(outbound), Some(inbound)) = (outbound, inbound)
        && outbound.port == inbound.port
    {
        let message = format!("port {} takes what leaves the machine already", inbound.port);
        found.error(
            Code::PortClash,
            format!("{path}.inbound.port"),
            message,
            "give one of them another port",
        );
    }
    let Some(outbound) = outbound else { return };
    let path = format!("{path}.outbound.callers");
    let users = outbound.callers.iter().enumerate();
    let users = users.filter_map(|(i, caller)| Some((format!("{path}[{i}].user"), caller.user?)));
    found.unique("the user", users);
    let all = outbound.callers.iter().position(|caller| caller.user.is_none());
    if let Some(all) = all.filter(|all| all + 1 < outbound.callers.len()) {
        let message = "this one has the connections of every user, so none is left for those after it";
        found.error(Code::Conflict, format!("{path}[{all}]"), message, "put it last, or name its `user`");
    }
}
