//! Writes values as Python does, because chat templates are written for Jinja on Python.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use crate::json::number;

/// Writes `None`, `True`, `False` and floats as Python does, and everything else as minijinja does.
pub(super) fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(float) => out.write_str(&repr(float)).map_err(Error::from),
            Err(_) => escape_formatter(out, state, value),
        },
        _ => escape_formatter(out, state, value),
    }
}

/// Whether a value is a text and not a [number] that is kept as one.
pub(super) fn is_string(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.starts_with(number::MARK))
}

/// Whether a value is a number, including a [number] that is kept as a text.
pub(super) fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
        || value.as_str().is_some_and(|text| text.starts_with(number::MARK))
}

/// Whether a value can be iterated over. `None` cannot, so that a template may ask before it takes a length.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Most spaces of an indent.
const WIDEST: usize = 1000;

/// Writes JSON as transformers' `tojson` does, which is
/// `json.dumps(value, ensure_ascii=False, indent=...)`.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                let width = usize::try_from(indent).ok().filter(|width| *width <= WIDEST);
                let wrong = || invalid(format!("an indent of at most {WIDEST} expected"));
                Some(" ".repeat(width.ok_or_else(wrong)?))
            }
        },
    };
    let default_separators = [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned);
    let [item, key] = match separators {
        None => default_separators,
        Some(pair) => pair.try_into().map_err(|_| invalid("separators must be two strings"))?,
    };
    let style = PythonStyle { indent, item, key, ensure_ascii, level: 0, filled: false, text: Text::Written };
    if !sort_keys {
        return write(state, value, style);
    }
    // The steps for the whole value are counted before it is copied.
    write(state, value, style.clone())?;
    let mut sorted = serde_json::to_value(value).map_err(|problem| invalid(problem.to_string()))?;
    sorted.sort_all_objects();
    write(state, &sorted, style)
}

/// Writes the JSON of a value, and counts steps as it is written, since a small value may have a long text.
fn write(state: &State, value: &impl Serialize, style: PythonStyle) -> Result<String, Error> {
    let mut text = Paid { state, text: Vec::new(), unpaid: 0 };
    let written = value.serialize(&mut Serializer::with_formatter(&mut text, style));
    written.map_err(|problem| invalid(problem.to_string()))?;
    String::from_utf8(text.text).map_err(|problem| invalid(problem.to_string()))
}

/// A writer that counts a step for every few bytes.
struct Paid<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    text: Vec<u8>,
    unpaid: usize,
}

/// Bytes of JSON that are written for one step.
const BYTES_PER_STEP: usize = 16;

impl io::Write for Paid<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unpaid += bytes.len();
        let steps = self.unpaid / BYTES_PER_STEP;
        self.state.consume_fuel(steps as u64).map_err(io::Error::other)?;
        self.unpaid -= steps * BYTES_PER_STEP;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", message.into()))
}

/// The layout of Python's `json.dumps`.
#[derive(Clone)]
struct PythonStyle {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    level: usize,
    /// Whether the innermost list or object has an entry.
    filled: bool,
    text: Text,
}

/// The state of writing a text.
#[derive(Clone, PartialEq)]
enum Text {
    /// Nothing of the text is written yet, not even its quote.
    Begun,
    /// The text is a number, which has no quotes.
    Number,
    Written,
}

impl PythonStyle {
    fn open<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.filled {
            self.new_line(out)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }

    fn separate<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.filled = true;
        self.new_line(out)
    }

    /// Writes the quote that a text begins with, unless it is written already.
    fn open_text<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        match std::mem::replace(&mut self.text, Text::Written) {
            Text::Begun => out.write_all(b"\""),
            Text::Number | Text::Written => Ok(()),
        }
    }

    fn new_line<W: ?Sized + io::Write>(&self, out: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| out.write_all(indent.as_bytes()))
    }
}

impl Formatter for PythonStyle {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.separate(out, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.separate(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(repr(value).as_bytes())
    }

    fn begin_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.text = Text::Begun;
        Ok(())
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        match std::mem::replace(&mut self.text, Text::Written) {
            Text::Begun => out.write_all(b"\"\""),
            Text::Number => Ok(()),
            Text::Written => out.write_all(b"\""),
        }
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.open_text(out)?;
        CompactFormatter.write_char_escape(out, escape)
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if let Some(number) = text.strip_prefix(number::MARK).filter(|_| self.text == Text::Begun) {
            self.text = Text::Number;
            return out.write_all(number.as_bytes());
        }
        self.open_text(out)?;
        for c in text.chars() {
            match c {
                _ if self.ensure_ascii && !c.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        write!(out, "\\u{unit:04x}")?;
                    }
                }
                _ => out.write_all(c.encode_utf8(&mut [0; 4]).as_bytes())?,
            }
        }
        Ok(())
    }
}

/// The `repr` of a Python float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn repr(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn dump(value: serde_json::Value, options: &[(&str, Value)]) -> String {
        let options = options.iter().map(|(name, value)| (*name, value.clone()));
        let environment = minijinja::Environment::new();
        let state = environment.empty_state();
        tojson(&state, &Value::from(Serde(value)), None, Kwargs::from_iter(options)).unwrap()
    }

    #[test]
    fn as_json_dumps_writes_it() {
        let value =
            json!({"a": [1, 2.0, 1e-7, 1e16, null, true], "ü": "<\"\n\u{7f}\u{1}>", "e": [], "o": {}});
        let expected = "{\"a\": [1, 2.0, 1e-07, 1e+16, null, true], \"ü\": \"<\\\"\\n\u{7f}\\u0001>\", \"e\": [], \"o\": {}}";
        assert_eq!(dump(value, &[]), expected);
    }

    #[test]
    fn options_of_json_dumps() {
        let value = json!({"b": [1], "a": {}});
        let indented = "{\n    \"b\": [\n        1\n    ],\n    \"a\": {}\n}";
        assert_eq!(dump(value.clone(), &[("indent", Value::from(4))]), indented);
        assert_eq!(dump(value, &[("sort_keys", Value::from(true))]), "{\"a\": {}, \"b\": [1]}");
        let separators = [("separators", Value::from(vec![",", ":"]))];
        assert_eq!(dump(json!({"a": [1, 2]}), &separators), "{\"a\":[1,2]}");
        let ascii = [("ensure_ascii", Value::from(true))];
        assert_eq!(dump(json!("ü😀"), &ascii), "\"\\u00fc\\ud83d\\ude00\"");
    }
}
