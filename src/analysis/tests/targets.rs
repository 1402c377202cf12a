//! Targets: their files and their status for records.

use super::*;
use crate::analysis::targets::QuantClass;
use crate::record::Caveat;

const MATRIX: &str = r#"
[reference]
machine = "reference"
read_bytes_per_s = 400e9

[aliases]
"qwen3-7b" = ["qwen3-8b"]

[[target]]
id = "rate"
model = "qwen3-1.7b"
quant = "4bit"
topic = "single_rate"
scenario = "short/b1"
metric = ["decode_tok_s_aggregate", "decode_tok_s"]
unit = "tok/s"
min = 80.0
max = 120.0

[[target]]
id = "best"
model = "qwen3-*"
topic = "best_rate"
scenario = "short/*"
metric = ["decode_tok_s_aggregate"]
unit = "tok/s"
min = 150.0

[[target]]
id = "first"
model = "*"
topic = "first_token"
scenario = "short/b1"
metric = ["ttft_s"]
unit = "ms"
min = 80.0
max = 150.0

[[target]]
id = "memory"
model = "qwen3-7b"
topic = "memory"
scenario = "short/b1"
metric = ["peak_device_bytes", "peak_rss_bytes"]
unit = "GB"
max = 10.0

[[target]]
id = "words"
model = "*"
topic = "use_case"
unit = "words/min"
min = 500.0
"#;

fn targets(text: &str) -> std::result::Result<Targets, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Targets::load(file.path()).map_err(|error| error.to_string())
}

fn model(layers: usize, hidden: usize, quant: &str) -> Model {
    let architecture = "qwen3".into();
    Model { architecture, layers, hidden, quant: quant.into(), ..Model::default() }
}

fn record_of(model: Model, bandwidth: Option<f64>, cases: Vec<Case>) -> Record {
    let mut record = record(cases);
    record.model = model;
    record.settings.device = "cpu".into();
    record.machine.rates.read_bytes_per_s = bandwidth;
    record
}

/// Status as measured and scaled, and both values.
type Status = (TargetVerdict, TargetVerdict, Option<f64>, Option<f64>);

fn statuses(record: &Record) -> Vec<Status> {
    let results = evaluate_targets(record, &targets(MATRIX).unwrap());
    results.iter().map(|r| (r.verdict, r.scaled_verdict, r.value, r.scaled)).collect()
}

use TargetVerdict::{Met, NotMeasurable, NotMet};

#[test]
fn a_slow_machine_misses_targets_that_its_bandwidth_would_meet() {
    let mut single = batched("short/b1", 1, 9.0);
    single.blocks[0].values.insert("ttft_s".into(), Some(1.2));
    let mut cases = vec![single, batched("short/b4", 4, 20.0), batched("short/b8", 8, 14.0)];
    cases.push(batched("short/b16", 16, 10.0));
    let record = record_of(model(28, 2048, "q4_k_m"), Some(40e9), cases);
    let expected = [
        (NotMet, Met, Some(9.0), Some(90.0)),
        (NotMet, Met, Some(20.0), Some(200.0)), // The best is batch 4.
        (NotMet, Met, Some(1200.0), Some(120.0)),
        other(Unmeasurable::OtherModel),
        other(Unmeasurable::NoScenario),
    ];
    assert_eq!(statuses(&record), expected);
}

fn other(why: Unmeasurable) -> Status {
    (NotMeasurable(why), NotMeasurable(why), None, None)
}

#[test]
fn a_value_on_its_bound_meets_it_and_nothing_is_scaled_without_bandwidth() {
    let mut single = batched("short/b1", 1, 80.0);
    single.blocks[0].values.insert("ttft_s".into(), Some(0.15));
    let record = record_of(model(28, 2048, "q4_0"), None, vec![single]);
    let unknown = NotMeasurable(Unmeasurable::NoBandwidth);
    let found = statuses(&record);
    assert_eq!(found[0], (Met, unknown, Some(80.0), None));
    let partial = NotMeasurable(Unmeasurable::NotRun);
    assert_eq!(found[1], (partial, unknown, Some(80.0), None), "another batch may be faster");
    assert_eq!(found[2], (Met, unknown, Some(150.0), None));
}

