//! Data of records: which form they have, by which template conversations are read, and what is told of them.

use crate::saved::Saved;
use aios_base::config::{ChatOptions, CorpusOptions, RecordForm, TooLong, TrainConfig, TrainOn};
use aios_base::error::{Error, Result};
use aios_base::execution::Chunking;
use aios_base::terminal;
use aios_chat::Template;
use aios_data::{
    Arranged, Arrangement, Content, Cutting, Sequences, Spool, Tokenizer, Watch, content, marked,
};
use aios_hf::{CHAT_TEMPLATE_FILE, Folder, FolderFile, OLD_CHAT_TEMPLATE_FILE};
use aios_metrics::Rows;
use indicatif::HumanCount;

/// Tokens of the example that the start shows.
const SHOWN: usize = 400;

/// Settings, and the model whose chat template it is.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    pub config: &'a TrainConfig,
    pub model: Model<'a>,
}

/// Where a model's chat template is, unless the settings name another one.
#[derive(Clone, Copy)]
pub enum Model<'a> {
    /// Where the settings say that the model is.
    Named,
    /// A run that is gone on with, which has it among its own files.
    Saved(&'a Saved),
    Folder(&'a Folder),
}

/// How a corpus is read, and what came in on standard input, if that is it.
pub struct Source {
    pub options: CorpusOptions,
    /// Its records have a text each.
    pub texts: bool,
    _spool: Option<Spool>,
}

impl Reading<'_> {
    /// The corpus with what its records need, if they are conversations. Standard input is read for it.
    ///
    /// # Errors
    /// No such corpus, no template, or one that cannot be read; or what `watch` gives.
    pub fn recognised(&self, options: CorpusOptions, watch: &mut Watch) -> Result<Source> {
        let mut source = Source {
            options,
            texts: false,
            _spool: None,
        };
        let is_decoder = self.config.trains_decoder() || matches!(self.model, Model::Folder(_));
        if !is_decoder {
            return Ok(source);
        }
        if source.options.is_stdin() && source.options.stdin.is_none() {
            let spool = Spool::of_stdin(watch)?;
            source.options.stdin = Some(spool.path().to_path_buf());
            source._spool = Some(spool);
        }
        let form = match self.config.format {
            asked @ (RecordForm::Auto | RecordForm::Text) => {
                match (asked, content(&source.options, watch)?) {
                    (RecordForm::Auto, Content::Conversations(form)) => form,
                    (_, found) => {
                        source.texts = !matches!(found, Content::Text | Content::Tokens);
                        return Ok(source);
                    }
                }
            }
            form => form,
        };
        source.options.chat = Some(self.options(form, &source.options.name(), watch)?);
        Ok(source)
    }

    fn options(&self, form: RecordForm, name: &str, watch: &mut Watch) -> Result<ChatOptions> {
        let folder = self.folder(watch)?;
        let template = match (self.given()?, &folder) {
            (Some(text), _) => Some(text),
            (None, Some(folder)) => folder.chat_template()?,
            (None, None) => None,
        };
        if template.is_none() && form != RecordForm::PromptCompletion {
            return Err(Error::invalid(format!(
                "{name} holds conversations ({form}), and model {} has no chat template to read them by: give one by \
                 --chat-template FILE, or take a model that was tuned for instructions",
                self.config.model
            )));
        }
        Ok(ChatOptions {
            form,
            train_on: self.config.train_on,
            template,
            tokens: match &folder {
                Some(folder) => folder.control_tokens()?,
                None => Vec::new(),
            },
        })
    }

    /// Where the model's files are.
    fn folder(&self, watch: &mut Watch) -> Result<Option<Folder>> {
        match (self.model, &self.config.pretrained) {
            (Model::Folder(folder), _) => Ok(Some(folder.clone())),
            (Model::Saved(saved), _) if saved.config.trains_adapter() => {
                Folder::of_adapter(saved.bundle.path()).map(Some)
            }
            (Model::Saved(saved), _) => Folder::open(saved.bundle.path()).map(Some),
            (Model::Named, Some(spec)) => Folder::locate(spec, watch).map(Some),
            (Model::Named, None) => Ok(None),
        }
    }

    /// The text of `--chat-template`; nothing where a saved run has it among its own files.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn given(&self) -> Result<Option<String>> {
        let given = &self.config.chat_template;
        match (self.model, given) {
            (Model::Saved(saved), given) if saved.config.chat_template == *given => Ok(None),
            (_, Some(path)) => Template::read(path).map(Some),
            (_, None) => Ok(None),
        }
    }
}

