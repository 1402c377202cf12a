//! Medians of turns, their ratios, and differences between the tokens of engines.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Absence, Rates};
use crate::report::{Table, TextFormat};
use crate::{report, stats};

use super::process::{Response, Turn};

/// The engine whose rate is divided by those of the others.
pub(super) const NATIVE: &str = "native";

/// The turns of one case on one engine in one configuration.
pub(super) struct EngineTurns {
    engine: String,
    /// Empty if the engine has only one.
    configuration: String,
    /// Its pilot, or why there is none.
    pilot: Response,
    /// Tokens per second of its turns.
    rates: Vec<f64>,
    /// Seconds of all its turns.
    seconds: f64,
    /// Whether it takes further turns.
    active: bool,
    /// Whether the tokens of a turn differ from those of the pilot.
    unstable: bool,
}

impl EngineTurns {
    pub fn new(engine: &str, configuration: &str, pilot: Response) -> Self {
        Self {
            engine: engine.into(),
            configuration: configuration.into(),
            active: pilot.is_ok(),
            seconds: pilot.as_ref().map_or(0.0, |turn| turn.seconds),
            pilot,
            rates: Vec::new(),
            unstable: false,
        }
    }

    /// Whether it takes a further turn: always a first one, then until it has used `seconds`.
    pub(crate) fn takes_turn(&self, seconds: f64) -> bool {
        self.active && (self.rates.is_empty() || self.seconds < seconds)
    }

    pub fn add(&mut self, response: Response) {
        match response {
            Ok(turn) => {
                self.rates.push(turn.rate);
                self.seconds += turn.seconds;
                self.unstable |= self.pilot.as_ref().is_ok_and(|pilot| pilot.ids != turn.ids);
            }
            Err(absent) => (self.active, self.pilot) = (false, Err(absent)),
        }
    }

    fn median(&self) -> Option<f64> {
        stats::median(&self.rates).filter(|_| self.pilot.is_ok())
    }
}

/// Of an engine's configurations, keeps those whose pilot reached at least the share `threshold` of
/// the best one's rate.
pub(super) fn keep_fastest(all: &mut [EngineTurns], threshold: f64) {
    let mut best: BTreeMap<String, f64> = BTreeMap::new();
    for turns in all.iter() {
        if let Ok(pilot) = &turns.pilot {
            let best = best.entry(turns.engine.clone()).or_default();
            *best = best.max(pilot.rate);
        }
    }
    for turns in all {
        let (Ok(pilot), Some(best)) = (&turns.pilot, best.get(&turns.engine)) else { continue };
        turns.active &= pilot.rate >= threshold * best;
    }
}

/// One case on all engines.
pub(super) struct CaseResult {
    pub key: String,
    /// Why an engine has no rate, and how the tokens of engines differ, in sentences.
    pub notes: Vec<String>,
    /// The fraction of the machine's read bandwidth that native's decode takes, if it is known.
    pub read_fraction: Option<f64>,
    /// By engine: the median of its fastest configuration and that configuration, or why there is
    /// none.
    engines: BTreeMap<String, Result<(f64, String), Absence>>,
}

impl CaseResult {
    pub fn new(key: String, all: Vec<EngineTurns>) -> Self {
        let mut engines: BTreeMap<String, Result<(f64, String), Absence>> = BTreeMap::new();
        for turns in &all {
            let new = match (&turns.pilot, turns.median()) {
                (Err(absent), _) => Err(absent.clone()),
                (_, Some(median)) => Ok((median, turns.configuration.clone())),
                (_, None) => continue, // Another configuration was faster.
            };
            let rate =
                |cell: &Result<(f64, String), Absence>| cell.as_ref().map_or(0.0, |(r, _)| *r);
            let better = engines.get(&turns.engine).is_none_or(|old| rate(&new) > rate(old));
            if better {
                engines.insert(turns.engine.clone(), new);
            }
        }
        let absent = |(engine, cell): (&String, &Result<_, Absence>)| {
            cell.as_ref().err().map(|absent| format!("{engine}: {absent}"))
        };
        let mut notes: Vec<String> = engines.iter().filter_map(absent).collect();
        notes.extend(differences(&all));
        Self { key, notes, read_fraction: None, engines }
    }

    /// The median of an engine's fastest configuration.
    pub(crate) fn rate(&self, engine: &str) -> Option<f64> {
        let (rate, _) = self.engines.get(engine)?.as_ref().ok()?;
        Some(*rate)
    }

    fn ratio(&self, engine: &str, other: &str) -> Option<f64> {
        let other = self.rate(other).filter(|rate| *rate > 0.0)?;
        Some(self.rate(engine)? / other)
    }
}