#[test]
fn a_stand_in_is_named_and_memory_is_not_scaled() {
    let mut single = case("short/b1", vec![null("peak_device_bytes", "the device is the CPU")]);
    single.blocks[0].values.insert("peak_rss_bytes".into(), Some(9.5e9));
    let record = record_of(model(36, 4096, "q8_0"), Some(40e9), vec![single]);
    let results = evaluate_targets(&record, &targets(MATRIX).unwrap());
    let memory = &results[3];
    assert_eq!((memory.verdict, memory.value), (Met, Some(9.5)));
    assert_eq!(memory.scaled_verdict, NotMeasurable(Unmeasurable::NotScaled));
    assert_eq!(memory.metric.as_deref(), Some("peak_rss_bytes"));
    assert_eq!(memory.stands_in.as_deref(), Some("qwen3-8b"));
    assert_eq!((&results[1].stands_in, &results[2].stands_in), (&None, &None));
    let device = null("peak_rss_bytes", "not on this platform");
    let mut device = case("short/b1", vec![device]);
    device.blocks[0].values.insert("peak_device_bytes".into(), Some(11e9));
    let record = record_of(model(36, 4096, "q8_0"), None, vec![device]);
    let memory = &evaluate_targets(&record, &targets(MATRIX).unwrap())[3];
    assert_eq!((memory.verdict, memory.metric.as_deref()), (NotMet, Some("peak_device_bytes")));
}

#[test]
fn host_memory_does_not_replace_device_memory() {
    let of_device = |device: Block| {
        let mut single = case("short/b1", vec![device]);
        single.blocks[0].values.insert("peak_rss_bytes".into(), Some(1e9));
        single.blocks[0].notes.insert("peak_rss_bytes".into(), "fresh process".into());
        let mut record = record_of(model(36, 4096, "q8_0"), None, vec![single]);
        record.settings.device = "cuda:0".into();
        evaluate_targets(&record, &targets(MATRIX).unwrap()).remove(3)
    };
    let none = of_device(null("peak_device_bytes", "no such counter"));
    assert_eq!(none.verdict, NotMeasurable(Unmeasurable::NoValue));
    assert_eq!((none.value, none.why.as_deref()), (None, Some("no such counter")));
    assert_eq!(of_device(Block::default()).why, None, "the note of the host is not the device's");
    let whole = of_device(block(&[("peak_device_bytes", 9e9)]));
    assert_eq!((whole.verdict, whole.value), (Met, Some(9.0)));
}

#[test]
fn a_lower_bound_of_memory_can_miss_a_target_but_not_meet_it() {
    let note = "one reading, after the region";
    let memory = |bytes: f64| {
        let mut sampled = block(&[("peak_device_bytes", bytes)]);
        sampled.notes.insert("peak_device_bytes".into(), note.into());
        sampled.caveats.insert("peak_device_bytes".into(), Caveat::LowerBound);
        let mut record =
            record_of(model(36, 4096, "q8_0"), None, vec![case("short/b1", vec![sampled])]);
        record.settings.device = "cuda:0".into();
        evaluate_targets(&record, &targets(MATRIX).unwrap()).remove(3)
    };
    let low = memory(9e9);
    assert_eq!(low.verdict, NotMeasurable(Unmeasurable::LowerBound));
    assert_eq!((low.value, low.why.as_deref()), (Some(9.0), Some(note)));
    let high = memory(11e9);
    assert_eq!((high.verdict, high.value, high.why), (NotMet, Some(11.0), None));
}

#[test]
fn the_best_batch_misses_a_target_only_if_all_were_measured() {
    let best = |cases: Vec<Case>| {
        let record = record_of(model(28, 2048, "q4_k_m"), Some(40e9), cases);
        let result = evaluate_targets(&record, &targets(MATRIX).unwrap()).remove(1);
        (result.verdict, result.value, result.why, result.scaled_verdict)
    };
    let all = |rate: f64| {
        let sizes = [1, 4, 8, 16];
        sizes.map(|size| batched(&format!("short/b{size}"), size, rate)).to_vec()
    };
    let why = |why: &str| Some(why.to_string());
    let not_run = NotMeasurable(Unmeasurable::NotRun);
    let mut cases = all(9.0);
    assert_eq!(best(cases.clone()), (NotMet, Some(9.0), None, NotMet));
    cases[3] = unsupported("short/b16", "no");
    assert_eq!(
        best(cases.clone()),
        (NotMet, Some(9.0), None, NotMet),
        "unsupported: cannot become the best"
    );
    cases[3] = failed("short/b16", "killed");
    let failed = NotMeasurable(Unmeasurable::Failed);
    assert_eq!(best(cases.clone()), (failed, Some(9.0), why("short/b16"), failed));
    cases.truncate(2);
    assert_eq!(best(cases), (not_run, Some(9.0), why("short/b8, short/b16"), not_run));
    assert_eq!(best(all(20.0)[..1].to_vec()).3, Met, "projected, one alone is enough");
    assert_eq!(best(all(200.0)[..1].to_vec()), (Met, Some(200.0), None, Met));
}

