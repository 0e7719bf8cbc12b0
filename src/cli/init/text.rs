//! The settings as a TOML file for people: few keys, each with its reason.

use std::path::Path;

use toml::Value;

use crate::cli::init::ask::OWN;
use crate::cli::init::plan::{Planned, epochs, in_words};
use crate::cli::init::{Goal, Wanted};
use aios_base::config::{AmpDtype, BRAINS, DeviceChoice, Subject, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::meter::format_bytes;

/// Column at which comments begin.
const COMMENT: usize = 40;

/// The command that trains with a file.
pub fn command(goal: Goal, model: &str, output: &Path) -> String {
    let name = match (goal, model) {
        (Goal::Pretrain, OWN) => "train",
        (Goal::Pretrain, _) => "pretrain",
        (Goal::Finetune | Goal::Lora | Goal::Qlora, _) => "finetune",
    };
    format!("aios {name} --config {}", quoted(output))
}

/// As one word of a command, whatever characters there are in it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    // Not a flag.
    let path = match path.starts_with('-') {
        true => format!("./{path}"),
        false => path,
    };
    if cfg!(windows) {
        // A path has no double quotes there.
        let plain = |c: char| c.is_alphanumeric() || "\\/:._-".contains(c);
        return match path.chars().all(plain) {
            true => path,
            false => format!("\"{path}\""),
        };
    }
    // Without the NUL that it refuses, which no path has.
    shlex::try_quote(&path).map_or(path.clone(), |quoted| quoted.into_owned())
}

/// The file.
///
/// # Errors
/// Settings that would be refused, which is a mistake of ours.
pub fn render(wanted: &Wanted, planned: &Planned, output: &Path) -> Result<String> {
    let config = &planned.fitted.config;
    let command = command(wanted.goal, &wanted.model, output);
    let help = command.split(" --config").next().unwrap_or_default();
    let mut lines = Lines::default();
    lines.comment(&what(wanted.goal, &wanted.model));
    lines.comment("");
    lines.comment(&format!("  {command}"));
    lines.comment("");
    lines.comment(&format!(
        "Keys are the command's flags in snake case; flags win over them. All: {help} --help"
    ));
    lines.blank();
    subject(&mut lines, config);
    data(&mut lines, config, planned);
    size(&mut lines, config, planned);
    course(&mut lines, config, wanted.goal, planned.updates);
    output_of(&mut lines, config, wanted, planned.updates);
    check(&lines.0, config.subject, output)?;
    Ok(lines.0)
}

fn what(goal: Goal, model: &str) -> String {
    match goal {
        Goal::Pretrain if model == OWN => {
            "A new HRM ACT-v1 model, from random weights.".to_string()
        }
        Goal::Pretrain => format!("A new model as {model} describes it, from random weights."),
        Goal::Finetune => format!("All weights of {model}."),
        Goal::Lora => format!("A LoRA adapter of {model}, which stays as it is."),
        Goal::Qlora => format!("A LoRA adapter of {model}, which stays as it is, in 4 bits."),
    }
}

fn subject(lines: &mut Lines, config: &TrainConfig) {
    match config.subject {
        Subject::Scratch => {
            lines.key(
                "model",
                config.model.as_str(),
                "tokenizer, which sets the vocabulary",
            );
            lines.key(
                "hidden_size",
                config.hidden_size as i64,
                "width; a smaller model learns faster",
            );
        }
        Subject::Decoder => {
            if let Some(path) = &config.model_config {
                let path = path.display().to_string();
                lines.key("model_config", path, "the shape of the model");
            }
            lines.key(
                "model",
                config.model.as_str(),
                "tokenizer, of the model's vocabulary",
            );
        }
        Subject::Pretrained | Subject::Adapter => {
            lines.key(
                "model",
                config.model.as_str(),
                "folder, GGUF file or Hub id",
            );
        }
    }
    if let Some(rank) = config.lora_rank {
        lines.key(
            "lora_rank",
            rank as i64,
            "more learns more, in more memory: 8 to 64 are usual",
        );
    }
    if config.quantize.is_some() {
        lines.key("quantize", "nf4", "4.13 bits a weight in place of 16");
    }
    if config.device != DeviceChoice::Auto {
        lines.key(
            "device",
            config.device.to_string(),
            "`aios devices` lists them",
        );
    }
    lines.blank();
}

