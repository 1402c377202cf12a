//! The card that opens a report: verdict, what was measured, three headline figures, warnings.

use serde::Serialize;

use crate::analysis::CaseState;
use crate::compare::{Finding, Judgement, Outcome};
use crate::record::pair::{Arm, PairRecord};
use crate::record::{AbsenceKind, Build, Case, Conditions, Machine, Record, Session, Settings};
use crate::report::document::{Text, Tone};
use crate::report::text::{metric_value, short_commit, split_code};
use crate::report::verdict;
use crate::report::words::{Lang, Words};
use crate::workload::metric::{DECODE_TOK_S, PEAK_RSS_BYTES, TTFT_S};
use crate::workload::{METRICS, Metric, metric};
use crate::{machine, stats};

/// The metrics of the headline figures.
pub(crate) const HEADLINE: [&str; 3] = [DECODE_TOK_S, TTFT_S, PEAK_RSS_BYTES];

/// The scenario of the headline figures, if it was measured.
pub(crate) const HEADLINE_SCENARIO: &str = "short/b1";

/// What a reader must know first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Card {
    /// The verdict in a word, legible without colour.
    pub(crate) word: Text,
    pub(crate) tone: Tone,
    pub(crate) sentence: Text,
    /// What to do for a verdict.
    pub(crate) decide: Option<Text>,
    /// Names and values: model, engine, machine, commit.
    pub(crate) facts: Vec<(Text, Text)>,
    pub(crate) figures: Vec<CardFigure>,
    /// The scenario of the figures.
    pub(crate) scenario: Option<Text>,
    pub(crate) warnings: Vec<Text>,
}

/// A headline figure.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct CardFigure {
    /// The metric's name in records.
    #[serde(skip)]
    pub(crate) metric: &'static str,
    pub(crate) name: Text,
    /// With its unit; a dash if not measured.
    pub(crate) value: Text,
    /// The change from the base.
    pub(crate) change: Text,
    pub(crate) tone: Tone,
}

impl Card {
    /// The card of a run that was compared with nothing.
    pub(super) fn of_record(record: &Record, lang: Lang) -> Self {
        let words = lang.words();
        let case = headline_case(&record.scenarios);
        let figure = |(case, metric): (&Case, &'static Metric)| {
            let value = stats::median(&case.values(metric.name));
            CardFigure {
                metric: metric.name,
                name: lang.metric_name(metric).into(),
                value: value.map_or_else(
                    || words.frame.not_measured.into(),
                    |value| lang.metric_value_with_unit(metric, value).into(),
                ),
                ..CardFigure::default()
            }
        };
        let metrics = HEADLINE.into_iter().filter_map(metric);
        Self {
            facts: facts(record, lang),
            figures: metrics.filter_map(|metric| Some(figure((case?, metric)))).collect(),
            scenario: case.map(|case| Text::code(&case.id)),
            warnings: record_warnings(record, lang),
            ..Self::no_verdict(lang, words.card.alone.into())
        }
    }

    /// A card that says why there is no verdict, and the command that gives one.
    pub(crate) fn no_verdict(lang: Lang, why: Text) -> Self {
        Self {
            word: lang.words().card.no_verdict.into(),
            sentence: why,
            decide: Some(pair_command(lang.words(), "REF")),
            ..Self::default()
        }
    }

    /// The card of a pair of builds.
    pub(super) fn of_pair(paired: &PairRecord, judgement: &Judgement, command: &str) -> Self {
        let lang = Lang::En;
        let general = &lang.words().general;
        let Arm { model, settings, .. } = &paired.candidate;
        let commits = [&paired.base, &paired.candidate].map(|arm| commit(&arm.build, lang));
        let mut card = Self {
            facts: named_facts([
                (general.model, model.spec.clone()),
                (lang.words().card.quant, model.quant.clone()),
                (general.engine, engine(settings)),
                (lang.words().card.cpu, cpu(&paired.machine)),
                (general.threads, lang.count(settings.threads)),
                ("base", format!("{} {}", paired.base.asked, commits[0])),
                ("candidate", format!("{} {}", paired.candidate.asked, commits[1])),
            ]),
            warnings: pair_warnings(paired),
            ..Self::default()
        };
        card.set_verdict(judgement, command);
        let of: Vec<&str> = judgement.findings.iter().map(|one| one.scenario.as_str()).collect();
        let scenario = of.iter().find(|id| **id == HEADLINE_SCENARIO).or(of.first());
        if let Some(scenario) = scenario {
            card.figures = change_figures(judgement, scenario);
            card.scenario = Some(Text::code(scenario)).filter(|_| !card.figures.is_empty());
        }
        card
    }

