//! A model's tensors, from a file to the arena.

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::{Layer, Linear, Packed};
use crate::error::{Error, Result};
use crate::kernel::{Arena, PANEL_ROWS, TRACE_TARGET, WeightFormat, pack};
use crate::model::config::{Config, Family};
use crate::model::matrix::check_shape;
use crate::model::weights::{Quant, Source, bytes_of_rows, held_as};

/// Tiles that are read and packed at a time: some 4 MiB of f32 for the widest matrices.
const TILES_AT_ONCE: usize = 16;

/// What takes a model's tensors in.
pub(super) struct Loader<'a> {
    config: &'a Config,
    source: &'a dyn Source,
    quant: Option<Quant>,
    /// All matrices, those that were not read yet zero.
    pub arena: Arena,
    used: usize,
    /// Types without kernels that matrices would have been held as.
    pub expanded: Vec<GgmlDType>,
}

impl<'a> Loader<'a> {
    /// Room for all matrices.
    pub fn new(config: &'a Config, source: &'a dyn Source, quant: Option<Quant>) -> Result<Self> {
        let arena = Arena::new(0).map_err(no_memory)?;
        let mut loader = Self { config, source, quant, arena, used: 0, expanded: Vec::new() };
        let mut bytes = 0;
        for (name, shape) in config.tensors() {
            check_shape(source, &name, &shape)?;
            if let [outputs, columns] = *shape {
                let (format, dtype) = loader.format(&name);
                bytes += format.bytes(outputs, columns);
                if format.dtype() != dtype && !loader.expanded.contains(&dtype) {
                    loader.expanded.push(dtype);
                }
            }
        }
        loader.arena = Arena::new(bytes).map_err(no_memory)?;
        Ok(loader)
    }

    /// How a matrix is held, and the type that it would have been held as if there were kernels for
    /// it.
    fn format(&self, name: &str) -> (WeightFormat, GgmlDType) {
        let info = self.source.info(name).expect("its shape was compared");
        let dtype = held_as(name, &info, self.quant, self.config);
        (WeightFormat::from_dtype(dtype).unwrap_or(WeightFormat::Bf16), dtype)
    }

    /// Reads a layer.
    pub fn layer(&mut self, i: usize) -> Result<Layer> {
        let Config { hidden, intermediate, head_dim, family, .. } = *self.config;
        let (q, kv) = (self.config.heads * head_dim, self.config.kv_heads * head_dim);
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let mut linear = |part: &str, rows: usize| -> Result<Linear> {
            let weight = self.matrix(&name(&format!("{part}.weight")), [rows, hidden])?;
            let bias = match family {
                Family::Qwen2 => Some(self.vector(&name(&format!("{part}.bias")), rows)?),
                Family::Qwen3 => None,
            };
            Ok(Linear { weight, bias })
        };
        let (q_part, k_part, v_part) = (
            linear("self_attn.q_proj", q)?,
            linear("self_attn.k_proj", kv)?,
            linear("self_attn.v_proj", kv)?,
        );
        let head_norms = match family {
            Family::Qwen3 => Some((
                self.vector(&name("self_attn.q_norm.weight"), head_dim)?,
                self.vector(&name("self_attn.k_norm.weight"), head_dim)?,
            )),
            Family::Qwen2 => None,
        };
        Ok(Layer {
            attention_norm: self.vector(&name("input_layernorm.weight"), hidden)?,
            q: q_part,
            k: k_part,
            v: v_part,
            head_norms,
            o: self.matrix(&name("self_attn.o_proj.weight"), [hidden, q])?,
            mlp_norm: self.vector(&name("post_attention_layernorm.weight"), hidden)?,
            gate: self.matrix(&name("mlp.gate_proj.weight"), [intermediate, hidden])?,
            up: self.matrix(&name("mlp.up_proj.weight"), [intermediate, hidden])?,
            down: self.matrix(&name("mlp.down_proj.weight"), [hidden, intermediate])?,
        })
    }

    /// Reads a matrix into the arena, some tiles at a time and in parallel.
    pub fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Packed> {
        let (format, _) = self.format(name);
        let [outputs, columns] = shape;
        let at = self.used..self.used + format.bytes(outputs, columns);
        self.used = at.end;
        let source = self.source;
        let panel_bytes = format.panel_bytes(columns).max(1);
        let read = |(i, tiles): (usize, &mut [u8])| -> Result<()> {
            let first = i * TILES_AT_ONCE * PANEL_ROWS;
            let rows = first..outputs.min(first + TILES_AT_ONCE * PANEL_ROWS);
            let count = rows.len();
            let bytes = bytes_of_rows(source, name, rows, columns, format.dtype())?;
            let _span = tracing::trace_span!(target: TRACE_TARGET, "pack").entered();
            let row = bytes.len() / count;
            for (tile, rows) in tiles.chunks_mut(panel_bytes).zip(bytes.chunks(PANEL_ROWS * row)) {
                pack(format, columns, rows, tile);
            }
            Ok(())
        };
        self.arena
            .get_mut(at.clone())
            .par_chunks_mut(TILES_AT_ONCE * panel_bytes)
            .enumerate()
            .try_for_each(read)?;
        Ok(Packed { format, shape, at })
    }

    /// Reads numbers that are held in f32.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        Ok(self.source.rows(name, 0..1)?.into_f32(length))
    }
}

fn no_memory(error: std::io::Error) -> Error {
    Error::Failed(format!("no memory for the weights ({error})"))
}
