//! Every command of the guide is one that the program takes.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};

use aios::cli::{Cli, Command, HrmHfCommand};
use aios_base::config::{Overlay, TrainConfig};

use super::page::Page;
use crate::common::root;

/// What ends a command of a line, or its arguments.
const ENDS: [&str; 9] = ["|", "||", "&&", "&", ";", ">", ">>", "<", "2>"];

/// Flags of other programs that the guide names.
const OF_OTHERS: [&str; 8] = [
    "--allow-run-as-root",
    "--bind-to",
    "--device /dev/dri",
    "--gpus",
    "--lora",
    "--no-default-features",
    "--oversubscribe",
    "--requeue",
];

#[test]
fn every_command_is_one_that_the_program_takes() {
    let mut wrong = Vec::new();
    let mut tried = 0;
    for page in pages() {
        for (line, block) in page.shell() {
            for words in commands(&block) {
                tried += 1;
                if let Err(error) = check(&words) {
                    let (name, command) = (&page.name, words.join(" "));
                    wrong.push(format!("{name}, block at line {line}: {command}\n{error}"));
                }
            }
        }
    }
    assert!(tried > 50, "{tried} commands: blocks are not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In a text a flag has no command beside it: one of them has to have it.
#[test]
fn every_flag_is_one_that_the_program_has() {
    let known = flags(&Cli::command());
    // The first names flags of others beside those here, the second stands for any flag by `--x`.
    let apart = ["docs/from-others.md", "CONTRIBUTING.md"];
    let mut wrong = Vec::new();
    let pages = pages().into_iter();
    for page in pages.filter(|page| !apart.contains(&page.name.as_str())) {
        for (line, code) in page.codes() {
            let foreign = OF_OTHERS.iter().any(|flag| code.starts_with(flag));
            let flag = code.split([' ', '=', '/']).next().unwrap_or_default();
            if flag.len() > 2 && flag.starts_with("--") && !foreign && !known.contains(flag) {
                wrong.push(format!("{}:{line}: {code}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of another program's names beside those here, the last column is the program's own.
#[test]
fn every_flag_beside_that_of_another_program_is_one_that_the_program_has() {
    let known = flags(&Cli::command());
    let text = std::fs::read_to_string(root().join("docs/from-others.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let own: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next())
        .collect();
    assert!(own.len() > 40, "{own:?}");
    for cell in own {
        let words = cell.split([' ', '`', ',', ':', ';']);
        for flag in words.filter(|word| word.starts_with("--")) {
            assert!(known.contains(flag), "{flag} in: {cell}");
        }
    }
}

#[test]
fn commands_are_found_in_a_script() {
    let script = "cd x && aios train --steps 3 \\\n  --lr 1e-3   # aios fly\nmpirun -n 2 aios devices > out; true\n\
                  cargo run --release -- eval --file 'a b' | aios chat\nllama-cli -m aios\n";
    let found: Vec<String> = commands(script)
        .iter()
        .map(|words| words.join(" "))
        .collect();
    let wanted = [
        "aios train --steps 3 --lr 1e-3",
        "aios devices",
        "aios eval --file a b",
        "aios chat",
    ];
    assert_eq!(found, wanted);
}

fn pages() -> Vec<Page> {
    let mut pages = Page::guide();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(Page::read));
    pages
}

/// The words of each `aios ...` in a script of a shell.
fn commands(script: &str) -> Vec<Vec<String>> {
    let script = script.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in script.lines() {
        let words = shlex::split(line).unwrap_or_else(|| panic!("no words: {line}"));
        let ends = |word: &String| ENDS.contains(&word.as_str()) || word.ends_with(';');
        for words in words.split(ends) {
            found.extend(arguments(words));
        }
    }
    found
}

/// Of one command, from the program's name on.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    let built = ["cargo", "run"].iter().zip(words).all(|(a, b)| a == b);
    let at = match built && words.len() > 1 {
        true => words.iter().position(|word| word == "--")?,
        false => words.iter().position(|word| word == "aios")?,
    };
    // `llama-cli -m aios` has another program and a value of that name.
    let value = at > 0 && words[at - 1].starts_with('-') && words[at] == "aios";
    let rest = words[at + 1..].iter().cloned();
    (!value).then(|| ["aios".to_string()].into_iter().chain(rest).collect())
}

/// Whether flags and values are known, and of a training go together.
fn check(words: &[String]) -> Result<(), String> {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(help) if !help.use_stderr() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    match &cli.command {
        Some(Command::Train(flags) | Command::HrmHf(HrmHfCommand::TrainActv1(flags))) => {
            resolve(&**flags)
        }
        Some(Command::Finetune(flags)) => resolve(&**flags),
        Some(Command::Pretrain(flags)) => resolve(&**flags),
        _ => Ok(()),
    }
}

/// A file of the reader's own and a run to go on with are not there.
fn resolve(flags: &dyn Overlay) -> Result<(), String> {
    let absent = |path: &std::path::Path| !root().join(path).exists();
    if flags.config_file().is_some_and(absent) {
        return Ok(());
    }
    let config = TrainConfig::of_flags(flags).map_err(|error| error.to_string())?;
    if config.resume || config.resume_if_exists {
        return Ok(());
    }
    let checked = TrainConfig::resolve(flags).map(drop);
    checked.map_err(|error| error.to_string())
}

/// Long names of all commands.
fn flags(command: &clap::Command) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .map(|name| format!("--{name}"))
        .collect();
    names.extend(["--help".to_string(), "--version".to_string()]);
    for command in command.get_subcommands() {
        names.extend(flags(command));
    }
    names
}
