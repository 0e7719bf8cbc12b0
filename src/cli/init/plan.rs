//! Settings for what was asked for, as the planner finds that they fit.

use std::path::{Path, PathBuf};

use crate::cli::init::ask::OWN;
use crate::cli::init::{Goal, Wanted};
use aios_base::config::{CorpusOptions, RecordForm, Subject, TrainConfig};
use aios_base::error::{Error, Result, shown};
use aios_base::meter::format_bytes;
use aios_base::storage::Quantize;
use aios_data::{Content, content, require_text, size, telling};
use aios_hf::{CONFIG_FILE, Folder, TOKENIZER_FILE, is_gguf, is_hub_id};
use aios_train::capacity::{Fitted, fitted};

/// Shorter sequences than these are of no use to anybody.
const SHORTEST: usize = 64;
/// Rank of adapters, as QLoRA's and PEFT's examples have it.
const RANK: usize = 16;
/// Sequences that an update sees, where the text has enough of them: with fewer, gradients are noise.
const SEQUENCES: usize = 8;
/// Updates below which little is learnt: then each sees fewer sequences.
const UPDATES: u64 = 100;
/// Bytes of text in a token, about.
const BYTES_IN_TOKEN: u64 = 4;

/// Settings, and why.
#[derive(Debug)]
pub struct Planned {
    pub fitted: Fitted,
    pub content: Content,
    /// About as many as there will be.
    pub updates: u64,
    /// Tokens of a sequence that were asked for, if they do not fit.
    pub shortened_from: Option<usize>,
}

impl Planned {
    /// What was found, in a line.
    pub fn in_words(&self) -> String {
        let Fitted {
            config,
            predicted,
            room,
            device,
            turned_on,
        } = &self.fitted;
        let features = match turned_on.is_empty() {
            true => String::new(),
            false => format!(" with {turned_on}"),
        };
        format!(
            "{} x {} tokens a pass{features}: about {} at the peak, of {} that {device} has free",
            config.batch_size,
            config.max_seq_len,
            format_bytes(*predicted),
            format_bytes(*room)
        )
    }
}

/// What a text holds.
///
/// # Errors
/// It is not there, or cannot be read.
pub fn content_of(dataset: &Path) -> Result<Content> {
    let options = CorpusOptions::new(dataset);
    if options.is_stdin() {
        return Err(Error::invalid(
            "standard input (-) can be read once, by the training itself: give a file, a folder or hf:OWNER/NAME",
        ));
    }
    let found = content(&options, &mut |_, _| Ok(()))?;
    match found {
        // As what becomes of them, by a model's template.
        Content::Conversations(_) => Ok(found),
        Content::Text | Content::Texts | Content::Tokens => require_text(&options).map(|()| found),
    }
}

/// Conversations are read by a chat template, and answers learnt: what a model of random weights has is its text.
fn suits(content: Content, wanted: &Wanted, config: &TrainConfig) -> Result<()> {
    let Content::Conversations(form) = content else {
        return Ok(());
    };
    let dataset = shown(&wanted.dataset);
    match config.subject {
        Subject::Scratch => Err(Error::invalid(format!(
            "{dataset} holds conversations ({form}), and {OWN} learns texts: take --goal lora with a model that was tuned for \
             instructions, or another text"
        ))),
        Subject::Decoder => {
            let folder = config.model_config.as_deref().and_then(Path::parent);
            let folder = folder.filter(|folder| *folder != Path::new(""));
            let template = match Folder::open(folder.unwrap_or(Path::new("."))) {
                Ok(folder) => folder.chat_template()?,
                Err(_) => None,
            };
            match template.is_some() || form == RecordForm::PromptCompletion {
                true => Ok(()),
                false => Err(Error::invalid(format!(
                    "{dataset} holds conversations ({form}), and there is no chat template beside {}: take --goal lora with a model \
                     that was tuned for instructions, or another text",
                    wanted.model
                ))),
            }
        }
        Subject::Pretrained | Subject::Adapter => Ok(()),
    }
}

/// Whether there may be such a model, as far as its name shows.
///
/// # Errors
/// Says what is wanted.
pub fn looks_like_a_model(goal: Goal, model: &str) -> Result<()> {
    if goal == Goal::Pretrain {
        return config_file(model).map(drop);
    }
    let path = Path::new(model);
    let is_model = path.join(CONFIG_FILE).is_file() || is_gguf(path);
    let id = model.split('@').next().unwrap_or(model);
    match is_model || !path.exists() && id.contains('/') && is_hub_id(id) {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "--model {model} is no model: give a folder with a {CONFIG_FILE}, a GGUF file, or a Hub id such as OWNER/NAME"
        ))),
    }
}

/// The config.json of a model to be trained from random weights; `None` for the program's own.
fn config_file(model: &str) -> Result<Option<PathBuf>> {
    if model == OWN {
        return Ok(None);
    }
    let path = Path::new(model);
    let file = match path.is_dir() {
        true => path.join(CONFIG_FILE),
        false => path.to_path_buf(),
    };
    match file.is_file() && !is_gguf(&file) {
        true => Ok(Some(file)),
        false => Err(Error::failed(format!(
            "{} is no file: for --goal pretrain give --model a {CONFIG_FILE}, whose weights are drawn anew, or {OWN}",
            shown(&file)
        ))),
    }
}

