//! The evaluation of gate rules as text or Markdown: one table per class of environments, the
//! default rule against its targets and in every environment, and all figures again as JSON in the
//! last line.

use crate::evaluate::{
    Bound, EnvironmentResult, Evaluation, FIGURES, Figure, FigureUnit, Figures, GATE_TARGETS,
    GateTargetResult, GateTargetStatus, RULES, SUITE_SCENARIOS,
};
use crate::record::pool::NoiseLevel;
use crate::report::text::{TextFormat, table};

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

/// Text for a terminal; the last line is JSON.
pub fn evaluation_text(evaluation: &Evaluation, command: &str) -> String {
    document(evaluation, command, TextFormat::Terminal)
}

/// Markdown; the last line is JSON.
pub fn evaluation_markdown(evaluation: &Evaluation, command: &str) -> String {
    document(evaluation, command, TextFormat::Markdown)
}

/// The evaluation as JSON.
pub fn evaluation_json(evaluation: &Evaluation) -> String {
    serde_json::to_string_pretty(evaluation).expect("an evaluation is plain data") + "\n"
}

fn document(evaluation: &Evaluation, command: &str, format: TextFormat) -> String {
    let title = |text: &str| match format {
        TextFormat::Terminal => format!("\n{}\n\n", text.to_uppercase()),
        TextFormat::Markdown => format!("\n## {text}\n\n"),
    };
    let mut text = format!("{}\n\n{}", sentence(&evaluation.targets), about(evaluation, format));
    if !evaluation.targets.is_empty() {
        text += &title("Targets of rule ours");
        text += &targets(evaluation, format);
    }
    for column in NoiseLevel::ALL {
        let places = evaluation.environments.iter().filter(|place| place.column == column);
        let mut names: Vec<&str> = places.map(|place| place.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            let rows = evaluation.rules.iter().filter_map(|rule| {
                Some(figures_row(rule, evaluation.columns.get(rule)?.get(column.name())?))
            });
            text += &title(&format!("{} ({})", column.name(), format.escape(&names.join(", "))));
            text += &figures("rule", rows.collect(), format);
        }
    }
    if evaluation.rules.contains(&"ours") && evaluation.pools.len() > 1 {
        let columns = evaluation.pools.iter().flat_map(|pool| {
            let of =
                |column: NoiseLevel| Some((column, pool.columns.get("ours")?.get(column.name())?));
            let columns = NoiseLevel::ALL.into_iter().filter_map(of);
            columns.map(|(column, figures)| {
                figures_row(&format!("{}, {}", pool.cpu, column.name()), figures)
            })
        });
        text += &title("Rule ours by machine");
        text += &figures("machine", columns.collect(), format);
    }
    if evaluation.rules.contains(&"ours") {
        let rows = evaluation.environments.iter();
        let name = |place: &EnvironmentResult| match evaluation.pools.len() {
            1 => place.name.clone(),
            _ => format!("{}, {}", evaluation.pools[place.pool].cpu, place.name),
        };
        let rows = rows.map(|place| figures_row(&name(place), &place.figures["ours"])).collect();
        text += &title("Rule ours by environment");
        text += &figures("environment", rows, format);
    }
    text += &title("Rules");
    let rules = RULES.iter().filter(|rule| evaluation.rules.contains(&rule.name));
    let rules: Vec<Vec<String>> =
        rules.map(|rule| vec![rule.name.into(), rule.about.into()]).collect();
    text += &table(format, &["rule", "decision"], &rules, &[]);
    text += &title("Figures");
    let legend = SHOWN.map(|name| {
        let one = figure(name);
        let unit =
            if matches!(one.unit, FigureUnit::Share | FigureUnit::Effect) { " (%)" } else { "" };
        vec![one.label.to_owned(), format!("{}{unit}", one.about)]
    });
    text += &table(format, &["figure", "meaning"], &legend, &[]);
    text += &match format {
        TextFormat::Terminal => format!("\n{}\n\n", format.escape(command)),
        TextFormat::Markdown => {
            format!("\n{}\n\n", format.escape(&format!("Made with `{command}`.")))
        }
    };
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
    let rows: Vec<Vec<String>> = environments
        .iter()
        .map(|place| {
            let [blocks, rejected] = [place.blocks, place.rejected].map(|n| n.to_string());
            let (name, about) = (place.name.clone(), place.about.clone());
            let spread = format_figure(FigureUnit::Effect, place.spread);
            let neighbours =
                place.autocorrelation.map_or("-".into(), |value| format!("{value:.2}"));
            let column = place.column.name().into();
            let cpu = evaluation.pools[place.pool].cpu.clone();
            vec![cpu, name, column, blocks, rejected, spread, neighbours, about]
        })
        .collect();
    let header = [
        "machine",
        "environment",
        "column",
        "blocks",
        "rejected",
        "SD of decode %",
        "lag-1 autocorrelation",
        "conditions",
    ];
    text + &table(format, &header, &rows, &[3, 4, 5, 6])
}

fn targets(evaluation: &Evaluation, format: TextFormat) -> String {
    let cell = |met: &GateTargetResult| {
        let unit = figure(met.figure).unit;
        let status = match met.status {
            GateTargetStatus::NotMeasured => "not measured",
            GateTargetStatus::Met => "met",
            GateTargetStatus::NotShown => "unproven",
            GateTargetStatus::Missed => "MISSED",
        };
        let interval = met.proportion.map_or(String::new(), |proportion| {
            let (low, high) = proportion.confidence_interval();
            format!(
                " [{}, {}] of {}",
                format_figure(unit, Some(low)),
                format_figure(unit, Some(high)),
                proportion.cases
            )
        });
        format!(
            "{}{interval} ({}) {status}",
            format_figure(unit, met.value),
            format_bound(met.bound, unit)
        )
    };
    let rows: Vec<Vec<String>> = GATE_TARGETS
        .iter()
        .map(|target| {
            let met = evaluation.targets.iter().filter(|met| met.figure == target.figure);
            std::iter::once(figure(target.figure).label.to_owned()).chain(met.map(cell)).collect()
        })
        .collect();
    let header: Vec<&str> =
        std::iter::once("target").chain(NoiseLevel::ALL.map(NoiseLevel::name)).collect();
    table(format, &header, &rows, &[])
}

fn figures(first: &str, rows: Vec<Vec<String>>, format: TextFormat) -> String {
    let labels = SHOWN.map(|name| figure(name).label);
    let header: Vec<&str> = std::iter::once(first).chain(labels).collect();
    let right: Vec<usize> = (1..header.len()).collect();
    table(format, &header, &rows, &right)
}

fn figures_row(name: &str, figures: &Figures) -> Vec<String> {
    let values = SHOWN.map(|name| format_figure(figure(name).unit, figures.get(name)));
    std::iter::once(name.to_owned()).chain(values).collect()
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
