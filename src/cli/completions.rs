//! `aios completions`: a completion script for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use aios_base::error::Result;
use aios_base::terminal::write_stdout;

/// Arguments of `aios completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell to write for
    ///
    /// For bash, for example: aios completions bash >
    /// ~/.local/share/bash-completion/completions/aios
    pub shell: Shell,
}

/// Writes the script to standard output.
pub fn run(args: CompletionsArgs) -> Result<()> {
    write_stdout(&script(args.shell))
}

fn script(shell: Shell) -> Vec<u8> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "aios", &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_learns_the_flags() {
        for &shell in Shell::value_variants() {
            let script = String::from_utf8(script(shell)).unwrap();
            for word in ["train-actv1", "use-8bit-optimizer", "no-amp"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
