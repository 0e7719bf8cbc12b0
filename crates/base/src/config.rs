//! The training configuration: defaults, then a TOML file, then flags, checked once before any
//! device is touched.
//!
//! TOML keys are the flag names in snake case at the top level of the file, for example `batch_size
//! = 4` for `--batch-size 4`.

mod adapter;
mod corpus;
mod device;
mod distributed;
mod length;
mod load;
mod memory_size;
mod place;
mod preset;
mod records;
mod size;
mod subject;
mod validate;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use corpus::{
    BUILT_IN, BadRecords, CorpusOptions, CsvSeparator, HUB, STDIN, STDIN_NAME, TextDocuments,
    TextFormat, wants_stdin,
};
pub use device::DeviceChoice;
pub use distributed::Distributed;
pub use length::steps_of;
pub use load::Overlay;
pub use memory_size::{AmpDtype, MemorySize, WeightsDtype};
pub use place::{BRAINS, name_of};
pub use preset::{PRESETS, Preset};
pub use records::{ChatOptions, RecordForm, TooLong, TrainOn};
pub use subject::Subject;
pub use validate::{LARGEST_COUNT, LARGEST_RATE};

pub use crate::storage::Quantize;

use crate::execution::Chunking;

/// How a token's position enters the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PosEncodings {
    /// Rotary embedding of queries and keys: nothing to learn.
    Rope,
    /// One learned vector per position, up to the sequence length.
    Learned,
}

/// What counts as "right" when the halting head learns whether to stop after a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HaltReward {
    /// Share of the sequence's tokens predicted correctly.
    Accuracy,
    /// 1 if every token of the sequence is predicted correctly, else 0, as published.
    Exact,
}

/// Gradients of a sequence that is trained in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ChunkGradients {
    /// Truncated with a window shorter than the sequence, else exact.
    Auto,
    /// Those of the whole sequence: states and blocks' inputs of all its tokens are kept.
    Exact,
    /// They end at a chunk's borders: earlier chunks' keys and values count as constants, and
    /// memory hardly grows with the sequence.
    Truncated,
}

/// Learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// Half a cosine wave from the full rate down to a tenth of it at the last step.
    Cosine,
    /// The full rate to the end.
    Constant,
}

