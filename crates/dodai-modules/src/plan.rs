//! What is fixed for one installed module: who it is, its limits, and what it reaches.

use std::sync::Arc;

use dodai_core::id::{AppId, InstanceId};
use dodai_core::snapshot::ModuleSpec;

use crate::metrics::Counters;
use crate::seam::Seams;

/// Shared by all instances of one module.
pub(crate) struct Plan {
    pub(crate) instance: InstanceId,
    pub(crate) app: AppId,
    pub(crate) spec: ModuleSpec,
    pub(crate) seams: Seams,
    pub(crate) counters: Arc<Counters>,
}

impl Plan {
    /// What messages call the module.
    pub(crate) fn name(&self) -> &str {
        self.app.name.as_str()
    }
}
