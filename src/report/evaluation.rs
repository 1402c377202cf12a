//! How often rules were right, as text: a table per column of environments, ours beside its targets
//! and in every environment, and the figures once more as one line of JSON, for whoever reads only
//! the last line.

use crate::evaluate::{
    Bound, EnvironmentResult, Evaluation, FIGURES, Figure, FigureUnit, Figures, GATE_TARGETS,
    GateTargetResult, GateTargetStatus, RULES, SUITE_SCENARIOS,
};
use crate::record::pool::NoiseLevel;
use crate::report::text::{Medium, table};

/// The figures of the tables; the others are in the JSON.
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
    document(evaluation, command, Medium::Terminal)
}

/// Markdown; the last line is JSON.
pub fn evaluation_markdown(evaluation: &Evaluation, command: &str) -> String {
    document(evaluation, command, Medium::Markdown)
}

/// Everything, as JSON.
pub fn evaluation_json(evaluation: &Evaluation) -> String {
    serde_json::to_string_pretty(evaluation).expect("an evaluation is plain data") + "\n"
}

fn document(evaluation: &Evaluation, command: &str, medium: Medium) -> String {
    let title = |text: &str| match medium {
        Medium::Terminal => format!("\n{}\n\n", text.to_uppercase()),
        Medium::Markdown => format!("\n## {text}\n\n"),
    };
    let mut text = format!("{}\n\n{}", sentence(&evaluation.targets), about(evaluation, medium));
    if !evaluation.targets.is_empty() {
        text += &title("Targets of ours");
        text += &targets(evaluation, medium);
    }
    for column in NoiseLevel::ALL {
        let places = evaluation.environments.iter().filter(|place| place.column == column);
        let mut names: Vec<&str> = places.map(|place| place.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            let rows = evaluation.rules.iter().filter_map(|rule| {
                Some(row(rule, evaluation.columns.get(rule)?.get(column.name())?))
            });
            text += &title(&format!("{} ({})", column.name(), medium.escape(&names.join(", "))));
            text += &figures("rule", rows.collect(), medium);
        }
    }
    if evaluation.rules.contains(&"ours") && evaluation.pools.len() > 1 {
        let columns = evaluation.pools.iter().flat_map(|pool| {
            let of =
                |column: NoiseLevel| Some((column, pool.columns.get("ours")?.get(column.name())?));
            let columns = NoiseLevel::ALL.into_iter().filter_map(of);
            columns
                .map(|(column, figures)| row(&format!("{}, {}", pool.cpu, column.name()), figures))
        });
        text += &title("Ours on every machine");
        text += &figures("machine", columns.collect(), medium);
    }
    if evaluation.rules.contains(&"ours") {
        let rows = evaluation.environments.iter();
        let name = |place: &EnvironmentResult| match evaluation.pools.len() {
            1 => place.name.clone(),
            _ => format!("{}, {}", evaluation.pools[place.pool].cpu, place.name),
        };
        let rows = rows.map(|place| row(&name(place), &place.figures["ours"])).collect();
        text += &title("Ours in every environment");
        text += &figures("environment", rows, medium);
    }
    text += &title("What the rules are");
    let rules = RULES.iter().filter(|rule| evaluation.rules.contains(&rule.name));
    let rules: Vec<Vec<String>> =
        rules.map(|rule| vec![rule.name.into(), rule.about.into()]).collect();
    text += &table(medium, &["rule", "how it decides"], &rules, &[]);
    text += &title("What the figures are");
    let legend = SHOWN.map(|name| {
        let one = figure(name);
        let unit =
            if matches!(one.unit, FigureUnit::Share | FigureUnit::Effect) { " (%)" } else { "" };
        vec![one.label.to_owned(), format!("{}{unit}", one.about)]
    });
    text += &table(medium, &["figure", "what it is"], &legend, &[]);
    text += &match medium {
        Medium::Terminal => format!("\n{}\n\n", medium.escape(command)),
        Medium::Markdown => format!("\nMade with `{}`.\n\n", medium.escape(command)),
    };
    let last = serde_json::to_string(&evaluation.columns).expect("figures are plain data");
    text + &last + "\n"
}

