//! Self-contained HTML pages: a record with its verdict, or a pair with its verdict. No script, no
//! network.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

use crate::compare::{Finding, Judgement};
use crate::error::{Error, Result};
use crate::record::pair::{Arm, PairBlock, PairRecord};
use crate::record::{Machine, Record};
use crate::report::block_plot::block_plot;
use crate::report::card::Card;
use crate::report::changes::changes;
use crate::report::full::{Document, ReportOptions};
use crate::report::text::{duration, name_value_list, number, percent, sanitize, split_code};
use crate::report::words::Lang;
use crate::report::{chart, full, link, verdict};
use crate::workload;

/// The English page of a record, with a verdict and the command that produced it, if given.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub fn page(record: &Record, judgement: Option<(&Judgement, &str)>) -> Result<String> {
    bench_page(record, judgement, "")
}

/// [`page`] with links to Criterion's pages, taken from the text of Criterion's index beside it.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub fn bench_page(
    record: &Record,
    judgement: Option<(&Judgement, &str)>,
    index: &str,
) -> Result<String> {
    let mut document = full::build_document(record, Lang::En.into());
    if let Some((judgement, command)) = judgement {
        document.card.set_verdict(judgement, command);
    }
    let verdict = judgement.map(|(judgement, command)| verdict_data(judgement, command));
    document_page(&document, verdict, link::criterion_links(index))
}

/// The page of a record in a language.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub fn page_in<'a>(record: &Record, options: impl Into<ReportOptions<'a>>) -> Result<String> {
    document_page(&full::build_document(record, options.into()), None, Vec::new())
}

fn document_page(
    document: &Document,
    verdict: Option<Value>,
    criterion: Vec<(String, String)>,
) -> Result<String> {
    let headline = document.sections.first().is_some_and(|section| section.id == "headline");
    let data = context! {
        lang => document.lang,
        title => document.title.plain_text(),
        document => Value::from(Serde(document)),
        verdict => verdict.unwrap_or(Value::from(())),
        // The table of the verdict follows the headline charts.
        table_at => usize::from(headline),
        criterion => criterion,
    };
    render("page.html", data)
}

/// The page of a pair and its verdict; `command` is the command that produced the verdict.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub fn pair_page(paired: &PairRecord, judgement: &Judgement, command: &str) -> Result<String> {
    render("pair.html", pair_data(paired, judgement, command))
}

/// The page of a verdict without a record: nothing was judged. `command` is the command that
/// produced it.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub fn verdict_page(judgement: &Judgement, command: &str) -> Result<String> {
    let data = context! {
        lang => Lang::En.code(),
        title => "candlemark",
        card => Value::from(Serde(Card::of_verdict(judgement, command))),
        verdict => verdict_data(judgement, command),
    };
    render("verdict-only.html", data)
}

/// Renders one of the templates.
pub(crate) fn render(name: &str, data: Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    for (name, source) in [
        ("chart.css", chart::CSS),
        ("style.css", include_str!("templates/style.css")),
        ("card.html", include_str!("templates/card.html")),
        ("base.html", include_str!("templates/base.html")),
        ("verdict.html", include_str!("templates/verdict.html")),
        ("page.html", include_str!("templates/page.html")),
        ("pair.html", include_str!("templates/pair.html")),
        ("verdict-only.html", include_str!("templates/verdict-only.html")),
        ("monitor.html", include_str!("templates/monitor.html")),
    ] {
        environment.add_template(name, source).expect("every test renders every template");
    }
    environment
        .get_template(name)
        .and_then(|template| template.render(data))
        .map_err(|error| Error::Failed(format!("the report page: {error:#}")))
}

fn pair_data(paired: &PairRecord, judgement: &Judgement, command: &str) -> Value {
    let arms = build_rows(&paired.base).into_iter().zip(build_rows(&paired.candidate));
    let arms = arms.filter(|((_, base), (_, candidate))| !base.is_empty() || !candidate.is_empty());
    let arms: Vec<Value> = arms
        .map(|((name, base), (_, candidate))| {
            context! {
                name => name,
                base => sanitize(&base),
                candidate => sanitize(&candidate),
                differs => base != candidate,
            }
        })
        .collect();
    let summary = judgement.pair.as_ref();
    let null: Vec<Value> = summary
        .map_or(&[][..], |summary| &summary.null)
        .iter()
        .map(|null| {
            let cost = |theta: f64| percent(theta.exp_m1());
            let metric = workload::metric(null.metric).map_or(null.metric, |metric| metric.label);
            let interval = format!("{} to {}", cost(null.interval.lo), cost(null.interval.hi));
            context! {
                cells => texts([null.scenario.as_str(), metric, &cost(null.theta), &interval]),
                contaminated => null.contaminated,
            }
        })
        .collect();
    let blocks: Vec<Value> = paired
        .blocks
        .iter()
        .enumerate()
        .map(|(at, block)| {
            let rejected = block.rejected.is_some();
            context! { cells => texts(block_row(at, block).iter().map(String::as_str)), rejected => rejected }
        })
        .collect();
    let session = [
        ("measured by", crate::error::command(&paired.session.command)),
        ("started", paired.session.started.clone()),
        ("ended", paired.session.ended.clone().unwrap_or_default()),
        ("seed", paired.seed.to_string()),
        ("model", paired.candidate.model.spec.clone()),
    ];
    let title = summary.map_or(String::new(), verdict::build_names);
    context! {
        lang => Lang::En.code(),
        title => sanitize(&format!("candlemark: {title}")),
        card => Value::from(Serde(Card::of_pair(paired, judgement, command))),
        verdict => verdict_data(judgement, command),
        arms => arms,
        null => null,
        blocks => blocks,
        environment => name_value_rows(session.into_iter().chain(machine_rows(&paired.machine))),
    }
}

