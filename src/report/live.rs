//! The table of a run in fixed-width columns, and one line per scenario while it is in progress.

use crate::record::Case;
#[cfg(feature = "bench")]
use crate::record::Record;
use crate::report::text;
#[cfg(feature = "bench")]
use crate::workload::Metric;
use crate::workload::{METRICS, Task, metric};
use crate::{stats, workload};

/// The columns of metrics: heading, width, metric, and whether it has a spread.
const COLUMNS: [(&str, usize, &str, bool); 5] = [
    ("TTFT ms", 14, metric::TTFT_S, true),
    ("prefill tok/s", 13, metric::PREFILL_TOK_S, false),
    ("decode tok/s", 14, metric::DECODE_TOK_S, true),
    ("batch tok/s", 12, metric::DECODE_TOK_S_AGGREGATE, false),
    ("peak MiB", 9, metric::PEAK_RSS_BYTES, false),
];

/// The column headings.
pub(crate) fn live_header() -> String {
    row(["scenario", "tokens in", "out"], COLUMNS.map(|(heading, ..)| heading.into()), "")
}

/// A scenario so far: medians over its processes, and failed checks.
pub(crate) fn live_row(case: &Case) -> String {
    let id = text::sanitize(&case.id);
    if let Some(absent) = &case.absent {
        return format!("{id:<16} {}\n", text::sanitize(&absent.to_string()));
    }
    if metrics_as_text(case.work.task).is_some() {
        let text = format!("{id:<16} {}  {}", metrics_text(case), failed_checks(case));
        return text.trim_end().to_owned() + "\n";
    }
    let tokens: usize = case.work.prompt_tokens.iter().sum();
    let values = COLUMNS.map(|(_, _, name, has_spread)| {
        let spread = spread(case, name).filter(|_| has_spread).unwrap_or_default();
        value(case, name).map_or("-".into(), |value| value + &spread)
    });
    let new = case.work.batch * case.work.new_tokens;
    row([&id, &tokens.to_string(), &new.to_string()], values, &failed_checks(case))
}

/// The latest figures of a scenario in a few words: `short/b1: decode 202.0 tok/s, TTFT 16.85 ms`.
pub(crate) fn live_summary(case: &Case) -> String {
    let id = text::sanitize(&case.id);
    let what = match &case.absent {
        Some(absent) => text::sanitize(&absent.to_string()),
        None => metrics_text(case),
    };
    format!("{id}: {what}  {}", failed_checks(case)).trim_end().to_owned()
}

/// The changes of a run's scenarios since an earlier run, for information: `short/b1: TTFT -1.0 %,
/// decode +2.1 %, peak memory +0.0 %`. Scenarios that one of them lacks are left out.
#[cfg(feature = "bench")]
pub(crate) fn live_changes(earlier: &Record, run: &Record) -> Vec<String> {
    let changes = run.scenarios.iter().filter_map(|case| {
        let before = earlier.scenarios.iter().find(|before| before.id == case.id)?;
        let change = |metric: &Metric| {
            metric.limit?;
            let median = |case: &Case| stats::median(&case.values(metric.name));
            let share = median(case)? / median(before)? - 1.0;
            share.is_finite().then(|| format!("{} {}", metric.label, text::percent(share)))
        };
        let changes: Vec<String> = METRICS.iter().filter_map(change).collect();
        let id = text::sanitize(&case.id);
        (!changes.is_empty()).then(|| format!("{id}: {}", changes.join(", ")))
    });
    changes.collect()
}

