//! Python for templates: methods of strings that minijinja lacks, and `json.dumps` as transformers
//! calls it.

use std::io;

use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize as _;
use serde_json::ser::Formatter;

type Result<T> = std::result::Result<T, Error>;

/// Whether Python could iterate over the value; minijinja treats `none` as an empty list.
pub(super) fn is_iterable(value: Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Python methods that minijinja lacks.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value> {
    match (value.as_str(), name, args.first().and_then(Value::as_str)) {
        (Some(this), "removeprefix", Some(start)) => {
            Ok(this.strip_prefix(start).unwrap_or(this).into())
        }
        (Some(this), "removesuffix", Some(end)) => {
            Ok(this.strip_suffix(end).unwrap_or(this).into())
        }
        (Some(this), "rsplit", Some(mark)) if !mark.is_empty() => {
            let limit = args.get(1).and_then(Value::as_usize).unwrap_or(usize::MAX);
            let mut parts: Vec<&str> = this.rsplitn(limit.saturating_add(1), mark).collect();
            parts.reverse();
            Ok(parts.into_iter().collect())
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}

/// `json.dumps` as transformers calls it: keys in their order, only necessary escapes.
pub(super) fn tojson(value: Value) -> Result<String> {
    let mut json = Vec::new();
    let written =
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonFormatter));
    let invalid = |err: String| Error::new(ErrorKind::InvalidOperation, format!("not JSON: {err}"));
    written.map_err(|err| invalid(err.to_string()))?;
    String::from_utf8(json).map_err(|err| invalid(err.to_string()))
}

/// A space after every comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        out.write_all(if first { "" } else { ", " }.as_bytes())
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
}
