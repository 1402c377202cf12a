//! GGML's tensor types: their numbers and blocks in GGUF files, and the panels that hold them. A
//! type is one row of [`TYPES`]. GEMM runs on [`super::packed`] matrices or in candle.

use candle_core::CpuStorage;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::nonlinear as nl;
use super::nonlinear::{IQ4_NL_BYTES, IQ4_XS_BYTES, MXFP4_BYTES};
use super::pack as pk;
use super::packed::{PANEL_ROWS, WeightFormat};

/// A type of tensors in GGUF files: those that candle has, and more. The discriminant is the number
/// in the file, ggml's `ggml_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "ggml's names")]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Q8K = 15,
    IQ4NL = 20,
    IQ4XS = 23,
    BF16 = 30,
    MXFP4 = 39,
}

/// What quantizes and dequantizes a type.
#[derive(Clone, Copy)]
enum Codec {
    Candle(GgmlDType),
    Own { quantize: fn(&[f32]) -> Vec<u8>, dequantize: fn(&[u8]) -> Vec<f32> },
}

/// `(row, lane, panel)`: packs one row. Lanes without a row keep their bytes.
type Pack = fn(&[u8], usize, &mut [u8]);

/// What is known of a type.
struct Row {
    dtype: GgmlType,
    name: &'static str,
    /// Weights and bytes of a block.
    block: [usize; 2],
    codec: Codec,
    /// The format whose panels hold the weights without loss, and the function that packs them;
    /// `None` if there is no such format.
    panels: Option<(WeightFormat, Pack)>,
}

const fn row(
    dtype: GgmlType,
    name: &'static str,
    block: [usize; 2],
    codec: Codec,
    panels: Option<(WeightFormat, Pack)>,
) -> Row {
    Row { dtype, name, block, codec, panels }
}

const IQ4_NL: Codec =
    Codec::Own { quantize: nl::quantize_iq4_nl, dequantize: nl::dequantize_iq4_nl };
const IQ4_XS: Codec =
    Codec::Own { quantize: nl::quantize_iq4_xs, dequantize: nl::dequantize_iq4_xs };
const MXFP4: Codec = Codec::Own { quantize: nl::quantize_mxfp4, dequantize: nl::dequantize_mxfp4 };

#[rustfmt::skip]
static TYPES: [Row; 18] = {
    use Codec::Candle as C;
    use GgmlDType as D;
    use GgmlType as T;
    use WeightFormat as F;
    [
        row(T::F32, "f32", [1, 4], C(D::F32), Some((F::F32, pk::pack_f32))),
        row(T::F16, "f16", [1, 2], C(D::F16), Some((F::F16, pk::pack_f16))),
        row(T::BF16, "bf16", [1, 2], C(D::BF16), Some((F::Bf16, pk::pack_bf16))),
        row(T::Q8_0, "q8_0", [32, 34], C(D::Q8_0), Some((F::Q8_0, pk::pack_q8_0))),
        row(T::Q5_0, "q5_0", [32, 22], C(D::Q5_0), Some((F::Q8_0, pk::pack_q5_0))),
        row(T::Q4_0, "q4_0", [32, 18], C(D::Q4_0), Some((F::Q8_0, pk::pack_q4_0))),
        row(T::IQ4NL, "iq4_nl", [32, IQ4_NL_BYTES], IQ4_NL, Some((F::Q8_0, pk::pack_iq4_nl))),
        row(T::MXFP4, "mxfp4", [32, MXFP4_BYTES], MXFP4, Some((F::Q8_0, pk::pack_mxfp4))),
        row(T::IQ4XS, "iq4_xs", [256, IQ4_XS_BYTES], IQ4_XS, Some((F::Q8Super, pk::pack_iq4_xs))),
        row(T::Q5_1, "q5_1", [32, 24], C(D::Q5_1), Some((F::Asymmetric, pk::pack_q5_1))),
        row(T::Q4_1, "q4_1", [32, 20], C(D::Q4_1), Some((F::Asymmetric, pk::pack_q4_1))),
        row(T::Q6K, "q6_k", [256, 210], C(D::Q6K), Some((F::Q6K, pk::pack_q6k))),
        row(T::Q5K, "q5_k", [256, 176], C(D::Q5K), Some((F::Asymmetric, pk::pack_q5k))),
        row(T::Q4K, "q4_k", [256, 144], C(D::Q4K), Some((F::Q4K, pk::pack_q4k))),
        row(T::Q3K, "q3_k", [256, 110], C(D::Q3K), Some((F::Q6K, pk::pack_q3k))),
        row(T::Q2K, "q2_k", [256, 84], C(D::Q2K), None),
        row(T::Q8_1, "q8_1", [32, 36], C(D::Q8_1), None),
        row(T::Q8K, "q8_k", [256, 292], C(D::Q8K), None),
    ]
};

