//! Generated protobuf: the control stream.
