//! The header of a GGUF file: metadata and tensor table. Nothing in it is trusted: every count,
//! length, offset and name is checked against the file before memory is allocated for it.

use std::collections::HashMap;
use std::io::Read;

use candle_core::quantized::gguf_file::Value;

use super::value::{ARRAY, Metadata, TEXT, display};
use crate::kernel::GgmlType;
use crate::model::weights::row_bytes;

/// The first bytes of a file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// Alignment of the data without `general.alignment`, in bytes.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// The longest text in bytes. Chat templates have some ten thousand.
const MAX_TEXT: u64 = 1 << 26;

/// The most weights of a tensor, so that their bytes fit 64 bits.
const MAX_WEIGHTS: usize = 1 << 58;

/// ggml's names of tensor types, by number (`ggml_type`): those that are not supported are refused
/// by name.
#[rustfmt::skip]
const TYPES: [&str; 43] = [
    "f32", "f16", "q4_0", "q4_1", "q4_2", "q4_3", "q5_0", "q5_1", "q8_0", "q8_1", "q2_k", "q3_k",
    "q4_k", "q5_k", "q6_k", "q8_k", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq1_s", "iq4_nl", "iq3_s",
    "iq2_s", "iq4_xs", "i8", "i16", "i32", "i64", "f64", "iq1_m", "bf16", "q4_0_4_4", "q4_0_4_8",
    "q4_0_8_8", "tq1_0", "tq2_0", "iq4_nl_4_4", "iq4_nl_4_8", "iq4_nl_8_8", "mxfp4", "nvfp4",
    "q1_0", "q2_0",
];

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It is damaged: it violates the format, or does not fit the file.
    Invalid(String),
    /// It is valid, and needs something that is not implemented.
    Unsupported(String),
}

impl<T: Into<String>> From<T> for HeaderError {
    fn from(why: T) -> Self {
        HeaderError::Invalid(why.into())
    }
}

/// A row of the tensor table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorEntry {
    /// `[out, in]`, or `[n]`.
    pub(super) shape: Vec<usize>,
    pub(super) dtype: GgmlType,
    /// From the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Metadata and tensors of one file.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Arrays are empty, except those of the tokenizer.
    pub(super) metadata: Metadata,
    pub(super) tensors: HashMap<String, TensorEntry>,
}

/// Reads the header of a file of `size` bytes.
///
/// # Errors
/// When it is truncated, invalid or not supported.
pub(super) fn read(reader: impl Read, size: u64) -> Result<Header, HeaderError> {
    let mut reader = Reader { inner: reader, at: 0, size };
    if reader.array::<4>()? != MAGIC {
        return Err("it does not begin with `GGUF`".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        version @ (0x0200_0000 | 0x0300_0000) => {
            let version = version.swap_bytes();
            let what = format!("big-endian GGUF of version {version}; convert it to little-endian");
            return Err(HeaderError::Unsupported(what));
        }
        version => {
            let what = format!("GGUF of version {version}; supported: 2 and 3; convert the model");
            return Err(HeaderError::Unsupported(what));
        }
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    // Lower bounds: a key has a length, a type and a byte; a tensor has the length of its name, the
    // number of dimensions, a type and an offset.
    let needed = keys.saturating_mul(8 + 4 + 1).saturating_add(tensors.saturating_mul(8 + 4 + 12));
    if needed > reader.left() {
        let left = reader.left();
        return Err(format!(
            "its header claims {tensors} tensors and {keys} keys in {left} bytes; download it again"
        )
        .into());
    }
    let mut header = Header::default();
    for _ in 0..keys {
        let key = reader.text("a key")?;
        let kind = reader.u32()?;
        let value = reader.value(kind, &key)?;
        if header.metadata.contains_key(&key) {
            return Err(format!("the key `{key}` is twice in its header").into());
        }
        header.metadata.insert(key, value);
    }
    let alignment = alignment(&header.metadata)?;
    let mut offsets = Vec::new();
    for _ in 0..tensors {
        let name = reader.text("the name of a tensor")?;
        let (entry, offset) = reader.tensor(&name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(
                format!("tensor `{name}` is at {offset}, not a multiple of {alignment}").into()
            );
        }
        if header.tensors.contains_key(&name) {
            return Err(format!("the tensor `{name}` is twice in its header").into());
        }
        offsets.push((offset, name.clone()));
        header.tensors.insert(name, entry);
    }
    let data = reader.at.next_multiple_of(alignment);
    offsets.sort();
    let mut before: Option<(u64, &str)> = None;
    for (offset, name) in &offsets {
        let entry = header.tensors.get_mut(name).expect("each was inserted");
        let end = offset.checked_add(entry.bytes).and_then(|end| end.checked_add(data));
        let Some(end) = end.filter(|end| *end <= size) else {
            let (bytes, start) = (entry.bytes, data.saturating_add(*offset));
            return Err(format!(
                "the file is truncated: tensor `{name}` has {bytes} bytes at {start}, the file has \
                 {size}; download it again"
            )
            .into());
        };
        entry.offset = data + offset;
        if let Some((_, other)) = before.filter(|(before, _)| *before > entry.offset) {
            return Err(format!("the tensors `{other}` and `{name}` overlap").into());
        }
        before = Some((end, name));
    }
    Ok(header)
}

/// The alignment of the data: a power of two, as in llama.cpp.
fn alignment(metadata: &Metadata) -> Result<u64, String> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(bytes)) if bytes.is_power_of_two() => Ok(u64::from(*bytes)),
        Some(value) => {
            Err(format!("`general.alignment` is {}, not a power of two", display(value)))
        }
    }
}