fn data(lines: &mut Lines, config: &TrainConfig, planned: &Planned) {
    let dataset = config.dataset_file.as_deref().unwrap_or(Path::new(""));
    let dataset = dataset.display().to_string();
    lines.key("dataset_file", dataset, in_words(planned.content));
    lines.comment("eval_split = 0.02                     # hold a share of it out, and see whether what is learnt holds there");
    lines.blank();
}

fn size(lines: &mut Lines, config: &TrainConfig, planned: &Planned) {
    let fitted = &planned.fitted;
    lines.comment(&format!(
        "About {} at the peak, of {} that {}",
        format_bytes(fitted.predicted),
        format_bytes(fitted.room),
        fitted.device
    ));
    lines.comment(
        "has free. `--optimize batch` and `--optimize context` look again, and try a step.",
    );
    let length = match planned.shortened_from {
        Some(usual) => format!("tokens of a sequence; {usual} do not fit"),
        None => "tokens of a sequence".to_string(),
    };
    lines.key("max_seq_len", config.max_seq_len as i64, &length);
    lines.key(
        "batch_size",
        config.batch_size as i64,
        "sequences at a time",
    );
    lines.key(
        "gradient_accumulation_steps",
        config.gradient_accumulation_steps as i64,
        &format!("so that an update sees {}", config.effective_batch()),
    );
    let usual = TrainConfig::defaults(config.subject);
    if config.use_8bit_optimizer != usual.use_8bit_optimizer {
        lines.key(
            "use_8bit_optimizer",
            config.use_8bit_optimizer,
            "2 bytes a parameter in place of 8",
        );
    }
    if config.amp_dtype == AmpDtype::Bf16 {
        lines.key("amp_dtype", "bf16", "activations in half of the memory");
    }
    if config.cpu_offload {
        lines.key("cpu_offload", true, "what waits is kept in host memory");
    }
    if let Some(limit) = config.memory_limit {
        lines.key(
            "memory_limit",
            limit.to_string(),
            "no more than this is taken",
        );
    }
    lines.blank();
}

fn course(lines: &mut Lines, config: &TrainConfig, goal: Goal, updates: u64) {
    let passes = match goal {
        Goal::Pretrain => "passes over the text",
        Goal::Finetune | Goal::Lora | Goal::Qlora => {
            "passes over the text; more than 3 learn it by heart"
        }
    };
    lines.comment(&format!(
        "About {updates} updates, by the size of the text."
    ));
    lines.key("epochs", epochs(goal) as i64, passes);
    let reason = config.subject.reason();
    lines.key(
        "lr",
        config.lr,
        reason.strip_prefix("default for ").unwrap_or(reason),
    );
    lines.blank();
}

fn output_of(lines: &mut Lines, config: &TrainConfig, wanted: &Wanted, updates: u64) {
    // A run of another goal is another run, which would take the place of the first.
    let name = format!("{}-{}", brain_name(&wanted.dataset), wanted.goal.name());
    let named = TrainConfig {
        brain_name: name.clone(),
        ..config.clone()
    };
    let bundle = named.bundle_path();
    let below = bundle.parent().unwrap_or(Path::new(BRAINS));
    let below = below.to_string_lossy().replace('\\', "/");
    lines.key(
        "brain_name",
        name.as_str(),
        &format!("saved in {below}/{name}"),
    );
    lines.key(
        "log_file",
        format!("{below}/{name}.jsonl"),
        "`aios report` draws it",
    );
    lines.key(
        "sample_every",
        (updates / 4).clamp(1, 100) as i64,
        "steps between samples of what it writes by now",
    );
}

/// A name for the run, of the letters that any system takes.
fn brain_name(dataset: &Path) -> String {
    let name = dataset.to_string_lossy();
    let name = name.strip_prefix("builtin:").unwrap_or(&name);
    let last = name.rsplit(['/', '\\', ':']).find(|part| !part.is_empty());
    let stem = last.and_then(|last| last.split('.').find(|part| !part.is_empty()));
    let plain = |c: char| match c.is_ascii_alphanumeric() || c == '-' {
        true => c,
        false => '_',
    };
    match stem {
        Some(stem) => stem.chars().map(plain).collect(),
        None => "default".to_string(),
    }
}

