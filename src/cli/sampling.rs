//! How text is drawn: what flags say, over what the model's own defaults are.

use std::path::PathBuf;

use aios_base::error::{Result, shown};
use aios_engine::Sampling;
use aios_hf::Generation;
use clap::Args;

/// How a model's text is drawn where no flag says otherwise.
///
/// A model that is to be taken without a draw, as by `do_sample: false` in a `generation_config.json`, has a temperature
/// of 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    pub min_p: f64,
    pub repetition_penalty: f64,
    /// Tokens that end a text.
    pub stop: Vec<u32>,
    /// The file that they are of.
    pub file: Option<PathBuf>,
}

impl Defaults {
    /// Those of ACT-v1, whose documents end with one token.
    pub fn actv1(end_of_text: u32) -> Self {
        Self {
            temperature: 0.8,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            stop: vec![end_of_text],
            file: None,
        }
    }

    /// Those that a model's generation_config.json, this `file`, gives, over those of transformers.
    pub fn of_generation(generation: &Generation, file: PathBuf, end_of_text: u32) -> Self {
        let draws = generation.do_sample.unwrap_or(false);
        Self {
            temperature: match draws {
                true => generation.temperature.unwrap_or(1.0),
                false => 0.0,
            },
            top_k: generation.top_k.map_or(50, |k| k as usize),
            top_p: generation.top_p.unwrap_or(1.0),
            min_p: generation.min_p.unwrap_or(0.0),
            repetition_penalty: generation.repetition_penalty.unwrap_or(1.0),
            stop: match generation.eos.is_empty() {
                true => vec![end_of_text],
                false => generation.eos.clone(),
            },
            file: Some(file),
        }
    }
}

/// Flags about the draws.
#[derive(Debug, Clone, Default, Args)]
pub struct SamplingFlags {
    /// Below 1 the likely tokens gain, above 1 the unlikely; 0 = always the likeliest [default: the
    /// model's; ACT-v1: 0.8]
    #[arg(long, value_name = "NUMBER", value_parser = temperature, allow_hyphen_values = true)]
    pub temperature: Option<f64>,
    /// Draw from this many of the likeliest tokens; 0 = from all [default: the model's; ACT-v1: 50]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability; 1 = from all [default: the
    /// model's; ACT-v1: 1]
    #[arg(long, value_name = "PROBABILITY", value_parser = probability, allow_hyphen_values = true)]
    pub top_p: Option<f64>,
    /// Draw from the tokens that have this share of the likeliest one's probability; 0 = from all
    /// [default: the model's; ACT-v1: 0]
    ///
    /// --top-k, --top-p and --min-p apply in this order, each to what the one before left.
    #[arg(long, value_name = "SHARE", value_parser = share, allow_hyphen_values = true)]
    pub min_p: Option<f64>,
    /// Above 1, tokens that are in the prompt or the text so far become less likely, below 1 more
    /// likely; 1 = off [default: the model's; ACT-v1: 1]
    ///
    /// As Hugging Face transformers have it: a logit above 0 is divided by it, one below multiplied.
    #[arg(long, value_name = "FACTOR", value_parser = factor, allow_hyphen_values = true)]
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws: the same seed gives the same text [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<u64>,
}

impl SamplingFlags {
    /// What was given, over a model's defaults.
    ///
    /// # Errors
    /// Defaults that nothing can be drawn by, with the file that they are of.
    pub fn resolve(&self, defaults: &Defaults) -> Result<Sampling> {
        let sampling = self.over(defaults);
        sampling.check().map_err(|error| match &defaults.file {
            // Clap has checked the flags.
            Some(file) => error.of_file(shown(file)),
            None => error,
        })?;
        Ok(sampling)
    }

    fn over(&self, defaults: &Defaults) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(defaults.repetition_penalty),
            seed: self.seed.unwrap_or(0),
            stop: defaults.stop.clone(),
        }
    }

    /// Flags that do nothing, since the likeliest token is taken without a draw.
    pub fn idle(&self, defaults: &Defaults) -> Vec<String> {
        let why = match self.temperature {
            Some(0.0) => "with --temperature 0",
            None if defaults.temperature == 0.0 => "without --temperature: the model's own is 0",
            _ => return Vec::new(),
        };
        let given = [
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        let given = given.iter().filter(|(_, given)| *given);
        given
            .map(|(flag, _)| format!("{flag} has no effect {why}"))
            .collect()
    }
}

fn number(
    text: &str,
    fits: impl Fn(f64) -> bool,
    wanted: &'static str,
) -> Result<f64, &'static str> {
    let number = text.parse::<f64>().ok();
    number
        .filter(|&number| number.is_finite() && fits(number))
        .ok_or(wanted)
}

