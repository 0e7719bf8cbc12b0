//! What Python's values do that the template engine's do not.

use chrono::Local;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// A number as Python's `repr` has it; `others` are the names of what is not finite.
pub(crate) fn float(number: f64, others: [&str; 3]) -> String {
    let [nan, infinity, negative] = others;
    if number.is_nan() {
        return nan.to_string();
    }
    if number.is_infinite() {
        return (if number > 0.0 { infinity } else { negative }).to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    match (-4..16).contains(&exponent) || number == 0.0 {
        true => format!("{number:?}"),
        false => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

/// The time at hand, written as `strftime` would.
pub(crate) fn strftime_now(format: &str) -> Result<String, Error> {
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    match items.contains(&Item::Error) {
        true => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: {format:?} is no format of a time"),
        )),
        false => Ok(Local::now().format_with_items(items.iter()).to_string()),
    }
}

/// Methods of Python's texts, lists and dictionaries.
pub(crate) fn method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => match method {
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                Ok(text.strip_prefix(prefix).unwrap_or(text).into())
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                Ok(text.strip_suffix(suffix).unwrap_or(text).into())
            }
            "title" => {
                let () = from_args(args)?;
                Ok(title(text).into())
            }
            "rsplit" => {
                let (separator, most): (&str, Option<usize>) = from_args(args)?;
                let mut parts: Vec<Value> = match most {
                    Some(most) => text.rsplitn(most + 1, separator).map(Value::from).collect(),
                    None => text.rsplit(separator).map(Value::from).collect(),
                };
                parts.reverse();
                Ok(parts.into())
            }
            _ => pycompat::unknown_method_callback(state, value, method, args),
        },
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Each letter behind none in upper case, all others in lower case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for char in text.chars() {
        match begins {
            true => out.extend(char.to_uppercase()),
            false => out.extend(char.to_lowercase()),
        }
        begins = !char.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (123456789012345.0, "123456789012345.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-0.0, "-0.0"),
            (f64::NAN, "nan"),
        ];
        for (number, text) in cases {
            assert_eq!(float(number, ["nan", "inf", "-inf"]), text);
        }
    }

    #[test]
    fn a_wrong_format_of_a_time_is_an_error() {
        assert_eq!(strftime_now("%Y").unwrap().len(), 4);
        assert!(strftime_now("%").is_err());
    }
}
