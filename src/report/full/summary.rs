//! The figures that people ask for first, and what the model takes of the machine.

use crate::analysis::{CaseState, Latency, Reading, ResourceRow};
use crate::record::Case;
use crate::report::full::closing::{advised, score};
use crate::report::full::model::{Block, Cell, Section, Table, Text};
use crate::report::full::paper::{MS, Paper};
use crate::stats;
use crate::workload::{Task, metric};

/// A value and where it is from, or why there is none.
type Figure = (Cell, Cell);

pub(super) fn summary(paper: &Paper) -> Section {
    let words = &paper.words.summary;
    let mut section = Section::new("summary", words.heading);
    let header = [words.figure, paper.words.frame.value, words.basis];
    let mut table = Table::new(header, 1);
    table.right.pop();
    table.caption = Some(words.figures.into());
    let mut push = |name: &'static str, (value, basis): Figure| {
        table.push([name.into(), value, basis]);
    };
    push(words.decode, single(paper, "decode_tok_s"));
    push(words.throughput, throughput(paper));
    push(words.ttft, single(paper, "ttft_s"));
    for (name, figure) in latencies(paper) {
        push(name, figure);
    }
    push(words.accuracy, accuracy(paper));
    for (name, figure) in advised(paper) {
        push(name, figure);
    }
    push(words.score, score(paper));
    section.push(table);
    section.push(resources(paper));
    section
}

/// Said where a suite was not run.
fn needs(paper: &Paper, suite: &str) -> Figure {
    let basis = Text::fill(paper.words.summary.needs, &[("suite", suite)]);
    (paper.missing(), basis.into())
}

/// The valid scenario of one sequence with the longest answer: what the first figures are from.
fn longest<'a>(paper: &Paper<'a>) -> Option<&'a Case> {
    let cases = paper.record.scenarios.iter();
    let single = cases.filter(|case| {
        let work = &case.work;
        work.task == Task::Generate && work.batch == 1 && CaseState::of(case).is_valid()
    });
    let decoded = single.filter(|case| !case.values("decode_tok_s").is_empty());
    // The first of equals: max_by_key alone would take the last.
    decoded.rev().max_by_key(|case| case.work.new_tokens)
}

fn single(paper: &Paper, name: &str) -> Figure {
    let of = longest(paper).zip(metric(name));
    let value = of.and_then(|(case, metric)| {
        Some((case, paper.lang.measured(metric, stats::median(&case.values(name))?)))
    });
    match value {
        Some((case, value)) => (value.into(), Text::code(&case.id).into()),
        None => needs(paper, "default"),
    }
}

fn throughput(paper: &Paper) -> Figure {
    let rows = paper.analysis.categories.iter().flat_map(|category| &category.batches);
    let valid = rows.filter(|row| row.state.is_valid());
    let rates = valid.filter_map(|row| Some((row.aggregate_tok_s?.median, row)));
    match rates.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((rate, row)) => {
            (paper.lang.with_unit(rate, "tok/s").into(), Text::code(&row.id).into())
        }
        None => needs(paper, "default"),
    }
}

/// Percentiles of whole answers: of the request that was repeated most often.
fn latencies(paper: &Paper) -> Vec<(&'static str, Figure)> {
    let words = &paper.words.summary;
    let valid = paper.analysis.latencies.iter().filter(|one| one.state.is_valid());
    let single = valid.filter(|one| one.batch == 1 && one.e2e_s.is_some());
    let count = |one: &&Latency| one.e2e_s.map_or(0, |e2e| e2e.count);
    let found = single.rev().max_by_key(count).and_then(|one| Some((one, one.e2e_s?)));
    let Some((one, e2e)) = found else {
        return vec![(words.latency_p50, needs(paper, "consistency"))];
    };
    let kinds = [
        (words.latency_p50, Some(e2e.median)),
        (words.latency_p90, e2e.p90),
        (words.latency_p99, e2e.p99),
        (words.latency_max, Some(e2e.max)),
    ];
    let figure = |value: Option<f64>| match value {
        Some(seconds) => (
            paper.lang.with_unit(seconds * MS, "ms").into(),
            Cell::from(Text::fill(
                words.repeated,
                &[("scenario", &one.id), ("count", &paper.lang.count(e2e.count))],
            )),
        ),
        None => {
            let count = paper.lang.count(e2e.count);
            (paper.missing(), Text::fill(words.few, &[("count", &count)]).into())
        }
    };
    kinds.into_iter().map(|(name, value)| (name, figure(value))).collect()
}

