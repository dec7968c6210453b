//! Why a listener is not open, with what helps where this base is one of several.

use dodai_dataplane::plane::NotOpen;
use dodai_transport::listen::BindError;

/// The reason for the person who caused it. `is_member` says whether this base joined a server.
pub(crate) fn reason(listener: &str, why: &NotOpen, is_member: bool) -> String {
    match why {
        // Every base opens the gateways' ports: two of one machine cannot both.
        NotOpen::Bind(BindError::Taken { .. }) if is_member && listener.starts_with("gateway/") => {
            format!(
                "{why}; if another base of this machine has it, give the Base document of the one that shall listen \
                 the label `dodai.dev/gateway`, and no other base opens gateways"
            )
        }
        NotOpen::Bind(_) | NotOpen::Certificate(_) => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_transport::listen::Holder;

    #[test]
    fn a_taken_port_of_a_gateway_names_the_label_that_says_who_listens() {
        let told = |listener: &str, is_member| {
            let taken = BindError::Taken {
                addr: ([127, 0, 0, 1], 8080).into(),
                holder: Holder::Process { pid: 7, name: "dodai".to_owned() },
                setting: listener.to_owned().into(),
            };
            reason(listener, &NotOpen::Bind(taken), is_member)
        };
        let member = told("gateway/default/front/http", true);
        assert!(
            member.contains("taken by pid 7 (dodai)") && member.contains("`dodai.dev/gateway`"),
            "{member}"
        );
        assert!(!told("gateway/default/front/http", false).contains("dodai.dev"), "it is alone");
        assert!(!told("outbound/default/shop", true).contains("dodai.dev"), "no label moves that");
    }
}
