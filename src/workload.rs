//! What is run and what is measured: categories with their prompts, scenarios and their ids, suites, and the one
//! table of metrics. Knows nothing of models: prompts are text until an engine's tokenizer has seen them.

use serde::Deserialize;
use serde::Serialize;

use crate::error::Error;
use crate::error::Result;
use crate::error::nearest;

/// A prompt category: its prompts and how many tokens each answer has.
#[derive(Debug)]
pub struct Category {
    /// The first part of a scenario's id.
    pub name: &'static str,
    /// Three prompts of different lengths, so that batches are ragged.
    pub prompts: [&'static str; 3],
    /// Tokens generated per sequence; end-of-text is ignored, so that the length is exact.
    pub new_tokens: usize,
}

macro_rules! prompts {
    ($name:literal) => {
        [
            include_str!(concat!("../fixtures/prompts/", $name, "-1.txt")),
            include_str!(concat!("../fixtures/prompts/", $name, "-2.txt")),
            include_str!(concat!("../fixtures/prompts/", $name, "-3.txt")),
        ]
    };
}

/// The categories. A new one is a line here and three files under `fixtures/prompts`.
pub const CATEGORIES: &[Category] = &[
    Category { name: "short", prompts: prompts!("short"), new_tokens: 10 },
    Category { name: "medium", prompts: prompts!("medium"), new_tokens: 10 },
    Category { name: "long", prompts: prompts!("long"), new_tokens: 10 },
    Category { name: "code", prompts: prompts!("code"), new_tokens: 10 },
    Category { name: "extraction", prompts: prompts!("extraction"), new_tokens: 8 },
];

/// Batch sizes that every category is run with.
pub const BATCHES: &[usize] = &[1, 4, 8, 16];

/// One measured case. Its id is the same string in Criterion, in records and in reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// For example `code/b4`.
    pub id: String,
    /// Name of the category.
    pub category: &'static str,
    /// Sequences answered together.
    pub batch: usize,
    /// Which of the category's prompts the first sequence has; the others follow in turn.
    pub first: usize,
    /// Tokens generated per sequence.
    pub new_tokens: usize,
}

impl Scenario {
    /// The prompts of the batch, one a sequence, all distinct and distinct from their first token on.
    ///
    /// Sequence 0 has a prompt of the category as it is written; the others take the next ones in turn and carry
    /// their number in front, because equal sequences would share caches and give every expert the same load.
    pub fn prompts(&self) -> Vec<String> {
        let category =
            category(self.category).expect("scenarios are made from the table of categories");
        (0..self.batch)
            .map(|i| {
                let prompt = category.prompts[(self.first + i) % category.prompts.len()].trim_end();
                if i == 0 {
                    prompt.into()
                } else {
                    format!("{} of {}: {prompt}", i + 1, self.batch)
                }
            })
            .collect()
    }
}

/// The category of this name, if there is one.
pub fn category(name: &str) -> Option<&'static Category> {
    CATEGORIES.iter().find(|category| category.name == name)
}

/// A named list of scenarios.
#[derive(Debug)]
pub struct Suite {
    /// What to type.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    /// The scenarios, in the order in which they are listed.
    pub scenarios: fn() -> Vec<Scenario>,
}

/// The suites. `default` is what `cargo bench` and a plain `candlemark run` measure.
pub const SUITES: &[Suite] = &[
    Suite { name: "default", about: "every category at every batch size", scenarios: by_batch },
    Suite { name: "prompts", about: "every prompt alone, batch 1", scenarios: by_prompt },
];

fn by_batch() -> Vec<Scenario> {
    let cases =
        CATEGORIES.iter().flat_map(|category| BATCHES.iter().map(move |&batch| (category, batch)));
    cases
        .map(|(category, batch)| Scenario {
            id: format!("{}/b{batch}", category.name),
            category: category.name,
            batch,
            first: 0,
            new_tokens: category.new_tokens,
        })
        .collect()
}

fn by_prompt() -> Vec<Scenario> {
    let cases = CATEGORIES
        .iter()
        .flat_map(|category| (0..category.prompts.len()).map(move |i| (category, i)));
    cases
        .map(|(category, i)| Scenario {
            id: format!("prompts/{}-{}", category.name, i + 1),
            category: category.name,
            batch: 1,
            first: i,
            new_tokens: category.new_tokens,
        })
        .collect()
}

