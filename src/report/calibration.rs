//! The calibration of a machine as text.

use crate::record::calibration::{Calibration, SdEstimate};
use crate::report::text::{TextFormat, percent, sanitize, table};
use crate::workload::metric;

/// A calibration for a terminal: standard deviations by kind of metric, and the smallest detectable
/// change per scenario.
pub fn calibration_text(calibration: &Calibration) -> String {
    let spread = |spread: Option<&SdEstimate>| {
        spread.map_or("not measured".into(), |spread| {
            format!("{:.2} % ({:.0} df)", 100.0 * spread.sd, spread.freedom)
        })
    };
    let mut kinds: Vec<&String> =
        calibration.layout_sd.keys().chain(calibration.session_sd.keys()).collect();
    kinds.sort();
    kinds.dedup();
    let rows: Vec<Vec<String>> = kinds
        .into_iter()
        .map(|kind| {
            let (layout, session) =
                (calibration.layout_sd.get(kind), calibration.session_sd.get(kind));
            vec![kind.clone(), spread(layout), spread(session)]
        })
        .collect();
    let header = ["metrics", "SD between layouts", "SD between sessions"];
    let mut text = format!(
        "{} with {}, {} sessions; standard deviations (SD) of ln cost\n\n{}",
        sanitize(&calibration.machine.class),
        sanitize(&calibration.model.spec),
        calibration.sessions.len(),
        table(TextFormat::Terminal, &header, &rows, &[1, 2])
    );
    let sizes: Vec<usize> = calibration
        .floors
        .first()
        .map_or(Vec::new(), |floor| floor.smallest_at.keys().copied().collect());
    let detectable: Vec<String> =
        sizes.iter().map(|blocks| format!("detectable, {blocks} blocks")).collect();
    let mut header = vec!["scenario", "metric", "limit", "SD of rounds", "SD of blocks"];
    header.extend(detectable.iter().map(String::as_str));
    let rows: Vec<Vec<String>> = calibration
        .floors
        .iter()
        .map(|floor| {
            let limit = metric(&floor.metric).and_then(|metric| metric.limit);
            let mut row = vec![
                sanitize(&floor.scenario),
                sanitize(&floor.metric),
                limit.map_or("-".into(), percent),
                floor.within_sd.map_or("-".into(), |sd| format!("{:.2} %", 100.0 * sd)),
                format!("{:.2} %", 100.0 * floor.block_sd),
            ];
            row.extend(floor.smallest_at.values().map(|share| {
                let above = limit.is_some_and(|limit| *share > limit);
                format!("{:.1} %{}", 100.0 * share, if above { ", above limit" } else { "" })
            }));
            row
        })
        .collect();
    let numbers: Vec<usize> = (2..header.len()).collect();
    text += &format!("\n{}", table(TextFormat::Terminal, &header, &rows, &numbers));
    text
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