fn temperature(text: &str) -> Result<f64, &'static str> {
    let wanted = "use a number of at least 0, such as 0.8";
    number(text, |value| value >= 0.0, wanted)
}

fn probability(text: &str) -> Result<f64, &'static str> {
    let wanted = "use a number above 0 and at most 1, such as 0.9";
    number(text, |value| value > 0.0 && value <= 1.0, wanted)
}

fn share(text: &str) -> Result<f64, &'static str> {
    let wanted = "use a number from 0 to 1, such as 0.05";
    number(text, |value| (0.0..=1.0).contains(&value), wanted)
}

fn factor(text: &str) -> Result<f64, &'static str> {
    let wanted = "use a number above 0, such as 1.1";
    number(text, |value| value > 0.0, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: SamplingFlags,
    }

    fn flags(arguments: &[&str]) -> Result<SamplingFlags, clap::Error> {
        let line = std::iter::once(&"test").chain(arguments);
        Ok(Line::try_parse_from(line)?.flags)
    }

    fn resolved(arguments: &[&str], defaults: &Defaults) -> Sampling {
        flags(arguments).unwrap().resolve(defaults).unwrap()
    }

    #[test]
    fn act_v1_is_drawn_as_ever() {
        let sampling = resolved(&[], &Defaults::actv1(7));
        let want = Sampling {
            temperature: 0.8,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop: vec![7],
        };
        assert_eq!(sampling, want);
    }

    #[test]
    fn flags_win_over_the_models_defaults() {
        let defaults = Defaults {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            min_p: 0.1,
            repetition_penalty: 1.05,
            stop: vec![1, 2],
            file: None,
        };
        let own = resolved(&[], &defaults);
        assert_eq!((own.temperature, own.top_k, own.top_p), (0.6, 20, 0.95));
        assert_eq!((own.min_p, own.repetition_penalty), (0.1, 1.05));
        let line = "--temperature 1 --top-k 0 --top-p 1 --min-p 0 --repetition-penalty 2 --seed 3";
        let line: Vec<&str> = line.split_whitespace().collect();
        let want = Sampling {
            temperature: 1.0,
            repetition_penalty: 2.0,
            seed: 3,
            stop: vec![1, 2],
            ..Sampling::likeliest()
        };
        assert_eq!(resolved(&line, &defaults), want);
    }

    #[test]
    fn defaults_that_cannot_be_are_refused() {
        let defaults = Defaults {
            top_p: 3.0,
            ..Defaults::actv1(0)
        };
        let error = flags(&[]).unwrap().resolve(&defaults).unwrap_err();
        assert!(error.to_string().contains("top-p is 3"), "{error}");
        let generation = Generation {
            do_sample: Some(true),
            top_p: Some(0.0),
            ..Generation::default()
        };
        let of_file = Defaults::of_generation(&generation, "m/generation_config.json".into(), 0);
        let error = flags(&[]).unwrap().resolve(&of_file).unwrap_err();
        assert!(
            error.to_string().starts_with("m/generation_config.json: "),
            "{error}"
        );
        assert!(
            flags(&["--top-p", "0.5"])
                .unwrap()
                .resolve(&defaults)
                .is_ok()
        );
    }

    #[test]
    fn without_a_draw_what_it_draws_from_is_idle() {
        let defaults = Defaults::actv1(0);
        let idle = |line: &[&str]| flags(line).unwrap().idle(&defaults);
        let limits = ["--top-k", "50", "--min-p", "0.1", "--seed", "1"];
        assert!(idle(&limits).is_empty());
        let likeliest = [&limits[..], &["--temperature", "0"]].concat();
        let flags_of = ["--top-k", "--min-p", "--seed"];
        assert_eq!(
            idle(&likeliest),
            flags_of.map(|flag| format!("{flag} has no effect with --temperature 0"))
        );
        // A penalty changes which token is the likeliest.
        assert!(idle(&["--temperature", "0", "--repetition-penalty", "2"]).is_empty());
        let likeliest = Defaults {
            temperature: 0.0,
            ..defaults
        };
        let idle = |line: &[&str]| flags(line).unwrap().idle(&likeliest);
        assert_eq!(idle(&["--top-p", "0.5"]).len(), 1);
        assert!(idle(&["--top-p", "0.5", "--temperature", "1"]).is_empty());
    }

    #[test]
    fn numbers_are_checked() {
        for arguments in [
            ["--temperature", "-1"],
            ["--temperature", "NaN"],
            ["--top-p", "0"],
            ["--top-p", "1.5"],
            ["--min-p", "-0.1"],
            ["--min-p", "1.1"],
            ["--repetition-penalty", "0"],
            ["--repetition-penalty", "inf"],
        ] {
            assert_eq!(flags(&arguments).unwrap_err().exit_code(), 2);
        }
    }
}
