//! `secretstores.local.env`: variables of the environment as it was when the process began.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_capability::secrets::{Error, Features, Store, Values};
use dodai_capability::{Answer, Metadata};

/// Secrets from the environment.
pub struct Environment {
    variables: Arc<BTreeMap<String, String>>,
    prefix: String,
}

/// Whether a variable is the runtime's own, tokens among them, and never shown.
fn is_refused(variable: &str) -> bool {
    let variable = variable.to_ascii_uppercase();
    variable == "APP_API_TOKEN" || variable.starts_with("DAPR_") || variable.starts_with("DODAI_")
}

impl Environment {
    /// Secrets from `variables`; `prefix` is put before every name that is asked for.
    pub fn new(variables: Arc<BTreeMap<String, String>>, prefix: &str) -> Environment {
        Environment { variables, prefix: prefix.to_owned() }
    }
}

impl Store for Environment {
    fn features(&self) -> Features {
        Features { multiple_values: false }
    }

    fn get<'a>(&'a self, name: &'a str, _: &'a Metadata) -> Answer<'a, Result<Values, Error>> {
        let variable = [&self.prefix, name].concat();
        if is_refused(&variable) {
            return Answer::ready(Err(Error::Refused { name: name.to_owned() }));
        }
        Answer::ready(match self.variables.get(&variable) {
            Some(value) => Ok(Values::from([(name.to_owned(), value.as_str().into())])),
            None => Err(Error::NotFound { name: name.to_owned() }),
        })
    }

    fn get_all<'a>(&'a self, _: &'a Metadata) -> Answer<'a, Result<BTreeMap<String, Values>, Error>> {
        let shown = self.variables.iter().filter_map(|(variable, value)| {
            let name = variable
                .strip_prefix(&self.prefix)
                .filter(|name| !name.is_empty() && !is_refused(variable))?;
            Some((name.to_owned(), Values::from([(name.to_owned(), value.as_str().into())])))
        });
        Answer::ready(Ok(shown.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shows_variables_but_the_runtimes_own() {
        let variables =
            [("DB_PASS", "a"), ("APP_X", "b"), ("APP_API_TOKEN", "c"), ("dapr_x", "d"), ("APP_", "e")];
        let variables = Arc::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let (plain, prefixed) =
            (Environment::new(Arc::clone(&variables), ""), Environment::new(variables, "APP_"));
        let none = Metadata::new();
        assert_eq!(plain.get("DB_PASS", &none).await.unwrap()["DB_PASS"].reveal(), "a");
        assert_eq!(prefixed.get("X", &none).await.unwrap()["X"].reveal(), "b");
        for name in ["APP_API_TOKEN", "app_api_token", "DAPR_API_TOKEN", "DODAI_TOKEN"] {
            assert_eq!(plain.get(name, &none).await.expect_err("refused").code(), "secret_refused", "{name}");
        }
        assert_eq!(prefixed.get("API_TOKEN", &none).await.expect_err("refused").code(), "secret_refused");
        assert_eq!(plain.get("NOPE", &none).await.expect_err("not there").code(), "secret_not_found");
        let all: Vec<String> = plain.get_all(&none).await.unwrap().into_keys().collect();
        assert_eq!(all, ["APP_", "APP_X", "DB_PASS"]);
        let all: Vec<String> = prefixed.get_all(&none).await.unwrap().into_keys().collect();
        assert_eq!(all, ["X"]);
    }
}
