//! Flags that the rows of a benchmark's table set themselves: they are not offered, and refused.

use std::marker::PhantomData;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::cli::args::ShapeArgs;
use crate::cli::measured::MODEL;

/// A table whose rows are processes with flags of their own.
pub trait Rows {
    /// Flags that the rows set, without the hyphens.
    const SET: &'static [&'static str];
    /// What to do instead of giving one.
    const INSTEAD: &'static str;
}

/// Rows of `aios bench memory`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryRows;

impl Rows for MemoryRows {
    const SET: &'static [&'static str] = &[
        "gradient-checkpointing",
        "no-gradient-checkpointing",
        "fused-cross-entropy",
        "no-fused-cross-entropy",
        "amp",
        "no-amp",
        "amp-dtype",
        "use-8bit-optimizer",
        "no-8bit-optimizer",
        "use-flash-attn",
        "no-flash-attn",
        "tie-embeddings",
        "no-tie-embeddings",
    ];
    const INSTEAD: &'static str = "is what rows differ in: leave it out, and choose with --rows";
}

/// Forms of `aios bench context`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ContextForms;

impl Rows for ContextForms {
    const SET: &'static [&'static str] = &[
        "max-seq-len",
        "gradient-checkpointing",
        "no-gradient-checkpointing",
        "use-chunked-training",
        "no-chunked-training",
        "chunk-gradients",
        "cpu-offload",
        "no-cpu-offload",
    ];
    const INSTEAD: &'static str =
        "is what rows differ in: leave it out, and choose with --seq-lens and --forms";
}

/// `aios bench step`, which has no rows of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneStep;

impl Rows for OneStep {
    const SET: &'static [&'static str] = &[];
    const INSTEAD: &'static str = "";
}

/// What all rows have in common.
#[derive(Debug, Clone, Default)]
pub struct OfRows<R> {
    pub args: ShapeArgs,
    rows: PhantomData<R>,
}

impl<R: Rows> OfRows<R> {
    /// Refuses what the rows set, unless this process is one of them.
    fn check(matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = |flag: &&&str| {
            matches.value_source(&flag.replace('-', "_")) == Some(ValueSource::CommandLine)
        };
        match R::SET.iter().find(given) {
            Some(flag) if !matches.get_flag("single") => Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                format!("--{flag} {}\n", R::INSTEAD),
            )),
            _ => Ok(()),
        }
    }
}

impl<R: Rows> FromArgMatches for OfRows<R> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        // Reading the arguments takes them away.
        Self::check(matches)?;
        Ok(Self {
            args: ShapeArgs::from_arg_matches_mut(matches)?,
            rows: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::check(matches)?;
        self.args.update_from_arg_matches(matches)
    }
}

impl<R: Rows> Args for OfRows<R> {
    fn augment_args(command: Command) -> Command {
        let command = ShapeArgs::augment_args(command).mut_args(|arg| {
            let set = arg.get_long().is_some_and(|long| R::SET.contains(&long));
            arg.hide(set)
        });
        command.mut_arg("model", |arg| arg.help(MODEL[0]).long_help(MODEL[1]))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::cli::Cli;

    use super::*;

    fn exit_code(line: &str) -> Option<i32> {
        use clap::Parser;
        let parsed = Cli::try_parse_from(line.split_whitespace());
        parsed.err().map(|error| error.exit_code())
    }

    fn tables() -> [(&'static str, &'static [&'static str]); 2] {
        [("memory", MemoryRows::SET), ("context", ContextForms::SET)]
    }

    #[test]
    fn what_rows_set_is_refused_except_of_a_row() {
        for (table, set) in tables() {
            for flag in set {
                let value = match *flag {
                    "amp-dtype" => " bf16",
                    "max-seq-len" => " 64",
                    "chunk-gradients" => " exact",
                    _ => "",
                };
                let line = format!("aios bench {table} --{flag}{value}");
                assert_eq!(exit_code(&line), Some(2), "{line}");
                assert_eq!(exit_code(&format!("{line} --single")), None, "{line}");
            }
        }
    }

    /// A flag that was renamed would be offered again.
    #[test]
    fn what_rows_set_is_there_and_not_offered() {
        let mut cli = Cli::command();
        cli.build();
        let bench = cli.find_subcommand("bench").unwrap();
        for (table, set) in tables() {
            let command = bench.find_subcommand(table).unwrap();
            let hidden = |flag: &&&str| {
                let mut args = command.get_arguments();
                args.any(|arg| arg.get_long() == Some(flag) && arg.is_hide_set())
            };
            assert_eq!(set.iter().filter(hidden).count(), set.len(), "{table}");
        }
    }
}
