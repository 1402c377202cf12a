//! Python for templates: methods of strings, lists and dictionaries, and `json.dumps` as
//! transformers calls it. A call whose result would be too large is an error.

use std::io;

use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::Formatter;

type Result<T> = std::result::Result<T, Error>;

/// The longest result of one call in bytes.
const MAX_TEXT: usize = 16 << 20;
/// The deepest indent of JSON, in spaces.
const MAX_INDENT: usize = 64;

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
    let text = |at: usize| args.get(at).and_then(Value::as_str);
    if let Some(this) = value.as_str() {
        match (name, text(0)) {
            ("replace", Some(old)) => check_replace(this, old, text(1).unwrap_or_default())?,
            ("join", _) => {
                if let Some(items) = args.first() {
                    check_join(items, this)?;
                }
            }
            ("format", _) => check_format(this)?,
            ("removeprefix", Some(start)) => {
                return Ok(this.strip_prefix(start).unwrap_or(this).into());
            }
            ("removesuffix", Some(end)) => {
                return Ok(this.strip_suffix(end).unwrap_or(this).into());
            }
            ("partition", Some(mark)) => {
                let (before, mark, after) = this
                    .split_once(mark)
                    .map_or((this, "", ""), |(before, after)| (before, mark, after));
                return Ok(Tuple::from([before, mark, after].map(Value::from)).into());
            }
            ("rpartition", Some(mark)) => {
                let (before, mark, after) = this
                    .rsplit_once(mark)
                    .map_or(("", "", this), |(before, after)| (before, mark, after));
                return Ok(Tuple::from([before, mark, after].map(Value::from)).into());
            }
            ("rsplit", Some(mark)) if !mark.is_empty() => {
                let limit = args.get(1).and_then(Value::as_i64);
                let limit = limit.and_then(|limit| usize::try_from(limit).ok());
                let mut parts: Vec<&str> = match limit {
                    Some(limit) => this.rsplitn(limit.saturating_add(1), mark).collect(),
                    None => this.rsplit(mark).collect(),
                };
                parts.reverse();
                return Ok(parts.into_iter().collect());
            }
            _ => (),
        }
    }
    if name == "copy" && matches!(value.kind(), ValueKind::Map | ValueKind::Seq) {
        return Ok(value.clone()); // Values are immutable.
    }
    unknown_method_callback(state, value, name, args)
}

/// The filter `replace`.
pub(super) fn replace(value: String, old: &str, new: &str) -> Result<String> {
    check_replace(&value, old, new)?;
    Ok(value.replace(old, new))
}

/// The filter `join`.
pub(super) fn join(
    state: &mut State,
    items: Value,
    mark: Option<String>,
    attribute: Option<String>,
) -> Result<String> {
    let mark = mark.unwrap_or_default();
    let items = match attribute {
        None => items,
        Some(attribute) => {
            let args = [items, Kwargs::from_iter([("attribute", Value::from(attribute))]).into()];
            state.apply_filter("map", &args)?
        }
    };
    check_join(&items, &mark)?;
    let texts = items.try_iter()?.map(|item| item.to_string()).collect::<Vec<_>>();
    Ok(texts.join(&mark))
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn check_replace(text: &str, old: &str, new: &str) -> Result<()> {
    let times = text.matches(old).count();
    let size = times.saturating_mul(new.len()).saturating_add(text.len() - times * old.len());
    if size <= MAX_TEXT {
        return Ok(());
    }
    Err(invalid(format!(
        "the result of `replace` would have {size} bytes; the limit is {MAX_TEXT}"
    )))
}

fn check_join(items: &Value, mark: &str) -> Result<()> {
    let mut size = 0;
    for item in items.try_iter()? {
        size += mark.len() + item.as_str().map_or(1, str::len);
        if size > MAX_TEXT {
            return Err(invalid(format!(
                "the result of `join` would have more than {MAX_TEXT} bytes"
            )));
        }
    }
    Ok(())
}

/// Refuses widths of more than five digits.
fn check_format(text: &str) -> Result<()> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    if digits.is_none_or(|digits| digits < 6) {
        return Ok(());
    }
    Err(invalid("a width of more than five digits".into()))
}

/// `json.dumps` with the defaults of transformers: keys in their order, only necessary escapes.
pub(super) fn tojson(value: Value, options: Kwargs) -> Result<String> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    if let Some(indent) = indent.filter(|indent| *indent > MAX_INDENT) {
        return Err(invalid(format!("an indent of {indent}; the limit is {MAX_INDENT}")));
    }
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("`separators` needs two strings".into())),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let ensure_ascii = ensure_ascii == Some(true);
    let mut json = Vec::new();
    let formatter = PythonFormatter {
        indent,
        item_separator,
        key_separator,
        ensure_ascii,
        depth: 0,
        is_empty: true,
    };
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, formatter);
    let written = if sort_keys == Some(true) {
        // serde_json's own maps are sorted.
        serde_json::to_value(&value).and_then(|value| value.serialize(&mut serializer))
    } else {
        value.serialize(&mut serializer)
    };
    written.map_err(|err| invalid(format!("not JSON: {err}")))?;
    String::from_utf8(json).map_err(|err| invalid(format!("not JSON: {err}")))
}

/// Python's JSON layout.
struct PythonFormatter {
    indent: Option<usize>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    depth: usize,
    is_empty: bool,
}

impl PythonFormatter {
    fn begin<W: ?Sized + io::Write>(&mut self, out: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.is_empty = true;
        out.write_all(mark)
    }

    fn end<W: ?Sized + io::Write>(&mut self, out: &mut W, mark: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.is_empty {
            self.line(out)?;
        }
        self.is_empty = false;
        out.write_all(mark)
    }

    fn next<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item_separator.as_bytes())?;
        }
        self.is_empty = false;
        self.line(out)
    }

    fn line<W: ?Sized + io::Write>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(out, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for PythonFormatter {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key_separator.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        if !self.ensure_ascii {
            return out.write_all(text.as_bytes());
        }
        for c in text.chars() {
            if c.is_ascii() {
                write!(out, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}