fn accuracy(paper: &Paper) -> Figure {
    let rows = &paper.analysis.quality;
    let valid = rows.iter().filter(|row| row.state.is_valid());
    let value = valid.filter_map(|row| Some((row, row.top1_agreement.value?))).next();
    match (value, rows.first()) {
        (Some((row, share)), _) => (paper.lang.share(share).into(), Text::code(&row.id).into()),
        (None, Some(row)) => {
            let said = row.top1_agreement.why.as_deref().map(Cell::from);
            let state = || paper.record.case(&row.id).map(|case| paper.validity(case));
            (paper.missing(), said.or_else(state).unwrap_or_default())
        }
        (None, None) => needs(paper, "quality"),
    }
}

/// A reading over the whole record with its unit, or why there is none.
fn overall(paper: &Paper, name: &str, reading: &Reading) -> [Cell; 3] {
    let (name, value) = paper.named(name, &CaseState::Valid, reading);
    let why = reading.why.as_deref();
    let none = || Cell::from(why.unwrap_or(paper.words.absent.no_reason));
    match value {
        Some(value) => [name.into(), value, why.map_or_else(|| "".into(), Cell::from)],
        None => [name.into(), paper.words.frame.not_measured.into(), none()],
    }
}

fn resources(paper: &Paper) -> Table {
    let words = &paper.words.summary;
    let of = &paper.analysis.resources;
    let header = [words.resource, paper.words.frame.value, words.remark];
    let mut table = Table::new(header, 1);
    table.right.pop();
    table.caption = Some(words.resources.into());
    for (name, reading) in [
        ("cpu_utilisation", &of.cpu_utilisation),
        ("gpu_utilisation", &of.gpu_utilisation),
        ("peak_rss_bytes", &of.peak_rss_bytes),
        ("peak_device_bytes", &of.peak_device_bytes),
        ("power_w", &of.power_w),
        ("energy_j_per_token", &of.energy_j_per_token),
    ] {
        table.push(overall(paper, name, reading));
    }
    table
}

/// The metrics of [`energy`], and where each row has them.
type Column = (&'static str, fn(&ResourceRow) -> &Reading);

const COLUMNS: [Column; 6] = [
    ("cpu_utilisation", |row| &row.cpu_utilisation),
    ("gpu_utilisation", |row| &row.gpu_utilisation),
    ("power_w", |row| &row.power_w),
    ("energy_j_per_token", |row| &row.energy_j_per_token),
    ("roofline_fraction", |row| &row.roofline_fraction),
    ("prefill_flop_fraction", |row| &row.prefill_flop_fraction),
];

/// Utilisation, power and bandwidth of each scenario that has any of them; below the table why
/// whole columns are missing.
pub(super) fn energy(paper: &Paper) -> Option<Section> {
    let words = &paper.words.energy;
    let rows = &paper.analysis.resources.rows;
    let mut section = Section::new("energy", words.heading);
    let has = |column: &Column| rows.iter().any(|row| column.1(row).value.is_some());
    let (there, missing): (Vec<Column>, Vec<Column>) = COLUMNS.into_iter().partition(has);
    if !there.is_empty() {
        section.say(words.roofline, &[]);
        if there.iter().any(|(name, _)| *name == "prefill_flop_fraction") {
            section.say(words.arithmetic, &[]);
        }
        section.push(by_scenario(paper, &there));
    }
    let reason = |(name, of): &Column| {
        // Why a scenario has nothing at all is no reason for the others.
        let valid = rows.iter().filter(|row| row.state.is_valid());
        let why = valid.filter_map(|row| of(row).why.as_deref()).next();
        let why = why.unwrap_or(paper.words.absent.no_reason);
        let name = metric(name).map_or(*name, |metric| paper.lang.metric(metric));
        Text::fill(words.reason, &[("metric", name), ("why", why)])
    };
    if !missing.is_empty() {
        section.say(words.missing, &[]);
        section.push(Block::List { items: missing.iter().map(reason).collect() });
    }
    (!rows.is_empty()).then_some(section)
}

fn by_scenario(paper: &Paper, columns: &[Column]) -> Table {
    let metrics = || columns.iter().filter_map(|(name, of)| Some((metric(name)?, of)));
    let mut header = vec![paper.words.frame.scenario.to_owned()];
    header.extend(metrics().map(|(metric, _)| paper.lang.label(metric)));
    let mut table = Table::new(header, 1);
    for row in &paper.analysis.resources.rows {
        if columns.iter().any(|(_, of)| of(row).value.is_some()) {
            let values =
                metrics().map(|(metric, of)| paper.reading(&row.state, of(row), metric.scale));
            table.push(std::iter::once(Cell::from(row.id.as_str())).chain(values));
        }
    }
    table
}
