//! JSON that can be reviewed line by line, and what all stored forms check.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// How a stored form is read.
pub(super) struct Form {
    /// The schema that this build reads.
    pub(super) schema: u32,
    /// Its `kind`s, which tell it from other forms.
    pub(super) kinds: &'static [&'static str],
    /// What writes it, for messages.
    pub(super) about: &'static str,
    /// How to make a new file.
    pub(super) remedy: &'static str,
    /// Upgrades a file of schema 1.
    pub(super) upgrade: fn(&mut Value),
}

impl Form {
    /// Reads JSON of this or an older schema, and checks it.
    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        text: &str,
        path: &Path,
        check: impl Fn(&T) -> std::result::Result<(), String>,
    ) -> Result<T> {
        let value = serde_json::from_str(text).map_err(|error| self.malformed(&error, path))?;
        self.accept(value, path, check)
    }

    /// The error for a file that is not of this form.
    pub(super) fn malformed(&self, error: &serde_json::Error, path: &Path) -> Error {
        Error::invalid(path, format!("{error}; {}", self.about))
    }

    /// As [`Self::parse`], of parsed JSON.
    pub(super) fn accept<T: DeserializeOwned>(
        &self,
        mut value: Value,
        path: &Path,
        check: impl Fn(&T) -> std::result::Result<(), String>,
    ) -> Result<T> {
        let is_other = value["kind"].as_str().is_some_and(|kind| !self.kinds.contains(&kind));
        match value["schema"].as_u64() {
            _ if is_other => {} // Its kind is refused below.
            Some(schema) if schema == u64::from(self.schema) => {}
            Some(1) => (self.upgrade)(&mut value),
            schema => {
                let found = value.get("schema").map_or_else(|| "none".into(), Value::to_string);
                let remedy = match schema {
                    Some(newer) if newer > u64::from(self.schema) => {
                        "update candlemark to the version that wrote it"
                    }
                    _ => self.remedy,
                };
                let known = self.schema;
                return Err(Error::Schema { path: path.into(), found, known, remedy });
            }
        }
        let parsed = serde_json::from_value(value).map_err(|error| self.malformed(&error, path))?;
        check(&parsed).map_err(|why| Error::invalid(path, why))?;
        Ok(parsed)
    }
}

/// The JSON Schema of a stored form.
pub(super) fn schema<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// A struct as JSON with one line per field, and one per item of the fields named in `lists`.
pub(super) fn to_lines<T: Serialize>(value: &T, lists: &[&str]) -> String {
    let Value::Object(fields) = serde_json::to_value(value).expect("plain data") else {
        unreachable!("a struct is an object")
    };
    let mut text = Vec::new();
    for (key, value) in &fields {
        match value {
            Value::Array(items) if lists.contains(&key.as_str()) && !items.is_empty() => {
                let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
                text.push(format!("  \"{key}\": [\n{}\n  ]", items.join(",\n")));
            }
            _ => text.push(format!("  \"{key}\": {value}")),
        }
    }
    format!("{{\n{}\n}}\n", text.join(",\n"))
}

/// Whether all ids are different; the error is a duplicate.
pub(super) fn unique<'a>(ids: impl Iterator<Item = &'a str>) -> std::result::Result<(), &'a str> {
    let mut seen = BTreeSet::new();
    ids.into_iter().find(|id| !seen.insert(*id)).map_or(Ok(()), Err)
}
