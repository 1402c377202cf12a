//! Self-contained HTML pages: a record with its verdict, a pair with its verdict, or a verdict
//! alone. No script, no network.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context, escape_formatter};

use crate::compare::{Finding, Judgement};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::record::pair::PairRecord;
use crate::report::card::Card;
use crate::report::changes::changes;
use crate::report::document::Text;
use crate::report::full::{Document, ReportOptions, build_document};
use crate::report::link::criterion_links;
use crate::report::pair::pair_sections;
use crate::report::text::sanitize;
use crate::report::words::Lang;
use crate::report::{chart, verdict};

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
pub(crate) fn bench_page(
    record: &Record,
    judgement: Option<(&Judgement, &str)>,
    index: &str,
) -> Result<String> {
    let mut document = build_document(record, Lang::En.into());
    if let Some((judgement, command)) = judgement {
        document.card.set_verdict(judgement, command);
    }
    document_page(&document, judgement, criterion_links(index))
}

/// The page of a record in a language.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub(crate) fn page_in<'a>(
    record: &Record,
    options: impl Into<ReportOptions<'a>>,
) -> Result<String> {
    document_page(&build_document(record, options.into()), None, Vec::new())
}

/// The page of a pair and its verdict; `command` is the command that produced the verdict.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub fn pair_page(paired: &PairRecord, judgement: &Judgement, command: &str) -> Result<String> {
    let builds = judgement.pair.as_ref().map_or(String::new(), verdict::build_names);
    let card = Card::of_pair(paired, judgement, command);
    let title = format!("candlemark: {builds}");
    let document = Document::english(title.into(), card, pair_sections(paired));
    document_page(&document, Some((judgement, command)), Vec::new())
}

/// The page of a verdict without a record: nothing was judged. `command` is the command that
/// produced it.
///
/// # Errors
/// When the template does not fit the data; tests render every template.
pub(crate) fn verdict_page(judgement: &Judgement, command: &str) -> Result<String> {
    let mut document = Document::english("candlemark".into(), Card::default(), Vec::new());
    document.card.set_verdict(judgement, command);
    document_page(&document, Some((judgement, command)), Vec::new())
}

fn document_page(
    document: &Document,
    judgement: Option<(&Judgement, &str)>,
    criterion: Vec<(String, String)>,
) -> Result<String> {
    let headline = document.sections.first().is_some_and(|section| section.id == "headline");
    let verdict = judgement.map(|(judgement, command)| verdict_data(judgement, command));
    let data = context! {
        lang => document.lang,
        title => document.title.plain_text(),
        document => Value::from(Serde(document)),
        verdict => verdict,
        // The table of the verdict follows the headline charts.
        table_at => usize::from(headline),
        criterion => criterion,
    };
    render("page.html", data)
}

/// Renders one of the templates. Texts are sanitized and escaped; numbers that are no integers have
/// one decimal.
pub(crate) fn render(name: &str, data: Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if !value.is_safe() => {
            // A number stays on one line with its percent sign.
            escape_formatter(out, state, &Value::from(sanitize(text).replace(" %", "\u{a0}%")))
        }
        None if value.kind() == ValueKind::Number && !value.is_integer() => {
            Ok(write!(out, "{:.1}", f64::try_from(value.clone())?)?)
        }
        _ => escape_formatter(out, state, value),
    });
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    for (name, source) in [
        ("chart.css", chart::CSS),
        ("style.css", include_str!("templates/style.css")),
        ("card.html", include_str!("templates/card.html")),
        ("base.html", include_str!("templates/base.html")),
        ("verdict.html", include_str!("templates/verdict.html")),
        ("page.html", include_str!("templates/page.html")),
        ("monitor.html", include_str!("templates/monitor.html")),
    ] {
        environment.add_template(name, source).expect("every test renders every template");
    }
    environment
        .get_template(name)
        .and_then(|template| template.render(data))
        .map_err(|error| Error::Failed(format!("the report page: {error:#}")))
}

fn verdict_data(judgement: &Judgement, command: &str) -> Value {
    let (findings, unchanged) = verdict::by_importance(judgement);
    let rows = |findings: Vec<&Finding>| findings.into_iter().map(finding_data).collect::<Vec<_>>();
    let lines =
        |lines: Vec<String>| lines.iter().map(|line| Text::with_code(line)).collect::<Vec<_>>();
    let remarks = verdict::next_steps(judgement, command).into_iter();
    let remarks = remarks.chain(verdict::commands(judgement, command)).collect();
    context! {
        changes => changes(judgement),
        header => verdict::header(judgement).to_vec(),
        findings => rows(findings),
        unchanged => rows(unchanged),
        output => verdict::error_output(judgement).to_vec(),
        details => Value::from(Serde(lines(verdict::details(judgement)))),
        remarks => Value::from(Serde(lines(remarks))),
    }
}

/// A row of the verdict table.
fn finding_data(finding: &Finding) -> Value {
    let tone = Value::from(Serde(verdict::tone(&finding.verdict)));
    context! { cells => verdict::table_row(finding), state => tone }
}
