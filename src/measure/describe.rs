//! The model, the settings and a scenario's labels as records describe them.

use std::collections::BTreeMap;

use crate::engine::{Engine, Identity};
use crate::machine;
use crate::model::forced_kernels;
use crate::record::{Model, Settings};
use crate::settings::{RopeScaling, Setup};
use crate::workload::Scenario;

/// Labels for what a scenario overrides in the record's settings.
pub(super) fn labels(engine: &Engine, scenario: &Scenario) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if let Some(scaling) = engine.source.config.rope_scaling.as_ref().filter(|_| scenario.extended)
    {
        let RopeScaling { rope_type, factor, original_max_position_embeddings, .. } = scaling;
        let text = format!("{rope_type}, factor {factor}, from {original_max_position_embeddings}");
        labels.insert("rope_scaling".into(), text);
    }
    if let Some(format) = scenario.format {
        labels.insert("prompt_format".into(), format.name().into());
    }
    labels
}

/// The model as a record describes it; the hash comes from `identity`, if that is known.
pub(crate) fn describe_model(engine: &Engine, identity: Option<&Identity>) -> Model {
    let config = &engine.source.config;
    let footprint = engine.decoder.footprint();
    Model {
        spec: engine.source.spec.clone(),
        architecture: config.family.name().into(),
        sha256: identity.map_or(String::new(), |identity| identity.sha256.clone()),
        commit: engine.source.commit.clone(),
        parameters: config.parameters(),
        weight_bytes: footprint.weight_bytes,
        quant: footprint.quant_name(),
        kv_dtype: footprint.kv_dtype.name().into(),
        layers: config.layers,
        hidden: config.hidden,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        vocab: config.vocab,
        context: config.context,
        rope_scaling: config.rope_scaling.clone(),
        isa: engine.decoder.isa().map(Into::into),
        kernel_plan: engine.decoder.kernel_plan(),
    }
}

/// The settings as a record keeps them.
pub(crate) fn describe_settings(setup: &Setup) -> Settings {
    Settings {
        engine: setup.engine.clone(),
        device: setup.device.clone(),
        quant: setup.quant.clone(),
        kv_dtype: setup.kv_dtype.clone(),
        threads: setup.threads,
        kernels: forced_kernels(),
        generation: setup.generation.clone(),
        environment: machine::environment(),
        labels: setup.labels.clone(),
        server: setup.server.clone(),
    }
}
