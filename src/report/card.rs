//! The card that opens a report: verdict, what was measured, three headline figures, warnings.

use serde::Serialize;

use crate::analysis::CaseState;
use crate::compare::{Judgement, Outcome};
use crate::machine::CLIENT_CLASS;
use crate::record::pair::{Arm, PairRecord};
use crate::record::{
    AbsenceKind, Build, Case, Conditions, Machine, Model, NOT_REPORTED, Record, Session, Settings,
};
use crate::report::document::{Text, Tone};
use crate::report::text::{metric_value, short_commit};
use crate::report::verdict;
use crate::report::words::{Lang, Words};
use crate::workload::metric::{DECODE_TOK_S, PEAK_RSS_BYTES, TTFT_S};
use crate::workload::{Metric, metric};
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
        let figure = |metric: &Metric| {
            let value = stats::median(&case?.values(metric.name));
            let value = value.map(|value| lang.metric_value_with_unit(metric, value));
            Some(CardFigure {
                name: lang.metric_name(metric).into(),
                value: value.map_or_else(|| words.frame.not_measured.into(), Text::from),
                ..CardFigure::default()
            })
        };
        let commit = vec![(words.general.commit, commit(&record.build, lang))];
        Self {
            facts: facts(lang, &record.model, &record.settings, &record.machine, commit),
            figures: HEADLINE.into_iter().filter_map(metric).filter_map(figure).collect(),
            scenario: case.map(|case| Text::code(&case.id)),
            warnings: record_warnings(record, lang),
            // Nothing here can run again what another tool measured.
            decide: match &record.settings.server {
                _ if record.other_tool().is_some() => None,
                Some(_) => {
                    Some(deciding(words, "candlemark pair --base-url URL --candidate-url URL"))
                }
                None => Some(pair_command(words, "REF")),
            },
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
        let Arm { model, settings, .. } = &paired.candidate;
        let build = |arm: &Arm| match &arm.settings.server {
            Some(server) => format!("{} {}", arm.asked, server.program()),
            None => format!("{} {}", arm.asked, commit(&arm.build, Lang::En)),
        };
        let builds = [("base", build(&paired.base)), ("candidate", build(&paired.candidate))];
        let mut card = Self {
            facts: facts(Lang::En, model, settings, &paired.machine, builds.into()),
            warnings: pair_warnings(paired),
            ..Self::default()
        };
        card.set_verdict(judgement, command);
        card
    }

    /// Replaces the missing verdict by one.
    pub(super) fn set_verdict(&mut self, judgement: &Judgement, command: &str) {
        let (word, tone) = verdict::outcome_word(judgement.outcome);
        (self.word, self.tone) = (word.into(), tone);
        self.sentence = Text::with_code(&verdict::statement(judgement));
        self.decide = match judgement.outcome {
            Outcome::Undecided => verdict::first_step(judgement, command).map(|step| {
                let step =
                    step.strip_prefix("to decide").unwrap_or(&format!(": {step}")).to_owned();
                Text::with_code(&format!("To decide{step}"))
            }),
            Outcome::NotComparable if judgement.pair.is_none() => {
                let base = judgement.baseline_commit.as_deref().map(short_commit);
                Some(pair_command(Lang::En.words(), base.as_deref().unwrap_or("REF")))
            }
            _ => None,
        };
        let named = self.scenario.as_ref().map_or(HEADLINE_SCENARIO.into(), Text::plain_text);
        let ids = || judgement.findings.iter().map(|one| one.scenario.as_str());
        if let Some(scenario) = ids().find(|id| *id == named).or(ids().next()) {
            let figures = change_figures(judgement, scenario);
            if !figures.is_empty() {
                (self.figures, self.scenario) = (figures, Some(Text::code(scenario)));
            }
        }
    }
}

fn pair_command(words: &Words, base: &str) -> Text {
    deciding(words, &format!("candlemark pair --base {base}"))
}