/// Names and values that describe one build; every build has the same names.
fn build_rows(arm: &Arm) -> Vec<(&'static str, String)> {
    let Arm { asked, injected, build, model, settings } = arm;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    let dirty = match build.dirty {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    vec![
        ("requested", asked.clone()),
        ("slowed down on purpose", text(injected)),
        ("commit", short(&text(&build.commit))),
        ("uncommitted changes", dirty.into()),
        ("candlemark", build.version.clone()),
        ("compiler", build.rustc.clone()),
        ("profile", build.profile.clone()),
        ("CPU features", build.target_features.clone()),
        ("features", build.features.join(", ")),
        ("crates", name_value_list(&build.crates)),
        ("Cargo.lock sha256", short(&text(&build.lock_sha256))),
        ("binary sha256", short(&text(&build.binary_sha256))),
        ("model sha256", short(&model.sha256)),
        ("weights", model.quant.clone()),
        (
            "engine",
            format!("{} on {}, {} threads", settings.engine, settings.device, settings.threads),
        ),
    ]
}

/// The machine, as names and values.
fn machine_rows(machine: &Machine) -> Vec<(&'static str, String)> {
    let rate = |value: Option<f64>, unit: &str| {
        value.map_or("not measured".into(), |value| format!("{} {unit}", number(value / 1e9)))
    };
    let rates = &machine.rates;
    let mut rows = vec![
        ("machine class", machine.class.clone()),
        ("machine", name_value_list(&machine.fields)),
        ("host", name_value_list(&machine.facts)),
        ("memory read rate", rate(rates.read_bytes_per_s, "GB/s")),
        ("f32 rate", rate(rates.f32_flop_per_s, "GFLOP/s")),
    ];
    // Older records lack these rates.
    rows.extend(
        [
            ("memory read rate with huge pages", rates.read_huge_bytes_per_s, "GB/s"),
            ("8-bit integer rate", rates.int8_op_per_s, "GOP/s"),
            ("16-bit integer rate", rates.int16_op_per_s, "GOP/s"),
            ("bf16 rate", rates.bf16_flop_per_s, "GFLOP/s"),
        ]
        .into_iter()
        .filter(|(_, value, _)| value.is_some())
        .map(|(name, value, unit)| (name, rate(value, unit))),
    );
    rows.extend(rates.isa.clone().map(|isa| ("instructions of the rates", isa)));
    rows
}

/// A row of the table of blocks.
fn block_row(at: usize, block: &PairBlock) -> [String; 9] {
    let share =
        |value: Option<f64>| value.map_or("-".into(), |value| format!("{:.1} %", 100.0 * value));
    [
        (at + 1).to_string(),
        block.started.clone(),
        number(block.load_s),
        number(block.warm_up_s),
        number(block.turns_s),
        duration(block.total_s),
        share(block.steal),
        share(block.cpu_pressure_10s),
        block.rejected.as_ref().map_or("counts".into(), |why| format!("rejected: {why}")),
    ]
}

fn verdict_data(judgement: &Judgement, command: &str) -> Value {
    let (findings, unchanged) = verdict::by_importance(judgement);
    let rows =
        |findings: Vec<&Finding>| findings.into_iter().map(finding_data).collect::<Vec<Value>>();
    let lines = |lines: Vec<String>| lines.iter().map(|line| spans(line)).collect::<Vec<Value>>();
    let remarks = verdict::next_steps(judgement, command).into_iter();
    context! {
        changes => changes(judgement).unwrap_or(Value::from(())),
        header => texts(verdict::header(judgement)),
        findings => rows(findings),
        unchanged => rows(unchanged),
        output => verdict::error_output(judgement).iter().map(|line| sanitize(line)).collect::<Vec<_>>(),
        details => lines(verdict::details(judgement)),
        remarks => lines(remarks.chain(verdict::commands(judgement, command)).collect()),
    }
}

/// Rows of name and value; rows without a value are omitted.
fn name_value_rows(rows: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Value> {
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    rows.map(|(name, value)| texts([name, &value])).collect()
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::from(texts.into_iter().map(|text| Value::from(sanitize(text))).collect::<Vec<Value>>())
}

/// Plain text and code within a line.
fn spans(text: &str) -> Value {
    let text = sanitize(text);
    let pieces = split_code(&text).into_iter();
    let spans = pieces.map(|(is_code, piece)| context! { code => is_code, text => piece });
    Value::from(spans.collect::<Vec<Value>>())
}

/// A row of the verdict table with a plot of the block values.
fn finding_data(finding: &Finding) -> Value {
    context! {
        cells => texts(verdict::table_row(finding).iter().map(String::as_str)),
        state => Value::from(Serde(verdict::tone(&finding.verdict))),
        plot => block_plot(finding).unwrap_or(Value::from(())),
    }
}
