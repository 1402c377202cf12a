//! The evaluation of gate rules as text or Markdown: one table per class of environments, the
//! default rule against its targets and in every environment, and all figures again as JSON in the
//! last line.

use std::collections::BTreeSet;

use crate::evaluate::{
    Bound, Evaluation, FIGURES, Figure, FigureUnit, Figures, GATE_TARGETS, GateTargetResult,
    GateTargetStatus, RULES, SUITE_SCENARIOS,
};
use crate::record::pool::NoiseLevel;
use crate::report::document::{Cell, Table};
use crate::report::text::TextFormat;

/// Figures shown in the tables; the JSON has all.
const SHOWN: [&str; 15] = [
    "false_alarm",
    "suite_false_alarm",
    "suite_false_alarm_layout",
    "detect_3",
    "detect_5",
    "detect_7_5",
    "detect_10",
    "pass_5",
    "pass_unchanged",
    "inconclusive",
    "coverage",
    "bias",
    "mde_80",
    "blocks",
    "seconds",
];

/// The evaluation as JSON.
pub(crate) fn evaluation_json(evaluation: &Evaluation) -> String {
    serde_json::to_string_pretty(evaluation).expect("an evaluation is plain data") + "\n"
}

/// Text for a terminal or Markdown; the last line is JSON. `command` is the command that made it.
pub(crate) fn evaluation_text(
    evaluation: &Evaluation,
    command: &str,
    format: TextFormat,
) -> String {
    let title = |text: &str| match format {
        TextFormat::Terminal => format!("\n{}\n\n", text.to_uppercase()),
        TextFormat::Markdown => format!("\n## {text}\n\n"),
    };
    let mut text = format!("{}\n\n{}", sentence(&evaluation.targets), about(evaluation, format));
    if !evaluation.targets.is_empty() {
        text += &title("Targets of rule ours");
        text += &targets(evaluation).render(format);
    }
    for column in NoiseLevel::ALL {
        let places = evaluation.environments.iter().filter(|place| place.column == column);
        let names: BTreeSet<&str> = places.map(|place| place.name.as_str()).collect();
        if !names.is_empty() {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            let rows = evaluation.rules.iter().filter_map(|rule| {
                Some((*rule, evaluation.columns.get(rule)?.get(column.name())?))
            });
            text += &title(&format!("{} ({})", column.name(), format.escape(&names)));
            text += &figures("rule", rows).render(format);
        }
    }
    let ours = evaluation.rules.contains(&"ours");
    if ours && evaluation.pools.len() > 1 {
        let rows = evaluation.pools.iter().flat_map(|pool| {
            NoiseLevel::ALL.into_iter().filter_map(|column| {
                let figures = pool.columns.get("ours")?.get(column.name())?;
                Some((format!("{}, {}", pool.cpu, column.name()), figures))
            })
        });
        text += &title("Rule ours by machine");
        text += &figures("machine", rows).render(format);
    }
    if ours {
        let rows = evaluation.environments.iter().map(|place| {
            let name = match evaluation.pools.len() {
                1 => place.name.clone(),
                _ => format!("{}, {}", evaluation.pools[place.pool].cpu, place.name),
            };
            (name, &place.figures["ours"])
        });
        text += &title("Rule ours by environment");
        text += &figures("environment", rows).render(format);
    }
    text += &title("Rules");
    let rules = RULES.iter().filter(|rule| evaluation.rules.contains(&rule.name));
    let rules = Table::of(rules).text("rule", |rule| rule.name).text("decision", |rule| rule.about);
    text += &rules.render(format);
    text += &title("Figures");
    let legend = SHOWN.map(figure);
    let unit = |one: &Figure| match one.unit {
        FigureUnit::Share | FigureUnit::Effect => " (%)",
        FigureUnit::Count | FigureUnit::Seconds => "",
    };
    let legend = Table::of(legend)
        .text("figure", |one| one.label)
        .text("meaning", |one| format!("{}{}", one.about, unit(one)));
    text += &legend.render(format);
    let made = match format {
        TextFormat::Terminal => command.to_owned(),
        TextFormat::Markdown => format!("Made with `{command}`."),
    };
    text += &format!("\n{}\n\n", format.escape(&made));
    let last = serde_json::to_string(&evaluation.columns).expect("figures are plain data");
    text + &last + "\n"
}

/// The summary sentence: how many targets are met, and which are missed.
fn sentence(targets: &[GateTargetResult]) -> String {
    let of = |status: GateTargetStatus| -> Vec<String> {
        let such = targets.iter().filter(|met| met.status == status);
        such.map(|met| format!("{} {}", met.column.name(), figure(met.figure).label)).collect()
    };
    let (met, open, missed) =
        (of(GateTargetStatus::Met), of(GateTargetStatus::NotShown), of(GateTargetStatus::Missed));
    if targets.is_empty() {
        return "Rules replayed without ours.".into();
    }
    let known = met.len() + open.len() + missed.len();
    let open = match open.len() {
        0 => String::new(),
        count => format!(", {count} more by estimate without enough evidence"),
    };
    let missed = match missed.is_empty() {
        true => String::new(),
        false => format!("; missed: {}", missed.join(", ")),
    };
    format!("Rule ours demonstrably meets {} of {known} targets{open}{missed}.", met.len())
}