/// What is written is read once by the program, before a person does.
fn check(text: &str, subject: Subject, output: &Path) -> Result<()> {
    let read = TrainConfig::from_toml(text, output)?;
    let read = TrainConfig { subject, ..read };
    let pretrained = match subject {
        Subject::Pretrained | Subject::Adapter => Some(read.model.clone()),
        Subject::Scratch | Subject::Decoder => None,
    };
    TrainConfig { pretrained, ..read }
        .validate()
        .map_err(|cause| Error::failed(format!("internal error: {cause}; please report it")))
}

/// Lines of a TOML file.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn blank(&mut self) {
        self.0.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.0.push_str(format!("# {text}").trim_end());
        self.blank();
    }

    fn key(&mut self, key: &str, value: impl Into<Value>, why: &str) {
        let set = format!("{key} = {}", value.into());
        self.0.push_str(&format!("{set:<COMMENT$}  # {why}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_data::Content;
    use aios_train::capacity::Fitted;

    fn file(goal: Goal, model: &str, subject: Subject) -> String {
        let wanted = Wanted {
            goal,
            dataset: "texts/my book.txt".into(),
            model: model.into(),
            max_seq_len: None,
            device: DeviceChoice::Auto,
            memory_limit: None,
        };
        let adapter = subject == Subject::Adapter;
        let planned = Planned {
            fitted: Fitted {
                config: TrainConfig {
                    model: model.replace(OWN, "gpt2"),
                    pretrained: (subject != Subject::Scratch).then(|| model.to_string()),
                    dataset_file: Some(wanted.dataset.clone()),
                    lora_rank: adapter.then_some(16),
                    use_8bit_optimizer: true,
                    ..TrainConfig::defaults(subject)
                },
                turned_on: String::new(),
                predicted: 1 << 30,
                room: 1 << 31,
                device: "cpu".into(),
            },
            content: Content::Text,
            updates: 40,
            shortened_from: Some(1024),
        };
        render(&wanted, &planned, Path::new("my run.toml")).unwrap()
    }

    #[test]
    fn a_file_says_what_it_is_and_how_to_run_it() {
        let text = file(Goal::Lora, "org/tiny", Subject::Adapter);
        for words in [
            "# A LoRA adapter of org/tiny",
            match cfg!(windows) {
                true => "#   aios finetune --config \"my run.toml\"",
                false => "#   aios finetune --config 'my run.toml'",
            },
            "lora_rank = 16",
            "# About 40 updates",
            "sample_every = 10 ",
            "use_8bit_optimizer = true",
            "1024 do not fit",
            "brain_name = \"my_book-lora\"",
            "log_file = \"artifacts/brains/tiny/my_book-lora.jsonl\"",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_takes_the_file_for_one_word() {
        for (name, word) in [
            ("runs/a.toml", "runs/a.toml"),
            ("`touch x` $y.toml", "'`touch x` $y.toml'"),
            ("a(1).toml", "'a(1).toml'"),
            ("-a.toml", "./-a.toml"),
            ("it's.toml", "\"it's.toml\""),
        ] {
            assert_eq!(quoted(Path::new(name)), word, "{name}");
        }
    }

    #[test]
    fn the_settings_are_those_that_were_planned() {
        let text = file(Goal::Pretrain, OWN, Subject::Scratch);
        let read = TrainConfig::from_toml(&text, Path::new("x.toml")).unwrap();
        assert_eq!((read.batch_size, read.max_seq_len), (8, 128));
        assert_eq!(read.lr, TrainConfig::default().lr);
        assert_eq!(read.epochs, Some(10.0));
    }

    #[test]
    fn a_run_has_the_name_of_its_text() {
        for (dataset, name) in [
            ("builtin:chat", "chat"),
            ("hf:owner/set:test", "test"),
            ("a/b.c/d.jsonl.gz", "d"),
            ("./texts/", "texts"),
            ("..", "default"),
            (".hidden", "hidden"),
            ("größe", "gr__e"),
        ] {
            assert_eq!(brain_name(Path::new(dataset)), name, "{dataset}");
        }
    }
}
