//! The tensors of a model as both native engines load them: one list of names, for matrices and
//! vectors of any representation.

use crate::error::Result;
use crate::model::config::{Config, Family};

/// Loads single tensors by their names in safetensors.
pub(super) trait TensorLoader {
    type Matrix;
    type Vector;

    /// A matrix `[out, in]`.
    fn matrix(&mut self, name: &str) -> Result<Self::Matrix>;

    /// A norm or a bias.
    fn vector(&mut self, name: &str) -> Result<Self::Vector>;
}

/// All tensors of a model.
pub(super) struct Weights<M, V> {
    pub(super) embedding: M,
    pub(super) layers: Vec<Layer<M, V>>,
    pub(super) norm: V,
    /// `None` if the embedding is the output matrix too.
    pub(super) lm_head: Option<M>,
}

/// The tensors of a transformer layer.
pub(super) struct Layer<M, V> {
    pub(super) attention_norm: V,
    pub(super) q: Linear<M, V>,
    pub(super) k: Linear<M, V>,
    pub(super) v: Linear<M, V>,
    /// QK-norm: RMSNorm of every head of q and k (Qwen3).
    pub(super) qk_norm: Option<(V, V)>,
    pub(super) o: M,
    pub(super) mlp_norm: V,
    pub(super) gate: M,
    pub(super) up: M,
    pub(super) down: M,
}

/// A projection with its bias (Qwen2).
pub(super) struct Linear<M, V> {
    pub(super) weight: M,
    pub(super) bias: Option<V>,
}

impl<M, V> Weights<M, V> {
    pub(super) fn load(
        config: &Config,
        loader: &mut impl TensorLoader<Matrix = M, Vector = V>,
    ) -> Result<Self> {
        let layers = (0..config.layers).map(|index| Layer::load(config.family, index, loader));
        let layers = layers.collect::<Result<_>>()?;
        let embedding = loader.matrix("model.embed_tokens.weight")?;
        let lm_head = if config.tied { None } else { Some(loader.matrix("lm_head.weight")?) };
        let norm = loader.vector("model.norm.weight")?;
        Ok(Self { embedding, layers, norm, lm_head })
    }

    /// The matrix that turns hidden states into logits.
    pub(super) fn output(&self) -> &M {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Every matrix, the embedding first.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &M> {
        let layers = self.layers.iter().flat_map(|layer| {
            let Layer { q, k, v, o, gate, up, down, .. } = layer;
            [&q.weight, &k.weight, &v.weight, o, gate, up, down]
        });
        std::iter::once(&self.embedding).chain(&self.lm_head).chain(layers)
    }
}

impl<M, V> Layer<M, V> {
    fn load(
        family: Family,
        index: usize,
        loader: &mut impl TensorLoader<Matrix = M, Vector = V>,
    ) -> Result<Self> {
        let name = |tensor: &str| format!("model.layers.{index}.{tensor}");
        let mut linear = |projection: &str| -> Result<Linear<M, V>> {
            let weight = loader.matrix(&name(&format!("self_attn.{projection}_proj.weight")))?;
            let bias = name(&format!("self_attn.{projection}_proj.bias"));
            let bias = match family {
                Family::Qwen2 => Some(loader.vector(&bias)?),
                Family::Qwen3 => None,
            };
            Ok(Linear { weight, bias })
        };
        let (q, k, v) = (linear("q")?, linear("k")?, linear("v")?);
        let qk_norm = match family {
            Family::Qwen3 => Some((
                loader.vector(&name("self_attn.q_norm.weight"))?,
                loader.vector(&name("self_attn.k_norm.weight"))?,
            )),
            Family::Qwen2 => None,
        };
        Ok(Self {
            attention_norm: loader.vector(&name("input_layernorm.weight"))?,
            q,
            k,
            v,
            qk_norm,
            o: loader.matrix(&name("self_attn.o_proj.weight"))?,
            mlp_norm: loader.vector(&name("post_attention_layernorm.weight"))?,
            gate: loader.matrix(&name("mlp.gate_proj.weight"))?,
            up: loader.matrix(&name("mlp.up_proj.weight"))?,
            down: loader.matrix(&name("mlp.down_proj.weight"))?,
        })
    }
}
