//! JSON that can be reviewed line by line, and what all stored forms check.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

/// The JSON Schema of a stored form.
pub(super) fn schema<T: JsonSchema>() -> String {
    let schema = schemars::schema_for!(T);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// A struct as JSON with one line per field, and one per item of the fields named in `lists`.
pub(super) fn to_lines<T: Serialize>(value: &T, lists: &[&str]) -> String {
    let serde_json::Value::Object(fields) = serde_json::to_value(value).expect("plain data") else {
        unreachable!("a struct is an object")
    };
    let mut text = Vec::new();
    for (key, value) in &fields {
        match value {
            serde_json::Value::Array(items)
                if lists.contains(&key.as_str()) && !items.is_empty() =>
            {
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
