//! Loads a model's tensors and packs its matrices into the arena.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::kernel::{Arena, GgmlType, PANEL_ROWS, PackedMatrix, WeightFormat, pack};
use crate::model::config::Config;
use crate::model::layer::TensorLoader;
use crate::model::quant::{Quant, weight_dtype};
use crate::model::weights::{
    TRACE_TARGET, WeightSource, as_matrix, check_shapes, read_rows_as, tensor_info,
};

/// Panels that are read and packed at a time: about 4 MiB of f32 for the widest matrices.
const PANELS_PER_READ: usize = 16;

/// A packed matrix and its place in the arena.
pub(super) struct ArenaMatrix {
    pub(super) format: WeightFormat,
    /// The type of the weights, which the format holds without loss.
    pub(super) dtype: GgmlType,
    shape: [usize; 2],
    pub(super) range: Range<usize>,
}

impl ArenaMatrix {
    pub(super) fn packed<'a>(&self, arena: &'a Arena) -> PackedMatrix<'a> {
        PackedMatrix::new(self.format, self.shape, arena.get(self.range.clone()))
    }
}

/// Reads tensors of a source; matrices go into one arena.
pub(super) struct CpuLoader<'a> {
    config: &'a Config,
    source: &'a dyn WeightSource,
    quant: Option<Quant>,
    /// Room for all matrices; zero where none was read yet.
    pub(super) arena: Arena,
    used: usize,
    /// Types that no format holds: their matrices are dequantized to bf16.
    pub(super) dequantized: Vec<GgmlType>,
}

impl<'a> CpuLoader<'a> {
    /// Allocates the arena for all matrices of a model.
    pub(super) fn new(
        config: &'a Config,
        source: &'a dyn WeightSource,
        quant: Option<Quant>,
    ) -> Result<Self> {
        check_shapes(config, source)?;
        let arena = Arena::new(0).map_err(no_memory)?;
        let mut loader = Self { config, source, quant, arena, used: 0, dequantized: Vec::new() };
        let mut bytes = 0;
        for (name, shape) in config.tensors() {
            if let [rows, columns] = *shape {
                let (format, _) = loader.format(&name)?;
                bytes += format.bytes(rows, columns);
            }
        }
        loader.arena = Arena::new(bytes).map_err(no_memory)?;
        Ok(loader)
    }

    /// The packed format of a matrix, and the type that its rows are read as: that which `quant` or
    /// the file gives it, or bf16 where no format holds that one.
    fn format(&mut self, name: &str) -> Result<(WeightFormat, GgmlType)> {
        let info = tensor_info(self.source, name)?;
        let dtype = weight_dtype(name, &info, self.quant, self.config);
        if let Some(format) = WeightFormat::from_dtype(dtype) {
            return Ok((format, dtype));
        }
        if !self.dequantized.contains(&dtype) {
            self.dequantized.push(dtype);
        }
        Ok((WeightFormat::Bf16, GgmlType::BF16))
    }
}

impl TensorLoader for CpuLoader<'_> {
    type Matrix = ArenaMatrix;
    type Vector = Vec<f32>;

    /// Reads and packs some panels at a time, in parallel.
    fn matrix(&mut self, name: &str) -> Result<ArenaMatrix> {
        let (format, dtype) = self.format(name)?;
        let shape = as_matrix(&tensor_info(self.source, name)?.shape);
        let [rows, columns] = shape;
        let range = self.used..self.used + format.bytes(rows, columns);
        self.used = range.end;
        let source = self.source;
        let panel_bytes = format.panel_bytes(columns).max(1);
        let read = |(i, panels): (usize, &mut [u8])| -> Result<()> {
            let first = i * PANELS_PER_READ * PANEL_ROWS;
            let rows = first..rows.min(first + PANELS_PER_READ * PANEL_ROWS);
            let count = rows.len();
            let bytes = read_rows_as(source, name, rows, dtype)?;
            let _span = tracing::trace_span!(target: TRACE_TARGET, "pack").entered();
            let row = bytes.len() / count;
            for (panel, rows) in panels.chunks_mut(panel_bytes).zip(bytes.chunks(PANEL_ROWS * row))
            {
                pack(dtype, columns, rows, panel);
            }
            Ok(())
        };
        self.arena
            .get_mut(range.clone())
            .par_chunks_mut(PANELS_PER_READ * panel_bytes)
            .enumerate()
            .try_for_each(read)?;
        Ok(ArenaMatrix { format, dtype, shape, range })
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        Ok(self.source.rows(name, 0..1)?.into_f32())
    }
}

fn no_memory(error: std::io::Error) -> Error {
    Error::Failed(format!("no memory for the weights ({error})"))
}