impl GgmlType {
    /// The type of a number in a GGUF file, if it is known.
    pub fn from_number(number: u32) -> Option<Self> {
        TYPES.iter().map(|row| row.dtype).find(|dtype| dtype.number() == number)
    }

    /// The number in GGUF files.
    pub fn number(self) -> u32 {
        self as u32
    }

    fn row(self) -> &'static Row {
        TYPES.iter().find(|row| row.dtype == self).expect("each type has a row")
    }

    /// The name as GGUF tools write it: `q4_k`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Weights of a block.
    pub fn block_size(self) -> usize {
        self.row().block[0]
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().block[1]
    }

    /// candle's type, if it has this one.
    pub fn candle(self) -> Option<GgmlDType> {
        match self.row().codec {
            Codec::Candle(dtype) => Some(dtype),
            Codec::Own { .. } => None,
        }
    }
}

impl From<GgmlDType> for GgmlType {
    fn from(dtype: GgmlDType) -> Self {
        let is = |row: &&Row| row.dtype.candle() == Some(dtype);
        TYPES.iter().find(is).expect("a row for each of candle's types").dtype
    }
}

impl WeightFormat {
    /// The format whose panels hold a GGML type without loss, if there is one.
    pub fn from_dtype(dtype: GgmlType) -> Option<Self> {
        dtype.row().panels.map(|(format, _)| format)
    }
}

/// The types that panels hold without loss.
#[cfg(test)]
pub(super) fn dtypes() -> impl Iterator<Item = GgmlType> {
    TYPES.iter().filter(|row| row.panels.is_some()).map(|row| row.dtype)
}

/// A type of each format; the tests of every tier run over them.
#[cfg(test)]
pub(super) fn one_of_each_format() -> impl Iterator<Item = GgmlType> {
    let mut seen = Vec::new();
    dtypes().filter(move |dtype| {
        let format = WeightFormat::from_dtype(*dtype);
        let first = !seen.contains(&format);
        seen.push(format);
        first
    })
}

/// Packs up to sixteen rows of a type, one after the other in the bytes of a file, into a panel of
/// [its format](WeightFormat::from_dtype). Lanes without a row keep their bytes, which are zero in
/// a new arena.
///
/// # Panics
/// When no format holds the type, its blocks do not divide a row, or the bytes are not whole rows.
pub fn pack(dtype: GgmlType, columns: usize, rows: &[u8], panel: &mut [u8]) {
    let (_, pack) = dtype.row().panels.unwrap_or_else(|| panic!("no format holds {dtype:?}"));
    let [weights, bytes] = dtype.row().block;
    assert!(columns.is_multiple_of(weights), "blocks divide a row");
    let row_bytes = columns / weights * bytes;
    let whole = rows.len().is_multiple_of(row_bytes) && rows.len() <= PANEL_ROWS * row_bytes;
    assert!(whole, "whole rows");
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        pack(row, lane, panel);
    }
}

/// Quantizes rows of numbers.
///
/// # Panics
/// When the type's blocks do not divide the numbers.
pub fn quantize(dtype: GgmlType, values: &[f32]) -> Vec<u8> {
    assert!(values.len().is_multiple_of(dtype.block_size()), "whole blocks");
    match dtype.row().codec {
        Codec::Own { quantize, .. } => quantize(values),
        Codec::Candle(dtype) => {
            let mut blocks = dtype.cpu_zeros(values.len());
            blocks.from_float(values);
            let tensor = QTensor::new(QStorage::Cpu(blocks), values.len()).expect("whole blocks");
            tensor.data().expect("it is in memory").into_owned()
        }
    }
}

/// Dequantizes whole blocks.
///
/// # Panics
/// When the bytes are not whole blocks.
pub fn dequantize(dtype: GgmlType, bytes: &[u8]) -> Vec<f32> {
    let [weights, block_bytes] = dtype.row().block;
    assert!(bytes.len().is_multiple_of(block_bytes), "whole blocks");
    match dtype.row().codec {
        Codec::Own { dequantize, .. } => dequantize(bytes),
        Codec::Candle(dtype) => {
            let count = bytes.len() / block_bytes * weights;
            match dtype.from_data(bytes.into()).dequantize(count) {
                Ok(CpuStorage::F32(values)) => values,
                other => unreachable!("candle dequantizes to f32: {other:?}"),
            }
        }
    }
}