/// Settings that fit; shorter sequences where those of the usual length do not.
///
/// # Errors
/// No such text or model, or nothing fits.
pub fn plan(wanted: &Wanted) -> Result<Planned> {
    let content = content_of(&wanted.dataset)?;
    looks_like_a_model(wanted.goal, &wanted.model)?;
    let mut config = settings(wanted)?;
    suits(content, wanted, &config)?;
    let tokens = size(&CorpusOptions::new(&wanted.dataset))? / BYTES_IN_TOKEN;
    let sequences =
        |config: &TrainConfig| epochs(wanted.goal) * tokens / config.max_seq_len.max(1) as u64;
    config.batch_size = (sequences(&config) / UPDATES).clamp(1, SEQUENCES as u64) as usize;
    let mut tell = telling(&format!("downloading {}", wanted.model), false);
    let mut length = config.max_seq_len;
    loop {
        let shorter = TrainConfig {
            max_seq_len: length,
            ..config.clone()
        };
        match fitted(&shorter, &mut tell) {
            // A length that was asked for is not for us to change.
            Err(Error::OutOfMemory(_))
                if wanted.max_seq_len.is_none() && length / 2 >= SHORTEST =>
            {
                length /= 2;
            }
            Err(Error::OutOfMemory(why)) => {
                return Err(Error::failed(format!("{why}{}", smaller(wanted.goal))));
            }
            Err(error) => return Err(error),
            Ok(fitted) => {
                let updates =
                    sequences(&fitted.config) / fitted.config.effective_batch().max(1) as u64;
                return Ok(Planned {
                    fitted,
                    content,
                    updates: updates.max(1),
                    shortened_from: (length < config.max_seq_len).then_some(config.max_seq_len),
                });
            }
        }
    }
}

/// Passes over the text.
pub fn epochs(goal: Goal) -> u64 {
    match goal {
        Goal::Pretrain => 10,
        Goal::Finetune => 2,
        Goal::Lora | Goal::Qlora => 3,
    }
}

fn smaller(goal: Goal) -> &'static str {
    match goal {
        Goal::Pretrain | Goal::Qlora => "",
        Goal::Finetune => "; or take --goal lora",
        Goal::Lora => "; or take --goal qlora",
    }
}

/// Before it is known what fits.
fn settings(wanted: &Wanted) -> Result<TrainConfig> {
    let subject = match (wanted.goal, wanted.model.as_str()) {
        (Goal::Pretrain, OWN) => Subject::Scratch,
        (Goal::Pretrain, _) => Subject::Decoder,
        (Goal::Finetune, _) => Subject::Pretrained,
        (Goal::Lora | Goal::Qlora, _) => Subject::Adapter,
    };
    let mut config = TrainConfig::defaults(subject);
    match subject {
        Subject::Scratch => {}
        Subject::Decoder => {
            config.model_config = config_file(&wanted.model)?;
            let folder = config.model_config.as_deref().and_then(Path::parent);
            let own = folder.filter(|folder| folder.join(TOKENIZER_FILE).is_file());
            if let Some(own) = own {
                config.model = own.join(TOKENIZER_FILE).display().to_string();
            }
        }
        Subject::Pretrained | Subject::Adapter => {
            config.model.clone_from(&wanted.model);
            config.pretrained = Some(wanted.model.clone());
        }
    }
    if subject == Subject::Adapter {
        config.lora_rank = Some(RANK);
    }
    // A GGUF file is in few bits already.
    if wanted.goal == Goal::Qlora && !is_gguf(Path::new(&wanted.model)) {
        config.quantize = Some(Quantize::Nf4);
    }
    config.device = wanted.device;
    config.memory_limit = wanted.memory_limit;
    config.dataset_file = Some(wanted.dataset.clone());
    if let Some(length) = wanted.max_seq_len {
        config.max_seq_len = length;
    }
    Ok(config)
}

/// What the text is, in words.
pub fn in_words(content: Content) -> &'static str {
    match content {
        Content::Text => "text",
        Content::Texts => "records with a text each",
        Content::Tokens => "rows of tokens",
        Content::Conversations(form) => match form {
            RecordForm::PromptCompletion => {
                "prompts and what completes them: the completions are learnt"
            }
            _ => "conversations, by the model's chat template: the answers are learnt",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::config::DeviceChoice;

    fn wanted(goal: Goal, model: &str) -> Wanted {
        Wanted {
            goal,
            dataset: "builtin:stories".into(),
            model: model.into(),
            max_seq_len: None,
            device: DeviceChoice::Cpu,
            memory_limit: None,
        }
    }

    #[test]
    fn the_goal_says_what_is_trained() {
        let of = |goal| settings(&wanted(goal, "org/name")).unwrap();
        assert_eq!(of(Goal::Finetune).lora_rank, None);
        assert_eq!(of(Goal::Lora).lora_rank, Some(16));
        assert_eq!(of(Goal::Lora).quantize, None);
        assert_eq!(of(Goal::Qlora).quantize, Some(Quantize::Nf4));
        let own = settings(&wanted(Goal::Pretrain, OWN)).unwrap();
        assert_eq!((own.subject, own.pretrained), (Subject::Scratch, None));
    }

    #[test]
    fn a_model_that_is_none_is_refused() {
        let message = |goal, model: &str| {
            let error = looks_like_a_model(goal, model).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            error.to_string()
        };
        assert!(message(Goal::Lora, "no such model").contains("Hub id"));
        assert!(message(Goal::Lora, "gpt2").contains("OWNER/NAME"));
        assert!(message(Goal::Pretrain, "missing.json").contains("config.json"));
        assert!(looks_like_a_model(Goal::Lora, "org/name@main").is_ok());
    }

    #[test]
    fn what_does_not_fit_gets_fewer_or_shorter_sequences_and_says_so() {
        let mut wanted = wanted(Goal::Pretrain, OWN);
        let all = plan(&wanted).unwrap().fitted;
        assert_eq!(all.config.effective_batch(), 8);
        wanted.memory_limit = Some("64MiB".parse().unwrap());
        let error = plan(&wanted).unwrap_err().to_string();
        assert!(error.contains("nothing fits"), "{error}");
    }
}
