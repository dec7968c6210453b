//! What the shop modules share: requests and responses, calls to other apps, state and configuration.
//!
//! A module is a function from [`Request`] to `Result<Response, Failure>`, given to [`serve!`]. The host makes a
//! fresh or reused instance per request, so a module keeps nothing in memory between two requests.

/// The Rust side of the interfaces in `wit/`.
#[allow(missing_docs, reason = "generated from the WIT files, which are documented")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "service",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_service",
        default_bindings_module: "shop_guest::bindings",
    });
}

pub mod call;
pub mod config;
pub mod http;
pub mod info;
pub mod state;
mod stream;

pub use call::Call;
pub use http::{Failure, Request, Response};

/// Makes a function the module's `wasi:http/incoming-handler`.
#[macro_export]
macro_rules! serve {
    ($answer:path) => {
        struct Module;

        impl $crate::bindings::exports::wasi::http::incoming_handler::Guest for Module {
            fn handle(
                request: $crate::bindings::wasi::http::types::IncomingRequest,
                out: $crate::bindings::wasi::http::types::ResponseOutparam,
            ) {
                $crate::http::respond(request, out, $answer);
            }
        }

        $crate::bindings::export_service!(Module with_types_in $crate::bindings);
    };
}
