//! The header of a GGUF file: its keys and the table of its tensors. Nothing in it is believed:
//! every count, length, offset and name is held against the file before memory is taken for it.

use std::collections::HashMap;
use std::io::Read;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;

use crate::model::weights::row_bytes;

/// The first bytes of a file.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// Where data begin if no key says otherwise: at a multiple of so many bytes.
const ALIGNMENT: u64 = 32;

/// Longest text, in bytes: chat templates have some ten thousand.
const LONGEST: u64 = 1 << 26;

/// Most weights of a tensor: their bytes are counted in 64 bits.
const MOST_WEIGHTS: usize = 1 << 58;

/// ggml's names of tensor types, by their number (`ggml_type`); an empty one was never in use.
#[rustfmt::skip]
const TYPES: [&str; 43] = [
    "f32", "f16", "q4_0", "q4_1", "q4_2", "q4_3", "q5_0", "q5_1", "q8_0", "q8_1", "q2_k", "q3_k",
    "q4_k", "q5_k", "q6_k", "q8_k", "iq2_xxs", "iq2_xs", "iq3_xxs", "iq1_s", "iq4_nl", "iq3_s",
    "iq2_s", "iq4_xs", "i8", "i16", "i32", "i64", "f64", "iq1_m", "bf16", "q4_0_4_4", "q4_0_4_8",
    "q4_0_8_8", "tq1_0", "tq2_0", "iq4_nl_4_4", "iq4_nl_4_8", "iq4_nl_8_8", "mxfp4", "nvfp4",
    "q1_0", "q2_0",
];

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Problem {
    /// It contradicts itself, the format or the file.
    Invalid(String),
    /// It is sound, and asks for what is not implemented.
    Unsupported(String),
}

impl From<String> for Problem {
    fn from(why: String) -> Self {
        Problem::Invalid(why)
    }
}

/// A tensor of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// `[out, in]`, or `[n]`.
    pub(super) shape: Vec<usize>,
    /// How it is stored.
    pub(super) dtype: GgmlDType,
    /// Its first byte in the file.
    pub(super) at: u64,
    /// How many it has.
    pub(super) bytes: u64,
}

/// Keys and tensors of one file.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Values by key. Of arrays only the tokenizer's have their elements; the others are empty.
    pub(super) metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, Entry>,
}

/// Reads the header of a file of `size` bytes.
///
/// # Errors
/// When it is cut off, or anything in it cannot be.
pub(super) fn read(reader: impl Read, size: u64) -> Result<Header, Problem> {
    let mut reader = Reader { inner: reader, at: 0, size };
    if reader.array::<4>()? != MAGIC {
        return Err(Problem::Invalid("it does not begin with `GGUF`".into()));
    }
    match reader.u32()? {
        2 | 3 => {}
        version @ (0x0200_0000 | 0x0300_0000) => {
            let version = version.swap_bytes();
            let what = format!("big-endian GGUF of version {version}; convert it to little-endian");
            return Err(Problem::Unsupported(what));
        }
        version => {
            let what = format!("GGUF of version {version}; known are 2 and 3: convert the model");
            return Err(Problem::Unsupported(what));
        }
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    // A key takes at least its length, its type and a byte; a tensor its length, the number of its
    // dimensions, its type and its offset.
    let needed = keys.saturating_mul(8 + 4 + 1).saturating_add(tensors.saturating_mul(8 + 4 + 12));
    if needed > reader.left() {
        let left = reader.left();
        let why = format!(
            "its header claims {tensors} tensors and {keys} keys, in {left} bytes; download it again"
        );
        return Err(Problem::Invalid(why));
    }
    let mut header = Header::default();
    for _ in 0..keys {
        let key = reader.text("a key")?;
        let kind = reader.u32()?;
        let value = reader.value(kind, &key)?;
        if header.metadata.contains_key(&key) {
            return Err(Problem::Invalid(format!("the key `{key}` stands twice in its header")));
        }
        header.metadata.insert(key, value);
    }
    let alignment = alignment(&header.metadata)?;
    let mut offsets = Vec::new();
    for _ in 0..tensors {
        let name = reader.text("the name of a tensor")?;
        let (entry, offset) = reader.tensor(&name)?;
        if !offset.is_multiple_of(alignment) {
            let why = format!("tensor `{name}` is at {offset}, no multiple of {alignment}");
            return Err(Problem::Invalid(why));
        }
        if header.tensors.contains_key(&name) {
            return Err(Problem::Invalid(format!(
                "the tensor `{name}` stands twice in its header"
            )));
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
            let (bytes, at) = (entry.bytes, data.saturating_add(*offset));
            return Err(Problem::Invalid(format!(
                "the file is cut off: tensor `{name}` needs {bytes} bytes at {at}, the file has \
                 {size}; download it again"
            )));
        };
        entry.at = data + offset;
        if let Some((_, other)) = before.filter(|(before, _)| *before > entry.at) {
            return Err(Problem::Invalid(format!("the tensors `{other}` and `{name}` overlap")));
        }
        before = Some((end, name));
    }
    Ok(header)
}

/// A power of two, as llama.cpp has it.
fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, String> {
    let wrong = |value: &Value| {
        format!("`general.alignment` is {}, which is no power of two", plain(value))
    };
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Value::U32(bytes)) if bytes.is_power_of_two() => Ok(u64::from(*bytes)),
        Some(value) => Err(wrong(value)),
    }
}

