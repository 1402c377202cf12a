//! Values of GGUF metadata as numbers and texts.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

pub(super) const TEXT: u32 = 8;
pub(super) const ARRAY: u32 = 9;

pub(super) type Metadata = HashMap<String, Value>;

/// The number of a value's type (`gguf_type`).
pub(super) fn value_kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => TEXT,
        Value::Array(_) => ARRAY,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

/// A value in a message.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => format!("`{v}`"),
        other => integer(other).map_or("an array".into(), |v| v.to_string()),
    }
}

/// The value of an integer of any width.
fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        _ => return None,
    })
}

pub(super) fn token_id(value: &Value) -> Option<u32> {
    integer(value).and_then(|id| u32::try_from(id).ok())
}

/// The value of a key as an unsigned integer; `None` without the key.
///
/// # Errors
/// When the value is something else.
pub(super) fn unsigned(metadata: &Metadata, key: &str) -> Result<Option<u64>, String> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let number = integer(value).and_then(|number| u64::try_from(number).ok());
    let wrong = || format!("`{key}` is {}, not an unsigned integer", display(value));
    number.map(Some).ok_or_else(wrong)
}

/// The value of a key as a number; `None` without the key.
///
/// # Errors
/// When the value is something else.
pub(super) fn number(metadata: &Metadata, key: &str) -> Result<Option<f64>, String> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    Ok(Some(match value {
        Value::F32(v) => decimal(*v),
        Value::F64(v) => *v,
        other => integer(other)
            .ok_or_else(|| format!("`{key}` is {}, not a number", display(other)))?
            as f64,
    }))
}

/// The f64 of an f32's decimal text: 1e-6 stored in 32 bits becomes 1e-6.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