/// The scenarios that the words select: suite names, or parts of scenario ids (`code`, `code/b4`, `b16`).
/// No words means the default suite.
///
/// A word equal to an id or to whole segments of one takes just those; otherwise any id that contains it.
///
/// # Errors
/// When a word selects nothing.
pub fn select(words: &[String]) -> Result<Vec<Scenario>> {
    if words.is_empty() {
        return Ok(by_batch());
    }
    let all: Vec<Scenario> = SUITES.iter().flat_map(|suite| (suite.scenarios)()).collect();
    let mut chosen: Vec<Scenario> = Vec::new();
    for word in words {
        let suite = SUITES.iter().find(|suite| suite.name == word);
        let mut found = match suite {
            Some(suite) => (suite.scenarios)(),
            None => by_batch().into_iter().filter(|s| has_segments(&s.id, word)).collect(),
        };
        if found.is_empty() {
            found = all.iter().filter(|s| s.id.contains(word.as_str())).cloned().collect();
        }
        if found.is_empty() {
            return Err(unknown(word, &all));
        }
        for scenario in found {
            if !chosen.contains(&scenario) {
                chosen.push(scenario);
            }
        }
    }
    Ok(chosen)
}

/// The nearest of all names is suggested, but only those of suites and categories are listed.
fn unknown(word: &str, all: &[Scenario]) -> Error {
    let categories = CATEGORIES.iter().map(|category| category.name);
    let short: Vec<&str> = SUITES.iter().map(|suite| suite.name).chain(categories).collect();
    let ids = all.iter().map(|scenario| scenario.id.as_str());
    let near = nearest(word, &short.iter().copied().chain(ids).collect::<Vec<_>>());
    let hint = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
    Error::Unknown { kind: "suite or scenario", name: word.into(), hint, known: short.join(", ") }
}

fn has_segments(id: &str, word: &str) -> bool {
    format!("/{id}/").contains(&format!("/{word}/"))
}

/// Which direction is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and bytes.
    Lower,
}

impl Better {
    /// What a value costs: the value itself where lower is better, its inverse for a rate.
    /// Every comparison is made on costs, so that a positive change is always bad news.
    pub fn cost(self, value: f64) -> f64 {
        match self {
            Better::Higher => 1.0 / value,
            Better::Lower => value,
        }
    }
}

/// In which scenarios a metric is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Reported only.
    Never,
    /// Everywhere.
    Always,
    /// Batch 1.
    Single,
    /// Batches of two and more.
    Batched,
    /// Where something is generated after the first token.
    Decodes,
    /// Where the first token is all that is generated.
    PrefillOnly,
}

/// One thing that is measured; values are stored under its name in the unit of its name.
#[derive(Debug)]
pub struct Metric {
    /// Key in records; ends with the unit.
    pub name: &'static str,
    /// For people.
    pub label: &'static str,
    /// For people, beside a number: `tok/s`, `ms`, `MiB`, ...
    pub unit: &'static str,
    /// What one stored unit is in the unit shown: 1e3 for seconds shown as milliseconds.
    pub scale: f64,
    /// Which direction is good.
    pub better: Better,
    /// The change for the worse, as a share of the baseline, beyond which it is a regression.
    pub limit: Option<f64>,
    /// Where it is judged.
    pub gate: Gate,
}

const MIB: f64 = 1.0 / (1024.0 * 1024.0);

