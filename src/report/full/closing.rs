//! What a record speaks for, each with the rule that gives it, and one number for the curious with
//! its formula.

use crate::analysis::{
    BATCH_GAIN, BATCH_TOK_S, BatchAdvice, CONTEXT_RETENTION, CaseState, ContextAdvice, ContextEnd,
    MEMORY_HEADROOM, MEMORY_STEP_BYTES, MIN_SCORE_PARTS, MemoryAdvice, NoAdvice, ScorePartKind,
    summarise,
};
use crate::report::full::model::{Block, Cell, Section, Table, Text};
use crate::report::full::paper::{MIB, Paper};
use crate::report::words::Words;

/// The best score.
const BEST: f64 = 10.0;

/// One thing that is advised: what, how much, and by which rule; without a value the rule says what
/// is missing.
struct Piece {
    short: &'static str,
    name: &'static str,
    value: Option<String>,
    rule: Vec<Text>,
}

fn pieces(paper: &Paper) -> Vec<Piece> {
    let (words, summary) = (&paper.words.advice, &paper.words.summary);
    let advice = &paper.analysis.advice;
    let refused = |why: &NoAdvice| (None, vec![refusal(paper, *why)]);
    let batch = advice.batch.as_ref().map_or_else(refused, |one| batch(paper, one));
    let context = advice.context.as_ref().map_or_else(refused, |one| context(paper, one));
    let host = advice.memory.as_ref().map_or_else(refused, |one| memory(paper, one));
    let mut pieces = vec![
        (summary.batch, words.batch, batch),
        (summary.context, words.context, context),
        (summary.memory, words.memory, host),
    ];
    if let Ok(one) = &advice.device_memory {
        pieces.push((words.device_memory, words.device_memory, memory(paper, one)));
    }
    pieces
        .into_iter()
        .map(|(short, name, (value, rule))| Piece { short, name, value, rule })
        .collect()
}

type Advised = (Option<String>, Vec<Text>);

fn batch(paper: &Paper, advice: &BatchAdvice) -> Advised {
    let lang = paper.lang;
    let grounds: Vec<String> = advice
        .categories
        .iter()
        .map(|one| format!("{} {}", one.category, lang.count(one.batch)))
        .collect();
    let values = [
        ("gain", lang.round_share(BATCH_GAIN)),
        ("rate", lang.round(BATCH_TOK_S)),
        ("grounds", grounds.join(", ")),
    ];
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    let rule = Text::fill(paper.words.advice.batch_rule, &values);
    (Some(lang.count(advice.batch)), vec![rule])
}

fn context(paper: &Paper, advice: &ContextAdvice) -> Advised {
    let (words, lang) = (&paper.words.advice, paper.lang);
    let (share, kept) = (lang.round_share(CONTEXT_RETENTION), lang.share(advice.retention));
    let rule = Text::fill(words.context_rule, &[("share", &share), ("kept", &kept)]);
    let end = match &advice.end {
        ContextEnd::NotMeasured => words.end_not_measured.into(),
        ContextEnd::Slow { depth, retention } => {
            let (depth, kept) = (lang.count(*depth), lang.share(*retention));
            Text::fill(words.end_slow, &[("depth", &depth), ("kept", &kept)])
        }
        ContextEnd::NoRate { depth, .. } => {
            Text::fill(words.end_no_rate, &[("depth", &lang.count(*depth))])
        }
    };
    let tokens = Text::fill(paper.words.general.tokens, &[("count", &lang.count(advice.depth))]);
    (Some(tokens.letters()), vec![rule, end])
}

fn memory(paper: &Paper, advice: &MemoryAdvice) -> Advised {
    let lang = paper.lang;
    let mib = |bytes: f64| lang.with_unit(bytes * MIB, "MiB");
    let step = lang.round_unit(MEMORY_STEP_BYTES as f64 * MIB, "MiB");
    let values = [
        ("factor", lang.round(MEMORY_HEADROOM)),
        ("peak", mib(advice.peak_bytes)),
        ("scenario", advice.id.clone()),
        ("step", step),
    ];
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    let rule = Text::fill(paper.words.advice.memory_rule, &values);
    (Some(lang.round_unit(advice.bytes as f64 * MIB, "MiB")), vec![rule])
}

