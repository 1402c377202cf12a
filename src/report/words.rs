//! The texts of documents: one file per language in `words/`, and here the list of texts that each
//! must have. A test checks that all languages use the same placeholders.
//!
//! In a text, `{name}` is a placeholder and text between backticks is code.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer};

use crate::workload::Metric;

mod locale;

/// The language of a document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// French.
    Fr,
    /// Korean.
    Ko,
}

impl Lang {
    /// All languages.
    pub const ALL: [Lang; 3] = [Lang::En, Lang::Fr, Lang::Ko];

    /// The language code on the command line and in HTML.
    pub fn code(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Fr => "fr",
            Lang::Ko => "ko",
        }
    }

    /// The English name, for the command line's help.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Lang::En => "English",
            Lang::Fr => "French",
            Lang::Ko => "Korean",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Lang::En => include_str!("words/en.toml"),
            Lang::Fr => include_str!("words/fr.toml"),
            Lang::Ko => include_str!("words/ko.toml"),
        }
    }

    pub(crate) fn words(self) -> &'static Words {
        static WORDS: [OnceLock<Words>; Lang::ALL.len()] =
            [const { OnceLock::new() }; Lang::ALL.len()];
        WORDS[self as usize]
            .get_or_init(|| toml::from_str(self.file()).expect("tests parse each language's file"))
    }

    /// A metric's name without its unit.
    pub(crate) fn metric_name(self, metric: &Metric) -> &'static str {
        self.words().metrics.get(metric.name).map_or(metric.label, String::as_str)
    }

    /// A unit in this language; most units are the same in all.
    pub(crate) fn unit(self, unit: &str) -> &str {
        self.words().units.get(unit).map_or(unit, String::as_str)
    }
}

/// A text, kept for as long as the program runs. An alias, because serde would take a field of type
/// `&str` for a borrowed one.
type StaticStr = &'static str;

fn leak<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StaticStr, D::Error> {
    String::deserialize(deserializer).map(|text| &*text.leak())
}

/// Declares the struct of all texts, one struct per section, and a list of all texts for the tests.
macro_rules! words {
    ($($group:ident { $($name:ident)* })*) => {
        /// All texts of a language.
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Words {
            $(pub(crate) $group: $group::Section,)*
            /// Names of metrics; English has them in the table of metrics.
            #[serde(default)]
            metrics: BTreeMap<String, String>,
            /// Units that some language writes in its own way.
            #[serde(default)]
            units: BTreeMap<String, String>,
        }
        $(
            mod $group {
                #[derive(Debug, serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                pub(crate) struct Section {
                    $(#[serde(deserialize_with = "super::leak")] pub(crate) $name: super::StaticStr,)*
                }
            }
        )*
        #[cfg(test)]
        impl Words {
            pub(crate) fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$($((concat!(stringify!($group), ".", stringify!($name)), self.$group.$name),)*)*]
            }
        }
    };
}

