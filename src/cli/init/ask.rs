//! Questions at a terminal, for what flags do not say.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use dialoguer::console::Term;
use dialoguer::theme::{ColorfulTheme, SimpleTheme, Theme};
use dialoguer::{Input, Select};

use crate::cli::init::{Goal, InitArgs, Wanted, plan};
use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_process::stop::{self, StopSignal};

/// A small model that was tuned for instructions, whose licence asks for nothing.
const TUNED: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
/// Of those that the program trains from random weights, its own.
pub const OWN: &str = "actv1";

/// What flags say, and for the rest the answers.
///
/// # Errors
/// Something is not said, and there is no terminal to ask at.
pub fn complete(args: &InitArgs) -> Result<Wanted> {
    require_terminal(args)?;
    stop::nothing_at_stake(0, || {
        show_cursor();
        terminal::say("stopped: nothing was written");
    });
    StopSignal::install(None)?;
    let theme: Box<dyn Theme> = match terminal::is_coloured() {
        true => Box::<ColorfulTheme>::default(),
        false => Box::new(SimpleTheme),
    };
    let goal = match args.goal {
        Some(goal) => goal,
        None => goal(&*theme)?,
    };
    let dataset = match &args.dataset_file {
        Some(dataset) => dataset.clone(),
        None => dataset(&*theme, goal)?,
    };
    let model = match &args.model {
        Some(model) => model.clone(),
        None => model(&*theme, goal)?,
    };
    Ok(Wanted {
        goal,
        dataset,
        model,
        max_seq_len: args.max_seq_len,
        device: args.device.unwrap_or(DeviceChoice::Auto),
        memory_limit: args.memory_limit,
    })
}

fn require_terminal(args: &InitArgs) -> Result<()> {
    let given = [
        ("--goal", args.goal.is_some()),
        ("--dataset-file", args.dataset_file.is_some()),
        ("--model", args.model.is_some()),
    ];
    let missing = given.iter().filter(|(_, given)| !given);
    let missing: Vec<&str> = missing.map(|(flag, _)| *flag).collect();
    let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    match missing.is_empty() || asks {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "there is no terminal to ask at: give {} as well, as in aios init --goal lora --dataset-file chat.jsonl --model {TUNED}",
            missing.join(" and ")
        ))),
    }
}

fn goal(theme: &dyn Theme) -> Result<Goal> {
    let goals = Goal::value_variants();
    let words = goals.iter().map(|goal| {
        let help = goal.to_possible_value();
        let help = help.as_ref().and_then(|value| value.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        format!("{:<9} {help}", goal.name())
    });
    let usual = goals.iter().position(|goal| *goal == Goal::Lora);
    let chosen = Select::with_theme(theme)
        .with_prompt("What is to be trained?")
        .items(words.collect::<Vec<_>>())
        .default(usual.unwrap_or(0))
        .interact()
        .map_err(ended)?;
    Ok(goals[chosen])
}

fn dataset(theme: &dyn Theme, goal: Goal) -> Result<PathBuf> {
    let usual = match goal {
        Goal::Pretrain => "builtin:stories",
        Goal::Finetune | Goal::Lora | Goal::Qlora => "builtin:chat",
    };
    let answer: String = Input::with_theme(theme)
        .with_prompt("On which text? A file, a folder, or hf:OWNER/NAME")
        .default(usual.to_string())
        .validate_with(|answer: &String| plan::content_of(Path::new(&meant(answer))).map(drop))
        .interact_text()
        .map_err(ended)?;
    Ok(meant(&answer).into())
}

fn model(theme: &dyn Theme, goal: Goal) -> Result<String> {
    let (prompt, usual) = match goal {
        Goal::Pretrain => ("Which model? actv1, or a config.json", OWN),
        Goal::Finetune | Goal::Lora | Goal::Qlora => {
            ("Which model? A folder, a GGUF file, or a Hub id", TUNED)
        }
    };
    let answer: String = Input::with_theme(theme)
        .with_prompt(prompt)
        .default(usual.to_string())
        .validate_with(|answer: &String| plan::looks_like_a_model(goal, &meant(answer)))
        .interact_text()
        .map_err(ended)?;
    Ok(meant(&answer))
}

/// What a shell would have made of it: people paste paths in quotes, and begin them at home.
fn meant(answer: &str) -> String {
    let answer = answer.trim();
    let within = |quote| answer.strip_prefix(quote)?.strip_suffix(quote);
    let plain = within('"').or_else(|| within('\'')).unwrap_or(answer);
    let below_home = plain.strip_prefix("~/").zip(dirs::home_dir());
    match below_home {
        Some((rest, home)) => home.join(rest).display().to_string(),
        None => plain.to_string(),
    }
}

/// Which a question hides while it is open.
fn show_cursor() {
    let _ = Term::stderr().show_cursor();
}

/// Ctrl-C at a question, or the end of the input, is no failure.
fn ended(error: dialoguer::Error) -> Error {
    show_cursor();
    let dialoguer::Error::IO(cause) = error;
    match cause.kind() {
        std::io::ErrorKind::Interrupted | std::io::ErrorKind::UnexpectedEof => Error::Stopped,
        _ => Error::io("the terminal", "read", cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_a_shell_reads_them() {
        for answer in ["a b.txt", " a b.txt ", "\"a b.txt\"", "'a b.txt'"] {
            assert_eq!(meant(answer), "a b.txt", "{answer}");
        }
        let home = dirs::home_dir().unwrap();
        assert_eq!(Path::new(&meant("~/x.txt")), home.join("x.txt"));
        assert_eq!(meant("~x"), "~x");
    }

    #[test]
    fn with_all_flags_nobody_is_asked() {
        let args = InitArgs {
            goal: Some(Goal::Pretrain),
            dataset_file: Some("builtin:stories".into()),
            model: Some(OWN.into()),
            ..InitArgs::default()
        };
        let wanted = complete(&args).unwrap();
        assert_eq!((wanted.goal, wanted.model.as_str()), (Goal::Pretrain, OWN));
    }
}
