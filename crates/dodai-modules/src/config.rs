//! `wasi:config/store` for guests.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker};

use crate::guest::Guest;
use crate::seam::Config;

mod generated {
    wasmtime::component::bindgen!({ path: "wit/config.wit", world: "offered" });
}

use generated::wasi::config::store::{self, Error, Host};

/// The view of one instance.
pub(crate) struct Values(Arc<dyn Config>);

struct HasValues;

impl HasData for HasValues {
    type Data<'a> = Values;
}

impl Host for Values {
    fn get(&mut self, key: String) -> Result<Option<String>, Error> {
        Ok(self.0.get(&key))
    }

    fn get_all(&mut self) -> Result<Vec<(String, String)>, Error> {
        Ok(self.0.all())
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    store::add_to_linker::<Guest, HasValues>(linker, |guest| Values(guest.plan.seams.config.clone()))
}