/// The data behind the figures.
fn about(evaluation: &Evaluation, format: TextFormat) -> String {
    let Evaluation { runs, seed, judged, pools, environments, .. } = evaluation;
    let pools: Vec<String> = pools
        .iter()
        .map(|pool| {
            format!(
                "Drawn from blocks of {} on {}, {} ({}).",
                format.escape(&pool.model),
                format.escape(&pool.cpu),
                format.escape(&pool.machine),
                format.escape(&pool.scenarios.join(", ")),
            )
        })
        .collect();
    let text = format!(
        "{runs} virtual suites of {SUITE_SCENARIOS} scenarios and {judged} metrics per environment \
         and arm, seed {seed}.\n{}\nAll suites draw from these blocks, so more suites add no \
         evidence. Verdicts without a common block do: the\nintervals in brackets are 95 % \
         Clopper–Pearson intervals over them, a suite counting as its scenarios.\nThe rules assume \
         independent blocks: the lag-1 autocorrelation should be near 0.\n\n",
        pools.join("\n"),
    );
    let table = Table::of(environments)
        .text("machine", |place| evaluation.pools[place.pool].cpu.as_str())
        .text("environment", |place| place.name.as_str())
        .text("column", |place| place.column.name())
        .number("blocks", |place| place.blocks.to_string())
        .number("rejected", |place| place.rejected.to_string())
        .number("SD of decode %", |place| format_figure(FigureUnit::Effect, place.spread))
        .number("lag-1 autocorrelation", |place| {
            place.autocorrelation.map_or("-".into(), |value| format!("{value:.2}"))
        })
        .text("conditions", |place| place.about.as_str());
    text + &table.render(format)
}

fn targets(evaluation: &Evaluation) -> Table {
    let cell = |met: &GateTargetResult| -> Cell {
        let unit = figure(met.figure).unit;
        let status = match met.status {
            GateTargetStatus::NotMeasured => "not measured",
            GateTargetStatus::Met => "met",
            GateTargetStatus::NotShown => "unproven",
            GateTargetStatus::Missed => "MISSED",
        };
        let value = |value: Option<f64>| format_figure(unit, value);
        let interval = met.proportion.map_or(String::new(), |proportion| {
            let (low, high) = proportion.confidence_interval();
            format!(" [{}, {}] of {}", value(Some(low)), value(Some(high)), proportion.cases)
        });
        let bound = format_bound(met.bound, unit);
        format!("{}{interval} ({bound}) {status}", value(met.value)).into()
    };
    let header = std::iter::once("target").chain(NoiseLevel::ALL.map(NoiseLevel::name));
    let mut table = Table::new(header, ..0);
    for target in GATE_TARGETS {
        let met = evaluation.targets.iter().filter(|met| met.figure == target.figure);
        let label = Cell::from(figure(target.figure).label);
        table.push(std::iter::once(label).chain(met.map(cell)));
    }
    table
}

/// A row of figures for each name, under `first`.
fn figures<'a, T: Into<Cell>>(
    first: &str,
    rows: impl IntoIterator<Item = (T, &'a Figures)>,
) -> Table {
    let labels = SHOWN.map(|name| figure(name).label);
    let mut table = Table::new(std::iter::once(first).chain(labels), 1..);
    for (name, figures) in rows {
        let value = |name| format_figure(figure(name).unit, figures.get(name)).into();
        table.push(std::iter::once(name.into()).chain(SHOWN.map(value)));
    }
    table
}

fn figure(name: &str) -> &'static Figure {
    FIGURES.iter().find(|figure| figure.name == name).expect("a name of the table of figures")
}

/// Shares and changes in percent; `-` if there is no value.
fn format_figure(unit: FigureUnit, value: Option<f64>) -> String {
    let Some(value) = value else { return "-".into() };
    match unit {
        FigureUnit::Share | FigureUnit::Effect => {
            let percent = 100.0 * value;
            // Near 0 % and 100 % a tenth of a percent matters.
            let digits = if percent.abs() < 0.995 || percent > 99.0 { 2 } else { 1 };
            let text = format!("{percent:.digits$}");
            match text.as_str() {
                "0.00" | "-0.00" => "0".into(),
                "100.00" => "100".into(),
                _ => text,
            }
        }
        FigureUnit::Count => format!("{value:.1}"),
        FigureUnit::Seconds => format!("{value:.0}"),
    }
}

fn format_bound(bound: Bound, unit: FigureUnit) -> String {
    let of = |value: f64| match unit {
        FigureUnit::Share | FigureUnit::Effect => format!("{}", (1e4 * value).round() / 100.0),
        FigureUnit::Count | FigureUnit::Seconds => format!("{value}"),
    };
    match bound {
        Bound::AtMost(most) => format!("at most {}", of(most)),
        Bound::AtLeast(least) => format!("at least {}", of(least)),
        Bound::Between(low, high) => format!("{} to {}", of(low), of(high)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_shown_in_percent_with_more_digits_at_the_ends() {
        for (value, expected) in [
            (0.0, "0"),
            (0.00004, "0"),
            (0.0005, "0.05"),
            (0.25, "25.0"),
            (0.9, "90.0"),
            (0.9995, "99.95"),
            (1.0, "100"),
            (-0.004, "-0.40"),
        ] {
            assert_eq!(format_figure(FigureUnit::Share, Some(value)), expected);
        }
        assert_eq!(format_figure(FigureUnit::Seconds, Some(179.6)), "180");
        assert_eq!(format_figure(FigureUnit::Count, None), "-");
        assert_eq!(format_bound(Bound::AtLeast(0.999), FigureUnit::Share), "at least 99.9");
        assert_eq!(format_bound(Bound::AtMost(0.005), FigureUnit::Share), "at most 0.5");
        assert_eq!(format_bound(Bound::Between(0.93, 0.97), FigureUnit::Share), "93 to 97");
    }
}