#[test]
fn a_missing_value_is_not_measurable_with_its_reason() {
    let first = |cases: Vec<Case>, quant: &str| {
        let record = record_of(model(28, 2048, quant), Some(40e9), cases);
        let result = evaluate_targets(&record, &targets(MATRIX).unwrap()).remove(0);
        assert_eq!((result.value, result.scaled), (None, None));
        let NotMeasurable(reason) = result.verdict else { panic!("{:?}", result.verdict) };
        (reason, result.why)
    };
    let why = |why: &str| Some(why.to_string());
    let fast = || batched("short/b1", 1, 1e6);
    assert_eq!(first(vec![fast()], "q8_0"), (Unmeasurable::OtherQuant, None));
    assert_eq!(first(vec![fast()], "f32"), (Unmeasurable::OtherQuant, None));
    assert_eq!(first(Vec::new(), "q4_k_m"), (Unmeasurable::NotRun, None));
    assert_eq!(first(vec![case("short/b1", vec![])], "q4_k_m"), (Unmeasurable::NotRun, None));
    for (case, reason, text) in [
        (failed("short/b1", "killed"), Unmeasurable::Failed, "killed"),
        (unsupported("short/b1", "no"), Unmeasurable::Unsupported, "no"),
        (invalid(fast()), Unmeasurable::Invalid, "too fast to be true"),
        (
            case("short/b1", vec![null("decode_tok_s", "nothing is decoded")]),
            Unmeasurable::NoValue,
            "nothing is decoded",
        ),
    ] {
        assert_eq!(first(vec![case], "q4_k_m"), (reason, why(text)));
    }
}

#[test]
fn models_are_recognized_by_their_dimensions() {
    let asked = |spec: &str, model: Model| {
        let model = Model { spec: spec.into(), ..model };
        let record = record_of(model, None, vec![batched("short/b1", 1, 100.0)]);
        evaluate_targets(&record, &targets(MATRIX).unwrap())[0].verdict
    };
    let other = NotMeasurable(Unmeasurable::OtherModel);
    assert_eq!(asked("model.gguf", model(28, 2048, "q4_k+q6_k")), Met);
    assert_eq!(asked("synthetic:qwen3-1.7b", model(0, 0, "q4_k_m")), Met);
    assert_eq!(asked("qwen3-1.7b", model(0, 0, "q4_k_m")), Met);
    assert_eq!(asked("synthetic:mini", model(4, 512, "q4_k_m")), other);
    let two = Model { architecture: "qwen2".into(), ..model(28, 2048, "q4_k_m") };
    assert_eq!(asked("model.gguf", two), other);
    for (quant, class) in [
        ("q4_k_m", Some(QuantClass::Four)),
        ("q4_0", Some(QuantClass::Four)),
        ("q8_0", Some(QuantClass::Eight)),
        ("q8_0+f32", Some(QuantClass::Eight)),
        ("bf16", Some(QuantClass::Sixteen)),
        ("f16", Some(QuantClass::Sixteen)),
        ("f32", None),
        ("q6_k", None),
        ("", None),
    ] {
        assert_eq!(QuantClass::of(quant), class, "{quant}");
    }
}

#[cfg(feature = "engine")]
#[test]
fn the_shapes_agree_with_those_of_the_engine() {
    for (name, architecture, layers, hidden) in target_results::MODEL_SHAPES {
        let config = crate::model::config::Config::named(name).unwrap();
        let found = (config.family.name(), config.layers, config.hidden);
        assert_eq!(found, (*architecture, *layers, *hidden), "{name}");
    }
}