/// The files of a model's folder with this chat template in place of others.
pub fn with_template(mut files: Vec<FolderFile>, template: Option<String>) -> Vec<FolderFile> {
    let Some(template) = template else {
        return files;
    };
    files.retain(|file| ![CHAT_TEMPLATE_FILE, OLD_CHAT_TEMPLATE_FILE].contains(&&*file.name));
    files.push(FolderFile {
        name: CHAT_TEMPLATE_FILE.to_string(),
        bytes: template.into_bytes(),
    });
    files
}

/// How a decoder's texts become sequences: `texts` says that records have one each, of which each is then to see itself alone.
pub fn cutting(config: &TrainConfig, texts: bool) -> Cutting {
    // What asks for a text in one piece asks for no packing.
    let joined = config.pack_rows || config.full_windows;
    let packing = config.packing.unwrap_or(texts && !joined);
    Cutting {
        pack_rows: config.pack_rows,
        documents: packing && has_whole_sequences(config),
        full_windows: config.full_windows,
    }
}

/// Documents that see themselves alone need all of their sequence at once.
fn has_whole_sequences(config: &TrainConfig) -> bool {
    !matches!(config.chunking(), Chunking::Truncated { .. })
}

/// Rows as the settings say: chosen, and packed where the corpus is of conversations or texts, or where that is asked for.
///
/// # Errors
/// No row is left, or one is too long where that is an error.
pub fn arranged(
    text: Sequences,
    config: &TrainConfig,
    chat: Option<&ChatOptions>,
) -> Result<Sequences> {
    let asked = config.packing == Some(true);
    let of_text = text.by_rows() && !text.cache().holds_rows();
    let chosen = of_text || chat.is_some() || asked || config.too_long != TooLong::Truncate;
    if !chosen || !text.by_rows() {
        return Ok(text);
    }
    let whole = has_whole_sequences(config);
    let packing = config.packing.unwrap_or(chat.is_some() || of_text);
    if packing && !whole {
        tracing::warn!(
            "rows are not packed: with truncated gradients of chunks a row is a sequence by itself"
        );
    }
    text.arranged(&Arrangement {
        longest: config.max_seq_len,
        too_long: config.too_long,
        packing: (packing && whole).then_some(config.seed),
    })
}

/// Whether a mask was asked for that is none.
///
/// # Errors
/// All of the tokens are to be learnt, although only some were meant to be.
pub fn check_mask(arranged: &Arranged, chat: Option<&ChatOptions>) -> Result<()> {
    let Some(chat) = chat.filter(|chat| chat.train_on != TrainOn::All) else {
        return Ok(());
    };
    // Nothing predicts the first token of a row.
    match arranged.trained + arranged.kept >= arranged.tokens {
        false => Ok(()),
        true => Err(Error::failed(format!(
            "--train-on {} masks nothing: 100 % of the tokens would be trained on; check the template or the records by \
             aios data show, or take --train-on all if that is meant",
            chat.train_on.as_str()
        ))),
    }
}

