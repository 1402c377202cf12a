//! The parts of a pair's page beside its verdict: both builds, the environment, the blocks.

use crate::record::pair::{Arm, PairBlock, PairRecord};
use crate::report::document::{Cell, Section, Table, Tone};
use crate::report::full::{NameValue, build_rows, machine_rows, name_value_table};
use crate::report::text::{duration, number};
use crate::report::words::Lang;

pub(super) fn pair_sections(paired: &PairRecord) -> Vec<Section> {
    let session = [
        ("measured by", crate::error::command(&paired.session.command)),
        ("started", paired.session.started.clone()),
        ("ended", paired.session.ended.clone().unwrap_or_default()),
        ("seed", paired.seed.to_string()),
        ("model", paired.candidate.model.spec.clone()),
    ];
    let machine = machine_rows(&paired.machine, Lang::En);
    let mut environment = Section::new("environment", "Environment");
    environment.table(name_value_table("value", session.into_iter().chain(machine)));
    let sections = [builds(paired), environment, blocks(&paired.blocks)];
    sections.map(|section| Section { folded: true, ..section }).into()
}

/// Both builds; values that differ are highlighted.
fn builds(paired: &PairRecord) -> Section {
    let mut section = Section::new("builds", "Builds");
    let mut table = Table::new(["", "base", "candidate"], 3..);
    for ((name, base), (_, candidate)) in
        arm_rows(&paired.base).into_iter().zip(arm_rows(&paired.candidate))
    {
        let tone = if base == candidate { Tone::Plain } else { Tone::Unsure };
        if !(base.is_empty() && candidate.is_empty()) {
            table.push([name.into(), Cell::new(base, tone), Cell::new(candidate, tone)]);
        }
    }
    section.table(table);
    section
}

/// Names and values that describe one build; every build has the same names.
fn arm_rows(arm: &Arm) -> Vec<NameValue> {
    let Arm { asked, injected, missing_features, build, model, settings } = arm;
    let engine = (&settings.engine, &settings.device, settings.threads);
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    let hash = |hash: &Option<String>| hash.as_deref().map(short).unwrap_or_default();
    let mut rows = vec![
        ("requested", asked.clone()),
        ("slowed down on purpose", injected.clone().unwrap_or_default()),
        ("built without features", missing_features.join(" ")),
    ];
    rows.extend(build_rows(build, Lang::En));
    rows.extend([
        ("Cargo.lock sha256", hash(&build.lock_sha256)),
        ("binary sha256", hash(&build.binary_sha256)),
        ("model sha256", short(&model.sha256)),
        ("weights", model.quant.clone()),
        match &settings.server {
            Some(server) => ("server", format!("{}, {}", server.program(), server.url)),
            None => ("engine", format!("{} on {}, {} threads", engine.0, engine.1, engine.2)),
        },
    ]);
    rows
}

fn blocks(blocks: &[PairBlock]) -> Section {
    let share = |value: Option<f64>| value.map_or("-".into(), |value| Lang::En.share(value));
    let mut section = Section::new("blocks", "Blocks");
    section.table(
        Table::of((1..).zip(blocks))
            .text("block", |(number, _)| number.to_string())
            .text("started", |(_, block)| block.started.as_str())
            .number("load s", |(_, block)| number(block.load_s))
            .number("warm-up s", |(_, block)| number(block.warm_up_s))
            .number("turns s", |(_, block)| number(block.turns_s))
            .number("total", |(_, block)| duration(block.total_s))
            .number("steal", |(_, block)| share(block.steal))
            .number("CPU pressure", |(_, block)| share(block.cpu_pressure_10s))
            .text("", |(_, block)| match &block.rejected {
                Some(why) => Cell::new(format!("rejected: {why}"), Tone::Unsure),
                None => "counts".into(),
            }),
    );
    section
}