    /// The card of a verdict without measurements.
    pub(super) fn of_verdict(judgement: &Judgement, command: &str) -> Self {
        let mut card = Self::default();
        card.set_verdict(judgement, command);
        card
    }

    /// Replaces the missing verdict by one.
    pub(super) fn set_verdict(&mut self, judgement: &Judgement, command: &str) {
        let (word, tone) = outcome_word(judgement.outcome);
        self.word = word.into();
        self.tone = tone;
        self.sentence = with_code(&verdict::statement(judgement));
        self.decide = match judgement.outcome {
            Outcome::Undecided => verdict::first_step(judgement, command).map(|step| {
                with_code(&match step.strip_prefix("to decide") {
                    Some(rest) => format!("To decide{rest}"),
                    None => format!("To decide: {step}"),
                })
            }),
            Outcome::NotComparable if judgement.pair.is_none() => {
                let base =
                    judgement.baseline_commit.as_deref().map(short_commit).unwrap_or("REF".into());
                Some(pair_command(Lang::En.words(), &base))
            }
            _ => None,
        };
        for figure in &mut self.figures {
            let scenario = self.scenario.as_ref().map(Text::plain_text);
            let finding = scenario.and_then(|id| find(judgement, &id, figure.metric));
            if let Some((change, tone)) = finding.and_then(change_text) {
                (figure.change, figure.tone) = (change, tone);
            }
        }
    }
}

/// The leading word of an outcome, and how it is highlighted.
pub(crate) fn outcome_word(outcome: Outcome) -> (&'static str, Tone) {
    let tone = match outcome {
        Outcome::Pass => Tone::Good,
        Outcome::Undecided | Outcome::NotComparable => Tone::Unsure,
        Outcome::Regression | Outcome::Failed => Tone::Bad,
    };
    (verdict::outcome_word(outcome), tone)
}

/// A stored sentence without its leading word, which was another in older records.
pub(crate) fn without_outcome(sentence: &str) -> &str {
    use Outcome::{Failed, NotComparable, Pass, Regression, Undecided};
    let words = [Pass, Regression, Undecided, NotComparable, Failed].map(verdict::outcome_word);
    let is_outcome = |word: &str| words.contains(&word) || word == "CANNOT DECIDE";
    let rest = sentence.split_once(": ").filter(|(word, _)| is_outcome(word));
    rest.map_or(sentence, |(_, rest)| rest)
}

fn pair_command(words: &Words, base: &str) -> Text {
    let command = format!("candlemark pair --base {base}");
    Text::from_template(words.card.decides, &[("command", &command)])
}

/// Text with code between backticks.
pub(crate) fn with_code(text: &str) -> Text {
    let spans = split_code(text).into_iter();
    Text::join(spans.map(|(code, text)| if code { Text::code(text) } else { Text::new(text) }))
}

/// The valid scenario of the headline figures.
fn headline_case(cases: &[Case]) -> Option<&Case> {
    let measured = |case: &&Case| {
        CaseState::of(case).is_valid() && HEADLINE.iter().any(|name| !case.values(name).is_empty())
    };
    let decoded = |case: &&Case| !case.values(DECODE_TOK_S).is_empty();
    let mut valid = cases.iter().filter(measured);
    let named = valid.clone().find(|case| case.id == HEADLINE_SCENARIO);
    named.or_else(|| valid.clone().find(decoded)).or_else(|| valid.next())
}

/// Base, candidate and change of the headline metrics of a scenario.
fn change_figures(judgement: &Judgement, scenario: &str) -> Vec<CardFigure> {
    let of = |metric: &Metric| {
        let finding = find(judgement, scenario, metric.name)?;
        let change = finding.change.as_ref()?;
        let now = verdict::estimated_value(metric, change);
        let (base, now) = (metric_value(metric, change.base), metric_value(metric, now));
        let (text, tone) = change_text(finding)?;
        Some(CardFigure {
            metric: metric.name,
            name: metric.label.into(),
            value: format!("{base} \u{2192} {now}\u{a0}{}", metric.unit).into(),
            change: text,
            tone,
        })
    };
    METRICS.iter().filter(|metric| HEADLINE.contains(&metric.name)).filter_map(of).collect()
}

/// The finding of a metric of a scenario.
fn find<'a>(judgement: &'a Judgement, scenario: &str, metric: &str) -> Option<&'a Finding> {
    let is_metric = |one: &&Finding| one.metric.is_some_and(|known| known.name == metric);
    judgement.findings.iter().filter(|one| one.scenario == scenario).find(is_metric)
}

