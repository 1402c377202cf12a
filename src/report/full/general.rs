//! General information, method, scenarios, and every metric of a record.

use crate::analysis::CaseState;
use crate::record::{Build, Case, Machine, Model, Record, Session, Settings};
use crate::report::document::{Block, Cell, Details, Section, Table, Text};
use crate::report::full::render_context::{MIB, RenderContext};
use crate::report::text::name_value_list;
use crate::report::words::Lang;
use crate::settings::Server;
use crate::stats;
use crate::workload::{METRICS, Metric, PromptFormat};

pub(in crate::report) type NameValue = (&'static str, String);

/// A table of names and values; those without a value are omitted.
pub(in crate::report) fn name_value_table(
    heading: &'static str,
    rows: impl IntoIterator<Item = NameValue>,
) -> Table {
    let mut table = Table::new(["", heading], 2..);
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.push([Text::from(name), Text::from(value)]);
    }
    table
}

pub(super) fn general(ctx: &RenderContext) -> Section {
    let words = &ctx.words.general;
    let mut section = Section::new("general", words.heading);
    let Record { machine, build, .. } = ctx.record;
    let rows = [
        run_rows(ctx),
        model_rows(ctx),
        settings_rows(ctx),
        machine_rows(machine, ctx.lang),
        build_rows(build, ctx.lang),
    ];
    section.table(name_value_table(ctx.words.frame.value, rows.into_iter().flatten()));
    section.table(conditions_table(ctx));
    if ctx.lang.code() != "en" {
        section.paragraph(words.recorded, &[]);
    }
    section
}

fn run_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let words = &ctx.words.general;
    let sessions = &ctx.record.sessions;
    let time = |session: &Session| {
        let start = ("start", &*readable_time(&session.started));
        match &session.ended {
            Some(end) => Text::from_template(words.until, &[start, ("end", &readable_time(end))]),
            None => Text::from_template(words.unfinished, &[start]),
        }
    };
    let times: Vec<String> = sessions.iter().map(|session| time(session).plain_text()).collect();
    vec![(words.date, times.join(ctx.lang.semicolon()))]
}

/// A timestamp of a record, `2026-07-01T12:00:00Z`, in readable form.
fn readable_time(at: &str) -> String {
    match at.strip_suffix('Z').and_then(|at| at.split_once('T')) {
        Some((day, time)) => format!("{day} {} UTC", time.split('.').next().unwrap_or(time)),
        None => at.into(),
    }
}

fn model_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let (words, lang, model) = (&ctx.words.general, ctx.lang, &ctx.record.model);
    let count = |count: usize| lang.count(count);
    let shape = Text::from_template(
        words.shape,
        &[
            ("layers", &count(model.layers)),
            ("hidden", &count(model.hidden)),
            ("heads", &count(model.heads)),
            ("kv_heads", &count(model.kv_heads)),
            ("head_dim", &count(model.head_dim)),
            ("vocab", &count(model.vocab)),
        ],
    );
    let tokens = |tokens: usize| {
        Text::from_template(words.tokens, &[("count", &count(tokens))]).plain_text()
    };
    let rope = model.rope_scaling.as_ref().map(|rope| {
        let (factor, original) =
            (lang.number(rope.factor), count(rope.original_max_position_embeddings));
        let values =
            [("type", rope.rope_type.as_str()), ("factor", &factor), ("original", &original)];
        Text::from_template(words.scaled, &values).plain_text()
    });
    let weights = lang.with_unit(model.weight_bytes as f64 * MIB, "MiB");
    let known = |known: bool, text: String| if known { text } else { String::new() };
    vec![
        (words.model, model.spec.clone()),
        (words.model_commit, model.commit.clone().unwrap_or_default()),
        (words.architecture, model.architecture.clone()),
        (words.dimensions, known(model.layers > 0, shape.plain_text())),
        (words.parameters, known(model.parameters > 0, lang.number(model.parameters as f64))),
        (words.weights, known(model.weight_bytes > 0, format!("{}, {weights}", model.quant))),
        (words.kv, model.kv_dtype.clone()),
        (words.context, known(model.context > 0, tokens(model.context))),
        (words.rope, rope.unwrap_or_default()),
        (words.sha256, model.sha256.clone()),
    ]
}

