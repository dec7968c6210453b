//! The id of a revision: the hash of what runs, so that the same template is the same revision everywhere.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use crate::app::{AppSpec, RevisionTemplate};
use crate::name::RevisionId;

/// The id of the revision that a template makes.
///
/// `artifact` is the digest of the artefact's content, `sha256:...`. With it the place the artefact was built at and
/// how it was built are left out: the same bytes are the same revision wherever they came from.
pub fn revision_id(template: &RevisionTemplate, artifact: Option<&str>) -> RevisionId {
    let mut template = template.clone();
    if let Some(process) = &mut template.process {
        process.build = None;
    }
    if let Some(module) = &mut template.module {
        module.build = None;
        if let Some(digest) = artifact {
            digest.clone_into(&mut module.artifact);
        }
    }
    let mut value =
        serde_json::to_value(&template).expect("templates have text keys only, which JSON can always hold");
    if let (Value::Object(map), Some(digest)) = (&mut value, artifact) {
        map.insert("digest".to_owned(), Value::from(digest));
    }
    let hash = digest(&SHA256, canonical_json(&value).as_bytes());
    let hex: String = hash.as_ref().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    hex.parse().expect("five bytes are ten hexadecimal digits")
}

impl AppSpec {
    /// Makes these parts what a revision fixed; all else stays.
    pub fn set_template(&mut self, template: RevisionTemplate) {
        let RevisionTemplate {
            module,
            process,
            external,
            services,
            env,
            config,
            calls,
            probes,
            limits,
            run,
            dapr,
            labels,
        } = template;
        (self.module, self.process, self.external) = (module, process, external);
        (self.services, self.env, self.config, self.calls) = (services, env, config, calls);
        (self.probes, self.limits, self.run) = (probes, limits, run);
        (self.dapr, self.labels) = (dapr, labels);
    }
}

/// JSON with keys in order and no spaces: the same text for equal values, whatever built them.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&value.to_string())
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            text.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(&map[key], text);
            }
            text.push('}');
        }
    }
}