fn deciding(words: &Words, command: &str) -> Text {
    Text::from_template(words.card.decides, &[("command", command)])
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
    let figure = |name: &str| {
        let findings = judgement.findings.iter().filter(|one| one.scenario == scenario);
        let (finding, metric) = findings
            .filter_map(|one| Some((one, one.metric?)))
            .find(|(_, metric)| metric.name == name)?;
        let change = finding.change.as_ref()?;
        let now = verdict::estimated_value(metric, change);
        let (base, now) = (metric_value(metric, change.base), metric_value(metric, now));
        Some(CardFigure {
            name: metric.label.into(),
            value: format!("{base} \u{2192} {now}\u{a0}{}", metric.unit).into(),
            change: verdict::format_change(metric, change, " %").into(),
            tone: verdict::tone(&finding.verdict),
        })
    };
    HEADLINE.into_iter().filter_map(figure).collect()
}

fn facts(
    lang: Lang,
    model: &Model,
    settings: &Settings,
    machine: &Machine,
    builds: Vec<(&'static str, String)>,
) -> Vec<(Text, Text)> {
    let (general, card) = (&lang.words().general, &lang.words().card);
    if let Some(server) = &settings.server {
        let client = machine.facts.get(CLIENT_CLASS).unwrap_or(&machine.class);
        let measured = [
            (general.model, model.spec.clone()),
            (general.server, format!("{}, {}", server.program(), server.url)),
            (general.client, client.clone()),
        ];
        return named_facts(measured.into_iter().chain(builds));
    }
    let name = ["cpu_name", "cpu"].iter().find_map(|name| machine.fields.get(*name));
    let class = &machine.class;
    let engine = match settings.device.as_str() {
        NOT_REPORTED => settings.engine.clone(),
        device => format!("{} ({device})", settings.engine),
    };
    let threads = match settings.threads {
        0 => String::new(), // Another tool did not say it.
        threads => lang.count(threads),
    };
    let measured = [
        (general.model, model.spec.clone()),
        (card.quant, model.quant.clone()),
        (general.engine, engine),
        (card.cpu, name.map_or(class.clone(), |name| format!("{name} ({class})"))),
        (general.threads, threads),
    ];
    named_facts(measured.into_iter().chain(builds))
}

/// Names and values; those without a value are omitted.
pub(crate) fn named_facts(
    facts: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<(Text, Text)> {
    let facts = facts.into_iter().filter(|(_, value)| !value.trim().is_empty());
    facts.map(|(name, value)| (name.into(), value.trim().into())).collect()
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
    let mut warnings = build_warnings(&record.injected, &record.build, lang);
    let failed = record.scenarios.iter().filter(|case| match &case.absent {
        Some(absent) => absent.kind == AbsenceKind::Failed,
        None => !case.validity.ok(),
    });
    let (failed, all) = (failed.count(), record.scenarios.len());
    if failed > 0 {
        let values = [("count", &*lang.count(failed)), ("all", &lang.count(all))];
        warnings.push(Text::from_template(lang.words().card.failed, &values));
    }
    warnings.extend(load_warnings(&record.sessions, &record.machine));
    warnings
}

/// Warnings about a build whose times are not those of the program.
fn build_warnings(injected: &Option<String>, build: &Build, lang: Lang) -> Vec<Text> {
    let words = &lang.words().general;
    let injected = injected.as_deref().map(|what| (words.injected, ("what", what)));
    let profile = ("profile", &*build.profile);
    let unoptimized = build.is_unoptimized().then_some((words.unoptimized, profile));
    let warnings = injected.into_iter().chain(unoptimized);
    warnings.map(|(template, value)| Text::from_template(template, &[value])).collect()
}

/// Warnings about the load of the machine, from the worst readings of all sessions.
fn load_warnings(sessions: &[Session], of: &Machine) -> impl Iterator<Item = Text> {
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
    machine::warnings_on(&worst, cpus).into_iter().map(|warning| Text::with_code(&warning))
}

fn pair_warnings(paired: &PairRecord) -> Vec<Text> {
    let arms = [("base", &paired.base), ("candidate", &paired.candidate)];
    let builds = arms.into_iter().flat_map(|(name, arm)| {
        let warnings = build_warnings(&arm.injected, &arm.build, Lang::En).into_iter();
        warnings.map(move |text| format!("{name}: {}", text.plain_text()).into())
    });
    let mut warnings: Vec<Text> = builds.collect();
    let rejected = paired.blocks.iter().filter(|block| block.rejected.is_some()).count();
    if rejected > 0 {
        let all = paired.blocks.len();
        warnings.push(format!("{rejected} of {all} blocks were rejected.").into());
    }
    warnings.extend(load_warnings(std::slice::from_ref(&paired.session), &paired.machine));
    warnings
}
