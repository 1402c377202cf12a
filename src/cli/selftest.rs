//! `candlemark selftest`: the client for servers, measured against a mock server.

use std::io::Write;

use crate::cli::exit::{CommandResult, Exit};
use crate::client::selftest::{
    self, CaseResult, Latencies, MAX_LAG_P99_MS, MAX_MEDIAN_ERROR_MS, Observation, Plan, Report,
    Verdict,
};
use crate::report::{Table, TextFormat, number};
use crate::settings::Config;

/// Test the client for servers against a mock server: its faults, its own error, its lag
///
/// Exit status 0: every fault is told apart, the median error of TTFT and ITL is at most 1 ms, and
/// all streams are held; 3: the machine is too busy to tell; 5: something was wrong.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Streams one after another; 20 times as many at a fixed rate, and 10 times as many at once,
    /// up to 1000
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(5..=10_000)
    )]
    requests: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let report = selftest::run(Plan::new(arguments.requests))?;
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", text(&report))?;
    }
    if cfg!(debug_assertions) {
        writeln!(std::io::stderr(), "warning: a debug build is slower than what measures")?;
    }
    Ok(match report.verdict {
        Verdict::Passed => Exit::Pass,
        Verdict::Failed => Exit::Failed,
        Verdict::Invalid => Exit::Undecided,
    })
}

/// The report as text.
fn text(report: &Report) -> String {
    let mut cases = Table::new(["the server", "expected", "told as", ""], 0..0);
    for case in &report.cases {
        let verdict = if case.is_right() { "ok" } else { "WRONG" };
        let told = told(case);
        cases.push([case.case.as_str(), &case.expected.name, &told, verdict]);
    }
    let mut times = Table::new(["milliseconds", "median", "p99", "max", "limit"], 1..=3);
    let Report { sequential, open_loop, streams, .. } = report;
    let median_limit = format!("median {}", number(MAX_MEDIAN_ERROR_MS));
    let lag_limit = format!("p99 {}", number(MAX_LAG_P99_MS));
    for (name, latencies, limit) in [
        ("error of TTFT", sequential.ttft_error_ms, median_limit.as_str()),
        ("error of ITL", sequential.itl_error_ms, median_limit.as_str()),
        ("client lag", open_loop.lag_ms, lag_limit.as_str()),
        ("connection set-up", sequential.set_up_ms, ""),
    ] {
        let Latencies { median, p99, max } = latencies;
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), number);
        times.push([name.to_owned(), cell(median), cell(p99), cell(max), limit.to_owned()]);
    }
    let ended = |complete: u64, requests: u64| format!("{complete} of {requests} ended well");
    let verdict = match report.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Invalid => "INVALID",
    };
    let lines = [
        cases.render(TextFormat::Terminal),
        times.render(TextFormat::Terminal),
        format!("one after another: {}", ended(sequential.complete, sequential.requests)),
        format!(
            "open loop at {} requests/s: {}",
            open_loop.rate,
            ended(open_loop.complete, open_loop.requests)
        ),
        format!(
            "at once: {}, {} at the same time",
            ended(streams.complete, streams.requests),
            streams.most_at_once
        ),
        String::new(),
    ];
    let mut conclusion = verdict.to_owned();
    if !report.reasons.is_empty() {
        conclusion += &format!(": {}", report.reasons.join("; "));
    }
    format!("{}\n{conclusion}\n", lines.join("\n"))
}

/// What a case was told as, with the details that are wrong.
fn told(case: &CaseResult) -> String {
    let Observation { name, text, tokens, first_token } = &case.told;
    let mut words = vec![name.clone()];
    if *text != case.expected.text {
        words.push(format!("text {text:?}, not {:?}", case.expected.text));
    }
    if *tokens != case.expected.tokens {
        let known = |count: Option<u64>| count.map_or("unknown".to_owned(), |n| n.to_string());
        words.push(format!("tokens {}, not {}", known(*tokens), known(case.expected.tokens)));
    }
    if *first_token != case.expected.first_token {
        let chunk = |at: Option<usize>| at.map_or("none".to_owned(), |at| at.to_string());
        let (found, expected) = (chunk(*first_token), chunk(case.expected.first_token));
        words.push(format!("first token in chunk {found}, not {expected}"));
    }
    words.join("; ")
}
