//! Generated protobuf: the control stream.

/// `dodai.control.v1`: see `proto/dodai/control/v1/control.proto`, which says what each message means.
pub mod control {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        clippy::wildcard_enum_match_arm,
        reason = "generated; the proto file is the documentation"
    )]
    tonic::include_proto!("dodai.control.v1");
}
