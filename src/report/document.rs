//! A record for other programs: CSV and JSON; and what every page says of a machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::Machine;
use crate::record::Record;
use crate::report::text::number;
use crate::report::text::plain;

/// The record as it is stored.
pub fn json(record: &Record) -> String {
    record.to_json()
}

/// Where something was measured, as name and value.
pub(super) fn machine(machine: &Machine) -> [(&'static str, String); 5] {
    let list = |fields: &BTreeMap<String, String>| {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        fields.join(", ")
    };
    let rate = |value: Option<f64>, unit: &str| {
        value.map_or("not measured".into(), |value| format!("{} {unit}", number(value / 1e9)))
    };
    [
        ("machine class", machine.class.clone()),
        ("machine", list(&machine.fields)),
        ("host", list(&machine.facts)),
        ("memory read rate", rate(machine.rates.read_bytes_per_s, "GB/s")),
        ("f32 rate", rate(machine.rates.f32_flop_per_s, "GFLOP/s")),
    ]
}

/// One line per scenario, metric and block, values in the unit of the metric's name.
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
                let fields: Vec<String> = fields.into_iter().map(quoted).collect();
                text += &(fields.join(",") + "\n");
            }
        }
        if let Some(why) = &case.absent {
            let _ = writeln!(text, "{},,,,,,{}", quoted(&case.id), quoted(why));
        }
    }
    text
}

/// A field that ends neither itself nor its line, and that a spreadsheet does not take for a formula: that begins with one of
/// `=+-@`, and gets an apostrophe in front unless it is a number.
fn quoted(field: &str) -> String {
    let field = plain(field);
    let formula = field.starts_with(['=', '+', '-', '@']) && field.parse::<f64>().is_err();
    let field = if formula { format!("'{field}") } else { field };
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}
