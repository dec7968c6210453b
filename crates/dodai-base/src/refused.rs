//! Why a snapshot was not taken, with what helps where this base is one of several.

use dodai_dataplane::plane::NotApplied;
use dodai_transport::listen::BindError;

/// The reason for the person who caused it. `is_member` says whether this base joined a server.
pub(crate) fn reason(error: &NotApplied, is_member: bool) -> String {
    let text = error.to_string();
    match error {
        // Every base opens the gateways' ports: two of one machine cannot both.
        NotApplied::Bind { listener, source: BindError::Taken { .. } }
            if is_member && listener.starts_with("gateway/") =>
        {
            format!(
                "{text}; if another base of this machine has it, give the Base document of the one that shall listen \
                 the label `dodai.dev/gateway`, and no other base opens gateways"
            )
        }
        NotApplied::Bind { .. }
        | NotApplied::Refused(_)
        | NotApplied::Certificate { .. }
        | NotApplied::NoMesh { .. }
        | NotApplied::Down => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dodai_transport::listen::Holder;

    #[test]
    fn a_taken_port_of_a_gateway_names_the_label_that_says_who_listens() {
        let taken = |listener: &str| NotApplied::Bind {
            listener: listener.to_owned(),
            source: BindError::Taken {
                addr: ([127, 0, 0, 1], 8080).into(),
                holder: Holder::Process { pid: 7, name: "dodai".to_owned() },
                setting: listener.to_owned().into(),
            },
        };
        let told = reason(&taken("gateway/default/front/http"), true);
        assert!(told.contains("taken by pid 7 (dodai)") && told.contains("`dodai.dev/gateway`"), "{told}");
        assert!(!reason(&taken("gateway/default/front/http"), false).contains("dodai.dev"), "it is alone");
        assert!(!reason(&taken("outbound/default/shop"), true).contains("dodai.dev"), "no label moves that");
    }
}
