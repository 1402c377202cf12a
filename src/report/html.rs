//! One self-contained page for a record and its verdict, or for a pair and its. No script, no
//! network.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

use crate::compare::{Finding, Judgement, Outcome, Verdict};
use crate::error::{Error, Result};
use crate::record::Record;
use crate::record::pair::{Arm, PairBlock, PairRecord};
use crate::report::document::machine;
use crate::report::full::Edition;
use crate::report::full::model::Document;
use crate::report::plot::plot;
use crate::report::text::{duration, number, percent, plain};
use crate::report::words::Lang;
use crate::report::{chart, full, verdict};
use crate::workload;

/// The page of a record in English, with the verdict on it and the command that made it if one is
/// given.
///
/// # Errors
/// When the template does not fit the data, which a test would have found.
pub fn page(record: &Record, judgement: Option<(&Judgement, &str)>) -> Result<String> {
    let verdict = judgement.map(|(judgement, command)| verdict(judgement, command));
    document_page(&full::document(record, Lang::En.into()), verdict)
}

/// The page of a record in a language.
///
/// # Errors
/// When the template does not fit the data, which a test would have found.
pub fn page_in<'a>(record: &Record, edition: impl Into<Edition<'a>>) -> Result<String> {
    document_page(&full::document(record, edition.into()), None)
}

fn document_page(document: &Document, verdict: Option<Value>) -> Result<String> {
    let data = context! {
        lang => document.lang,
        title => document.title.letters(),
        document => Value::from(Serde(document)),
        verdict => verdict.unwrap_or(Value::from(())),
    };
    render("page.html", data)
}

/// The page of a pair and its verdict; `command` is what made that.
///
/// # Errors
/// When the template does not fit the data, which a test would have found.
pub fn pair_page(paired: &PairRecord, judgement: &Judgement, command: &str) -> Result<String> {
    render("pair.html", pair_data(paired, judgement, command))
}

/// The page of a verdict without a record: nothing came to be judged. `command` is what made it.
///
/// # Errors
/// When the template does not fit the data, which a test would have found.
pub fn verdict_page(judgement: &Judgement, command: &str) -> Result<String> {
    let data = context! {
        lang => Lang::En.code(),
        title => "candlemark",
        verdict => verdict(judgement, command),
    };
    render("verdict-only.html", data)
}

/// A page of one of the templates.
pub(crate) fn render(name: &str, data: Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters"));
    for (name, source) in [
        ("chart.css", chart::CSS),
        ("style.css", include_str!("templates/style.css")),
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
    let arms = arms(&paired.base).into_iter().zip(arms(&paired.candidate));
    let arms = arms.filter(|((_, base), (_, candidate))| !base.is_empty() || !candidate.is_empty());
    let arms: Vec<Value> = arms
        .map(|((name, base), (_, candidate))| {
            context! {
                name => name,
                base => plain(&base),
                candidate => plain(&candidate),
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
            context! { cells => texts(cells(at, block).iter().map(String::as_str)), rejected => rejected }
        })
        .collect();
    let session = [
        ("measured by", crate::error::command(&paired.session.command)),
        ("started", paired.session.started.clone()),
        ("ended", paired.session.ended.clone().unwrap_or_default()),
        ("seed of all orders", paired.seed.to_string()),
        ("model", paired.candidate.model.spec.clone()),
    ];
    let title = summary.map_or(String::new(), verdict::arms);
    context! {
        lang => Lang::En.code(),
        title => plain(&format!("candlemark: {title}")),
        verdict => verdict(judgement, command),
        arms => arms,
        null => null,
        blocks => blocks,
        environment => named(session.into_iter().chain(machine(&paired.machine))),
    }
}

/// What one build is, as name and value, the same names for each.
fn arms(arm: &Arm) -> Vec<(&'static str, String)> {
    let Arm { asked, injected, build, model, settings } = arm;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    let dirty = match build.dirty {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    let crates: Vec<String> =
        build.crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
    vec![
        ("asked for", asked.clone()),
        ("slowed down on purpose", text(injected)),
        ("commit", short(&text(&build.commit))),
        ("uncommitted changes", dirty.into()),
        ("candlemark", build.version.clone()),
        ("compiler", build.rustc.clone()),
        ("profile", build.profile.clone()),
        ("CPU features", build.target_features.clone()),
        ("features", build.features.join(", ")),
        ("crates", crates.join(", ")),
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

/// A row of the table of blocks.
fn cells(at: usize, block: &PairBlock) -> [String; 9] {
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

fn verdict(judgement: &Judgement, command: &str) -> Value {
    let (findings, unchanged) = verdict::sorted(judgement);
    let rows = |findings: Vec<&Finding>| findings.into_iter().map(row).collect::<Vec<Value>>();
    context! {
        sentence => plain(&verdict::sentence(judgement)),
        state => match judgement.outcome {
            Outcome::Pass => "good",
            Outcome::Undecided | Outcome::NotComparable => "unsure",
            Outcome::Regression | Outcome::Failed => "bad",
        },
        header => texts(verdict::header(judgement)),
        findings => rows(findings),
        unchanged => rows(unchanged),
        remarks => texts(verdict::remarks(judgement, command).iter().map(String::as_str)),
    }
}

/// Rows of a name and a value, those without a value left out.
fn named(rows: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Value> {
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    rows.map(|(name, value)| texts([name, &value])).collect()
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::from(texts.into_iter().map(|text| Value::from(plain(text))).collect::<Vec<Value>>())
}

/// A row of the verdict with its interval and its blocks as pictures: the limit is a line, no
/// change is another.
fn row(finding: &Finding) -> Value {
    let state = match finding.verdict {
        Verdict::Regressed { .. }
        | Verdict::OutputChanged(_)
        | Verdict::Invalid(_)
        | Verdict::Failed(_) => "bad",
        Verdict::Inconclusive(_)
        | Verdict::NotComparable(_)
        | Verdict::Missing(_)
        | Verdict::Removed(_)
        | Verdict::NotSelected => "unsure",
        _ => "good",
    };
    let bar =
        finding.change.as_ref().zip(finding.change.as_ref().and_then(|change| change.evidence));
    let bar = bar.map(|(change, evidence)| {
        // Three limits to either side fill the picture of 120 units; worse is to the right.
        let x = |theta: f64| 60.0 + (theta / change.margin).clamp(-3.0, 3.0) * 20.0;
        let (lo, mid, hi) = (x(evidence.ci_90.lo), x(change.theta), x(evidence.ci_90.hi));
        let units = |x: f64| format!("{x:.1}");
        context! { lo => units(lo), mid => units(mid), width => units((hi - lo).max(1.0)) }
    });
    let cells = verdict::cells(finding);
    context! {
        cells => texts(cells.iter().map(String::as_str)),
        state => state,
        bar => bar.unwrap_or(Value::from(())),
        plot => plot(finding).unwrap_or(Value::from(())),
    }
}