#[test]
fn an_invalid_file_of_targets_is_refused_with_the_reason() {
    let row =
        |lines: &str| format!("[[target]]\nid = 'a'\nmodel = '*'\ntopic = 'power'\n{lines}\n");
    let measured = "scenario = 'short/b1'\nmetric = ['power_w']\n";
    for (text, part) in [
        (row("unit = 'W'\nmax = 3\ncolour = 'red'"), "unknown field `colour`"),
        (row("unit = 'kW'\nmax = 3"), "no unit `kW`"),
        (row("unit = 'W'\nmin = 3"), "target `a` has no `max`, which targets in W need"),
        (row("unit = 'tok/s'\nmax = 3"), "has no `min`"),
        (row("unit = 'W'\nmin = 5\nmax = 3"), "`min` above its `max`"),
        (row("unit = 'W'\nmax = -3"), "not positive and finite"),
        (row("unit = 'W'\nmax = nan"), "not positive and finite"),
        (row("unit = 'W'\nmax = 3\nscenario = 'short/b1'"), "both `scenario` and `metric`"),
        (row(&format!("{measured}unit = 'ms'\nmax = 3")), "cannot have `power_w` in ms"),
        (
            row("scenario = 'x'\nmetric = ['powr_w']\nunit = 'W'\nmax = 3"),
            "did you mean `power_w`?",
        ),
        (row("unit = 'W'\nmax = 3").repeat(2), "target `a` appears twice"),
        ("[reference]\nmachine = 'm'\nread_bytes_per_s = 0.0".into(), "not positive and finite"),
        ("reference = 3".into(), "invalid type"),
    ] {
        let error = targets(&text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
    assert!(targets(&row(&format!("{measured}unit = 'W'\nmax = 3"))).is_ok());
    assert_eq!(targets("").unwrap(), Targets::default());
    let missing = Targets::load(std::path::Path::new("no/such.toml")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read `no/such.toml`");
}

#[test]
fn a_later_file_replaces_rows_of_the_same_id_and_adds_others() {
    let text = "[[target]]\nid = 'first'\nmodel = 'mine'\ntopic = 'power'\nunit = 'W'\nmax = 3\n";
    let later = targets(&format!("{text}{}", text.replace("'first'", "'new'"))).unwrap();
    let merged = targets(MATRIX).unwrap().merge(later);
    let rows: Vec<(&str, &str)> =
        merged.rows.iter().map(|row| (row.id.as_str(), row.model.as_str())).collect();
    assert_eq!(rows[2], ("first", "mine"));
    assert_eq!((rows.len(), rows[5]), (6, ("new", "mine")));
    assert_eq!(merged.reference.unwrap().machine, "reference", "the later file has none");
}

#[test]
fn the_builtin_targets_are_complete() {
    let targets = Targets::builtin();
    assert_eq!(targets.reference.as_ref().unwrap().read_bytes_per_s, 400e9);
    let row = |id: &str| targets.rows.iter().find(|row| row.id == id).unwrap();
    let bounds = |id: &str| (row(id).min, row(id).max, row(id).unit.name());
    for (id, expected) in [
        ("qwen3-1.7b-4bit/single", (Some(80.0), Some(120.0), "tok/s")),
        ("qwen3-1.7b-4bit/b16", (Some(400.0), Some(500.0), "tok/s")),
        ("qwen3-7b-4bit/first-token", (Some(200.0), Some(350.0), "ms")),
        ("qwen3-14b-16bit/memory", (Some(35.0), Some(50.0), "GB")),
        ("qwen3-14b-8bit/power", (Some(40.0), Some(60.0), "W")),
        ("qwen3-1.7b-4bit/embedding", (Some(2000.0), None, "chunks/min")),
        ("qwen3-1.7b-4bit/set-classification-limit", (Some(500.0), None, "items/min")),
        ("qwen3-7b-8bit/set-summarisation", (Some(25.0), Some(33.33), "items/min")),
        ("rag/search", (None, Some(500.0), "ms")),
        ("rag/complex", (Some(8.0), Some(15.0), "s")),
        ("qwen3-7b-4bit/little-memory", (None, Some(16.0), "GB")),
    ] {
        assert_eq!(bounds(id), expected, "{id}");
    }
    assert_eq!(row("rag/simple").metric, ["e2e_simple_s"]);
    assert_eq!(row("rag/complex").metric, ["e2e_complex_s"]);
    assert_eq!(row("qwen3-1.7b-4bit/power").bound(), Some(25.0));
    let known = crate::workload::select(&["all".into()]).unwrap();
    for target in &targets.rows {
        let Some(scenario) = target.scenario.as_deref().filter(|id| !id.ends_with('*')) else {
            continue;
        };
        assert!(known.iter().any(|one| one.id == scenario), "{}: `{scenario}`", target.id);
    }
    let mini = Model { spec: "synthetic:mini".into(), ..model(4, 512, "f32") };
    let record = record_of(mini, Some(40e9), vec![batched("short/b1", 1, 1e6)]);
    let results = evaluate_targets(&record, &targets);
    let other = NotMeasurable(Unmeasurable::OtherModel);
    assert_eq!(results.len(), targets.rows.len());
    assert!(results.iter().all(|result| result.verdict == other));
}