/// Everything a training run depends on.
///
/// Field names are the TOML keys. A `None` means "not given"; what then happens stands with the
/// field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Tokenizer: `gpt2`, `builtin:stories`, a directory or `tokenizer.json`, or a Hub id. Default `gpt2`: built in,
    /// needs no network.
    pub model: String,
    /// Width of the model's states. Default 512: the published size.
    pub hidden_size: usize,
    /// Attention heads. Default 8: heads of 64, the size that attention kernels are fastest at.
    pub num_heads: usize,
    /// SwiGLU inner width as a multiple of `hidden_size`, before the ⅔ for the gate. Default 2.0:
    /// half the published 4, as the older trainer had it.
    pub expansion: f64,
    /// Blocks in the slow (H) level. Default 2: a model that a small GPU trains.
    pub h_layers: usize,
    /// Blocks in the fast (L) level. Default 2: as many as in the H level, as published.
    pub l_layers: usize,
    /// Runs of the H level per segment. Default 2: as published.
    pub h_cycles: usize,
    /// Runs of the L level per run of the H level. Default 2: as published.
    pub l_cycles: usize,
    /// Position encoding. Default rope: no parameters, and no longest position.
    pub pos_encodings: PosEncodings,
    /// One table for the embedding and the head. Default off: as published.
    pub tie_embeddings: bool,
    /// Tokens in a training sequence. Default 128: fits any device; raise it first when memory
    /// allows.
    pub max_seq_len: usize,
    /// Tokens that a token may attend to, itself included; 0 = all earlier ones. Default 0: exact
    /// attention.
    pub window_size: usize,
    /// Most segments (deep-supervision passes) per batch. Default 2: the fewest with which halting
    /// can be learnt.
    pub halt_max_steps: usize,
    /// Reward of the halting head. Default accuracy: no text is ever predicted exactly.
    pub halt_reward: HaltReward,
    /// Share of sequences that run a random number of segments, 2 at least, before they may halt.
    /// Default 0.1: as published. At 1 no sequence halts before its second segment.
    pub halt_exploration: f64,

    /// Training text: a file, a directory, or `-` for standard input. Required for training.
    pub dataset_file: Option<PathBuf>,
    /// Windows of `max_seq_len` tokens that are shuffled together; in linear order it has no effect.
    /// Default 4000: neighbours in the file end up far apart, while reading stays in one part of the
    /// file. Only their numbers are held in memory, 8 bytes each.
    pub dataset_chunk_size: usize,
    /// Window of the first sample; a resumed run goes on from where it was instead. Default 0: the
    /// start of the dataset.
    pub dataset_start_offset: u64,
    /// Windows in the order of the file. Default on: the same order on every machine, and disks
    /// like it.
    pub linear_dataset: bool,
    /// What ends a document in a text file. Default blank: a blank line (or `<|endoftext|>`).
    pub text_documents: TextDocuments,
    /// Column or key that holds the text in tables and JSON objects; a key inside another as `a.b`.
    /// Default `text`: what public data sets use.
    pub text_field: String,
    /// How the text lies in the files. Default auto: as their names and their content tell.
    pub text_format: TextFormat,
    /// What stands between the fields of a table. Default auto: with which the header has the
    /// column.
    pub csv_separator: CsvSeparator,
    /// What becomes of a JSON object or row that cannot be understood. Default error: it may be all
    /// of the text.
    pub bad_records: BadRecords,
    /// Drop every character outside ASCII. Default off: it alters the text.
    pub ascii_only: bool,
    /// Rows of tokens follow each other like documents instead of being a sequence each. Default off: a row
    /// sees no other. ACT-v1 always packs them, since a sequence that ends early would halt on padding.
    pub pack_rows: bool,
    /// Which fields the records have. Default auto: as the first one tells.
    pub format: RecordForm,
    /// File with the chat template, in Jinja. `None`: the model's own.
    pub chat_template: Option<PathBuf>,
    /// Which tokens of a conversation are learnt. Default assistant: a model that learns the questions too asks some.
    pub train_on: TrainOn,
    /// What becomes of rows with more tokens than a sequence. Default truncate: most of a long answer is worth more than
    /// none of it.
    pub too_long: TooLong,
    /// Rows share a sequence and do not see each other. `None`: where records of conversations or texts are trained on.
    pub packing: Option<bool>,
    /// Leave out the last, shorter window of a text. Default off: nothing of it is lost. Training of ACT-v1
    /// always does, evaluation of it by this.
    pub full_windows: bool,
    /// Text for evaluation, as `dataset_file`. `None`: no evaluation, unless `eval_split` says otherwise.
    pub eval_file: Option<PathBuf>,
    /// Share of the training text that is evaluated on and never trained on. Default 0: all of it is
    /// trained on.
    pub eval_split: f64,
    /// Batches per evaluation; 0 = the whole file. Default 10: a stable figure at a few percent of
    /// the run's time.
    pub eval_batches: u64,
    /// Steps between evaluations; 0 = only at the end. Default 50: four points in a default run.
    pub eval_every: u64,

    /// Optimizer updates. Default 200: enough to see whether it learns.
    pub steps: u64,
    /// Passes over the dataset, in place of `steps`; [`TrainConfig::resolve_epochs`] makes steps of them. `None`: `steps`
    /// decides.
    pub epochs: Option<f64>,
    /// Sequences per micro-batch. Default 8.
    pub batch_size: usize,
    /// Micro-batches per step. Default 1: none are needed while the batch fits.
    pub gradient_accumulation_steps: usize,
    /// What is trained: said by the command, and no key of a file. Default: a model from scratch.
    #[serde(skip)]
    pub subject: Subject,
    /// Peak learning rate, at most 10. Default: see [`Subject::learning_rate`].
    pub lr: f64,
    /// Steps of linear warm-up. `None`: see [`TrainConfig::warmup`].
    pub warmup_steps: Option<u64>,
    /// Shape after the warm-up. Default cosine: a lower final loss for the same steps.
    pub lr_schedule: LrSchedule,
    /// Decoupled weight decay of every matrix that multiplies, a tied table among them; biases,
    /// positions and an untied embedding do not decay. Default 0.1: usual for language models trained
    /// from nothing.
    pub weight_decay: f64,
    /// Longest gradient (global norm); 0 = no clipping. Default 1.0: the usual guard against a bad
    /// batch.
    pub grad_clip: f64,
    /// Seed of initial weights, order and exploration. Default 0: a run can be repeated without
    /// noting anything down.
    pub seed: u64,
    /// Bundle or `model.safetensors` whose weights to start from. `None`: random weights.
    pub student_init: Option<PathBuf>,
    /// A pretrained decoder to go on from: a Hugging Face folder or a Hub id.
    pub pretrained: Option<String>,
    /// A decoder's config.json, of which the weights are drawn anew.
    pub model_config: Option<PathBuf>,
    /// Tokens that the tokenizer and the model get beside their own. Default none.
    pub add_tokens: Vec<String>,
    /// Rank of a new LoRA adapter, which is trained in place of the model. `None`: all weights are trained, or `adapter`.
    pub lora_rank: Option<usize>,
    /// What the adapter gives is multiplied by this over the rank. Default 32: twice the usual rank of 16.
    pub lora_alpha: f64,
    /// Which share of what a LoRA adapter reads is dropped in training. `None`: that of `adapter`, else nothing.
    pub lora_dropout: Option<f64>,
    /// Modules that have an adapter. Default all-linear: attention alone learns less, even at a higher rank.
    pub lora_targets: String,
    /// Divide alpha by the root of the rank instead. Default off, as in PEFT.
    pub rslora: bool,
    /// Train magnitudes of the weights as well. Default off: it costs time.
    pub dora: bool,
    /// Train embedding and head as a whole beside the adapter. Default off: they are large.
    pub train_embeddings: bool,
    /// A folder with a PEFT adapter to go on training. `None`: none.
    pub adapter: Option<PathBuf>,
    /// Format of the frozen weights of linear layers. `None`: that of the model's files.
    pub quantize: Option<Quantize>,
    /// Repeat cycles of `steps` steps until stopped. Default off.
    pub iterate: bool,
    /// Stop at the end of the current pass over the dataset. Default off: `steps` decides.
    pub stop_after_epoch: bool,
    /// The run ends, saved, when this file appears. `None`: nothing is watched.
    pub stop_file: Option<PathBuf>,

    /// Where to compute. Default auto: CUDA, then wgpu on a real GPU, then the CPU; ndarray
    /// where that does not work.
    pub device: DeviceChoice,
    /// A fallback is an error. Default off: training beats not training.
    pub strict: bool,
    /// Fused attention. `None`: where it runs; `true`: asked for, so that anything else is a
    /// fallback; `false`: never.
    pub use_flash_attn: Option<bool>,
    /// Recompute activations in the backward pass. Default on: memory is scarcer than time.
    pub gradient_checkpointing: bool,
    /// Blocks recomputed together. Default 1: holds least with the few blocks of a level.
    pub checkpoint_every: usize,
    /// Keep the inputs that checkpointing keeps in bf16.
    pub bf16_inputs: bool,
    /// Head and loss over slices of tokens, so that the logits never exist as a whole. Default on:
    /// it is no slower.
    pub fused_cross_entropy: bool,
    /// Half precision. `None`: where the device is faster in it, since it halves the activations;
    /// `true`: asked for, so that anything else is a fallback; `false`: never.
    pub amp: Option<bool>,
    /// Format of half precision. Default auto: the best that the device is fast in. Naming one asks
    /// for half precision, whether or not it is faster.
    pub amp_dtype: AmpDtype,
    /// Format of the weights. Default f32: updates lose nothing.
    pub weights_dtype: WeightsDtype,
    /// 8-bit optimizer state. Default off: exact AdamW unless asked.
    pub use_8bit_optimizer: bool,
    /// With it, keep the embedding's state in f32. Default off: the embedding is nearly half of a
    /// small model, and so would be what 8 bits no longer save.
    pub f32_embedding_state: bool,
    /// Process long sequences in chunks. Default off: exact gradients unless asked.
    pub use_chunked_training: bool,
    /// Tokens per chunk with chunked training. Default 2048: large enough to keep a GPU busy.
    pub chunk_size: usize,
    /// Default auto: without a window the keys and values that truncated gradients need take as much
    /// as exact gradients do.
    pub chunk_gradients: ChunkGradients,
    /// Move what is not needed at once to host memory. Default off: it costs speed.
    pub cpu_offload: bool,
    /// Most memory the run may take: on the CPU its heap, on a GPU what it has in use there.
    /// `None`: what there is.
    pub memory_limit: Option<MemorySize>,
    /// Percent of the host's memory, whoever holds it, above which micro-batches are halved before
    /// the system runs out. Default 0: not looked at.
    pub sys_mem_cap_pct: u8,
    /// Processes that train together, by whom they are summed up. Default auto: as a launcher says.
    pub distributed: Distributed,
    /// How many there are: said by the launcher, and no key of a file. Default 1.
    #[serde(skip)]
    pub ranks: usize,
    /// How many of them share this host, and its memory where that is what they compute in; no key of a file. Default 1.
    #[serde(skip)]
    pub ranks_here: usize,
    /// Each of them has a part of the optimizer's state. Default off: on one device there is nothing to part.
    pub shard_optimizer: bool,
    /// Steps of each rank by itself between two exchanges. `None`: gradients are exchanged in every step.
    pub local_steps: Option<u64>,
    /// Seconds without progress after which a rank counts as lost. Default 300: longer than any step should take.
    pub distributed_timeout: u64,
    /// Train in a child process that is started again with a smaller micro-batch if lack of memory
    /// ends it. Default on: it costs next to nothing, and a run survives the night.
    pub supervise: bool,

    /// Name of the bundle in `bundle_dir`. Default `default`.
    pub brain_name: String,
    /// Directory of the bundles. `None`: `artifacts/brains/actv1`, where the older trainer put them; a decoder's in
    /// `artifacts/brains/` under the name of its model.
    pub bundle_dir: Option<PathBuf>,
    /// Exact directory of the bundle, in place of `bundle_dir`/`brain_name`.
    pub save_dir: Option<PathBuf>,
    /// Continue from the bundle, which has to be there. Default off.
    pub resume: bool,
    /// Continue from the bundle if there is one. Default off.
    pub resume_if_exists: bool,
    /// Steps over which a resumed run reaches its schedule's learning rate from the one it had. `None`: at once.
    pub rewarm_steps: Option<u64>,
    /// Steps between saves; 0 = only at the end. Default 100: a crash costs minutes. A save writes
    /// 12 bytes a parameter, 0.7 GB for the default model; 6 with 8-bit optimizer state.
    pub save_every: u64,
    /// Older saves to keep beside the newest and the one before it, and runs that were started over beside the last
    /// of them. Default 0: each of the default model takes about 0.7 GB.
    pub keep_checkpoints: usize,
    /// Keep the checkpoint of the best evaluation as well. Default off: it takes as much again.
    pub keep_best: bool,
    /// JSON-lines metrics file. `None`: not written.
    pub log_file: Option<PathBuf>,
    /// Directory of TensorBoard event files. `None`: not written.
    pub tensorboard: Option<PathBuf>,
    /// Steps between generated samples; 0 = none during training. Default 0: samples come on
    /// request.
    pub sample_every: u64,
    /// Prompt of the samples. `None`: they start a new document.
    pub sample_prompt: Option<String>,
    /// Repeat the metrics lines on standard output. Default off.
    pub json: bool,
    /// No banner and no progress. Default off.
    pub quiet: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: "gpt2".into(),
            hidden_size: 512,
            num_heads: 8,
            expansion: 2.0,
            h_layers: 2,
            l_layers: 2,
            h_cycles: 2,
            l_cycles: 2,
            pos_encodings: PosEncodings::Rope,
            tie_embeddings: false,
            max_seq_len: 128,
            window_size: 0,
            halt_max_steps: 2,
            halt_reward: HaltReward::Accuracy,
            halt_exploration: 0.1,
            dataset_file: None,
            dataset_chunk_size: 4000,
            dataset_start_offset: 0,
            linear_dataset: true,
            text_documents: TextDocuments::Blank,
            text_field: "text".into(),
            text_format: TextFormat::Auto,
            csv_separator: CsvSeparator::Auto,
            bad_records: BadRecords::Error,
            ascii_only: false,
            pack_rows: false,
            format: RecordForm::Auto,
            chat_template: None,
            train_on: TrainOn::Assistant,
            too_long: TooLong::Truncate,
            packing: None,
            full_windows: false,
            eval_file: None,
            eval_split: 0.0,
            eval_batches: 10,
            eval_every: 50,
            steps: 200,
            epochs: None,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            subject: Subject::Scratch,
            lr: Subject::Scratch.learning_rate(),
            warmup_steps: None,
            lr_schedule: LrSchedule::Cosine,
            weight_decay: 0.1,
            grad_clip: 1.0,
            seed: 0,
            student_init: None,
            pretrained: None,
            model_config: None,
            add_tokens: Vec::new(),
            lora_rank: None,
            lora_alpha: 32.0,
            lora_dropout: None,
            lora_targets: "all-linear".into(),
            rslora: false,
            dora: false,
            train_embeddings: false,
            adapter: None,
            quantize: None,
            iterate: false,
            stop_after_epoch: false,
            stop_file: None,
            device: DeviceChoice::Auto,
            strict: false,
            use_flash_attn: None,
            gradient_checkpointing: true,
            checkpoint_every: 1,
            bf16_inputs: false,
            fused_cross_entropy: true,
            amp: None,
            amp_dtype: AmpDtype::Auto,
            weights_dtype: WeightsDtype::F32,
            use_8bit_optimizer: false,
            f32_embedding_state: false,
            use_chunked_training: false,
            chunk_size: 2048,
            chunk_gradients: ChunkGradients::Auto,
            cpu_offload: false,
            memory_limit: None,
            sys_mem_cap_pct: 0,
            distributed: Distributed::Auto,
            ranks: 1,
            ranks_here: 1,
            shard_optimizer: false,
            local_steps: None,
            distributed_timeout: 300,
            supervise: true,
            brain_name: "default".into(),
            bundle_dir: None,
            save_dir: None,
            resume: false,
            resume_if_exists: false,
            rewarm_steps: None,
            save_every: 100,
            keep_checkpoints: 0,
            keep_best: false,
            log_file: None,
            tensorboard: None,
            sample_every: 0,
            sample_prompt: None,
            json: false,
            quiet: false,
        }
    }
}