fn settings_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let (words, settings) = (&ctx.words.general, &ctx.record.settings);
    if let Some(server) = &settings.server {
        return server_rows(server, settings, ctx.lang);
    }
    vec![
        (words.engine, settings.engine.clone()),
        (words.device, settings.device.clone()),
        (words.threads, ctx.lang.count(settings.threads)),
        (words.quant, settings.quant.clone().unwrap_or_default()),
        (words.variables, name_value_list(&settings.environment)),
        (words.labels, name_value_list(&settings.labels)),
        (words.isa, kernels(&ctx.record.model)),
    ]
}

/// The kernel tier and the variants of its kernels that ran.
fn kernels(model: &Model) -> String {
    match (&model.isa, &model.kernel_plan) {
        (Some(isa), Some(plan)) => format!("{isa} ({plan})"),
        (isa, _) => isa.clone().unwrap_or_default(),
    }
}

/// A server, and the client's environment.
fn server_rows(server: &Server, settings: &Settings, lang: Lang) -> Vec<NameValue> {
    let words = &lang.words().general;
    vec![
        (words.server, format!("{}, {}", server.program(), server.url)),
        (words.labels, name_value_list(&settings.labels)),
    ]
}

/// The machine, in names and values of a language.
pub(in crate::report) fn machine_rows(machine: &Machine, lang: Lang) -> Vec<NameValue> {
    let words = &lang.words().general;
    let Machine { class, fields, facts, rates } = machine;
    let rate = |rate: Option<f64>, unit: &str| {
        rate.map_or(String::new(), |rate| lang.with_unit(rate / 1e9, unit))
    };
    let cache = rates.last_level_cache_bytes.map(|bytes| bytes as f64 * MIB);
    vec![
        (words.class, class.clone()),
        (words.machine, name_value_list(fields)),
        (words.host, name_value_list(facts)),
        (words.read_rate, rate(rates.read_bytes_per_s, "GB/s")),
        (words.read_huge_rate, rate(rates.read_huge_bytes_per_s, "GB/s")),
        (words.flop_rate, rate(rates.f32_flop_per_s, "GFLOP/s")),
        (words.int8_rate, rate(rates.int8_op_per_s, "GOP/s")),
        (words.int16_rate, rate(rates.int16_op_per_s, "GOP/s")),
        (words.bf16_rate, rate(rates.bf16_flop_per_s, "GFLOP/s")),
        (words.rate_isa, rates.isa.clone().unwrap_or_default()),
        (words.last_level, cache.map_or(String::new(), |mib| lang.with_unit(mib, "MiB"))),
    ]
}

/// A build, in names and values of a language.
pub(in crate::report) fn build_rows(build: &Build, lang: Lang) -> Vec<NameValue> {
    let words = &lang.words().general;
    let commit = build.commit.clone().unwrap_or_default();
    let commit = match build.dirty {
        Some(true) => Text::from_template(words.dirty, &[("commit", &commit)]).plain_text(),
        _ => commit,
    };
    vec![
        (words.version, build.version.clone()),
        (words.commit, commit),
        (words.profile, build.profile.clone()),
        (words.compiler, build.rustc.clone()),
        (words.target, build.target.clone()),
        (words.target_features, build.target_features.clone()),
        (words.features, build.features.join(", ")),
        (words.crates, name_value_list(&build.crates)),
    ]
}

/// The machine before and after each session.
fn conditions_table(ctx: &RenderContext) -> Table {
    let (words, lang) = (&ctx.words.general, ctx.lang);
    let known = |text: Option<String>| -> Cell {
        text.map_or_else(|| ctx.words.frame.not_measured.into(), Cell::from)
    };
    let share = |share: Option<f64>| known(share.map(|share| lang.share(share)));
    let number = |value: Option<f64>| known(value.map(|value| lang.number(value)));
    Table::of(ctx.record.sessions.iter().flat_map(|session| &session.conditions))
        .text(words.at, |one| readable_time(&one.at))
        .number(words.load, |one| number(one.load_1m))
        .number(words.steal, |one| share(one.steal))
        .number(words.pressure, |one| share(one.cpu_pressure_10s))
        .number(words.available, |one| number(one.available_bytes.map(|bytes| bytes as f64 * MIB)))
        .with_caption(words.conditions)
}