/// Bytes of a value of a type (`gguf_type`), for a text the least; `None` for arrays and unknown
/// types.
fn value_bytes(kind: u32) -> Option<u64> {
    [1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8].get(kind as usize).copied().filter(|bytes| *bytes > 0)
}

/// Tracks how many bytes of the file are left.
struct Reader<R> {
    inner: R,
    at: u64,
    size: u64,
}

impl<R: Read> Reader<R> {
    fn left(&self) -> u64 {
        self.size.saturating_sub(self.at)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        let (at, size) = (self.at, self.size);
        let cut = || format!("its header continues after byte {at}, the file ends at {size}");
        if buffer.len() as u64 > self.left() {
            return Err(format!("{}; download it again", cut()));
        }
        self.inner.read_exact(buffer).map_err(|error| format!("{}: {error}", cut()))?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), String> {
        let mut buffer = [0; 4096];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..count])?;
            left -= count as u64;
        }
        Ok(())
    }

    /// The length of a text, checked against the file.
    fn length(&mut self, what: &str) -> Result<u64, String> {
        let length = self.u64()?;
        if length > self.left().min(MAX_TEXT) {
            let left = self.left();
            return Err(format!("{what} claims {length} bytes, {left} are left"));
        }
        Ok(length)
    }

    /// A text. Some files pad texts with zeros, some have invalid UTF-8.
    fn text(&mut self, what: &str) -> Result<String, String> {
        let mut bytes = vec![0; self.length(what)? as usize];
        self.fill(&mut bytes)?;
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>()?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("`{key}` is {other}, neither true nor false")),
            },
            TEXT => Value::String(self.text(&format!("`{key}`"))?),
            ARRAY => Value::Array(self.elements(key)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("`{key}` has the unknown type {other}")),
        })
    }

    /// The elements of an array of the tokenizer. In memory they take several times their bytes in
    /// the file, so other arrays are skipped.
    fn elements(&mut self, key: &str) -> Result<Vec<Value>, String> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let Some(bytes) = value_bytes(kind) else {
            return Err(format!("`{key}` is an array of the unsupported type {kind}"));
        };
        if count.saturating_mul(bytes) > self.left() {
            let left = self.left();
            return Err(format!("`{key}` claims {count} elements in {left} bytes"));
        }
        if key.starts_with("tokenizer.") && bytes >= 4 {
            return (0..count).map(|_| self.value(kind, key)).collect();
        }
        if kind != TEXT {
            self.skip(count * bytes)?;
            return Ok(Vec::new());
        }
        for _ in 0..count {
            let length = self.length(&format!("`{key}`"))?;
            self.skip(length)?;
        }
        Ok(Vec::new())
    }

    /// A tensor without its offset in the file, and its offset in the data.
    fn tensor(&mut self, name: &str) -> Result<(TensorEntry, u64), HeaderError> {
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(format!("tensor `{name}` has {dimensions} dimensions, not 1 to 4").into());
        }
        let mut dims = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        dims.reverse(); // The file begins with the contiguous dimension.
        let (number, offset) = (self.u32()?, self.u64()?);
        let impossible = || format!("tensor `{name}` has the impossible shape {dims:?}");
        let sizes = dims.iter().map(|&dim| usize::try_from(dim).ok().filter(|dim| *dim > 0));
        let shape = sizes.collect::<Option<Vec<usize>>>().ok_or_else(impossible)?;
        let count = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let count = count.filter(|count| *count <= MAX_WEIGHTS).ok_or_else(impossible)?;
        let Some(dtype) = GgmlType::from_number(number) else {
            let known = TYPES.get(number as usize);
            let what = known.map_or(format!("number {number}"), |name| format!("`{name}`"));
            return Err(HeaderError::Unsupported(format!(
                "tensor `{name}` of type {what}; supported: f32, f16, bf16, q4_0, q4_1, q5_0, \
                 q5_1, q8_0, q2_k to q6_k, iq4_nl, iq4_xs and mxfp4; use such a quantization of the model"
            )));
        };
        let columns = *shape.last().expect("it has a dimension");
        let bytes = row_bytes(dtype, columns)
            .and_then(|row| (count / columns).checked_mul(row))
            .ok_or_else(impossible)?;
        Ok((TensorEntry { shape, dtype, offset: 0, bytes: bytes as u64 }, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::super::write::{Tensor, write_to};
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [text(name), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
    }

    fn number(name: &str, value: u32) -> Vec<u8> {
        key(name, 4, &value.to_le_bytes())
    }

    fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let count = (dims.len() as u32).to_le_bytes();
        let dims = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect::<Vec<u8>>();
        let rest = [&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat();
        [text(name), count.to_vec(), dims, rest].concat()
    }

    /// A file with these keys and tensors, and 256 bytes of data.
    fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
        let counts = [tensors.len() as u64, keys.len() as u64].map(u64::to_le_bytes).concat();
        let head = [&b"GGUF\x03\0\0\0"[..], &counts, &keys.concat(), &tensors.concat()].concat();
        let data = head.len().next_multiple_of(32) - head.len() + 256;
        [head, vec![0; data]].concat()
    }

    #[test]
    fn values_of_every_type_are_read_as_they_were_written() {
        let texts = ["one", ""].map(|text| Value::String(text.into())).to_vec();
        let metadata: Vec<(String, Value)> = [
            Value::U8(1),
            Value::I8(-1),
            Value::U16(2),
            Value::I16(-2),
            Value::U32(3),
            Value::I32(-3),
            Value::U64(4),
            Value::I64(-4),
            Value::F32(0.5),
            Value::F64(-0.25),
            Value::Bool(true),
            Value::String("text".into()),
            Value::Array(texts),
            Value::Array(vec![Value::I32(-7), Value::I32(8)]),
            Value::Array(Vec::new()),
        ]
        .into_iter()
        .enumerate()
        .map(|(i, value)| (format!("tokenizer.{i}"), value))
        .collect();
        let tensor = |name: &str, dtype: GgmlType, shape: &[usize], bytes: usize| {
            let bytes = (0..bytes as u8).collect();
            Tensor { name: name.into(), shape: shape.into(), dtype, bytes }
        };
        let tensors = [
            tensor("a", GgmlType::MXFP4, &[2, 64], 68),
            tensor("b", GgmlType::F32, &[3], 12),
            tensor("c", GgmlType::IQ4XS, &[1, 256], 136),
        ];
        let mut file = Vec::new();
        write_to(&mut file, &metadata, &tensors).unwrap();
        let header = read(&file[..], file.len() as u64).unwrap();
        assert_eq!(header.metadata.len(), metadata.len());
        for (key, value) in metadata {
            assert_eq!(format!("{:?}", header.metadata[&key]), format!("{value:?}"));
        }
        for tensor in tensors {
            let entry = &header.tensors[&tensor.name];
            assert_eq!((&entry.shape, entry.dtype), (&tensor.shape, tensor.dtype));
            assert_eq!(file[entry.offset as usize..][..entry.bytes as usize], tensor.bytes);
            assert_eq!(entry.offset % DEFAULT_ALIGNMENT, 0);
        }
    }

    fn problem(bytes: &[u8]) -> String {
        match read(bytes, bytes.len() as u64).unwrap_err() {
            HeaderError::Invalid(why) => why,
            HeaderError::Unsupported(what) => format!("unsupported {what}"),
        }
    }

    #[test]
    fn tensors_have_offsets_in_the_file() {
        let bytes = file(
            &[
                number("general.alignment", 64),
                key("x.flags", ARRAY, &[7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            ],
            &[tensor("b", &[4], 0, 64), tensor("a", &[4, 3], 1, 0)],
        );
        let header = read(&bytes[..], bytes.len() as u64).unwrap();
        let (a, b) = (&header.tensors["a"], &header.tensors["b"]);
        assert_eq!((a.shape.as_slice(), a.dtype, a.bytes), (&[3, 4][..], GgmlType::F16, 24));
        assert_eq!((b.shape.as_slice(), b.dtype, b.bytes), (&[4][..], GgmlType::F32, 16));
        assert_eq!((a.offset % 64, b.offset - a.offset), (0, 64));
        assert!(
            matches!(&header.metadata["x.flags"], Value::Array(elements) if elements.is_empty())
        );
    }

    #[test]
    fn supported_types_have_the_names_of_their_numbers() {
        for (number, name) in TYPES.iter().enumerate() {
            if let Some(dtype) = GgmlType::from_number(number as u32) {
                assert_eq!(dtype.name(), *name);
            }
        }
        assert_eq!(GgmlType::from_number(TYPES.len() as u32), None);
    }

    #[test]
    fn an_invalid_header_is_refused_by_name() {
        let good = tensor("a", &[32], 0, 0);
        let with = |tensor: Vec<u8>| file(&[], &[good.clone(), tensor]);
        let array = |kind: u32, count: u64| {
            [&kind.to_le_bytes()[..], &count.to_le_bytes(), &[0; 16]].concat()
        };
        for (bytes, expected) in [
            (b"GGML\x03\0\0\0".to_vec(), "it does not begin with `GGUF`"),
            (b"GGUF\x01\0\0\0".to_vec(), "unsupported GGUF of version 1; supported: 2 and 3"),
            (b"GGUF\0\0\0\x03".to_vec(), "unsupported big-endian GGUF of version 3; convert it"),
            (
                b"GGUF\x03\0\0\0\x01".to_vec(),
                "continues after byte 8, the file ends at 9; download",
            ),
            (file(&[number("a", 1), number("a", 1)], &[]), "the key `a` is twice in its header"),
            (file(&[key("a", 7, &[2])], &[]), "`a` is 2, neither true nor false"),
            (file(&[key("a", 13, &[2])], &[]), "`a` has the unknown type 13"),
            (file(&[key("a", 9, &array(9, 1))], &[]), "`a` is an array of the unsupported type 9"),
            (
                file(&[key("a", 9, &array(0, 1 << 60))], &[]),
                "`a` claims 1152921504606846976 elements",
            ),
            (
                file(&[key("a", 8, &(1u64 << 40).to_le_bytes())], &[]),
                "`a` claims 1099511627776 bytes",
            ),
            (with(good.clone()), "the tensor `a` is twice in its header"),
            (with(tensor("b", &[32], 0, 0)), "the tensors `a` and `b` overlap"),
            (with(tensor("b", &[32], 0, 96)), "the tensors `a` and `b` overlap"),
            (with(tensor("b", &[8], 0, 129)), "tensor `b` is at 129, not a multiple of 32"),
            (with(tensor("b", &[64], 0, 128)), "tensor `b` has 256 bytes at "),
            (with(tensor("b", &[8], 0, 1 << 63)), "the file is truncated: tensor `b` has 32"),
            (with(tensor("b", &[], 0, 128)), "tensor `b` has 0 dimensions, not 1 to 4"),
            (with(tensor("b", &[1; 5], 0, 128)), "tensor `b` has 5 dimensions, not 1 to 4"),
            (with(tensor("b", &[0, 256], 0, 128)), "tensor `b` has the impossible shape [256, 0]"),
            (with(tensor("b", &[1 << 62], 0, 128)), "tensor `b` has the impossible shape [46"),
            (with(tensor("b", &[1 << 40, 1 << 40], 0, 128)), "tensor `b` has the impossible shape"),
            (with(tensor("b", &[33], 8, 128)), "tensor `b` has the impossible shape [33]"),
            (
                with(tensor("b", &[256], 21, 128)),
                "unsupported tensor `b` of type `iq3_s`; supported: f32, f16, bf16, q4_0, q4_1, \
                 q5_0, q5_1, q8_0, q2_k to q6_k, iq4_nl, iq4_xs and mxfp4; use",
            ),
            (with(tensor("b", &[256], 40, 128)), "tensor `b` of type `nvfp4`; supported: "),
            (with(tensor("b", &[128], 23, 128)), "tensor `b` has the impossible shape [128]"),
            (with(tensor("b", &[256], 99, 128)), "tensor `b` of type number 99; supported: "),
        ] {
            let why = problem(&bytes);
            assert!(why.contains(expected), "`{expected}` is not in: {why}");
        }
        for wrong in [0, 3, 48] {
            let alignment = number("general.alignment", wrong);
            let why = problem(&file(&[number("a", 1), alignment], std::slice::from_ref(&good)));
            assert_eq!(why, format!("`general.alignment` is {wrong}, not a power of two"));
        }
        let other = key("general.alignment", 10, &32u64.to_le_bytes());
        assert!(problem(&file(&[other], &[])).starts_with("`general.alignment` is 32, not"));
    }
}