fn refusal(paper: &Paper, why: NoAdvice) -> Text {
    let words = &paper.words.advice;
    match why {
        NoAdvice::NoBatches => words.no_batches.into(),
        NoAdvice::TooSlow => {
            Text::fill(words.too_slow, &[("rate", &paper.lang.round(BATCH_TOK_S))])
        }
        NoAdvice::NoDepthZero => words.no_depth_zero.into(),
        NoAdvice::NoDepths => words.no_depths.into(),
        NoAdvice::NoPeak => words.no_peak.into(),
    }
}

/// What is advised as figures of the summary: name, value, and where the rule stands or what is
/// missing.
pub(super) fn advised(paper: &Paper) -> Vec<(&'static str, (Cell, Cell))> {
    let figure = |piece: Piece| {
        let basis = match &piece.value {
            Some(_) => paper.words.advice.heading.into(),
            None => piece.rule.into_iter().next().unwrap_or_default(),
        };
        let value = piece.value.map_or_else(|| paper.missing(), Cell::from);
        (piece.short, (value, Cell::from(basis)))
    };
    pieces(paper).into_iter().map(figure).collect()
}

pub(super) fn advice(paper: &Paper) -> Section {
    let words = &paper.words.advice;
    let mut section = Section::new("advice", words.heading);
    section.say(words.intro, &[]);
    let mut table = Table::new([words.what, paper.words.frame.value, words.rule], 1);
    table.right.pop();
    for piece in pieces(paper) {
        let value = piece.value.map_or_else(|| Cell::from(words.none), Cell::from);
        let mut rule = piece.rule.into_iter();
        table.push([piece.name.into(), value, rule.next().unwrap_or_default().into()]);
        for more in rule {
            table.push([Cell::from(""), Cell::from(""), more.into()]);
        }
    }
    section.push(table);
    section
}

/// The score as a figure of the summary.
pub(super) fn score(paper: &Paper) -> (Cell, Cell) {
    let score = &paper.analysis.score;
    match score.value {
        Some(value) => {
            let out_of =
                format!("{}/{}", paper.lang.number(value), paper.lang.count(BEST as usize));
            (out_of.into(), paper.words.conclusion.heading.into())
        }
        None => (paper.missing(), no_score(paper).into()),
    }
}

fn no_score(paper: &Paper) -> Text {
    let measured = paper.analysis.score.parts.iter().filter(|part| part.value.is_some()).count();
    let (least, parts) = (paper.lang.count(MIN_SCORE_PARTS), paper.lang.count(measured));
    Text::fill(paper.words.conclusion.no_score, &[("least", &least), ("parts", &parts)])
}

pub(super) fn conclusion(paper: &Paper) -> Section {
    let (words, lang) = (&paper.words.conclusion, paper.lang);
    let mut section = Section::new("conclusion", words.heading);
    let cases = &paper.record.scenarios;
    let valid = cases.iter().filter(|case| CaseState::of(case).is_valid()).count();
    section.say(words.valid, &[("valid", &lang.count(valid)), ("all", &lang.count(cases.len()))]);
    let summary = summarise(&paper.results);
    if summary.met + summary.not_met > 0 {
        let (met, all) = (lang.count(summary.met), lang.count(summary.met + summary.not_met));
        section.say(words.targets, &[("met", &met), ("all", &all)]);
    }
    match paper.analysis.score.value {
        Some(value) => {
            let (score, best) = (lang.number(value), lang.count(BEST as usize));
            section.say(words.score, &[("score", &score), ("best", &best)]);
        }
        None => section.push(Block::Paragraph { text: no_score(paper) }),
    }
    section.say(words.formula, &[]);
    let mut table = Table::new([words.part, paper.words.frame.value, words.rests], 1);
    for part in &paper.analysis.score.parts {
        let missing = || paper.words.frame.not_measured.to_owned();
        let value = part.value.map_or_else(missing, |value| lang.number(value));
        let name = kind(paper.words, part.kind);
        table.push([name.to_owned(), value, lang.count(part.scenarios)]);
    }
    section.push(table);
    section.say(words.closing, &[]);
    section
}

fn kind(words: &Words, kind: ScorePartKind) -> &'static str {
    let words = &words.conclusion;
    match kind {
        ScorePartKind::Roofline => words.roofline,
        ScorePartKind::BatchEfficiency => words.efficiency,
        ScorePartKind::ContextRetention => words.retention,
        ScorePartKind::Consistency => words.consistency,
        ScorePartKind::Success => words.success,
    }
}
