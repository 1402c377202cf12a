//! From turns to medians, ratios and differences: pure.

use std::collections::BTreeMap;

use candlemark::record::Absence;
use candlemark::{report, stats};
use comfy_table::{CellAlignment, Table, presets};

use super::seat::Told;

/// What one engine, set up in one way, has told of one measurement.
pub(super) struct Taken {
    engine: String,
    setup: String,
    /// Tokens of its pilot, or why there are none.
    pilot: Result<Pilot, Absence>,
    /// Tokens per second of its turns.
    rates: Vec<f64>,
    /// Seconds that it has worked.
    seconds: f64,
    /// Whether its turns go on.
    kept: bool,
    /// Whether a turn chose other tokens than the pilot.
    unstable: bool,
}

struct Pilot {
    rate: f64,
    ids: Vec<Vec<u32>>,
    gaps: Vec<Vec<f64>>,
}

impl Taken {
    pub fn new(engine: &str, setup: &str, told: Told) -> Self {
        let (pilot, seconds) = match told {
            Told::Measured { rate, seconds, ids, gaps } => (Ok(Pilot { rate, ids, gaps }), seconds),
            Told::Cannot { absent } => (Err(absent), 0.0),
        };
        Self {
            engine: engine.into(),
            setup: setup.into(),
            kept: pilot.is_ok(),
            pilot,
            rates: Vec::new(),
            seconds,
            unstable: false,
        }
    }

    /// Whether it takes a further turn, given how long it may work; it takes one in any case.
    pub fn is_in(&self, seconds: f64) -> bool {
        self.kept && (self.rates.is_empty() || self.seconds < seconds)
    }

    pub fn add(&mut self, told: Told) {
        match told {
            Told::Measured { rate, seconds, ids, .. } => {
                self.rates.push(rate);
                self.seconds += seconds;
                self.unstable |= self.pilot.as_ref().is_ok_and(|pilot| pilot.ids != ids);
            }
            Told::Cannot { absent } => (self.kept, self.pilot) = (false, Err(absent)),
        }
    }

    fn median(&self) -> Option<f64> {
        stats::median(&self.rates).filter(|_| self.pilot.is_ok())
    }
}

/// Of an engine that is set up in several ways, only what the pilot saw at `close` times the best
/// or better takes turns.
pub(super) fn keep_the_best(takens: &mut [Taken], close: f64) {
    let mut best: BTreeMap<String, f64> = BTreeMap::new();
    for taken in takens.iter() {
        if let Ok(pilot) = &taken.pilot {
            let best = best.entry(taken.engine.clone()).or_default();
            *best = best.max(pilot.rate);
        }
    }
    for taken in takens {
        let (Ok(pilot), Some(best)) = (&taken.pilot, best.get(&taken.engine)) else { continue };
        taken.kept &= pilot.rate >= close * best;
    }
}

/// One measurement of all engines.
pub(super) struct Row {
    pub key: String,
    /// How engines parted, in sentences.
    pub differences: Vec<String>,
    /// By engine: the median of its best setup and that setup, or why there is none.
    engines: BTreeMap<String, Result<(f64, String), Absence>>,
}

impl Row {
    pub fn new(key: String, takens: Vec<Taken>) -> Self {
        let mut engines: BTreeMap<String, Result<(f64, String), Absence>> = BTreeMap::new();
        for taken in &takens {
            let new = match (&taken.pilot, taken.median()) {
                (Err(absent), _) => Err(absent.clone()),
                (_, Some(median)) => Ok((median, taken.setup.clone())),
                (_, None) => continue, // Another setup of the engine was better.
            };
            let rate =
                |cell: &Result<(f64, String), Absence>| cell.as_ref().map_or(0.0, |(r, _)| *r);
            let better = engines.get(&taken.engine).is_none_or(|old| rate(&new) > rate(old));
            if better {
                engines.insert(taken.engine.clone(), new);
            }
        }
        Self { key, differences: differences(&takens), engines }
    }

    fn rate(&self, engine: &str) -> Option<f64> {
        let (rate, _) = self.engines.get(engine)?.as_ref().ok()?;
        Some(*rate)
    }

    fn ratio(&self, engine: &str, other: &str) -> Option<f64> {
        let other = self.rate(other).filter(|rate| *rate > 0.0)?;
        Some(self.rate(engine)? / other)
    }
}

/// Where engines went on with other tokens than the first of them, and whether one was not sure of
/// itself.
fn differences(takens: &[Taken]) -> Vec<String> {
    let mut said = Vec::new();
    let mut first: Option<(&str, &Pilot)> = None;
    for taken in takens {
        let (engine, Ok(pilot)) = (taken.engine.as_str(), &taken.pilot) else { continue };
        if taken.unstable {
            said.push(format!("{engine} chose other tokens in a turn than in its pilot"));
        }
        let Some((reference, like)) = first else {
            first = Some((engine, pilot));
            continue;
        };
        let partings: Vec<(usize, usize)> = (like.ids.iter().zip(&pilot.ids).enumerate())
            .filter_map(|(sequence, (a, b))| {
                Some((a.iter().zip(b).position(|(a, b)| a != b)?, sequence))
            })
            .collect();
        let Some(&(token, sequence)) = partings.iter().min() else { continue };
        let gap = |pilot: &Pilot| match pilot.gaps.get(sequence).and_then(|gaps| gaps.get(token)) {
            Some(gap) => format!("{gap:.4}"),
            None => "?".into(),
        };
        said.push(format!(
            "{engine} ({}) parts from {reference} in {} of {} sequences, first at token {} of sequence {sequence}, where the best \
             two scores are {} standard deviations apart in {engine} and {} in {reference}",
            taken.setup.split([';', ',']).next().unwrap_or_default(),
            partings.len(),
            like.ids.len(),
            token + 1,
            gap(pilot),
            gap(like),
        ));
    }
    said
}

