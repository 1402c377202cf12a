//! One self-contained page for a record and its verdict, and the link to it in Criterion's index. No script, no network.

use std::fs;
use std::path::Path;

use minijinja::AutoEscape;
use minijinja::Environment;
use minijinja::UndefinedBehavior;
use minijinja::Value;
use minijinja::context;
use minijinja::syntax::SyntaxConfig;

use crate::compare::Finding;
use crate::compare::Judgement;
use crate::compare::Verdict;
use crate::error::Error;
use crate::error::Result;
use crate::record::Record;
use crate::record::write_atomically;
use crate::report::document::OVERVIEW;
use crate::report::document::environment;
use crate::report::document::metrics;
use crate::report::document::overview;
use crate::report::document::validity;
use crate::report::text::plain;
use crate::report::verdict;

/// The page of a record, with the verdict on it if one is given.
///
/// # Errors
/// When the template does not fit the data, which a test would have found.
pub fn page(record: &Record, judgement: Option<&Judgement>) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    environment
        .add_template("page.html", include_str!("templates/page.html"))
        .and_then(|()| environment.get_template("page.html")?.render(data(record, judgement)))
        .map_err(|error| Error::Failed(format!("the report page: {error:#}")))
}

fn data(record: &Record, judgement: Option<&Judgement>) -> Value {
    let environment: Vec<Value> =
        self::environment(record).into_iter().map(|(name, value)| texts([name, &value])).collect();
    let scenarios: Vec<Value> = record
        .scenarios
        .iter()
        .map(|case| {
            let metrics: Vec<Value> = metrics(case)
                .iter()
                .map(|(_, cells)| texts(cells.iter().map(String::as_str)))
                .collect();
            let state = if case.absent.is_some() || !case.validity.ok() { "bad" } else { "good" };
            context! {
                id => plain(&case.id),
                overview => texts(overview(case).iter().map(String::as_str)),
                metrics => metrics,
                validity => plain(&validity(case)),
                state => state,
            }
        })
        .collect();
    let verdict = judgement.map(|judgement| {
        let (findings, unchanged) = verdict::sorted(judgement);
        let rows = |findings: Vec<&Finding>| findings.into_iter().map(row).collect::<Vec<Value>>();
        context! {
            sentence => plain(&verdict::sentence(judgement)),
            header => texts(verdict::HEADER.iter().copied()),
            findings => rows(findings),
            unchanged => rows(unchanged),
            remarks => texts(verdict::remarks(judgement).iter().map(String::as_str)),
        }
    });
    context! {
        title => plain(&format!("{} on {}", record.model.spec, record.machine.class)),
        environment => environment,
        overview => texts(OVERVIEW.map(|(heading, _)| heading)),
        scenarios => scenarios,
        verdict => verdict.unwrap_or(Value::from(())),
    }
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::from(texts.into_iter().map(|text| Value::from(plain(text))).collect::<Vec<Value>>())
}

/// A row of the verdict with its interval as a picture: the limit is a line, no change is another.
fn row(finding: &Finding) -> Value {
    let state = match finding.verdict {
        Verdict::Regressed { .. }
        | Verdict::OutputChanged(_)
        | Verdict::Invalid(_)
        | Verdict::Failed(_) => "bad",
        Verdict::Inconclusive(_) | Verdict::NotComparable(_) | Verdict::Missing => "unsure",
        _ => "good",
    };
    let bar =
        finding.change.as_ref().zip(finding.change.as_ref().and_then(|change| change.evidence));
    let bar = bar.map(|(change, evidence)| {
        // Three limits to either side fill the picture of 120 units; worse is to the right.
        let x = |theta: f64| 60.0 + (theta / change.margin).clamp(-3.0, 3.0) * 20.0;
        let (lo, mid, hi) = (x(evidence.single.lo), x(change.theta), x(evidence.single.hi));
        let units = |x: f64| format!("{x:.1}");
        context! { lo => units(lo), mid => units(mid), width => units((hi - lo).max(1.0)) }
    });
    let cells = verdict::cells(finding);
    context! { cells => texts(cells.iter().map(String::as_str)), state => state, bar => bar.unwrap_or(Value::from(())) }
}

/// Criterion's index page with a link to ours under its heading; the same page if the link is there already.
/// `None` if the page has no body to put it into.
pub fn link(index: &str, href: &str) -> Option<String> {
    const MARK: &str = "<!-- candlemark -->";
    let escaped = href.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    let line = format!(
        "{MARK}<p><a href=\"{escaped}\">candlemark: tokens per second, memory and verdict</a></p>{MARK}"
    );
    if let Some((before, rest)) = index.split_once(MARK) {
        let (_, after) = rest.split_once(MARK)?;
        return Some(format!("{before}{line}{after}"));
    }
    let body = index.find("<body")?;
    let at = body + index[body..].find('>')? + 1;
    Some(format!("{}\n{line}{}", &index[..at], &index[at..]))
}

/// Puts the link into a page on disk, such as `target/criterion/report/index.html`; a page that has it stays as it is.
///
/// # Errors
/// When the page cannot be read or written, or has no body.
pub fn link_into(index: &Path, href: &str) -> Result<()> {
    let read = |source| Error::Read { path: index.into(), source };
    let page = fs::read_to_string(index).map_err(read)?;
    let why = || Error::Invalid { path: index.into(), why: "it has no `<body>`".into() };
    let linked = link(&page, href).ok_or_else(why)?;
    if linked == page { Ok(()) } else { write_atomically(index, linked.as_bytes()) }
}
