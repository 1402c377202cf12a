//! The calibration of a machine as text.

use std::collections::BTreeSet;

use crate::record::calibration::{Calibration, SdEstimate};
use crate::report::document::{Cell, Table};
use crate::report::text::{TextFormat, percent, sanitize};
use crate::workload::metric;

/// A calibration for a terminal: standard deviations by kind of metric, and the smallest detectable
/// change per scenario.
pub fn calibration_text(calibration: &Calibration) -> String {
    let spread = |spread: Option<&SdEstimate>| -> Cell {
        spread.map_or("not measured".into(), |spread| {
            format!("{:.2} % ({:.0} df)", 100.0 * spread.sd, spread.freedom).into()
        })
    };
    let Calibration { layout_sd, session_sd, floors, .. } = calibration;
    let kinds: BTreeSet<&String> = layout_sd.keys().chain(session_sd.keys()).collect();
    let spreads = Table::of(kinds)
        .text("metrics", |kind| kind.as_str())
        .number("SD between layouts", |kind| spread(layout_sd.get(*kind)))
        .number("SD between sessions", |kind| spread(session_sd.get(*kind)));
    let header = ["scenario", "metric", "limit", "SD of rounds", "SD of blocks"];
    let sizes = floors.first().into_iter().flat_map(|floor| floor.smallest_at.keys());
    let sizes = sizes.map(|blocks| format!("detectable, {blocks} blocks"));
    let mut detectable = Table::new(header.map(String::from).into_iter().chain(sizes), 2..);
    for floor in floors {
        let limit = metric(&floor.metric).and_then(|metric| metric.limit);
        let cells = [
            floor.scenario.clone(),
            floor.metric.clone(),
            limit.map_or("-".into(), percent),
            floor.within_sd.map_or("-".into(), |sd| format!("{:.2} %", 100.0 * sd)),
            format!("{:.2} %", 100.0 * floor.block_sd),
        ];
        let smallest = floor.smallest_at.values().map(|share| {
            let above = limit.is_some_and(|limit| *share > limit);
            format!("{:.1} %{}", 100.0 * share, if above { ", above limit" } else { "" })
        });
        detectable.push(cells.into_iter().chain(smallest));
    }
    format!(
        "{} with {}, {} sessions; standard deviations (SD) of ln cost\n\n{}\n{}",
        sanitize(&calibration.machine.class),
        sanitize(&calibration.model.spec),
        calibration.sessions.len(),
        spreads.render(TextFormat::Terminal),
        detectable.render(TextFormat::Terminal)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::calibration::{CalibrationKind, MachineId, ModelId, NoiseFloor, SCHEMA};

    #[test]
    fn a_limit_that_cannot_be_detected_is_marked() {
        let calibration = Calibration {
            layout_sd: [("decode".to_owned(), SdEstimate { sd: 0.0031, freedom: 3.0 })].into(),
            floors: vec![NoiseFloor {
                scenario: "code/b1".into(),
                metric: "decode_tok_s".into(),
                within_sd: Some(0.02),
                block_sd: 0.015,
                smallest_at: [(8, 0.062), (32, 0.018)].into(),
            }],
            schema: SCHEMA,
            kind: CalibrationKind::Calibration,
            machine: MachineId::default(),
            model: ModelId::default(),
            commit: None,
            sessions: Vec::new(),
            session_sd: Default::default(),
        };
        let text = calibration_text(&calibration);
        for part in ["0.31 % (3 df)", "not measured", "6.2 %, above limit", "1.8 %"] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert_eq!(text.matches("above limit").count(), 1, "{text}");
    }
}