fn change_text(finding: &Finding) -> Option<(Text, Tone)> {
    let (metric, change) = (finding.metric?, finding.change.as_ref()?);
    let text = verdict::format_change(metric, change, " %");
    Some((text.into(), verdict::tone(&finding.verdict)))
}

fn facts(record: &Record, lang: Lang) -> Vec<(Text, Text)> {
    let (general, card) = (&lang.words().general, &lang.words().card);
    named_facts([
        (general.model, record.model.spec.clone()),
        (card.quant, record.model.quant.clone()),
        (general.engine, engine(&record.settings)),
        (card.cpu, cpu(&record.machine)),
        (general.threads, lang.count(record.settings.threads)),
        (general.commit, commit(&record.build, lang)),
    ])
}

/// Names and values; those without a value are omitted.
pub(crate) fn named_facts(
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<(Text, Text)> {
    let facts = facts.into_iter().filter(|(_, value)| !value.trim().is_empty());
    facts.map(|(name, value)| (name.into(), value.trim().into())).collect()
}

fn engine(settings: &Settings) -> String {
    format!("{} ({})", settings.engine, settings.device)
}

fn cpu(machine: &Machine) -> String {
    let name = ["cpu_name", "cpu"].iter().find_map(|name| machine.fields.get(*name));
    match name {
        Some(name) => format!("{name} ({})", machine.class),
        None => machine.class.clone(),
    }
}

fn commit(build: &Build, lang: Lang) -> String {
    let Some(commit) = &build.commit else { return String::new() };
    let commit = short_commit(commit);
    match build.dirty {
        Some(true) => {
            Text::from_template(lang.words().general.dirty, &[("commit", &commit)]).plain_text()
        }
        _ => commit,
    }
}

fn record_warnings(record: &Record, lang: Lang) -> Vec<Text> {
    let (general, card) = (&lang.words().general, &lang.words().card);
    let mut warnings = Vec::new();
    if let Some(what) = &record.injected {
        warnings.push(Text::from_template(general.injected, &[("what", what)]));
    }
    if record.build.is_unoptimized() {
        let values = [("profile", record.build.profile.as_str())];
        warnings.push(Text::from_template(general.unoptimized, &values));
    }
    let failed = record.scenarios.iter().filter(|case| match &case.absent {
        Some(absent) => absent.kind == AbsenceKind::Failed,
        None => !case.validity.ok(),
    });
    let (failed, all) = (failed.count(), record.scenarios.len());
    if failed > 0 {
        let values = [("count", &*lang.count(failed)), ("all", &lang.count(all))];
        warnings.push(Text::from_template(card.failed, &values));
    }
    warnings.extend(load_warnings(&record.sessions, &record.machine).iter().map(|w| with_code(w)));
    warnings
}

/// Warnings about the load of the machine, from the worst readings of all sessions.
fn load_warnings(sessions: &[Session], of: &Machine) -> Vec<String> {
    let all = sessions.iter().flat_map(|session| &session.conditions);
    let most =
        |value: fn(&Conditions) -> Option<f64>| all.clone().filter_map(value).reduce(f64::max);
    let worst = Conditions {
        load_1m: most(|one| one.load_1m),
        steal: most(|one| one.steal),
        cpu_pressure_10s: most(|one| one.cpu_pressure_10s),
        ..Conditions::default()
    };
    let count = |name: &str| of.fields.get(name).or(of.facts.get(name))?.parse().ok();
    let cpus = ["cpus_allowed", "cpus", "cores"].into_iter().filter_map(count).max();
    machine::warnings_on(&worst, cpus)
}

fn pair_warnings(paired: &PairRecord) -> Vec<Text> {
    let mut warnings = Vec::new();
    for (name, arm) in [("base", &paired.base), ("candidate", &paired.candidate)] {
        if let Some(injected) = &arm.injected {
            warnings.push(format!("The {name} was slowed down on purpose: {injected}").into());
        }
        if arm.build.is_unoptimized() {
            let profile = &arm.build.profile;
            warnings
                .push(format!("The {name} is an unoptimized build (profile {profile}).").into());
        }
    }
    let rejected = paired.blocks.iter().filter(|block| block.rejected.is_some()).count();
    if rejected > 0 {
        let all = paired.blocks.len();
        warnings.push(format!("{rejected} of {all} blocks were rejected.").into());
    }
    let sessions = std::slice::from_ref(&paired.session);
    warnings.extend(load_warnings(sessions, &paired.machine).iter().map(|w| with_code(w)));
    warnings
}