/// What the table does not say by itself: what its values are, and why some are missing.
pub(crate) fn live_notes(cases: &[Case]) -> Vec<String> {
    let in_table =
        |case: &&Case| case.absent.is_none() && metrics_as_text(case.work.task).is_none();
    let measured: Vec<&Case> = cases.iter().filter(in_table).collect();
    if measured.is_empty() {
        return Vec::new();
    }
    let processes = measured.iter().map(|case| case.blocks.len()).max().unwrap_or(0);
    let has_spread = |case: &&Case| {
        COLUMNS.iter().any(|(_, _, name, has_spread)| *has_spread && spread(case, name).is_some())
    };
    let of = match processes {
        _ if !measured.iter().any(has_spread) => "medians".to_owned(),
        1 => "medians and standard deviations (\u{b1}) of the generations of one process; \
              processes may differ by more"
            .to_owned(),
        _ => "medians and standard deviations (\u{b1}) of the processes of a scenario".to_owned(),
    };
    std::iter::once(of).chain(missing_notes(&measured)).collect()
}

/// The reasons of missing values, each once, with the scenarios.
fn missing_notes(cases: &[&Case]) -> Vec<String> {
    let mut notes: Vec<(String, Vec<&str>)> = Vec::new();
    for (_, _, name, _) in COLUMNS {
        let label = workload::metric(name).map_or(name, |metric| metric.label);
        for case in cases.iter().filter(|case| value(case, name).is_none()) {
            let why = case.blocks.iter().find_map(|block| block.notes.get(name));
            let why = why.map_or("not measured", String::as_str);
            let line = format!("no {label}: {}", text::sanitize(why));
            match notes.iter_mut().find(|(known, _)| *known == line) {
                Some((_, ids)) => ids.push(&case.id),
                None => notes.push((line, vec![&case.id])),
            }
        }
    }
    let named = |(line, ids): (String, Vec<&str>)| {
        let first: Vec<String> = ids.iter().take(3).map(|id| text::sanitize(id)).collect();
        let more = if ids.len() > 3 { ", \u{2026}" } else { "" };
        format!("{line} ({}{more})", first.join(", "))
    };
    notes.into_iter().map(named).collect()
}

fn value(case: &Case, name: &str) -> Option<String> {
    Some(text::metric_value(workload::metric(name)?, stats::median(&case.values(name))?))
}

/// The relative standard deviation over processes; of a single process, over its generations.
fn spread(case: &Case, name: &str) -> Option<String> {
    let values = match case.blocks.as_slice() {
        [block] => block.samples.get(name)?.clone(),
        _ => case.values(name),
    };
    let share = stats::sd(&values)? / stats::mean(&values)?;
    let decimals = usize::from(share < 0.0995);
    share.is_finite().then(|| format!(" \u{b1}{:.decimals$} %", 100.0 * share))
}

/// The metrics of the scenario's task as text.
fn metrics_text(case: &Case) -> String {
    let names = metrics_as_text(case.work.task).unwrap_or(match case.work.batch {
        0 | 1 => &[metric::DECODE_TOK_S, metric::TTFT_S],
        _ => &[metric::DECODE_TOK_S_AGGREGATE, metric::TTFT_S],
    });
    let values = names.iter().filter_map(|name| {
        let metric = METRICS.iter().find(|metric| metric.name == *name)?;
        let text = format!("{} {} {}", metric.label, value(case, name)?, metric.unit);
        Some(text.trim_end().to_owned())
    });
    values.collect::<Vec<_>>().join(", ")
}

fn failed_checks(case: &Case) -> String {
    let failed = case.validity.failed.iter();
    failed.map(|what| format!("INVALID: {}", text::sanitize(what))).collect::<Vec<_>>().join("; ")
}

/// Metrics of tasks without a column, shown as text.
fn metrics_as_text(task: Task) -> Option<&'static [&'static str]> {
    match task {
        Task::Generate | Task::Depth => None,
        Task::Items => Some(&[
            metric::ITEMS_PER_MIN,
            metric::CHUNKS_PER_MIN,
            metric::ANSWER_S,
            metric::ERROR_RATE,
        ]),
        Task::Stress => {
            Some(&[metric::ERROR_RATE, metric::OOM_RATE, metric::MEM_SLOPE_BYTES_PER_REQUEST])
        }
        Task::Quality => Some(&[metric::TOP1_AGREEMENT, metric::KL_NATS, metric::PERPLEXITY]),
        Task::Profile => {
            Some(&[metric::KERNEL_SHARE, metric::KERNEL_OVERHEAD_S, metric::KERNELS_PER_STEP])
        }
    }
}