impl TrainConfig {
    /// How the text in `path` is read. What this run writes is no part of it.
    pub fn corpus(&self, path: &Path) -> CorpusOptions {
        let outputs = [self.log_file.clone(), self.tensorboard.clone()];
        let outputs = outputs.into_iter().flatten();
        CorpusOptions {
            text_documents: self.text_documents,
            text_field: self.text_field.clone(),
            text_format: self.text_format,
            csv_separator: self.csv_separator,
            bad_records: self.bad_records,
            ascii_only: self.ascii_only,
            leave_out: outputs.chain([self.bundle_path()]).collect(),
            ..CorpusOptions::new(path)
        }
    }

    /// Steps of linear warm-up: as given, else a tenth of the steps but at most 1000.
    ///
    /// Adam's second moment is meaningless in the first steps, so that the full rate there throws
    /// the embedding about; a tenth is the shortest share that is safe at any length, and past 1000
    /// steps nothing is left to settle.
    pub fn warmup(&self) -> u64 {
        self.warmup_steps.unwrap_or((self.steps / 10).min(1000))
    }

    /// Whether to go on with the bundle's run.
    pub fn resumes(&self) -> bool {
        self.resume || self.resume_if_exists
    }

    /// Attention window in tokens, or `None` for all earlier tokens.
    pub fn window(&self) -> Option<usize> {
        (self.window_size > 0).then_some(self.window_size)
    }

