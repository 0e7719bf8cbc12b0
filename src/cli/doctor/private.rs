//! What is nobody else's business is taken out of the findings: they are made to be pasted in public.

use serde::Serialize;
use serde_json::Value;

use aios_base::error::{Error, Result};

/// What stands for the home folder.
const HOME: &str = "~";
/// Folders that have users' own in them.
const OF_USERS: [&str; 4] = ["/home/", "/Users/", "\\Users\\", "/var/home/"];

/// Who is at work here.
#[derive(Debug, Default)]
pub struct Private {
    home: Option<String>,
    user: Option<String>,
}

impl Private {
    /// As the system says.
    pub fn of_this_user() -> Self {
        let home = dirs::home_dir().map(|home| home.display().to_string());
        let home = home.map(|home| home.trim_end_matches(['/', '\\']).to_string());
        let user = ["USER", "USERNAME", "LOGNAME"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok());
        Self {
            // Where there is none, some systems say `/`.
            home: home.filter(|home| home.len() > 2),
            user: user.filter(|user| user.len() > 1),
        }
    }

    /// A text without the home folder and the names of users in paths.
    pub fn hidden(&self, text: &str) -> String {
        let mut text = single_slashes(text);
        if let Some(home) = &self.home {
            text = replaced(&text, home, HOME, is_of_a_name);
        }
        for folder in OF_USERS {
            text = below(&text, folder);
        }
        match &self.user {
            // Also as a part of a folder's name, as in `/srv/ada-cache`.
            Some(user) => ["/", "\\", "-", "_", "."]
                .iter()
                .fold(text, |text, before| {
                    let (from, to) = (format!("{before}{user}"), format!("{before}{HOME}"));
                    replaced(&text, &from, &to, char::is_alphanumeric)
                }),
            None => text,
        }
    }

    /// The same for all texts in a value.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn hidden_in(&self, value: &impl Serialize) -> Result<Value> {
        let mut value = serde_json::to_value(value)
            .map_err(|cause| Error::failed(format!("cannot write JSON: {cause}")))?;
        self.hide(&mut value);
        Ok(value)
    }

    fn hide(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hidden(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.hide(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.hide(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Whether a name goes on with this character.
fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || "-_.@".contains(c)
}

/// Replaces what ends where a name ends, as no character shows that goes on with it: `/root` is no part of `/rootless`.
fn replaced(text: &str, from: &str, to: &str, goes_on: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let whole = !after.starts_with(&goes_on);
        out.push_str(before);
        out.push_str(if whole { to } else { from });
        rest = after;
    }
    out + rest
}

/// A path with doubled slashes is the one without; an address is none.
fn single_slashes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let doubled = c == '/' && out.ends_with('/') && !out.ends_with(":/");
        if !doubled {
            out.push(c);
        }
    }
    out
}

/// How long a user's name is at the beginning of a path: with blanks and quotes, if it goes on behind them.
fn name_length(after: &str) -> usize {
    let plain = after.find(|c| !is_of_a_name(c)).unwrap_or(after.len());
    let odd = |c: char| is_of_a_name(c) || c == ' ' || c == '\'';
    let whole = after.find(|c| !odd(c)).unwrap_or(after.len());
    let goes_on = after[whole..].starts_with(['/', '\\']) && !after[..whole].ends_with(' ');
    if goes_on { whole } else { plain }
}

/// Replaces a folder with a user's name, and what of a drive stands before it.
fn below(text: &str, folder: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(folder) {
        let (before, after) = (&rest[..at], &rest[at + folder.len()..]);
        let name = name_length(after);
        let drive = before.ends_with(':') && folder.starts_with('\\');
        out.push_str(if drive { &before[..at - 2] } else { before });
        out.push_str(HOME);
        rest = &after[name..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Private {
        Private {
            home: Some("/data/people/ada".into()),
            user: Some("ada".into()),
        }
    }

    #[test]
    fn home_and_users_are_gone() {
        for (text, expected) in [
            ("in /data/people/ada/.cache/aios", "in ~/.cache/aios"),
            ("/data/people/ada", "~"),
            ("/data/people/adam/x", "/data/people/adam/x"),
            ("/home/grace/x:/home/alan:/opt", "~/x:~:/opt"),
            ("(/Users/grace hopper)", "(~ hopper)"),
            (r"C:\Users\ada\AppData", r"~\AppData"),
            ("/scratch/ada/hub", "/scratch/~/hub"),
            ("adapter, /opt/adapters", "adapter, /opt/adapters"),
            (
                "/srv/ada-cache:/mnt/data_ada/x",
                "/srv/~-cache:/mnt/data_~/x",
            ),
            ("/home/Grace Hopper/lib:/home/o'brien/x", "~/lib:~/x"),
            ("//home//grace/x, https://a.b/c", "~/x, https://a.b/c"),
            ("in /home/grace and /opt", "in ~ and /opt"),
        ] {
            assert_eq!(ada().hidden(text), expected);
        }
    }

    #[test]
    fn all_texts_of_a_value_are_looked_at() {
        let value = serde_json::json!({"a": ["/home/ada/x", 1], "b": {"c": "/home/ada"}});
        let hidden = ada().hidden_in(&value).unwrap();
        assert_eq!(
            hidden,
            serde_json::json!({"a": ["~/x", 1], "b": {"c": "~"}})
        );
    }
}