/// A value as a person writes it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => format!("`{v}`"),
        Value::Array(_) => "an array".into(),
    }
}

fn dtype(number: u32) -> Option<GgmlDType> {
    Some(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        9 => GgmlDType::Q8_1,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Bytes of a value of a type (`gguf_type`), of a text at least; `None` for arrays and unknown
/// ones.
fn value_bytes(kind: u32) -> Option<u64> {
    [1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8].get(kind as usize).copied().filter(|bytes| *bytes > 0)
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Knows how many bytes are left, so that no claim is larger.
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
        let cut = || format!("its header goes on after byte {at}, the file ends at {size}");
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
            let part = left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    /// The length of a text that the file can hold.
    fn length(&mut self, what: &str) -> Result<u64, String> {
        let length = self.u64()?;
        if length > self.left().min(LONGEST) {
            let left = self.left();
            return Err(format!("{what} is said to have {length} bytes, {left} are left"));
        }
        Ok(length)
    }

    /// A text. Some files end theirs with zeros, and some have bytes that are no UTF-8.
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
                [other] => return Err(format!("`{key}` is neither true nor false, but {other}")),
            },
            TEXT => Value::String(self.text(&format!("`{key}`"))?),
            ARRAY => Value::Array(self.elements(key)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("`{key}` is of type {other}, which does not exist")),
        })
    }

    /// The elements of an array if they are kept. They take some times the memory that the file has
    /// of them, so those that nobody asks for are only passed over.
    fn elements(&mut self, key: &str) -> Result<Vec<Value>, String> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let Some(bytes) = value_bytes(kind) else {
            return Err(format!("`{key}` is an array of type {kind}; known are plain values"));
        };
        if count.saturating_mul(bytes) > self.left() {
            let left = self.left();
            return Err(format!("`{key}` is said to have {count} elements, in {left} bytes"));
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

    /// A tensor but for its place, and its offset in the data.
    fn tensor(&mut self, name: &str) -> Result<(Entry, u64), Problem> {
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            let why = format!("tensor `{name}` has {dimensions} dimensions, not 1 to 4");
            return Err(Problem::Invalid(why));
        }
        let mut dims = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        dims.reverse(); // The file begins with the one that is contiguous.
        let (number, offset) = (self.u32()?, self.u64()?);
        let impossible = || format!("tensor `{name}` has the impossible shape {dims:?}");
        let sizes = dims.iter().map(|&dim| usize::try_from(dim).ok().filter(|dim| *dim > 0));
        let shape = sizes.collect::<Option<Vec<usize>>>().ok_or_else(impossible)?;
        let count = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let count = count.filter(|count| *count <= MOST_WEIGHTS).ok_or_else(impossible)?;
        let Some(dtype) = dtype(number) else {
            let known = TYPES.get(number as usize);
            let what = known.map_or(format!("number {number}"), |name| format!("`{name}`"));
            return Err(Problem::Unsupported(format!(
                "tensor `{name}` of type {what}; known are f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, \
                 q8_0 and q2_k to q6_k: take such a quantisation of the model"
            )));
        };
        let columns = *shape.last().expect("it has a dimension");
        let bytes = row_bytes(dtype, columns)
            .and_then(|row| (count / columns).checked_mul(row))
            .ok_or_else(impossible)?;
        Ok((Entry { shape, dtype, at: 0, bytes: bytes as u64 }, offset))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::config::Config;
    use crate::model::{fuzz, gguf};

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

    fn problem(bytes: &[u8]) -> String {
        match read(bytes, bytes.len() as u64).unwrap_err() {
            Problem::Invalid(why) => why,
            Problem::Unsupported(what) => format!("unsupported {what}"),
        }
    }

    #[test]
    fn tensors_have_their_place_in_the_file() {
        let bytes = file(
            &[
                number("general.alignment", 64),
                key("x.flags", ARRAY, &[7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            ],
            &[tensor("b", &[4], 0, 64), tensor("a", &[4, 3], 1, 0)],
        );
        let header = read(&bytes[..], bytes.len() as u64).unwrap();
        let (a, b) = (&header.tensors["a"], &header.tensors["b"]);
        assert_eq!((a.shape.as_slice(), a.dtype, a.bytes), (&[3, 4][..], GgmlDType::F16, 24));
        assert_eq!((b.shape.as_slice(), b.dtype, b.bytes), (&[4][..], GgmlDType::F32, 16));
        assert_eq!((a.at % 64, b.at - a.at), (0, 64));
        assert!(matches!(&header.metadata["x.flags"], Value::Array(kept) if kept.is_empty()));
    }

    #[test]
    fn what_contradicts_itself_or_the_file_is_refused_by_name() {
        let good = tensor("a", &[32], 0, 0);
        let with = |tensor: Vec<u8>| file(&[], &[good.clone(), tensor]);
        let array = |kind: u32, count: u64| {
            [&kind.to_le_bytes()[..], &count.to_le_bytes(), &[0; 16]].concat()
        };
        for (bytes, says) in [
            (b"GGML\x03\0\0\0".to_vec(), "it does not begin with `GGUF`"),
            (b"GGUF\x01\0\0\0".to_vec(), "unsupported GGUF of version 1; known are 2 and 3"),
            (b"GGUF\0\0\0\x03".to_vec(), "unsupported big-endian GGUF of version 3; convert it"),
            (b"GGUF\x03\0\0\0\x01".to_vec(), "goes on after byte 8, the file ends at 9; download"),
            (
                file(&[number("a", 1), number("a", 1)], &[]),
                "the key `a` stands twice in its header",
            ),
            (file(&[key("a", 7, &[2])], &[]), "`a` is neither true nor false, but 2"),
            (file(&[key("a", 13, &[2])], &[]), "`a` is of type 13, which does not exist"),
            (file(&[key("a", 9, &array(9, 1))], &[]), "`a` is an array of type 9; known are plain"),
            (
                file(&[key("a", 9, &array(0, 1 << 60))], &[]),
                "`a` is said to have 1152921504606846976 elements",
            ),
            (
                file(&[key("a", 8, &(1u64 << 40).to_le_bytes())], &[]),
                "`a` is said to have 1099511627776 bytes",
            ),
            (with(good.clone()), "the tensor `a` stands twice in its header"),
            (with(tensor("b", &[32], 0, 0)), "the tensors `a` and `b` overlap"),
            (with(tensor("b", &[32], 0, 96)), "the tensors `a` and `b` overlap"),
            (with(tensor("b", &[8], 0, 129)), "tensor `b` is at 129, no multiple of 32"),
            (with(tensor("b", &[64], 0, 128)), "tensor `b` needs 256 bytes at "),
            (with(tensor("b", &[8], 0, 1 << 63)), "the file is cut off: tensor `b` needs 32"),
            (with(tensor("b", &[], 0, 128)), "tensor `b` has 0 dimensions, not 1 to 4"),
            (with(tensor("b", &[1; 5], 0, 128)), "tensor `b` has 5 dimensions, not 1 to 4"),
            (with(tensor("b", &[0, 256], 0, 128)), "tensor `b` has the impossible shape [256, 0]"),
            (with(tensor("b", &[1 << 62], 0, 128)), "tensor `b` has the impossible shape [46"),
            (with(tensor("b", &[1 << 40, 1 << 40], 0, 128)), "tensor `b` has the impossible shape"),
            (with(tensor("b", &[33], 8, 128)), "tensor `b` has the impossible shape [33]"),
            (
                with(tensor("b", &[256], 23, 128)),
                "unsupported tensor `b` of type `iq4_xs`; known are f32, f16, bf16, q4_0, q4_1, \
                 q5_0, q5_1, q8_0 and q2_k to q6_k",
            ),
            (with(tensor("b", &[256], 39, 128)), "tensor `b` of type `mxfp4`; known are "),
            (with(tensor("b", &[256], 99, 128)), "tensor `b` of type number 99; known are "),
        ] {
            let why = problem(&bytes);
            assert!(why.contains(says), "`{says}` is not in: {why}");
        }
        for wrong in [0, 3, 48] {
            let alignment = number("general.alignment", wrong);
            // Behind another key, and as the last.
            let why = problem(&file(&[number("a", 1), alignment], std::slice::from_ref(&good)));
            assert_eq!(why, format!("`general.alignment` is {wrong}, which is no power of two"));
        }
        let other = key("general.alignment", 10, &32u64.to_le_bytes());
        assert!(problem(&file(&[other], &[])).starts_with("`general.alignment` is 32, which"));
    }

    #[test]
    fn no_changed_header_panics() {
        let config = Config::named("nano").unwrap();
        let mut metadata = gguf::shape_metadata(&config, "nano");
        metadata.extend(gguf::vocabulary_metadata(&fuzz::vocabulary()));
        let mut bytes = Vec::new();
        {
            let all: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
            let mut file = std::io::Cursor::new(&mut bytes);
            candle_core::quantized::gguf_file::write(&mut file, &all, &[]).unwrap();
        }
        let tensors = [tensor("token_embd.weight", &[256, 8], 8, 0), tensor("b", &[256], 0, 4096)];
        bytes.truncate(header_end(&bytes));
        bytes[8] = tensors.len() as u8; // How many the header claims.
        bytes.extend(tensors.concat());
        let size = (bytes.len() + 32 + 8192) as u64;
        read(&bytes[..], size).unwrap();
        fuzz::each(&bytes, fuzz::Mutator::bytes, |bytes| {
            let Ok(header) = read(bytes, size) else { return };
            let rows = header.tensors.values().next().map_or(0, |entry| entry.shape[0]);
            let mut notes = Vec::new();
            let _ = Config::from_gguf(Path::new("x"), &header.metadata, rows, true, &mut notes);
        });
    }

    /// Where the keys of a file without tensors end.
    fn header_end(bytes: &[u8]) -> usize {
        let mut reader = Reader { inner: bytes, at: 0, size: bytes.len() as u64 };
        let _ = reader.skip(16);
        let keys = reader.u64().unwrap();
        for _ in 0..keys {
            let key = reader.text("a key").unwrap();
            let kind = reader.u32().unwrap();
            reader.value(kind, &key).unwrap();
        }
        reader.at as usize
    }
}
