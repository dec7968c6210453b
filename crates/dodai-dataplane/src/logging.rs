//! What documents say of the access log, in live form: read once for each table, and found by the rule or service of a call.
//!
//! The names of headers are put together for the whole table, because headers are kept before it is known how a call ends.

use std::sync::Arc;

use dodai_core::snapshot::CallPolicy;
use dodai_log::{Headers, Logging};

use crate::route::{BadRule, Rule};
use crate::service::Service;

/// Reads what `policy` says for the calls of `rule`.
pub(crate) fn compile(rule: &str, policy: &CallPolicy) -> Result<Option<Arc<Logging>>, BadRule> {
    let Some(said) = &policy.access_log else { return Ok(None) };
    let headers = Headers {
        request: said.request_headers.iter().cloned().collect(),
        response: said.response_headers.iter().cloned().collect(),
    };
    Logging::read(said.format.as_deref(), &said.filters, headers)
        .map(|read| Some(Arc::new(read)))
        .map_err(|reason| BadRule::Log { rule: rule.to_owned(), reason })
}

/// What holds for a call: what its rule says, else its service.
pub(crate) fn of<'a>(service: Option<&'a Service>, rule: Option<&'a Rule>) -> Option<&'a Arc<Logging>> {
    let of_rule = rule.and_then(|rule| rule.logging.as_ref());
    of_rule.or_else(|| service.and_then(|service| service.logging.as_ref()))
}

/// All headers that are named.
pub(crate) fn headers<'a>(all: impl Iterator<Item = &'a Arc<Logging>>) -> Headers {
    let mut named = Headers::default();
    for logging in all {
        named.request.extend(logging.headers.request.iter().cloned());
        named.response.extend(logging.headers.response.iter().cloned());
    }
    named
}

#[cfg(test)]
mod tests {
    use dodai_core::snapshot::AccessLog;

    use super::*;

    #[test]
    fn what_cannot_be_understood_names_its_rule() {
        let log = AccessLog { format: Some("%NOTHING%".to_owned()), ..AccessLog::default() };
        let policy = CallPolicy { access_log: Some(log), ..CallPolicy::default() };
        let bad = compile("shop/r/one", &policy).expect_err("no such operator").to_string();
        assert!(bad.contains("rule shop/r/one") && bad.contains("character 1"), "{bad}");
        assert!(compile("r", &CallPolicy::default()).expect("nothing is said").is_none());
    }
}
