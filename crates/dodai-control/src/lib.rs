//! Control: documents in, snapshots out.
//!
//! [`documents`] keeps what users write; [`plan`](mod@plan) decides, [`execute`](mod@execute) does, [`snapshot`]
//! tells each base what it should be, [`status`] says what came of it; [`control`] is the loop around them.
//! Everything but `documents`, `execute`, `control` and `stream` (the wire to bases on other machines) is pure.

pub mod control;
pub mod documents;
pub mod error;
pub mod execute;
mod mirror;
mod name;
mod observed;
pub mod plan;
mod reads;
pub mod records;
pub mod shared_map;
pub mod snapshot;
pub mod status;
pub mod stream;
pub mod trust;
mod world;