/// Every metric. The limits are the specification's: rates -5 %, time to first token +10 %, memory +15 %.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    Metric { name: "decode_tok_s", label: "decode", unit: "tok/s", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::Single },
    Metric { name: "decode_tok_s_aggregate", label: "decode, whole batch", unit: "tok/s", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::Batched },
    Metric { name: "ttft_s", label: "TTFT", unit: "ms", scale: 1e3, better: Better::Lower, limit: Some(0.10), gate: Gate::Decodes },
    Metric { name: "prefill_tok_s", label: "prefill", unit: "tok/s", scale: 1.0, better: Better::Higher, limit: Some(0.05), gate: Gate::PrefillOnly },
    Metric { name: "peak_rss_bytes", label: "peak memory", unit: "MiB", scale: MIB, better: Better::Lower, limit: Some(0.15), gate: Gate::Always },
    Metric { name: "prefill_s", label: "prefill time", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "tpot_s", label: "time per output token", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "e2e_s", label: "end to end", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "tokenize_s", label: "tokenizing", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "step_cv", label: "step variation", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "stalls", label: "stalled steps", unit: "", scale: 1.0, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "load_s", label: "load", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "cold_ttft_s", label: "cold TTFT", unit: "ms", scale: 1e3, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "rss_after_load_bytes", label: "memory after load", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "peak_delta_bytes", label: "memory of the run", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "peak_device_bytes", label: "peak device memory", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "kv_bytes_expected", label: "KV cache, expected", unit: "MiB", scale: MIB, better: Better::Lower, limit: None, gate: Gate::Never },
    Metric { name: "roofline_fraction", label: "share of read bandwidth", unit: "%", scale: 100.0, better: Better::Higher, limit: None, gate: Gate::Never },
];

/// The metric of this name, if there is one.
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

impl Metric {
    /// What is calibrated together: rates of decoding, times to the first token, rates of prefill, memory.
    pub fn kind(&self) -> &'static str {
        match self.gate {
            Gate::Single | Gate::Batched => "decode",
            Gate::Decodes => "ttft",
            Gate::PrefillOnly => "prefill",
            Gate::Always => "memory",
            Gate::Never => "ungated",
        }
    }

    /// Whether the metric is judged in a scenario of this batch size and answer length.
    pub fn gated(&self, batch: usize, new_tokens: usize) -> bool {
        self.limit.is_some()
            && match self.gate {
                Gate::Never => false,
                Gate::Always => true,
                Gate::Single => batch == 1 && new_tokens > 1,
                Gate::Batched => batch > 1 && new_tokens > 1,
                Gate::Decodes => new_tokens > 1,
                Gate::PrefillOnly => new_tokens == 1,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        select(&words).unwrap().into_iter().map(|scenario| scenario.id).collect()
    }

    #[test]
    fn words_select_by_suite_by_segment_and_by_part() {
        assert_eq!(ids(&[]).len(), 20);
        assert_eq!(ids(&["short"]), ["short/b1", "short/b4", "short/b8", "short/b16"]);
        assert_eq!(ids(&["code/b4"]), ["code/b4"]);
        assert_eq!(ids(&["b1"]), ["short/b1", "medium/b1", "long/b1", "code/b1", "extraction/b1"]);
        assert_eq!(ids(&["prompts"]).len(), 15);
        assert_eq!(ids(&["code-2"]), ["prompts/code-2"]);
        assert_eq!(ids(&["code/b4", "code"]).len(), 4, "nothing is run twice");
    }

    #[test]
    fn an_unknown_word_names_the_nearest() {
        let error = select(&["shrot".into()]).unwrap_err().to_string();
        assert!(error.contains("did you mean `short`?"), "{error}");
    }

    #[test]
    fn sequences_of_a_batch_differ_from_the_start() {
        for scenario in by_batch() {
            let prompts = scenario.prompts();
            for (i, one) in prompts.iter().enumerate() {
                assert!(!one.trim().is_empty());
                for other in &prompts[i + 1..] {
                    assert_ne!(one.get(..8), other.get(..8), "{}", scenario.id);
                }
            }
        }
    }

    #[test]
    fn every_scenario_judges_one_rate_one_latency_and_memory() {
        for (batch, new_tokens, names) in [
            (1, 16, ["decode_tok_s", "ttft_s", "peak_rss_bytes"].as_slice()),
            (4, 16, &["decode_tok_s_aggregate", "ttft_s", "peak_rss_bytes"]),
            (1, 1, &["prefill_tok_s", "peak_rss_bytes"]),
        ] {
            let gated: Vec<&str> =
                METRICS.iter().filter(|m| m.gated(batch, new_tokens)).map(|m| m.name).collect();
            assert_eq!(gated, names, "batch {batch}, {new_tokens} new tokens");
        }
    }
}
