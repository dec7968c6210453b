//! Rules within `fault` of a Policy.

use super::Findings;
use super::route::check_value;
use crate::fault::Fault;
use crate::read::Code;

pub(super) fn check(fault: &Fault, found: &mut Findings) {
    let path = "spec.fault";
    let nothing = fault.delay.is_none() && fault.abort.is_none() && fault.throttle.is_none();
    if nothing && fault.reset_percent.is_none() {
        let remedy = "add `delay`, `abort`, `resetPercent` or `throttle`";
        found.error(Code::MissingKey, path, "no fault is named", remedy);
    }
    let shares = [
        ("delay.percent", fault.delay.as_ref().map(|one| one.percent)),
        ("abort.percent", fault.abort.as_ref().map(|one| one.percent)),
        ("throttle.percent", fault.throttle.as_ref().map(|one| one.percent)),
        ("resetPercent", fault.reset_percent),
    ];
    for (key, share) in shares {
        if let Some(share) = share.filter(|share| !(0.0..=100.0).contains(share)) {
            let message = format!("{share} is not a share");
            found.error(Code::InvalidValue, format!("{path}.{key}"), message, "write 0 to 100");
        }
    }
    if let Some(abort) = &fault.abort {
        let path = format!("{path}.abort");
        let given = [("status", abort.status.is_some()), ("grpcStatus", abort.grpc_status.is_some())];
        found.exactly_one(&path, &given);
        if let Some(status) = abort.status.filter(|status| !(200..=599).contains(status)) {
            let message = format!("{status} cannot be answered");
            found.error(
                Code::InvalidValue,
                format!("{path}.status"),
                message,
                "write a code from 200 to 599",
            );
        }
        if let Some(status) = abort.grpc_status.filter(|status| !(1..=16).contains(status)) {
            let message = format!("{status} is not the status of a failed call");
            found.error(Code::InvalidValue, format!("{path}.grpcStatus"), message, "write 1 to 16");
        }
    }
    if fault.throttle.as_ref().is_some_and(|one| one.bytes_per_second == 0) {
        let message = "no answer would ever end";
        let path = format!("{path}.throttle.bytesPerSecond");
        found.error(Code::InvalidValue, path, message, "write 1 or more; to cut calls use `resetPercent`");
    }
    for (j, header) in fault.headers.iter().enumerate() {
        let path = format!("{path}.headers[{j}]");
        found.header_name(&format!("{path}.name"), &header.name);
        check_value(&path, header, found);
    }
}