/// For the metrics.
pub fn rows(
    text: &Sequences,
    arranged: &Arranged,
    chat: Option<&ChatOptions>,
    longest: usize,
) -> Rows {
    let form = match chat {
        Some(chat) => chat.form.as_str(),
        None if text.cache().holds_rows() => "tokens",
        None => RecordForm::Text.as_str(),
    };
    Rows {
        form: form.to_string(),
        rows: arranged.rows,
        kept: arranged.kept,
        too_long: arranged.too_long,
        tokens_cut_off: arranged.cut_off,
        nothing_to_learn: arranged.untrained,
        tokens: arranged.tokens,
        trained_tokens: arranged.trained,
        sequences: arranged.sequences,
        padding: arranged.padding(longest),
    }
}

/// What the user is told of the data before the banner: lines with names and values.
pub fn lines(
    text: &Sequences,
    arranged: &Arranged,
    chat: Option<&ChatOptions>,
    config: &TrainConfig,
) -> String {
    let form = match chat {
        None if text.cache().holds_rows() => "rows of tokens".to_string(),
        None => "texts, each of which sees itself alone (--no-packing joins them)".to_string(),
        Some(chat) => {
            let template = match (&chat.template, &config.chat_template) {
                (None, _) => "as they stand".to_string(),
                (Some(_), Some(path)) => format!("chat template {}", path.display()),
                (Some(_), None) => "the model's chat template".to_string(),
            };
            let train_on = chat.train_on.as_str();
            format!("{} ({template}), --train-on {train_on}", chat.form)
        }
    };
    let count = |number: u64| HumanCount(number).to_string();
    let trained = format!(
        "{:.1} % of {} tokens",
        100.0 * arranged.share(),
        count(arranged.tokens)
    );
    let packed = match arranged.kept > arranged.sequences {
        true => "packed into",
        false => "in",
    };
    let rows = format!(
        "{} rows {packed} {} sequences of {} tokens, {:.1} % padding",
        count(arranged.kept),
        count(arranged.sequences),
        config.max_seq_len,
        100.0 * arranged.padding(config.max_seq_len)
    );
    let lines = [("records", form), ("trained", trained), ("rows", rows)];
    let lines = lines.map(|(name, value)| format!("{name:>14}  {value}"));
    lines.join("\n")
}

/// Warns of what was left out or cut off.
pub fn warn(text: &Sequences, arranged: &Arranged, config: &TrainConfig) {
    let (of, longest) = (HumanCount(arranged.rows), config.max_seq_len);
    let too_long = HumanCount(arranged.too_long);
    match (arranged.too_long, config.too_long) {
        (0, _) | (_, TooLong::Error) => {}
        (_, TooLong::Truncate) if !text.cache().holds_rows() => tracing::warn!(
            "{too_long} of {of} texts are longer than --max-seq-len {longest}: the rest of each goes on in rows of its own, \
             which do not see what came before"
        ),
        (_, TooLong::Truncate) => tracing::warn!(
            "{too_long} of {of} rows are longer than --max-seq-len {longest}: the last {} of their tokens are cut off \
             (--too-long)",
            HumanCount(arranged.cut_off)
        ),
        (_, TooLong::Drop) => tracing::warn!(
            "{too_long} of {of} rows are longer than --max-seq-len {longest} and left out (--too-long)"
        ),
    }
    if arranged.untrained > 0 {
        tracing::warn!(
            "{} of {of} rows are left out: nothing of them is to be learnt",
            HumanCount(arranged.untrained)
        );
    }
}

/// The first row of a text, with the tokens that are learnt marked.
///
/// # Errors
/// The tokenizer's rules make unreasonably much of a token.
pub fn example(text: &Sequences, tokenizer: &Tokenizer) -> Result<String> {
    let (ids, labels) = text.first_row();
    let most = ids.len().min(SHOWN);
    let colour = terminal::is_capable();
    let shown = marked(tokenizer, &ids[..most], &labels[..most], colour)?;
    let more = if most < ids.len() { " …" } else { "" };
    let how = if colour { "in colour" } else { "in brackets" };
    Ok(format!("an example, trained tokens {how}:\n{shown}{more}"))
}
