//! General information, method, scenarios, and every metric of a record.

use crate::record::{Conditions, Machine};
use crate::report::document::{Block, Cell, Section, Table, Text};
use crate::report::full::render_context::{MIB, RenderContext};
use crate::report::text::name_value_list;
use crate::workload::PromptFormat;

type NameValue = (&'static str, String);

pub(super) fn general(ctx: &RenderContext) -> Section {
    let words = &ctx.words.general;
    let mut section = Section::new("general", words.heading);
    let mut table = Table::new(["", ctx.words.frame.value], 2);
    let rows =
        [run_rows(ctx), model_rows(ctx), settings_rows(ctx), machine_rows(ctx), build_rows(ctx)];
    for (name, value) in rows.into_iter().flatten().filter(|(_, value)| !value.is_empty()) {
        table.push([Text::from(name), Text::from(value)]);
    }
    section.push(table);
    if let Some(table) = conditions_table(ctx) {
        section.push(table);
    }
    if ctx.lang.code() != "en" {
        section.paragraph(words.recorded, &[]);
    }
    section
}

fn run_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let words = &ctx.words.general;
    let sessions = &ctx.record.sessions;
    let times: Vec<String> = sessions
        .iter()
        .map(|session| {
            let start = readable_time(&session.started);
            match &session.ended {
                Some(end) => {
                    let values = [("start", start.as_str()), ("end", &readable_time(end))];
                    Text::from_template(words.until, &values).plain_text()
                }
                None => Text::from_template(words.unfinished, &[("start", &start)]).plain_text(),
            }
        })
        .collect();
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
        (words.parameters, lang.number(model.parameters as f64)),
        (words.weights, format!("{}, {weights}", model.quant)),
        (words.kv, model.kv_dtype.clone()),
        (words.context, known(model.context > 0, tokens(model.context))),
        (words.rope, rope.unwrap_or_default()),
        (words.sha256, model.sha256.clone()),
    ]
}

fn settings_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let (words, settings) = (&ctx.words.general, &ctx.record.settings);
    vec![
        (words.engine, settings.engine.clone()),
        (words.device, settings.device.clone()),
        (words.threads, ctx.lang.count(settings.threads)),
        (words.quant, settings.quant.clone().unwrap_or_default()),
        (words.variables, name_value_list(&settings.environment)),
        (words.labels, name_value_list(&settings.labels)),
        (words.isa, ctx.record.model.isa.clone().unwrap_or_default()),
    ]
}

fn machine_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let (words, lang) = (&ctx.words.general, ctx.lang);
    let Machine { class, fields, facts, rates } = &ctx.record.machine;
    let rate = |rate: Option<f64>, unit: &str| match rate {
        Some(rate) => lang.with_unit(rate / 1e9, unit),
        None => ctx.words.frame.not_measured.into(),
    };
    // Older records lack these rates.
    let newer = |value: Option<f64>, unit| value.map_or(String::new(), |_| rate(value, unit));
    let cache = rates.last_level_cache_bytes;
    vec![
        (words.class, class.clone()),
        (words.machine, name_value_list(fields)),
        (words.host, name_value_list(facts)),
        (words.read_rate, rate(rates.read_bytes_per_s, "GB/s")),
        (words.read_huge_rate, newer(rates.read_huge_bytes_per_s, "GB/s")),
        (words.flop_rate, rate(rates.f32_flop_per_s, "GFLOP/s")),
        (words.int8_rate, newer(rates.int8_op_per_s, "GOP/s")),
        (words.int16_rate, newer(rates.int16_op_per_s, "GOP/s")),
        (words.bf16_rate, newer(rates.bf16_flop_per_s, "GFLOP/s")),
        (words.rate_isa, rates.isa.clone().unwrap_or_default()),
        (
            words.last_level,
            cache.map_or(String::new(), |bytes| lang.with_unit(bytes as f64 * MIB, "MiB")),
        ),
    ]
}

fn build_rows(ctx: &RenderContext) -> Vec<NameValue> {
    let (words, build) = (&ctx.words.general, &ctx.record.build);
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
fn conditions_table(ctx: &RenderContext) -> Option<Table> {
    let (words, lang) = (&ctx.words.general, ctx.lang);
    let rows: Vec<&Conditions> =
        ctx.record.sessions.iter().flat_map(|session| &session.conditions).collect();
    let header = [words.at, words.load, words.steal, words.pressure, words.available];
    let mut table = Table::new(header, 1);
    table.caption = Some(words.conditions.into());
    let unknown = || ctx.words.frame.not_measured.to_owned();
    for one in &rows {
        let share = |share: Option<f64>| share.map_or_else(unknown, |share| lang.share(share));
        table.push([
            readable_time(&one.at),
            one.load_1m.map_or_else(unknown, |load| lang.number(load)),
            share(one.steal),
            share(one.cpu_pressure_10s),
            one.available_bytes.map_or_else(unknown, |bytes| lang.number(bytes as f64 * MIB)),
        ]);
    }
    (!rows.is_empty()).then_some(table)
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
    item(words.repetitions, &[("warmups", &warmups), ("iters", &iters)]);
    for template in [words.median, words.percentiles, words.missing] {
        item(template, &[]);
    }
    let mut section = Section::new("method", words.heading);
    section.push(Block::List { items });
    section
}

/// Every scenario with its gated metrics.
pub(super) fn scenarios(ctx: &RenderContext) -> Section {
    let (words, frame, lang) = (&ctx.words.scenarios, &ctx.words.frame, ctx.lang);
    let mut section = Section::new("scenarios", words.heading);
    section.paragraph(words.intro, &[]);
    let header = [
        frame.scenario,
        words.batch,
        words.prompt,
        words.generated,
        words.processes,
        words.rate,
        "TTFT (ms)",
        words.memory,
        words.validity,
    ];
    let mut table = Table::new(header, 1);
    table.right.pop();
    for case in &ctx.record.scenarios {
        let work = &case.work;
        let known = |count: usize| if count == 0 { "\u{2013}".into() } else { lang.count(count) };
        let prompt = work.prompt_tokens.iter().min().zip(work.prompt_tokens.iter().max());
        let prompt = match prompt {
            Some((least, most)) if least < most => {
                format!("{}\u{2013}{}", lang.count(*least), lang.count(*most))
            }
            Some((_, most)) => lang.count(*most),
            None => "\u{2013}".into(),
        };
        let mut row = vec![
            Cell::from(case.id.as_str()),
            known(work.batch).into(),
            prompt.into(),
            known(work.new_tokens).into(),
            known(case.blocks.len()).into(),
        ];
        row.extend(ctx.gated_metrics(case));
        row.push(ctx.validity(case));
        table.push(row);
    }
    section.push(table);
    section
}

/// Every metric with a value, by scenario.
pub(super) fn all_metrics(ctx: &RenderContext) -> Section {
    let (words, frame) = (&ctx.words.every, &ctx.words.frame);
    let mut section = Section::new("every", words.heading);
    for case in &ctx.record.scenarios {
        let header = [frame.metric, words.median, words.spread, ctx.words.scenarios.processes];
        let mut table = Table::new(header, 1);
        for row in ctx.metrics(case) {
            table.push(row);
        }
        let Cell { text: state, tone } = ctx.validity(case);
        let summary = case.id.as_str().into();
        section.push(Block::Details { summary, state, tone, table });
    }
    section
}
