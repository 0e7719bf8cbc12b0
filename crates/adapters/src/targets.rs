//! Which modules are adapted, by PEFT's rules.

use aios_base::error::{Error, Result};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Every linear layer but the head.
pub const ALL_LINEAR: &str = "all-linear";

/// No expression takes more memory than this when it is compiled.
const LARGEST_REGEX: usize = 1 << 20;

/// `target_modules` of PEFT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// Modules whose name is one of these, or ends in a dot and one of these.
    List(Vec<String>),
    /// Modules whose whole name this regular expression matches; or [`ALL_LINEAR`].
    Pattern(String),
}

impl Targets {
    /// As a flag has it: `all-linear`, a list with commas between names, or a regular expression.
    pub fn of_flag(text: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.,".contains(c);
        match text {
            ALL_LINEAR => Self::Pattern(text.to_string()),
            // A dot is part of a name rather than any letter.
            _ if text.chars().all(plain) => {
                Self::List(text.split(',').map(str::to_string).collect())
            }
            _ => Self::Pattern(text.to_string()),
        }
    }

    /// Those of a model's modules that are meant, in the model's order.
    ///
    /// # Errors
    /// A regular expression that cannot be read, or names of which one is of no module.
    pub fn of<'a>(&self, modules: &[&'a str]) -> Result<Vec<&'a str>> {
        let found: Vec<&str> = match self {
            Self::Pattern(all) if all == ALL_LINEAR => modules.to_vec(),
            Self::Pattern(pattern) => {
                let regex = whole(pattern)?;
                let fits = |module: &&&str| regex.is_match(module);
                modules.iter().filter(fits).copied().collect()
            }
            Self::List(names) => {
                let meant = |module: &&&str| names.iter().any(|name| is_meant(module, name));
                modules.iter().filter(meant).copied().collect()
            }
        };
        match found.is_empty() {
            false => Ok(found),
            true => Err(Error::invalid(format!(
                "{} is no module of this model that could be adapted, which are {}",
                self.in_words(),
                endings(modules).join(", ")
            ))),
        }
    }

    /// Sees that each name of a list is of some module.
    ///
    /// # Errors
    /// Names one that is not.
    pub fn require_each(&self, modules: &[&str]) -> Result<()> {
        let Self::List(names) = self else {
            return Ok(());
        };
        let lost = |name: &&String| !modules.iter().any(|module| is_meant(module, name));
        match names.iter().find(lost) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "{name:?} is no module of this model that could be adapted, which are {}",
                endings(modules).join(", ")
            ))),
        }
    }

    /// What is written of it, for a model with these modules of which `adapted` are meant: what is no list becomes one of
    /// the last parts of names, if it means the same.
    pub fn written(&self, modules: &[&str], adapted: &[&str]) -> Self {
        let Self::Pattern(pattern) = self else {
            return self.clone();
        };
        let short = Self::List(endings(adapted));
        match short.of(modules) {
            Ok(same) if same == adapted => short,
            _ if pattern == ALL_LINEAR => {
                Self::List(adapted.iter().map(|name| name.to_string()).collect())
            }
            _ => self.clone(),
        }
    }

    fn in_words(&self) -> String {
        match self {
            Self::List(names) => format!("none of {:?}", names.join(", ")),
            Self::Pattern(pattern) => format!("what {pattern:?} matches"),
        }
    }
}

fn is_meant(module: &str, name: &str) -> bool {
    let before = module.strip_suffix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Last parts of names, each once.
fn endings(modules: &[&str]) -> Vec<String> {
    let last = |name: &&str| name.rsplit('.').next().unwrap_or(name).to_string();
    let mut all: Vec<String> = modules.iter().map(last).collect();
    all.sort();
    all.dedup();
    all
}

/// A regular expression of a whole name.
///
/// # Errors
/// One that cannot be read.
pub(crate) fn whole(pattern: &str) -> Result<Regex> {
    let compiled = RegexBuilder::new(&format!("^(?:{pattern})$"));
    let compiled = { compiled }.size_limit(LARGEST_REGEX).build();
    compiled.map_err(|cause| {
        let cause = cause.to_string();
        let last = cause.lines().last().unwrap_or_default().trim();
        Error::invalid(format!(
            "the regular expression {pattern:?} of an adapter's modules cannot be read: {last}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: [&str; 5] = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.10.self_attn.q_proj",
        "model.layers.10.self_attn.my_q_proj",
        "model.layers.10.mlp.up_proj",
    ];

    fn of(flag: &str) -> Vec<&'static str> {
        Targets::of_flag(flag).of(&MODULES).unwrap()
    }

    #[test]
    fn names_are_of_whole_parts() {
        assert_eq!(of("q_proj"), [MODULES[0], MODULES[2]]);
        assert_eq!(of("0.self_attn.q_proj"), [MODULES[0]]);
        assert_eq!(of("q_proj,up_proj").len(), 4);
        assert_eq!(of(ALL_LINEAR), MODULES);
    }

    #[test]
    fn expressions_are_of_whole_names() {
        assert_eq!(
            of(r".*layers\.(0|1)\..*"),
            [MODULES[0], MODULES[1]],
            "10 is not 1"
        );
        assert!(Targets::of_flag("q_proj|").of(&MODULES).is_err());
        let error = Targets::of_flag("(").of(&MODULES).unwrap_err().to_string();
        assert!(!error.contains('\n') && error.contains("\"(\""), "{error}");
    }

    #[test]
    fn what_means_nothing_is_named_with_what_there_is() {
        let targets = Targets::of_flag("q_proj,k_prj");
        let error = targets.require_each(&MODULES).unwrap_err().to_string();
        assert!(error.contains("k_prj") && error.contains("my_q_proj, q_proj, up_proj"));
        assert!(Targets::of_flag("v").of(&MODULES).is_err());
    }

    #[test]
    fn all_linear_layers_are_written_by_their_last_names() {
        let all = Targets::of_flag(ALL_LINEAR).written(&MODULES, &MODULES);
        let Targets::List(names) = all else {
            panic!("{all:?}")
        };
        assert_eq!(names, ["my_q_proj", "q_proj", "up_proj"]);
        let pattern = Targets::of_flag(r".*\.0\..*");
        assert_eq!(pattern.written(&MODULES, &MODULES[..2]), pattern);
    }
}