/// Medians in tokens per second and their ratios.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "tok/s",
        "native",
        "candle",
        "llama-cpp",
        "native / llama-cpp",
        "native / candle",
        "llama-cpp with",
    ]);
    for row in rows {
        let rate = |engine| match row.engines.get(engine) {
            Some(Ok((rate, _))) => report::number(*rate),
            Some(Err(absent)) => absent.kind.word().into(),
            None => "-".into(),
        };
        let ratio = |other| row.ratio("native", other).map_or("-".into(), |x| format!("{x:.2}"));
        let setup = match row.engines.get("llama-cpp") {
            Some(Ok((_, setup))) => setup.split(';').next().unwrap_or_default(),
            _ => "-",
        };
        table.add_row([
            row.key.clone(),
            rate("native"),
            rate("candle"),
            rate("llama-cpp"),
            ratio("llama-cpp"),
            ratio("candle"),
            setup.into(),
        ]);
    }
    for column in 1..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// JSON: native divided by llama-cpp, by key. What was not measured by both is absent.
pub(super) fn ratios(rows: &[Row]) -> String {
    let rounded = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
    let all: BTreeMap<&str, f64> = rows
        .iter()
        .filter_map(|row| Some((row.key.as_str(), rounded(row.ratio("native", "llama-cpp")?))))
        .collect();
    serde_json::to_string(&all).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlemark::record::AbsenceKind;

    fn told(rate: f64, ids: &[u32]) -> Told {
        let gaps = vec![ids.iter().map(|id| f64::from(*id) / 8.0).collect()];
        Told::Measured { rate, seconds: 1.0, ids: vec![ids.to_vec()], gaps }
    }

    fn taken(engine: &str, setup: &str, pilot: f64, turns: &[f64]) -> Taken {
        let mut taken = Taken::new(engine, setup, told(pilot, &[1, 2, 3]));
        turns.iter().for_each(|rate| taken.add(told(*rate, &[1, 2, 3])));
        taken
    }

    fn row(takens: Vec<Taken>) -> Row {
        Row::new("q8_0_decode_b1".into(), takens)
    }

    #[test]
    fn a_ratio_is_that_of_medians() {
        let row = row(vec![
            taken("native", "", 1.0, &[30.0, 50.0, 40.0]),
            taken("candle", "", 1.0, &[10.0]),
            taken("llama-cpp", "flash attention on; AVX2", 1.0, &[20.0, 30.0]),
        ]);
        assert_eq!(row.ratio("native", "llama-cpp"), Some(1.6));
        assert_eq!(row.ratio("native", "candle"), Some(4.0));
        assert_eq!(ratios(&[row]), r#"{"q8_0_decode_b1":1.6}"#);
    }

    #[test]
    fn an_engine_counts_as_it_is_set_up_best() {
        let mut takens = vec![
            taken("native", "", 1.0, &[]),
            taken("llama-cpp", "on", 100.0, &[]),
            taken("llama-cpp", "off", 96.0, &[]),
            taken("llama-cpp", "worse", 94.0, &[]),
        ];
        keep_the_best(&mut takens, 0.95);
        let kept: Vec<bool> = takens.iter().map(|taken| taken.is_in(60.0)).collect();
        assert_eq!(kept, [true, true, true, false], "the close one is measured on");
        for (taken, rate) in takens.iter_mut().zip([200.0, 100.0, 110.0]) {
            taken.add(told(rate, &[1, 2, 3]));
        }
        let row = row(takens);
        assert_eq!(row.engines["llama-cpp"], Ok((110.0, "off".into())));
        let table = table(&[row]);
        assert!(table.contains("110.0") && table.contains("off"), "{table}");
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let cannot = Told::Cannot { absent: Absence::new(AbsenceKind::Unsupported, "batches") };
        let row = row(vec![taken("native", "", 1.0, &[40.0]), Taken::new("candle", "", cannot)]);
        assert_eq!(row.ratio("native", "llama-cpp"), None);
        assert_eq!(row.ratio("native", "candle"), None);
        let text = table(std::slice::from_ref(&row));
        assert!(text.contains("unsupported"), "{text}");
        assert_eq!(ratios(&[row]), "{}");
    }

    #[test]
    fn who_has_worked_long_takes_no_further_turn() {
        let mut taken = taken("native", "", 1.0, &[]);
        assert!(taken.is_in(0.5), "the pilot was long, but a turn it must have");
        taken.add(told(1.0, &[1, 2, 3]));
        assert!(taken.is_in(2.5));
        assert!(!taken.is_in(2.0));
    }

    #[test]
    fn other_tokens_are_told_with_how_near_the_scores_were() {
        let mut other =
            Taken::new("llama-cpp", "flash attention on, ubatch 512", told(1.0, &[1, 4]));
        other.add(told(1.0, &[1, 5]));
        let said = differences(&[taken("native", "", 1.0, &[]), other]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("in a turn than in its pilot"), "{}", said[0]);
        assert!(
            said[1].contains("(flash attention on) parts from native in 1 of 1"),
            "{}",
            said[1]
        );
        assert!(said[1].contains("token 2 of sequence 0"), "{}", said[1]);
        assert!(
            said[1].contains("0.5000 standard deviations apart in llama-cpp and 0.2500"),
            "{}",
            said[1]
        );
    }
}
