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

/// The packages of `proto/` that apps know, named as they are: their modules refer to each other by these paths.
pub mod apps {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        clippy::wildcard_enum_match_arm,
        reason = "generated; the proto files are the documentation"
    )]

    pub mod dapr {
        pub mod proto {
            pub mod common {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.common.v1");
                }
            }
            pub mod runtime {
                pub mod v1 {
                    tonic::include_proto!("dapr.proto.runtime.v1");
                }
            }
        }
    }

    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }

    pub mod grpc {
        pub mod health {
            pub mod v1 {
                tonic::include_proto!("grpc.health.v1");
            }
        }
        pub mod reflection {
            pub mod v1 {
                tonic::include_proto!("grpc.reflection.v1");
            }
        }
    }

    /// Descriptors of all of them, as a serialized `FileDescriptorSet`.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/apps.bin"));
}