/// How the figures were measured.
pub(super) fn method(ctx: &RenderContext) -> Section {
    let (words, lang) = (&ctx.words.method, ctx.lang);
    let generation = &ctx.record.settings.generation;
    let seed = generation.seed.to_string();
    let mut items = Vec::new();
    let mut item =
        |template, values: &[(&str, &str)]| items.push(Text::from_template(template, values));
    if generation.is_greedy() {
        item(words.greedy, &[("seed", &seed)]);
    } else {
        let temperature = lang.number(generation.temperature);
        item(words.sampled, &[("temperature", &temperature), ("seed", &seed)]);
    }
    item(if generation.natural_stop { words.natural } else { words.exact }, &[]);
    if generation.prompt_format != PromptFormat::Raw {
        item(words.chat, &[]);
    }
    if !generation.use_kv_cache {
        item(words.uncached, &[]);
    }
    let (warmups, iters) = (lang.count(generation.warmups), lang.count(generation.iters));
    if ctx.record.settings.server.is_some() {
        item(words.server, &[]);
    }
    item(words.repetitions, &[("warmups", &warmups), ("iters", &iters)]);
    for template in [words.median, words.percentiles, words.missing] {
        item(template, &[]);
    }
    let mut section = Section::new("method", words.heading);
    section.list(items);
    section
}

/// Every scenario with its gated metrics.
pub(super) fn scenarios(ctx: &RenderContext) -> Section {
    let (words, frame, lang) = (&ctx.words.scenarios, &ctx.words.frame, ctx.lang);
    let mut section = Section::with_intro("scenarios", words.heading, words.intro);
    let known = |count: usize| ctx.count(Some(count).filter(|count| *count > 0));
    let prompt = |case: &Case| {
        let tokens = &case.work.prompt_tokens;
        match tokens.iter().min().zip(tokens.iter().max()) {
            Some((least, most)) if least < most => {
                format!("{}\u{2013}{}", lang.count(*least), lang.count(*most)).into()
            }
            range => ctx.count(range.map(|(_, most)| *most)),
        }
    };
    section.table(
        Table::of(&ctx.record.scenarios)
            .text(frame.scenario, |case| case.id.as_str())
            .number(words.batch, |case| known(case.work.batch))
            .number(words.prompt, |case| prompt(case))
            .number(words.generated, |case| known(case.work.new_tokens))
            .number(words.processes, |case| known(case.blocks.len()))
            .number(words.rate, |case| ctx.gated_metrics(case)[0].clone())
            .number("TTFT (ms)", |case| ctx.gated_metrics(case)[1].clone())
            .number(words.memory, |case| ctx.gated_metrics(case)[2].clone())
            .text(words.validity, |case| ctx.validity(case)),
    );
    section
}

/// Every metric with a value, by scenario.
pub(super) fn all_metrics(ctx: &RenderContext) -> Section {
    let (words, frame) = (&ctx.words.every, &ctx.words.frame);
    let mut section = Section::new("every", words.heading);
    for case in &ctx.record.scenarios {
        let state = CaseState::of(case);
        let median = |metric: &Metric| stats::median(&case.values(metric.name));
        let mut table: Table = Table::of(METRICS.iter().filter(|metric| median(metric).is_some()))
            .text(frame.metric, |metric| ctx.lang.metric_label(metric))
            .number(words.median, |metric| ctx.scaled(&state, median(metric), metric.scale))
            .number(words.spread, |metric| ctx.relative_sd(case, metric))
            .number(ctx.words.scenarios.processes, |metric| {
                ctx.count(Some(case.values(metric.name).len()))
            })
            .into();
        // Its counters are of all samples of a process.
        for (name, values) in case.server_values() {
            let name = format!("{}: {name}", ctx.words.general.server);
            let number = ctx.number(&state, stats::median(&values));
            table.push([Cell::from(name), number, "".into(), ctx.count(Some(values.len()))]);
        }
        let (summary, state) = (case.id.as_str().into(), ctx.validity(case));
        section.blocks.push(Block::Details(Details { summary, state, table }));
    }
    section
}
