//! A record as CSV.

use std::fmt::Write as _;

use crate::record::Record;
use crate::report::text::sanitize;

/// One line per scenario, metric and block; values in the unit of the metric's name.
pub fn csv(record: &Record) -> String {
    let mut text = String::from("scenario,metric,block,session,value,valid,note\n");
    for case in &record.scenarios {
        for (at, block) in case.blocks.iter().enumerate() {
            for (metric, value) in &block.values {
                let value = value.map_or(String::new(), |value| value.to_string());
                let note = block.notes.get(metric).map_or("", String::as_str);
                let fields = [
                    &case.id,
                    metric,
                    &at.to_string(),
                    &block.session,
                    &value,
                    &case.validity.ok().to_string(),
                    note,
                ];
                let fields: Vec<String> = fields.into_iter().map(quote_field).collect();
                text += &(fields.join(",") + "\n");
            }
        }
        if let Some(absent) = &case.absent {
            let why = quote_field(&absent.to_string());
            let _ = writeln!(text, "{},,,,,,{why}", quote_field(&case.id));
        }
    }
    text
}

/// Quotes a CSV field. A field that a spreadsheet would take for a formula (it begins with one of
/// `=+-@` and is no number) gets an apostrophe in front.
fn quote_field(field: &str) -> String {
    let field = sanitize(field);
    let formula = field.starts_with(['=', '+', '-', '@']) && field.parse::<f64>().is_err();
    let field = if formula { format!("'{field}") } else { field };
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}