    /// How sequences of the longest length are computed.
    pub fn chunking(&self) -> Chunking {
        let size = self.chunk_size;
        let truncated = match self.chunk_gradients {
            ChunkGradients::Auto => self.window().is_some_and(|w| w < self.max_seq_len),
            ChunkGradients::Exact => false,
            ChunkGradients::Truncated => true,
        };
        let chunking = match (self.use_chunked_training, truncated) {
            (false, _) => Chunking::Off,
            (true, true) => Chunking::Truncated { size },
            (true, false) => Chunking::Exact { size },
        };
        chunking.of(self.max_seq_len)
    }

    /// Numbers of ACT-v1's heads.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads.max(1)
    }

    /// Whether the model is a decoder rather than ACT-v1.
    pub fn trains_decoder(&self) -> bool {
        let named = self.pretrained.is_some() || self.model_config.is_some();
        named || self.subject != Subject::Scratch
    }

    /// Sequences per optimizer update, over all ranks.
    pub fn effective_batch(&self) -> usize {
        self.batch_size * self.gradient_accumulation_steps * self.ranks
    }

    /// Whether the run ends with a generated sample.
    pub fn samples_at_end(&self) -> bool {
        self.sample_every > 0 || self.sample_prompt.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_warmup_is_a_tenth_and_never_exceeds_the_steps() {
        for (steps, expected) in [(1, 0), (50, 5), (200, 20), (1_000_000, 1000)] {
            let config = TrainConfig {
                steps,
                ..TrainConfig::default()
            };
            assert_eq!(config.warmup(), expected, "{steps} steps");
        }
    }

    #[test]
    fn window_zero_means_none() {
        let mut config = TrainConfig::default();
        assert_eq!(config.window(), None);
        config.window_size = 7;
        assert_eq!(config.window(), Some(7));
    }
}
