//! The texts of documents in each language. Each text is a field, so a missing translation is a
//! compile error; a test checks that all languages use the same placeholders.
//!
//! In a text, `{name}` is a placeholder and text between backticks is code.

use crate::workload::Metric;

mod en;
mod fr;
mod ko;
mod locale;
mod names;

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

    pub(crate) fn words(self) -> &'static Words {
        match self {
            Lang::En => &en::WORDS,
            Lang::Fr => &fr::WORDS,
            Lang::Ko => &ko::WORDS,
        }
    }

    /// A metric's name without its unit.
    pub(crate) fn metric_name(self, metric: &Metric) -> &'static str {
        match (self, names::metric(metric.name)) {
            (Lang::Fr, Some((french, _))) => french,
            (Lang::Ko, Some((_, korean))) => korean,
            _ => metric.label,
        }
    }

    /// A unit in this language; most units are the same in all.
    pub(crate) fn unit(self, unit: &str) -> &str {
        match (self, names::unit(unit)) {
            (Lang::Fr, Some((french, _))) => french,
            (Lang::Ko, Some((_, korean))) => korean,
            _ => unit,
        }
    }
}

/// Declares the struct of all texts, one struct per section, and a list of all texts for the tests.
macro_rules! words {
    ($($group:ident: $Group:ident { $($name:ident)* })*) => {
        /// All texts of a language.
        #[derive(Debug)]
        pub(crate) struct Words { $(pub(crate) $group: $Group,)* }
        $(
            #[derive(Debug)]
            pub(crate) struct $Group { $(pub(crate) $name: &'static str,)* }
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
    frame: Frame {
        title contents not_measured value metric scenario rows_left_out values_left_out
    }
    card: CardWords {
        no_verdict alone decides quant cpu failed headline by_batch by_batch_alt
    }
    general: General {
        heading injected unoptimized model architecture shape dimensions model_commit parameters
        weights kv context tokens rope scaled sha256 date until unfinished version commit dirty
        profile compiler crates features target target_features class machine host read_rate
        read_huge_rate flop_rate int8_rate int16_rate bf16_rate rate_isa last_level engine device
        threads quant variables labels isa conditions at load steal pressure available recorded
    }
    method: Method {
        heading greedy sampled repetitions median percentiles missing exact natural uncached chat
    }
    scenarios: Scenarios {
        heading intro batch prompt generated processes rate memory validity valid invalid warned
    }
    every: Every {
        heading median spread one_process
    }
    summary: Summary {
        heading figures figure basis decode throughput ttft latency_p50 latency_p90 latency_p99
        latency_max accuracy batch context memory score resources resource remark repeated few needs
    }
    latency: Latencies {
        heading intro ttft e2e step count max tail
    }
    api: Api {
        heading intro request requests seconds tokens tokenize rate
    }
    categories: Categories {
        heading intro whole sequence efficiency prefill whole_answer memory
    }
    grid: GridWords {
        heading about s1 s2 s3 s4 s5 s6 spread derived ttft_growth prefill_growth decode_cv kernel
        time_share kernels meaning growth_meaning cv_meaning load_meaning pack_meaning cold_meaning
        peak_meaning share_meaning overhead_meaning region_meaning steps_meaning
    }
    context: ContextWords {
        heading intro depth kept prefill_kept step decode prefill expected held growth_memory
        without with growth growth_meaning growth_extended
    }
    consistency: ConsistencyWords {
        heading intro what mean sd min variation drift stalls same
    }
    stress: StressWords {
        heading intro requests answered refused oom timed_out failed longest shortest_unanswered
        growth outcome limit why
    }
    pipelines: PipelinesWords {
        heading intro items per_min chunks whole stage stage_ms rag
    }
    quality: QualityWords {
        heading ratio tokens intro
    }
    energy: Energy {
        heading roofline arithmetic missing reason
    }
    targets: TargetsWords {
        heading intro reference target what raw verdict scaled scaled_verdict met not_met
        not_measurable at_least at_most range stands_in others none
    }
    advice: AdviceWords {
        heading intro what rule batch context memory device_memory batch_rule context_rule
        end_not_measured end_slow end_no_rate memory_rule no_batches too_slow no_depth_zero
        no_depths no_peak none
    }
    conclusion: Conclusion {
        heading valid targets score no_score formula part scenario_count roofline efficiency
        retention consistency success closing
    }
    absent: Absent {
        heading suites suite profile scenarios values readings why how scenario_list more no_reason
        nothing
    }
    reproduce: Reproduce {
        heading intro report record
    }
    charts: Charts {
        heading ttft ttft_alt fit prompt_axis measured steps steps_alt step_axis rate_axis rates
        rates_alt batches batches_alt batch_axis times times_alt depths depths_alt depth_axis plain
        yarn repeats repeats_alt count_axis growth growth_alt request_axis memory_axis unanswered
    }
    topics: Topics {
        single_rate best_rate batch_rate first_token memory power use_case pipeline rag suitability
    }
    unmeasurable: UnmeasurableWords {
        other_model other_quant no_scenario not_run unsupported failed invalid no_value lower_bound
        not_scaled no_bandwidth
    }
}

#[cfg(test)]
mod tests {
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
            for ((name, ours), (other, english)) in lang.words().all().iter().zip(&english) {
                assert_eq!(name, other);
                assert!(!ours.is_empty(), "{lang:?} {name}");
                assert_eq!(places(ours), places(english), "{lang:?} {name}: {ours}");
                let open = ours.chars().any(|c| c.is_control());
                assert!(!open && ours.trim() == *ours, "{lang:?} {name}: {ours}");
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
    fn every_metric_has_a_name_in_every_language() {
        for metric in METRICS {
            assert!(names::metric(metric.name).is_some(), "{}", metric.name);
        }
        for lang in Lang::ALL {
            let mut names: Vec<&str> =
                METRICS.iter().map(|metric| lang.metric_name(metric)).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), METRICS.len(), "{lang:?}: two metrics have one name");
        }
    }
}
