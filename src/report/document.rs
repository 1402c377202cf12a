//! A record as CSV and JSON, and the description of a machine for every page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::record::{Machine, Record};
use crate::report::text::{number, plain};

/// The record as stored.
pub fn json(record: &Record) -> String {
    record.to_json()
}

/// The machine, as names and values.
pub(super) fn machine(machine: &Machine) -> Vec<(&'static str, String)> {
    let list = |fields: &BTreeMap<String, String>| {
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {value}")).collect();
        fields.join(", ")
    };
    let rate = |value: Option<f64>, unit: &str| {
        value.map_or("not measured".into(), |value| format!("{} {unit}", number(value / 1e9)))
    };
    let rates = &machine.rates;
    let mut rows = vec![
        ("machine class", machine.class.clone()),
        ("machine", list(&machine.fields)),
        ("host", list(&machine.facts)),
        ("memory read rate", rate(rates.read_bytes_per_s, "GB/s")),
        ("f32 rate", rate(rates.f32_flop_per_s, "GFLOP/s")),
    ];
    // Older records lack these rates.
    rows.extend(
        [
            ("memory read rate with huge pages", rates.read_huge_bytes_per_s, "GB/s"),
            ("8-bit integer rate", rates.int8_op_per_s, "GOP/s"),
            ("16-bit integer rate", rates.int16_op_per_s, "GOP/s"),
            ("bf16 rate", rates.bf16_flop_per_s, "GFLOP/s"),
        ]
        .into_iter()
        .filter(|(_, value, _)| value.is_some())
        .map(|(name, value, unit)| (name, rate(value, unit))),
    );
    rows.extend(rates.isa.clone().map(|isa| ("instructions of the rates", isa)));
    rows
}

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
                let fields: Vec<String> = fields.into_iter().map(quoted).collect();
                text += &(fields.join(",") + "\n");
            }
        }
        if let Some(absent) = &case.absent {
            let why = quoted(&absent.to_string());
            let _ = writeln!(text, "{},,,,,,{why}", quoted(&case.id));
        }
    }
    text
}

/// Quotes a CSV field. A field that a spreadsheet would take for a formula (it begins with one of
/// `=+-@` and is no number) gets an apostrophe in front.
fn quoted(field: &str) -> String {
    let field = plain(field);
    let formula = field.starts_with(['=', '+', '-', '@']) && field.parse::<f64>().is_err();
    let field = if formula { format!("'{field}") } else { field };
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}
