//! Generated protobuf: the control stream, and what apps and bases say to each other over gRPC.

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

/// The packages of `proto/` that apps know, as modules of their names: `apps::dapr::proto::runtime::v1`, ...
pub mod apps {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        clippy::wildcard_enum_match_arm,
        reason = "generated; the proto files are the documentation"
    )]
    include!(concat!(env!("OUT_DIR"), "/apps.rs"));

    /// Descriptors of all of them, as a serialized `FileDescriptorSet`.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/apps.bin"));
}
