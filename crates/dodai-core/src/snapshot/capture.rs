//! Connections whose clients meant another address: rules of the kernel lead them to a listener.

use serde::{Deserialize, Serialize};

use crate::id::AppId;

/// What is done with connections that the kernel led here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Which ones they are.
    pub way: CaptureWay,
    /// Whether those go on, as bytes, that are meant for an address of which nothing is known.
    pub allow_unknown: bool,
}

/// Which connections the kernel leads to a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureWay {
    /// Those that leave this machine.
    Outbound {
        /// Whose they are: the first that the user fits.
        callers: Vec<CapturedCaller>,
    },
    /// Those that come to this machine.
    Inbound,
}

/// An app that calls by connections which the kernel led here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedCaller {
    /// The user that the app runs as; `None` for all others.
    pub user: Option<u32>,
    /// The app.
    pub app: AppId,
}
