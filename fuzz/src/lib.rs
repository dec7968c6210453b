//! What each fuzz target does with its bytes. Plain functions, so that a test can call them with a saved input.
//!
//! A target panics when a promise is broken; `main.rs` only hands over the bytes.

macro_rules! targets {
    ($($name:ident)*) => {
        $(pub mod $name;)*

        /// Every target by its name.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::target)),*];
    };
}

targets! {
    authorizer
    cel
    chunks
    credentials
    dapr_api
    documents
    event
    forwarded
    guess
    h1_request
    h1_response
    h2
    hello
    hpack
    identity
    line_format
    messages
    proxy_protocol
    schedules
    socks
    template
    tokens
    trace
    tunnel
    words
}