words! {
    frame {
        title contents not_measured value metric scenario rows_left_out values_left_out
    }
    card {
        no_verdict alone decides quant cpu failed headline by_batch by_batch_alt
    }
    general {
        heading injected unoptimized model architecture shape dimensions model_commit parameters
        weights kv context tokens rope scaled sha256 date until unfinished version commit dirty
        profile compiler crates features target target_features class machine host server client
        read_rate read_huge_rate flop_rate int8_rate int16_rate bf16_rate rate_isa last_level engine device
        threads quant variables labels isa conditions at load steal pressure available recorded
    }
    method {
        heading greedy sampled repetitions median percentiles missing exact natural uncached chat
        server
    }
    scenarios {
        heading intro batch prompt generated processes rate memory validity valid invalid warned
    }
    every {
        heading median spread one_process
    }
    summary {
        heading figures figure basis decode throughput ttft latency_p50 latency_p90 latency_p99
        latency_max accuracy batch context memory score repeated few needs
    }
    latency {
        heading intro ttft e2e step count max tail
    }
    api {
        heading intro request requests seconds tokens tokenize rate
    }
    categories {
        heading intro whole sequence efficiency prefill whole_answer memory
    }
    grid {
        heading about s1 s2 s3 s4 s5 s6 spread derived ttft_growth prefill_growth decode_cv kernel
        time_share kernels meaning growth_meaning cv_meaning load_meaning pack_meaning cold_meaning
        peak_meaning share_meaning overhead_meaning region_meaning steps_meaning
    }
    context {
        heading intro depth kept prefill_kept step decode prefill expected held growth_memory
        without with growth growth_meaning growth_extended
    }
    consistency {
        heading intro what mean sd min variation drift stalls same
    }
    stress {
        heading intro requests answered refused oom timed_out failed longest shortest_unanswered
        growth outcome limit why
    }
    pipelines {
        heading intro items per_min chunks whole stage stage_ms rag
    }
    quality {
        heading ratio tokens intro
    }
    energy {
        heading roofline arithmetic missing reason
    }
    targets {
        heading intro reference target what raw verdict scaled scaled_verdict met not_met
        not_measurable at_least at_most range stands_in others none
    }
    advice {
        heading intro what rule batch context memory device_memory batch_rule context_rule
        end_not_measured end_slow end_no_rate memory_rule no_batches too_slow no_depth_zero
        no_depths no_peak none
    }
    conclusion {
        heading valid targets score no_score formula part scenario_count roofline efficiency
        retention consistency success closing
    }
    absent {
        heading suites suite profile scenarios values readings why how scenario_list more no_reason
        nothing
    }
    reproduce {
        heading intro report record
    }
    charts {
        heading ttft ttft_alt fit prompt_axis measured steps steps_alt step_axis rate_axis rates
        rates_alt times times_alt depths depths_alt depth_axis plain
        yarn repeats repeats_alt count_axis growth growth_alt request_axis memory_axis unanswered
    }
    topics {
        single_rate best_rate batch_rate first_token memory power use_case pipeline rag suitability
    }
    unmeasurable {
        other_model other_quant no_scenario not_run unsupported failed invalid no_value lower_bound
        not_scaled no_bandwidth
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::workload::METRICS;

    /// The placeholder names of a template, and its number of backticks.
    fn places(template: &str) -> (Vec<&str>, usize) {
        let mut names: Vec<&str> = template
            .split('{')
            .skip(1)
            .map(|rest| rest.split_once('}').expect("a closing brace").0)
            .collect();
        names.sort_unstable();
        (names, template.matches('`').count())
    }

    #[test]
    fn every_language_uses_the_same_placeholders() {
        let english = Lang::En.words().all();
        for lang in Lang::ALL {
            for ((name, ours), (_, english)) in lang.words().all().iter().zip(&english) {
                assert!(!ours.is_empty(), "{lang:?} {name}");
                assert_eq!(places(ours), places(english), "{lang:?} {name}: {ours}");
                let open = ours.chars().any(|c| c.is_control());
                assert!(!open && ours.trim() == *ours, "{lang:?} {name}: {ours}");
            }
        }
    }

    #[test]
    fn a_file_has_every_text_once_and_any_line_ends() {
        let parse = |file: &str| toml::from_str::<Words>(file);
        for lang in Lang::ALL {
            let unix = lang.file().replace("\r\n", "\n");
            let words = parse(&unix.replace('\n', "\r\n")).unwrap();
            assert_eq!(words.all(), lang.words().all());
            let line = unix.lines().find(|line| line.starts_with("contents = ")).unwrap();
            for (other, problem) in [
                ("", "missing field `contents`"),
                ("contents = ''\nnew = ''", "unknown field `new`"),
                ("contents = ''\ncontents = ''", "duplicate key"),
            ] {
                let error = parse(&unix.replacen(line, other, 1)).unwrap_err().to_string();
                assert!(error.contains(problem), "{error}");
            }
        }
    }

    #[test]
    fn texts_are_in_their_language() {
        let hangul = |text: &str| text.chars().any(|c| ('\u{ac00}'..='\u{d7a3}').contains(&c));
        for (name, text) in Lang::En.words().all() {
            assert!(
                text.chars().all(|c| !c.is_alphabetic() || c.is_ascii() || c == 'µ'),
                "{name}: {text}"
            );
        }
        for (name, text) in Lang::Fr.words().all() {
            assert!(!hangul(text), "{name}: {text}");
            for mark in [':', ';', '?', '!'] {
                assert!(!text.contains(&format!(" {mark}")), "{name}: a plain space before {mark}");
            }
        }
        let korean = Lang::Ko.words().all();
        let foreign: Vec<_> = korean.iter().filter(|(_, text)| !hangul(text)).collect();
        assert!(foreign.len() * 20 < korean.len(), "{foreign:?}");
    }

    #[test]
    fn metrics_and_units_have_names_in_every_language() {
        let keys = |names: &BTreeMap<String, String>| names.keys().cloned().collect();
        let metrics: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.into()).collect();
        let units: BTreeSet<String> = keys(&Lang::Fr.words().units);
        for lang in Lang::ALL.into_iter().filter(|lang| *lang != Lang::En) {
            let words = lang.words();
            for (known, named) in [(&metrics, keys(&words.metrics)), (&units, keys(&words.units))] {
                let differing: Vec<&String> = known.symmetric_difference(&named).collect();
                assert!(differing.is_empty(), "{lang:?}: missing or unknown: {differing:?}");
            }
        }
        for lang in Lang::ALL {
            let names: BTreeSet<&str> =
                METRICS.iter().map(|metric| lang.metric_name(metric)).collect();
            assert_eq!(names.len(), METRICS.len(), "{lang:?}: two metrics have one name");
        }
    }
}
