//! An open component in use. It is closed when the last user lets go of it.

use dodai_capability::component::Component;
use dodai_capability::keys::Prefix;
use dodai_core::features::Blocks;
use dodai_core::id::AppId;
use dodai_core::snapshot;
use dodai_core::task::{Kind, Tasks};

use crate::error::Error;
use crate::inputs::has_direction;

/// An open component. Hold it while you use what it serves.
pub struct Live {
    /// The component.
    pub component: Component,
    /// What it was made from.
    pub(super) made_from: snapshot::Component,
    pub(super) tasks: Tasks,
}

impl Live {
    /// The name that apps use.
    pub fn name(&self) -> &str {
        &self.component.spec.name
    }

    /// A property that the runtime itself reads, as text.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.component.spec.properties.text(name)
    }

    /// The blocks it serves, as far as its `direction` lets it.
    pub fn blocks(&self) -> Blocks {
        let mut blocks = self.component.serves.blocks();
        if let Some(bindings) = &mut blocks.bindings {
            bindings.input &= has_direction(self, "input");
            bindings.operations.retain(|_| has_direction(self, "output"));
        }
        blocks
    }

    /// How the keys of `app` are prefixed in it.
    ///
    /// # Errors
    /// The component's `keyPrefix` cannot be used.
    pub fn prefix(&self, app: &AppId) -> Result<Prefix, Error> {
        let properties = &self.component.spec.properties;
        Ok(Prefix::new(properties, app.name.as_str(), self.name(), app.namespace.as_str())?)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Without a runtime there is nothing left to close gracefully: the process is ending.
        if tokio::runtime::Handle::try_current().is_ok() {
            let component = self.component.clone();
            self.tasks.spawn(Kind::Loop, async move { component.close().await });
        }
    }
}