fn row([id, tokens, new]: [&str; 3], values: [String; 5], mark: &str) -> String {
    let values = COLUMNS.iter().zip(values);
    let values: String =
        values.map(|((_, width, ..), value)| format!(" {value:>width$}")).collect();
    let line = format!("{id:<16} {tokens:>9} {new:>5}{values}  {mark}");
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Absence, AbsenceKind, Block, Work};

    fn case(blocks: &[&[f64]]) -> Case {
        let block = |ttft_s: &&[f64]| {
            let mut block = Block {
                values: [("ttft_s".to_string(), stats::median(ttft_s))].into(),
                samples: [("ttft_s".to_string(), ttft_s.to_vec())].into(),
                ..Block::default()
            };
            block.set_missing("decode_tok_s", "nothing is decoded");
            block
        };
        Case {
            id: "code/b4".into(),
            work: Work {
                batch: 4,
                prompt_tokens: vec![10, 20, 30, 40],
                new_tokens: 8,
                ..Work::default()
            },
            blocks: blocks.iter().map(block).collect(),
            ..Case::default()
        }
    }

    #[test]
    fn a_row_has_the_header_s_columns_and_failed_checks() {
        let mut case = case(&[&[0.0125]]);
        assert_eq!(
            live_row(&case),
            "code/b4                100    32          12.50             -              -            -         -\n"
        );
        case.validity.failed.push("a clock ran\u{1b}backwards".into());
        assert!(
            live_row(&case).ends_with("INVALID: a clock ran\u{fffd}backwards\n"),
            "{}",
            live_row(&case)
        );
        case.validity.failed.clear();
        case.work.task = Task::Stress;
        case.blocks[0].values =
            [("error_rate".to_string(), Some(0.25)), ("oom_rate".to_string(), None)].into();
        assert_eq!(live_row(&case), "code/b4          failed requests 25.00 %\n");
        assert_eq!(live_summary(&case), "code/b4: failed requests 25.00 %");
        case.absent = Some(Absence::new(AbsenceKind::Unsupported, "ragged batches"));
        assert_eq!(live_row(&case), "code/b4          unsupported: ragged batches\n");
        assert_eq!(live_summary(&case), "code/b4: unsupported: ragged batches");
    }

    #[test]
    fn repetitions_have_a_spread_and_the_notes_say_of_what() {
        let missing = [
            "no prefill: not measured (code/b4)",
            "no decode: nothing is decoded (code/b4)",
            "no decode, whole batch: not measured (code/b4)",
            "no peak memory: not measured (code/b4)",
        ];
        for (blocks, ttft, of) in [
            (&[&[0.01][..]][..], " 10.00 ", "medians"),
            (&[&[0.01, 0.01, 0.01]], " 10.00 \u{b1}0.0 % ", "of the generations of one process;"),
            (&[&[0.01, 0.03]], " 20.00 \u{b1}71 % ", "of the generations of one process;"),
            (&[&[0.01], &[0.01]], " 10.00 \u{b1}0.0 % ", "of the processes of a scenario"),
        ] {
            let case = case(blocks);
            assert!(live_row(&case).contains(ttft), "{}", live_row(&case));
            let notes = live_notes(std::slice::from_ref(&case));
            assert!(notes[0].contains(of), "{notes:?}");
            assert_eq!(notes[1..], missing);
            assert_eq!(
                live_summary(&case),
                "code/b4: TTFT ".to_owned() + ttft.split(' ').nth(1).unwrap() + " ms"
            );
        }
        assert_eq!(live_notes(&[]), Vec::<String>::new());
    }
}
