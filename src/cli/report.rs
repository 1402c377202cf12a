//! `candlemark report`: a record as a document.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;

use crate::analysis::Targets;
use crate::cli::exit::{CommandResult, Exit};
use crate::cli::output::{newest, usage, write};
use crate::error::quoted;
use crate::record::Record;
use crate::record::pair::PairRecord;
use crate::report::{Lang, ReportOptions};
use crate::settings::Config;
use crate::{Error, files, report};

/// Print a record as a document
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The record [default: the newest run under target/candlemark/runs]
    record: Option<PathBuf>,
    /// Format of the document
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Language of the formats `md` and `html`
    #[arg(long, value_enum, default_value_t)]
    lang: Lang,
    /// TOML file of targets, added to the built-in ones; a target with a known id replaces it.
    /// Repeatable. Example: `target = [{ id = "ours/chat", model = "*", topic = "first_token",
    /// scenario = "api/chat", metric = ["ttft_s"], unit = "ms", max = 200.0 }]`
    #[arg(long, value_name = "FILE")]
    targets: Vec<PathBuf>,
    /// The scenario of the formats `row` and `benchmark-json` [default: the valid one of batch 1
    /// with the longest answers, or the most similar one]
    #[arg(long, value_name = "ID")]
    scenario: Option<String>,
    /// Output file [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Format {
    /// The whole report as GitHub-flavoured Markdown; with `-o report.md` its charts are SVG files
    /// in `report_charts/`, on stdout it has none
    #[default]
    Md,
    /// The whole report as a self-contained HTML page
    Html,
    /// The record as it is stored
    Json,
    /// One line per scenario, metric and process
    Csv,
    /// One line of a Markdown table of results
    Row,
    /// One scenario as one JSON object: platform, device, model, generation, results
    BenchmarkJson,
    /// Prometheus text format, for node_exporter's textfile collector
    Prometheus,
}

impl clap::ValueEnum for Lang {
    fn value_variants<'a>() -> &'a [Self] {
        &Lang::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.code()).help(self.name()))
    }
}

pub(crate) fn run(arguments: &Arguments, _: &Config, out: &mut dyn Write) -> CommandResult {
    let path = arguments.record.clone().map_or_else(newest, Ok)?;
    if fs::read_to_string(&path).is_ok_and(|text| PairRecord::is(&text)) {
        return Err(usage(format!(
            "`{}` is a pair; judge it with `candlemark check --record {}`",
            path.display(),
            quoted(&path)
        )));
    }
    let scenario = arguments.scenario.as_deref();
    if scenario.is_some() && !matches!(arguments.format, Format::Row | Format::BenchmarkJson) {
        return Err(usage("`--scenario` is for `--format row` and `--format benchmark-json`"));
    }
    if arguments.lang != Lang::En && !matches!(arguments.format, Format::Md | Format::Html) {
        return Err(usage(
            "`--lang` is for `--format md` and `--format html`; other formats are data",
        ));
    }
    arguments.output.as_deref().map_or(Ok(()), files::check)?;
    let of_named = |error: Error| match arguments.record {
        Some(_) => error.of_named_file(),
        None => error,
    };
    let record = Record::load(&path).map_err(of_named)?;
    let load = |all: Targets, path: &PathBuf| {
        Ok::<_, Error>(all.merge(Targets::load(path).map_err(Error::of_named_file)?))
    };
    let targets = arguments.targets.iter().try_fold(Targets::builtin(), load)?;
    let options = ReportOptions { lang: arguments.lang, targets: &targets };
    let text = match arguments.format {
        Format::Md => {
            let charts = arguments
                .output
                .as_deref()
                .map_or(Ok(None), |path| write_charts(&record, options, path))?;
            report::markdown(&record, options, charts.as_deref())
        }
        Format::Html => report::page_in(&record, options)?,
        Format::Json => record.to_json(),
        Format::Csv => report::csv(&record),
        Format::Row => report::row(&record, scenario)?,
        Format::BenchmarkJson => report::benchmark_json(&record, scenario)?,
        Format::Prometheus => report::prometheus(&record),
    };
    write(&text, arguments.output.as_deref(), out)?;
    Ok(Exit::Pass)
}

/// Writes the charts to a folder next to the document, `report_charts` for `report.md`; the
/// folder's name, or `None` for stdout.
fn write_charts(
    record: &Record,
    options: ReportOptions<'_>,
    document: &Path,
) -> anyhow::Result<Option<String>> {
    let Some(stem) = document.file_stem().filter(|_| !files::is_stream(document)) else {
        return Ok(None);
    };
    let name = format!("{}_charts", stem.to_string_lossy());
    let folder = document.with_file_name(&name);
    for (file, svg) in report::chart_files(record, options) {
        files::write(&folder.join(file), svg.as_bytes())?;
    }
    Ok(Some(name))
}