/// What a reader needs first: which targets are missed, and how many are met for certain.
fn sentence(targets: &[GateTargetResult]) -> String {
    let of = |status: GateTargetStatus| -> Vec<String> {
        let such = targets.iter().filter(|met| met.status == status);
        such.map(|met| format!("{} {}", met.column.name(), figure(met.figure).label)).collect()
    };
    let (met, open, missed) =
        (of(GateTargetStatus::Met), of(GateTargetStatus::NotShown), of(GateTargetStatus::Missed));
    if targets.is_empty() {
        return "Rules replayed; ours is not among them.".into();
    }
    let known = met.len() + open.len() + missed.len();
    let open = match open.len() {
        0 => String::new(),
        count => format!(", {count} have a value that does without enough blocks to show it"),
    };
    let missed = match missed.is_empty() {
        true => String::new(),
        false => format!("; missed: {}", missed.join(", ")),
    };
    format!("Ours is shown to meet {} of {known} targets{open}{missed}.", met.len())
}

/// What the figures rest on.
fn about(evaluation: &Evaluation, medium: Medium) -> String {
    let Evaluation { runs, seed, judged, pools, environments, .. } = evaluation;
    let pools: Vec<String> = pools
        .iter()
        .map(|pool| {
            format!(
                "Drawn from blocks of {} on {}, {} ({}).",
                medium.escape(&pool.model),
                medium.escape(&pool.cpu),
                medium.escape(&pool.machine),
                medium.escape(&pool.scenarios.join(", ")),
            )
        })
        .collect();
    let text = format!(
        "{runs} virtual suites of {SUITE_SCENARIOS} scenarios and {judged} metrics per environment and arm, seed {seed}.\n\
         {}\n\
         Suites share these blocks: more suites are no more evidence. Verdicts that share no block are, and intervals in brackets\n\
         hold a share with 95 % by them (Clopper and Pearson), a suite being as many scenarios.\n\
         The rules take blocks to be independent: the correlation of neighbours should be near 0.\n\n",
        pools.join("\n"),
    );
    let rows: Vec<Vec<String>> = environments
        .iter()
        .map(|place| {
            let [blocks, rejected] = [place.blocks, place.rejected].map(|n| n.to_string());
            let (name, about) = (place.name.clone(), place.about.clone());
            let spread = shown(FigureUnit::Effect, place.spread);
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
        "neighbours",
        "what went on",
    ];
    text + &table(medium, &header, &rows, &[3, 4, 5, 6])
}

fn targets(evaluation: &Evaluation, medium: Medium) -> String {
    let cell = |met: &GateTargetResult| {
        let unit = figure(met.figure).unit;
        let said = match met.status {
            GateTargetStatus::NotMeasured => "not measured",
            GateTargetStatus::Met => "met",
            GateTargetStatus::NotShown => "not shown",
            GateTargetStatus::Missed => "MISSED",
        };
        let rests = met.proportion.map_or(String::new(), |proportion| {
            let (low, high) = proportion.confidence_interval();
            format!(
                " [{}, {}] of {}",
                shown(unit, Some(low)),
                shown(unit, Some(high)),
                proportion.cases
            )
        });
        format!("{}{rests} ({}) {said}", shown(unit, met.value), bound(met.bound, unit))
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
    table(medium, &header, &rows, &[])
}

fn figures(first: &str, rows: Vec<Vec<String>>, medium: Medium) -> String {
    let labels = SHOWN.map(|name| figure(name).label);
    let header: Vec<&str> = std::iter::once(first).chain(labels).collect();
    let right: Vec<usize> = (1..header.len()).collect();
    table(medium, &header, &rows, &right)
}

fn row(name: &str, figures: &Figures) -> Vec<String> {
    let values = SHOWN.map(|name| shown(figure(name).unit, figures.get(name)));
    std::iter::once(name.to_owned()).chain(values).collect()
}

fn figure(name: &str) -> &'static Figure {
    FIGURES.iter().find(|figure| figure.name == name).expect("a name of the table of figures")
}

/// Shares and changes in percent; `-` where there is nothing.
fn shown(unit: FigureUnit, value: Option<f64>) -> String {
    let Some(value) = value else { return "-".into() };
    match unit {
        FigureUnit::Share | FigureUnit::Effect => {
            let percent = 100.0 * value;
            // Near nothing and near everything a tenth of a percent matters.
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

fn bound(bound: Bound, unit: FigureUnit) -> String {
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
            assert_eq!(shown(FigureUnit::Share, Some(value)), expected);
        }
        assert_eq!(shown(FigureUnit::Seconds, Some(179.6)), "180");
        assert_eq!(shown(FigureUnit::Count, None), "-");
        assert_eq!(bound(Bound::AtLeast(0.999), FigureUnit::Share), "at least 99.9");
        assert_eq!(bound(Bound::AtMost(0.005), FigureUnit::Share), "at most 0.5");
        assert_eq!(bound(Bound::Between(0.93, 0.97), FigureUnit::Share), "93 to 97");
    }
}