/// Makes fractions of one read bandwidth those of another.
pub(super) fn rescale(results: &mut [CaseResult], before: &Rates, now: &Rates) {
    let bandwidths = before.best_read_bytes_per_s().zip(now.best_read_bytes_per_s());
    let Some((before, now)) = bandwidths else { return };
    for fraction in results.iter_mut().filter_map(|result| result.read_fraction.as_mut()) {
        *fraction *= before / now;
    }
}

/// Where the tokens of engines differ from those of the first one, and which engines are unstable.
fn differences(all: &[EngineTurns]) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut first: Option<(&str, &Turn)> = None;
    for turns in all {
        let (engine, Ok(pilot)) = (turns.engine.as_str(), &turns.pilot) else { continue };
        if pilot.ids.is_empty() {
            continue; // It does not say which tokens it generated.
        }
        if turns.unstable {
            sentences
                .push(format!("the tokens of {engine} differ between its turns and its pilot"));
        }
        let Some((reference, expected)) = first else {
            first = Some((engine, pilot));
            continue;
        };
        let divergences: Vec<(usize, usize)> = (expected.ids.iter().zip(&pilot.ids).enumerate())
            .filter_map(|(sequence, (a, b))| {
                Some((a.iter().zip(b).position(|(a, b)| a != b)?, sequence))
            })
            .collect();
        let Some(&(token, sequence)) = divergences.iter().min() else { continue };
        let margin = |pilot: &Turn| {
            let margin = pilot.margins.get(sequence).and_then(|margins| margins.get(token));
            margin.map_or("?".into(), |margin| format!("{margin:.4}"))
        };
        sentences.push(format!(
            "the tokens of {engine} and {reference} differ in {} of {} sequences, first at token \
             {} of sequence {sequence}, where the top-2 margin is {} standard deviations in \
             {engine} and {} in {reference}",
            divergences.len(),
            expected.ids.len(),
            token + 1,
            margin(pilot),
            margin(expected),
        ));
    }
    sentences
}

/// The engines of all cases, native first.
fn engines(rows: &[CaseResult]) -> Vec<&str> {
    let all: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.engines.keys()).map(String::as_str).collect();
    let (native, others): (Vec<&str>, _) = all.into_iter().partition(|engine| *engine == NATIVE);
    native.into_iter().chain(others).collect()
}

/// A table of medians in tokens per second, the ratios of native to the others, and the share of
/// the read bandwidth that native's decode takes.
pub(super) fn table(rows: &[CaseResult]) -> String {
    let engines = engines(rows);
    let mut table = Table::of(rows).text("tok/s", |row| row.key.as_str());
    for engine in &engines {
        table = table.number(*engine, |row| match row.engines.get(*engine) {
            Some(Ok((rate, _))) => report::number(*rate),
            Some(Err(absent)) => absent.kind.word().into(),
            None => "-".into(),
        });
    }
    for other in engines.iter().filter(|engine| **engine != NATIVE) {
        table = table.number(format!("native / {other}"), |row| {
            row.ratio(NATIVE, other).map_or("-".into(), |ratio| format!("{ratio:.2}"))
        });
    }
    if rows.iter().any(|row| row.read_fraction.is_some()) {
        table = table.number("% of read bandwidth", |row| {
            row.read_fraction.map_or("-".into(), |share| format!("{:.0}", 100.0 * share))
        });
    }
    // The configuration that was the fastest, of engines that have several.
    for engine in &engines {
        let fastest = |row: &CaseResult| match row.engines.get(*engine) {
            Some(Ok((_, configuration))) if !configuration.is_empty() => {
                Some(configuration.clone())
            }
            _ => None,
        };
        if rows.iter().any(|row| fastest(row).is_some()) {
            table = table.text(format!("{engine} with"), |row| fastest(row).unwrap_or("-".into()));
        }
    }
    table.render(TextFormat::Terminal)
}

