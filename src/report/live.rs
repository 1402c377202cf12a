//! One line per scenario while a run is in progress, in fixed-width columns.

use crate::record::Case;
use crate::report::text;
use crate::workload::Task;
use crate::{stats, workload};

/// The column headings.
pub fn live_header() -> String {
    row(
        [
            "scenario",
            "tokens in",
            "out",
            "TTFT ms",
            "prefill tok/s",
            "decode tok/s",
            "batch tok/s",
            "peak MiB",
        ]
        .map(String::from),
        "",
    )
}

/// A scenario so far: medians over its processes, and failed checks.
pub fn live_row(case: &Case) -> String {
    let id = text::sanitize(&case.id);
    if let Some(absent) = &case.absent {
        return format!("{id:<16} {}\n", text::sanitize(&absent.to_string()));
    }
    let median = |name: &str| {
        let metric = workload::metric(name);
        let value = metric.and_then(|metric| Some((metric, stats::median(&case.values(name))?)));
        value.map_or("-".into(), |(metric, value)| text::metric_value(metric, value))
    };
    if let Some(names) = metrics_as_text(case.work.task) {
        let values = names.iter().filter_map(|name| {
            let metric = workload::metric(name)?;
            let value = stats::median(&case.values(name))?;
            Some(format!("{} {} {}", metric.label, text::metric_value(metric, value), metric.unit))
        });
        let values: Vec<String> = values.map(|text| text.trim_end().to_owned()).collect();
        return format!("{id:<16} {}  {}", values.join(", "), failed_checks(case))
            .trim_end()
            .to_owned()
            + "\n";
    }
    let tokens: usize = case.work.prompt_tokens.iter().sum();
    let values = [
        id,
        tokens.to_string(),
        (case.work.batch * case.work.new_tokens).to_string(),
        median("ttft_s"),
        median("prefill_tok_s"),
        median("decode_tok_s"),
        median("decode_tok_s_aggregate"),
        median("peak_rss_bytes"),
    ];
    row(values, &failed_checks(case))
}

fn failed_checks(case: &Case) -> String {
    let failed = case.validity.failed.iter();
    failed.map(|what| format!("INVALID: {}", text::sanitize(what))).collect::<Vec<_>>().join("; ")
}

/// Metrics of tasks without a column, shown as text.
fn metrics_as_text(task: Task) -> Option<&'static [&'static str]> {
    match task {
        Task::Generate | Task::Depth => None,
        Task::Items => Some(&["items_per_min", "chunks_per_min", "answer_s", "error_rate"]),
        Task::Stress => Some(&["error_rate", "oom_rate", "mem_slope_bytes_per_request"]),
        Task::Quality => Some(&["top1_agreement", "kl_nats", "perplexity"]),
        Task::Profile => Some(&["kernel_share", "kernel_overhead_s", "kernels_per_step"]),
    }
}

fn row([id, prompt, new, ttft, prefill, decode, whole, memory]: [String; 8], mark: &str) -> String {
    let line = format!(
        "{id:<16} {prompt:>9} {new:>5} {ttft:>12} {prefill:>13} {decode:>13} {whole:>13} {memory:>12}  {mark}"
    );
    line.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Absence, AbsenceKind, Block, Work};

    #[test]
    fn a_row_has_the_header_s_columns_and_failed_checks() {
        let mut case = Case {
            id: "code/b4".into(),
            work: Work {
                batch: 4,
                prompt_tokens: vec![10, 20, 30, 40],
                new_tokens: 8,
                ..Work::default()
            },
            blocks: vec![Block {
                values: [("ttft_s".to_string(), Some(0.0125))].into(),
                ..Block::default()
            }],
            ..Case::default()
        };
        assert_eq!(
            live_row(&case),
            "code/b4                100    32        12.50             -             -             -            -\n"
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
        case.absent = Some(Absence::new(AbsenceKind::Unsupported, "ragged batches"));
        assert_eq!(live_row(&case), "code/b4          unsupported: ragged batches\n");
    }
}
