//! This gate, and this gate with one part taken out, to see what each part is for.

use crate::compare::Evidence;
use crate::compare::Interval;
use crate::compare::Policy;
use crate::compare::Verdict;
use crate::compare::paired::BLOCK_FLOOR;
use crate::compare::paired::Decision;
use crate::compare::paired::LOOKS;
use crate::compare::paired::Levels;
use crate::compare::paired::decide;
use crate::compare::verdict;
use crate::evaluate::rules::Answer;
use crate::evaluate::rules::Said;
use crate::evaluate::rules::View;
use crate::evaluate::rules::alpha;
use crate::stats;

/// As `candlemark pair` decides, rejected blocks included; the null control, for which a pool has no arm to spare, is left out.
pub(super) fn whole(view: &View) -> Answer {
    let values = view.counted(|block| block.value);
    let decision = gate(view, &values, levels(view), layout_sd());
    let answer = answer(&decision, view.span(decision.used));
    let measured = &view.blocks[..answer.blocks];
    if decision.is_final() && measured.iter().any(|block| block.rejected) {
        let all: Vec<f64> = measured.iter().map(|block| block.value).collect();
        let with = gate(view, &all, levels(view), layout_sd());
        let regressed = |decision: &Decision| said(&decision.verdict) == Said::Regressed;
        if with.is_final() && regressed(&with) != regressed(&decision) {
            return Answer { said: Said::Undecided, ..answer };
        }
    }
    answer
}

pub(super) fn one_process(view: &View) -> Answer {
    let counted = view.blocks.iter().filter(|block| !block.rejected);
    let quads: Vec<f64> = counted.clone().flat_map(|block| block.quads.iter().copied()).collect();
    let decision = gate(view, &quads, levels(view), layout_sd());
    let (mut seen, mut blocks) = (0, 0);
    for block in counted {
        if seen >= decision.used {
            break;
        }
        seen += block.quads.len();
        blocks += 1;
    }
    answer(&decision, view.span(blocks))
}

pub(super) fn no_abba(view: &View) -> Answer {
    let values = view.counted(|block| block.first);
    let decision = gate(view, &values, levels(view), layout_sd());
    answer(&decision, view.span(decision.used))
}

pub(super) fn no_layout(view: &View) -> Answer {
    let values = view.counted(|block| block.value);
    let decision = gate(view, &values, levels(view), 0.0);
    answer(&decision, view.span(decision.used))
}

pub(super) fn no_family(view: &View) -> Answer {
    let values = view.counted(|block| block.value);
    let one = Levels::new(alpha(), 1, LOOKS.len());
    let decision = gate(view, &values, one, layout_sd());
    answer(&decision, view.span(decision.used))
}

pub(super) fn no_rejection(view: &View) -> Answer {
    let values: Vec<f64> = view.blocks.iter().map(|block| block.value).collect();
    let decision = gate(view, &values, levels(view), layout_sd());
    answer(&decision, decision.used)
}

pub(super) fn untrimmed(view: &View) -> Answer {
    let values = view.counted(|block| block.value);
    let (margin, critical) = view.limits();
    let decision = looked(&values, |blocks| {
        let (theta, evidence) = plain(blocks, levels(view));
        (verdict(theta, &evidence, margin, critical), theta, evidence)
    });
    answer(&decision, view.span(decision.used))
}

pub(super) fn no_precision(view: &View) -> Answer {
    let values = view.counted(|block| block.value);
    let (margin, critical) = view.limits();
    let decision = looked(&values, |blocks| {
        let look = [blocks.len()];
        let one = decide(blocks, view.limits(), levels(view), layout_sd(), &look, false);
        let (theta, evidence) = one.theta.zip(one.evidence).expect("the look was reached");
        // Any interval is taken for a sharp one.
        let sharp = Evidence { single: Interval { lo: theta, hi: theta }, ..evidence };
        (verdict(theta, &sharp, margin, critical), theta, evidence)
    });
    answer(&decision, view.span(decision.used))
}

fn gate(view: &View, values: &[f64], levels: Levels, layout_sd: f64) -> Decision {
    decide(values, view.limits(), levels, layout_sd, &LOOKS, true)
}

fn levels(view: &View) -> Levels {
    Levels::new(alpha(), view.judged, LOOKS.len())
}

fn layout_sd() -> f64 {
    Policy::default().layout_sd
}

/// The first decisive look, as [`decide`] takes them.
fn looked(values: &[f64], look: impl Fn(&[f64]) -> (Verdict, f64, Evidence)) -> Decision {
    let looks = || LOOKS.iter().filter(|used| **used <= values.len());
    let decisions = looks().map(|used| {
        let (verdict, theta, evidence) = look(&values[..*used]);
        Decision { verdict, theta: Some(theta), evidence: Some(evidence), used: *used }
    });
    let mut last = None;
    for decision in decisions {
        if decision.is_final() {
            return decision;
        }
        last = Some(decision);
    }
    last.expect("a view has blocks for every look")
}

/// What [`decide`] computes, with the mean and its ordinary standard error.
fn plain(blocks: &[f64], levels: Levels) -> (f64, Evidence) {
    let root = (blocks.len() as f64).sqrt();
    let theta = stats::mean(blocks).expect("a look has blocks");
    let deviation = stats::sd(blocks).expect("a look has several blocks");
    let error = (deviation.max(BLOCK_FLOOR) / root).hypot(layout_sd());
    let freedom = blocks.len() as f64 - 1.0;
    let half = |level: f64| stats::student_t(level, freedom) * error;
    let around = |half: f64| Interval { lo: theta - half, hi: theta + half };
    let evidence = Evidence {
        error,
        freedom,
        single: around(half(0.95)),
        pass: theta + half(levels.pass),
        family: around(half(levels.family)),
        lasting: layout_sd(),
        smallest: half(levels.family) + half(0.8),
    };
    (theta, evidence)
}

fn answer(decision: &Decision, blocks: usize) -> Answer {
    let interval = decision.theta.zip(decision.evidence).map(|(theta, evidence)| {
        let half = stats::student_t(0.975, evidence.freedom) * evidence.error;
        Interval { lo: theta - half, hi: theta + half }
    });
    Answer { said: said(&decision.verdict), theta: decision.theta, interval, blocks }
}

fn said(verdict: &Verdict) -> Said {
    match verdict {
        Verdict::Regressed { .. } => Said::Regressed,
        Verdict::Inconclusive(_) => Said::Undecided,
        _ => Said::Pass,
    }
}