/// JSON: native divided by each other engine, by case; without cases that one of the two did not
/// measure.
pub(super) fn ratios(rows: &[CaseResult]) -> String {
    let rounded = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
    let of = |other: &str| -> BTreeMap<&str, f64> {
        let ratios = rows.iter().filter_map(|row| Some((row, row.ratio(NATIVE, other)?)));
        ratios.map(|(row, ratio)| (row.key.as_str(), rounded(ratio))).collect()
    };
    let others = engines(rows).into_iter().filter(|engine| *engine != NATIVE);
    let all: BTreeMap<&str, _> = others.map(|other| (other, of(other))).collect();
    serde_json::to_string(&all).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AbsenceKind;

    fn measured(rate: f64, ids: &[u32]) -> Response {
        let margins = vec![ids.iter().map(|id| f64::from(*id) / 8.0).collect()];
        Ok(Turn { rate, seconds: 1.0, ids: vec![ids.to_vec()], margins })
    }

    fn turns(engine: &str, setup: &str, pilot: f64, rates: &[f64]) -> EngineTurns {
        let mut turns = EngineTurns::new(engine, setup, measured(pilot, &[1, 2, 3]));
        rates.iter().for_each(|rate| turns.add(measured(*rate, &[1, 2, 3])));
        turns
    }

    fn result(all: Vec<EngineTurns>) -> CaseResult {
        CaseResult::new("q8_0_decode_b1".into(), all)
    }

    #[test]
    fn a_ratio_is_that_of_medians() {
        let result = result(vec![
            turns("native", "", 1.0, &[30.0, 50.0, 40.0]),
            turns("candle", "", 1.0, &[10.0]),
            turns("llama.cpp", "flash attention on", 1.0, &[20.0, 30.0]),
        ]);
        assert_eq!(result.ratio("native", "llama.cpp"), Some(1.6));
        assert_eq!(result.ratio("native", "candle"), Some(4.0));
        let expected = r#"{"candle":{"q8_0_decode_b1":4.0},"llama.cpp":{"q8_0_decode_b1":1.6}}"#;
        assert_eq!(ratios(&[result]), expected);
    }

    #[test]
    fn the_fastest_configuration_of_an_engine_counts() {
        let mut all = vec![
            turns("native", "", 1.0, &[]),
            turns("llama.cpp", "on", 100.0, &[]),
            turns("llama.cpp", "off", 96.0, &[]),
            turns("llama.cpp", "worse", 94.0, &[]),
        ];
        keep_fastest(&mut all, 0.95);
        let active: Vec<bool> = all.iter().map(|turns| turns.takes_turn(60.0)).collect();
        assert_eq!(active, [true, true, true, false], "within 5 % of the best");
        for (turns, rate) in all.iter_mut().zip([200.0, 100.0, 110.0]) {
            turns.add(measured(rate, &[1, 2, 3]));
        }
        let mut result = result(all);
        assert_eq!(result.engines["llama.cpp"], Ok((110.0, "off".into())));
        result.read_fraction = Some(0.735);
        let table = table(&[result]);
        let lines: Vec<&str> = table.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "tok/s           native  llama.cpp  native / llama.cpp  % of read bandwidth  llama.cpp with",
                "q8_0_decode_b1   200.0      110.0                1.82                   74  off",
            ]
        );
    }

    #[test]
    fn a_better_bandwidth_makes_all_fractions_smaller() {
        let rates = |read| Rates { read_huge_bytes_per_s: Some(read), ..Rates::default() };
        let fraction = |value| CaseResult { read_fraction: value, ..result(Vec::new()) };
        let mut results = [fraction(Some(1.25)), fraction(None), fraction(Some(0.5))];
        rescale(&mut results, &rates(36e9), &rates(48e9));
        let scaled = results.each_ref().map(|result| result.read_fraction);
        assert_eq!(scaled, [Some(0.9375), None, Some(0.375)]);
        rescale(&mut results, &Rates::default(), &rates(48e9));
        assert_eq!(results[0].read_fraction, Some(0.9375), "an unknown bandwidth changes nothing");
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let failed = Err(Absence::new(AbsenceKind::Unsupported, "batches"));
        let result =
            result(vec![turns("native", "", 1.0, &[40.0]), EngineTurns::new("candle", "", failed)]);
        assert_eq!(result.ratio("native", "llama.cpp"), None);
        assert_eq!(result.ratio("native", "candle"), None);
        let text = table(std::slice::from_ref(&result));
        assert!(text.contains("unsupported") && !text.contains('%'), "{text}");
        assert_eq!(result.notes, ["candle: unsupported: batches"]);
        assert_eq!(ratios(&[result]), r#"{"candle":{}}"#);
    }

    #[test]
    fn an_engine_takes_turns_until_its_time_is_used() {
        let mut turns = turns("native", "", 1.0, &[]);
        assert!(turns.takes_turn(0.5), "the first turn is taken in any case");
        turns.add(measured(1.0, &[1, 2, 3]));
        assert!(turns.takes_turn(2.5));
        assert!(!turns.takes_turn(2.0));
    }

    #[test]
    fn different_tokens_are_reported_with_their_margins() {
        let mut other = EngineTurns::new("candle", "", measured(1.0, &[1, 4]));
        other.add(measured(1.0, &[1, 5]));
        let sentences = differences(&[turns("native", "", 1.0, &[]), other]);
        assert_eq!(sentences.len(), 2, "{sentences:?}");
        assert!(sentences[0].contains("between its turns and its pilot"), "{}", sentences[0]);
        assert_eq!(
            sentences[1],
            "the tokens of candle and native differ in 1 of 1 sequences, first at token 2 of \
             sequence 0, where the top-2 margin is 0.5000 standard deviations in candle and 0.2500 \
             in native"
        );
    }
}
