//! JSON as Python's `json.dumps` writes it.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use crate::python::float;

/// How values are written; by default as `json.dumps` of a chat template does.
#[derive(Clone, Debug)]
struct Style {
    /// Blanks of a level, each value on a line of its own.
    indent: Option<String>,
    between: String,
    behind_key: String,
    sort_keys: bool,
    ascii: bool,
}

/// The filter `tojson` as transformers defines it: `ensure_ascii`, `indent`, `separators`, `sort_keys`.
pub(crate) fn tojson(value: &Value, ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let style = Style::of(ascii, &options)?;
    options.assert_all_used()?;
    let mut out = String::new();
    style.value(value, 0, &mut out)?;
    Ok(out)
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

impl Style {
    fn of(ascii: Option<bool>, options: &Kwargs) -> Result<Self, Error> {
        let indent: Option<Value> = options.get("indent")?;
        let indent = match indent.filter(|indent| !indent.is_none()) {
            None => None,
            Some(indent) => Some(match (indent.as_str(), indent.as_usize()) {
                (Some(text), _) => text.to_string(),
                (None, Some(blanks @ 0..=64)) => " ".repeat(blanks),
                _ => return Err(wrong("tojson: indent is neither a text nor a small number")),
            }),
        };
        let separators: Option<Value> = options.get("separators")?;
        let separators = match separators.filter(|separators| !separators.is_none()) {
            None => None,
            Some(pair) => {
                let texts: Vec<Value> = pair.try_iter()?.collect();
                let texts: Vec<&str> = texts.iter().filter_map(Value::as_str).collect();
                let [between, behind_key] = texts[..] else {
                    return Err(wrong("tojson: separators are not two texts"));
                };
                Some((between.to_string(), behind_key.to_string()))
            }
        };
        let between = if indent.is_some() { "," } else { ", " };
        let (between, behind_key) =
            separators.unwrap_or_else(|| (between.to_string(), ": ".to_string()));
        Ok(Self {
            indent,
            between,
            behind_key,
            sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            ascii: match ascii {
                Some(ascii) => ascii,
                None => options
                    .get::<Option<bool>>("ensure_ascii")?
                    .unwrap_or(false),
            },
        })
    }

    fn value(&self, value: &Value, level: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => {
                let _ = write!(out, "{value}");
            }
            ValueKind::Number => {
                let number = f64::try_from(value.clone())?;
                out.push_str(&float(number, ["NaN", "Infinity", "-Infinity"]));
            }
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let entry = value.get_item(&key)?;
                    entries.push((key.to_string(), entry));
                }
                if self.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.list(['{', '}'], level, entries, out, |(key, value), out| {
                    self.text(&key, out);
                    out.push_str(&self.behind_key);
                    self.value(&value, level + 1, out)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let values: Vec<Value> = value.try_iter()?.collect();
                self.list(['[', ']'], level, values, out, |value, out| {
                    self.value(&value, level + 1, out)
                })?;
            }
            kind => return Err(wrong(format!("tojson: {kind} has no JSON"))),
        }
        Ok(())
    }

    fn list<T>(
        &self,
        [open, close]: [char; 2],
        level: usize,
        values: Vec<T>,
        out: &mut String,
        one: impl Fn(T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |level: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..level).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        let is_empty = values.is_empty();
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                out.push_str(&self.between);
            }
            new_line(level + 1, out);
            one(value, out)?;
        }
        if !is_empty {
            new_line(level, out);
        }
        out.push(close);
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for char in text.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                char if char < ' ' || (self.ascii && !char.is_ascii()) => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                char => out.push(char),
            }
        }
        out.push('"');
    }
}
