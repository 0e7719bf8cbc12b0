//! Settings that do nothing beside the others that were chosen, so that none is ignored in silence.
//!
//! A setting counts as chosen if it is not at its default, whether by a flag or in a file.

use aios_base::config::{
    AmpDtype, BadRecords, ChunkGradients, CsvSeparator, RecordForm, TextDocuments, TextFormat,
    TooLong, TrainConfig, TrainOn, WeightsDtype,
};
use aios_base::execution::{Chunking, Kind};

/// Whether it is so, the flag that does nothing, and beside what.
type Row<'a> = (bool, &'a str, &'a str);

/// Say each of them.
pub fn warn(idle: &[String]) {
    for words in idle {
        tracing::warn!("{words}");
    }
}

/// Those that a step and its memory would depend on.
pub fn of_step(config: &TrainConfig) -> Vec<String> {
    let default = TrainConfig::default();
    let whole = !config.use_chunked_training;
    let seq = config.max_seq_len;
    let no_chunks = format!(
        "on sequences of {seq} tokens, which are no longer than a chunk (--chunk-size {})",
        config.chunk_size
    );
    let no_window = format!("on sequences of {seq} tokens, which are no longer");
    told(&[
        (
            config.shard_optimizer && config.ranks == 1,
            "--shard-optimizer",
            "on one rank",
        ),
        (
            config.local_steps.is_some() && config.ranks == 1,
            "--local-steps",
            "on one rank",
        ),
        (
            config.weights_dtype != WeightsDtype::F32 && config.trains_adapter(),
            "--weights-dtype",
            "on an adapter, which is in f32",
        ),
        (
            config.f32_embedding_state && !config.use_8bit_optimizer,
            "--f32-embedding-state",
            "without --use-8bit-optimizer",
        ),
        (
            config.checkpoint_every > 1 && !config.gradient_checkpointing,
            "--checkpoint-every",
            "without --gradient-checkpointing",
        ),
        (
            config.checkpoint_every > 1
                && config.gradient_checkpointing
                && config.h_layers.max(config.l_layers) == 1,
            "--checkpoint-every",
            "on levels of one block",
        ),
        (
            config.amp == Some(false) && config.amp_dtype != AmpDtype::Auto,
            "--amp-dtype",
            "with --no-amp",
        ),
        (
            config.window_size >= seq,
            "--window-size",
            no_window.as_str(),
        ),
        (
            whole && config.chunk_gradients != ChunkGradients::Auto,
            "--chunk-gradients",
            "without --use-chunked-training",
        ),
        (
            whole && config.chunk_size != default.chunk_size,
            "--chunk-size",
            "without --use-chunked-training",
        ),
        (
            config.use_chunked_training && config.chunking() == Chunking::Off,
            "--use-chunked-training",
            no_chunks.as_str(),
        ),
    ])
}

/// Those that a device of this kind has no use for.
pub fn on_device(config: &TrainConfig, kind: Kind) -> Vec<String> {
    told(&[(
        config.cpu_offload && !kind.is_gpu(),
        "--cpu-offload",
        "on a CPU, where everything is in host memory",
    )])
}

/// Those about reading text that the format which was named rules out.
pub fn of_text(config: &TrainConfig) -> Vec<String> {
    let format = config.text_format;
    let with = match format {
        TextFormat::Auto => return Vec::new(),
        TextFormat::Text => "with --text-format text",
        TextFormat::Json => "with --text-format json",
        TextFormat::Csv => "with --text-format csv",
        TextFormat::Tokens => "with --text-format tokens",
    };
    let tokens = format == TextFormat::Tokens;
    // It says something about the texts of records too.
    let whole = config.text_documents == TextDocuments::Whole && !tokens;
    let text = format == TextFormat::Text;
    told(&[
        (
            !text && !whole && config.text_documents != TextDocuments::Blank,
            "--text-documents",
            with,
        ),
        (
            (text || tokens) && config.text_field != TrainConfig::default().text_field,
            "--text-field",
            with,
        ),
        (
            format != TextFormat::Csv && config.csv_separator != CsvSeparator::Auto,
            "--csv-separator",
            with,
        ),
        (
            text && config.bad_records != BadRecords::Error,
            "--bad-records",
            with,
        ),
        (tokens && config.ascii_only, "--ascii-only", with),
    ])
}

const ROWS_OF_ACTV1: &str = "on ACT-v1, whose rows follow each other";
const ON_ACTV1: &str = "on ACT-v1, which reads text and tokens";

/// Those about sequences that ACT-v1 has only one way for.
pub fn of_actv1(config: &TrainConfig) -> Vec<String> {
    told(&[
        (
            config.pack_rows,
            "--pack-rows",
            "on ACT-v1, which always packs rows",
        ),
        (config.packing.is_some(), "--packing", ROWS_OF_ACTV1),
        (
            config.too_long != TooLong::Truncate,
            "--too-long",
            ROWS_OF_ACTV1,
        ),
        (
            !config.add_tokens.is_empty(),
            "--add-tokens",
            "on ACT-v1, whose vocabulary is its tokenizer's",
        ),
        (config.format != RecordForm::Auto, "--format", ON_ACTV1),
        (config.chat_template.is_some(), "--chat-template", ON_ACTV1),
        (
            config.train_on != TrainOn::Assistant,
            "--train-on",
            ON_ACTV1,
        ),
        (
            config.full_windows && unscored(config),
            "--full-windows",
            "without --eval-file or --eval-split",
        ),
    ])
}

/// Keys of a file that a decoder has no use for.
pub fn of_decoder(keys: &[&str]) -> Vec<String> {
    let why = "has no effect on a Hugging Face model, whose config.json says what it is";
    keys.iter().map(|key| format!("{key} {why}")).collect()
}

/// Whether there is nothing to evaluate on.
fn unscored(config: &TrainConfig) -> bool {
    config.eval_file.is_none() && config.eval_split == 0.0
}

/// Those about the course of a run, and what it reads and leaves behind.
pub fn of_run(config: &TrainConfig) -> Vec<String> {
    let default = TrainConfig::default();
    let unscored = unscored(config);
    let placed = config.save_dir.is_some();
    let no_lora = config.lora_rank.is_none();
    let not_new = match config.adapter {
        Some(_) => "with --adapter, which has its own",
        None => "without --lora-rank",
    };
    told(&[
        (
            config.full_windows && config.trains_decoder() && config.packing == Some(true),
            "--full-windows",
            "with --packing, which makes no windows",
        ),
        (
            no_lora && config.lora_alpha != default.lora_alpha,
            "--lora-alpha",
            not_new,
        ),
        (
            !config.trains_adapter() && config.lora_dropout.is_some(),
            "--lora-dropout",
            "without --lora-rank or --adapter",
        ),
        (
            no_lora && config.lora_targets != default.lora_targets,
            "--lora-targets",
            not_new,
        ),
        (no_lora && config.rslora, "--rslora", not_new),
        (no_lora && config.dora, "--dora", not_new),
        (
            no_lora && config.train_embeddings,
            "--train-embeddings",
            not_new,
        ),
        (
            config.halt_max_steps == 1 && config.halt_exploration != default.halt_exploration,
            "--halt-exploration",
            "with --halt-max-steps 1",
        ),
        (
            config.linear_dataset && config.dataset_chunk_size != default.dataset_chunk_size,
            "--dataset-chunk-size",
            "without --no-linear-dataset",
        ),
        (
            unscored && config.eval_every != default.eval_every,
            "--eval-every",
            "without --eval-file or --eval-split",
        ),
        (
            unscored && config.eval_batches != default.eval_batches,
            "--eval-batches",
            "without --eval-file or --eval-split",
        ),
        (
            unscored && config.keep_best,
            "--keep-best",
            "without --eval-file or --eval-split",
        ),
        (
            config.rewarm_steps.is_some() && !config.resumes(),
            "--rewarm-steps",
            "without --resume",
        ),
        (
            config.resume && config.resume_if_exists,
            "--resume",
            "with --resume-if-exists, which begins at step 0 where there is nothing to resume",
        ),
        (
            placed && config.brain_name != default.brain_name,
            "--brain-name",
            "with --save-dir",
        ),
        (
            placed && config.bundle_dir.is_some(),
            "--bundle-dir",
            "with --save-dir",
        ),
    ])
}

fn told(table: &[Row]) -> Vec<String> {
    let idle = table.iter().filter(|(idle, ..)| *idle);
    idle.map(|(_, flag, beside)| format!("{flag} has no effect {beside}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut TrainConfig);

    fn all(config: &TrainConfig) -> Vec<String> {
        [
            of_step(config),
            on_device(config, Kind::Cpu),
            of_text(config),
            of_actv1(config),
            of_run(config),
        ]
        .concat()
    }

    fn after(changes: &[Change]) -> TrainConfig {
        let mut config = TrainConfig::default();
        changes.iter().for_each(|change| change(&mut config));
        config
    }

    #[test]
    fn defaults_are_not_spoken_of() {
        assert_eq!(all(&TrainConfig::default()), Vec::<String>::new());
    }

    /// Each is said alone, and not once what it needs is there.
    #[test]
    fn each_is_said_once_and_only_where_it_does_nothing() {
        let cases: [(&str, Change, Change); 32] = [
            (
                "--lora-alpha has no effect without --lora-rank",
                |c| c.lora_alpha = 8.0,
                |c| c.lora_rank = Some(4),
            ),
            (
                "--lora-dropout has no effect without --lora-rank or --adapter",
                |c| c.lora_dropout = Some(0.1),
                |c| c.adapter = Some("a".into()),
            ),
            (
                "--lora-targets has no effect with --adapter, which has its own",
                |c| (c.lora_targets, c.adapter) = ("q_proj".into(), Some("a".into())),
                |c| (c.lora_rank, c.adapter) = (Some(4), None),
            ),
            (
                "--rslora has no effect without --lora-rank",
                |c| c.rslora = true,
                |c| c.lora_rank = Some(4),
            ),
            (
                "--dora has no effect without --lora-rank",
                |c| c.dora = true,
                |c| c.lora_rank = Some(4),
            ),
            (
                "--train-embeddings has no effect without --lora-rank",
                |c| c.train_embeddings = true,
                |c| c.lora_rank = Some(4),
            ),
            (
                "--f32-embedding-state has no effect without --use-8bit-optimizer",
                |c| c.f32_embedding_state = true,
                |c| c.use_8bit_optimizer = true,
            ),
            (
                "--checkpoint-every has no effect without --gradient-checkpointing",
                |c| (c.checkpoint_every, c.gradient_checkpointing) = (2, false),
                |c| c.gradient_checkpointing = true,
            ),
            (
                "--checkpoint-every has no effect on levels of one block",
                |c| (c.checkpoint_every, c.h_layers, c.l_layers) = (2, 1, 1),
                |c| c.l_layers = 2,
            ),
            (
                "--amp-dtype has no effect with --no-amp",
                |c| (c.amp, c.amp_dtype) = (Some(false), AmpDtype::Bf16),
                |c| c.amp = None,
            ),
            (
                "--window-size has no effect on sequences of 128 tokens, which are no longer",
                |c| c.window_size = 128,
                |c| c.max_seq_len = 129,
            ),
            (
                "--chunk-gradients has no effect without --use-chunked-training",
                |c| c.chunk_gradients = ChunkGradients::Exact,
                |c| (c.use_chunked_training, c.max_seq_len) = (true, 4096),
            ),
            (
                "--chunk-size has no effect without --use-chunked-training",
                |c| c.chunk_size = 64,
                |c| c.use_chunked_training = true,
            ),
            (
                "--use-chunked-training has no effect on sequences of 128 tokens, which are no longer \
                 than a chunk (--chunk-size 2048)",
                |c| c.use_chunked_training = true,
                |c| c.chunk_size = 64,
            ),
            (
                "--cpu-offload has no effect on a CPU, where everything is in host memory",
                |c| c.cpu_offload = true,
                |c| c.cpu_offload = false,
            ),
            (
                "--text-documents has no effect with --text-format json",
                |c| {
                    (c.text_documents, c.text_format) = (TextDocuments::Line, TextFormat::Json);
                },
                |c| c.text_format = TextFormat::Auto,
            ),
            (
                "--text-field has no effect with --text-format text",
                |c| (c.text_field, c.text_format) = ("body".into(), TextFormat::Text),
                |c| c.text_format = TextFormat::Csv,
            ),
            (
                "--csv-separator has no effect with --text-format json",
                |c| (c.csv_separator, c.text_format) = (CsvSeparator::Tab, TextFormat::Json),
                |c| c.text_format = TextFormat::Csv,
            ),
            (
                "--bad-records has no effect with --text-format text",
                |c| (c.bad_records, c.text_format) = (BadRecords::Skip, TextFormat::Text),
                |c| c.text_format = TextFormat::Json,
            ),
            (
                "--text-documents has no effect with --text-format tokens",
                |c| {
                    (c.text_documents, c.text_format) = (TextDocuments::Whole, TextFormat::Tokens);
                },
                |c| c.text_format = TextFormat::Json,
            ),
            (
                "--ascii-only has no effect with --text-format tokens",
                |c| (c.ascii_only, c.text_format) = (true, TextFormat::Tokens),
                |c| c.text_format = TextFormat::Csv,
            ),
            (
                "--pack-rows has no effect on ACT-v1, which always packs rows",
                |c| c.pack_rows = true,
                |c| c.pack_rows = false,
            ),
            (
                "--full-windows has no effect without --eval-file or --eval-split",
                |c| c.full_windows = true,
                |c| c.eval_split = 0.1,
            ),
            (
                "--halt-exploration has no effect with --halt-max-steps 1",
                |c| (c.halt_exploration, c.halt_max_steps) = (0.5, 1),
                |c| c.halt_max_steps = 2,
            ),
            (
                "--dataset-chunk-size has no effect without --no-linear-dataset",
                |c| c.dataset_chunk_size = 16,
                |c| c.linear_dataset = false,
            ),
            (
                "--eval-every has no effect without --eval-file or --eval-split",
                |c| c.eval_every = 5,
                |c| c.eval_file = Some("text.txt".into()),
            ),
            (
                "--eval-batches has no effect without --eval-file or --eval-split",
                |c| c.eval_batches = 5,
                |c| c.eval_split = 0.1,
            ),
            (
                "--keep-best has no effect without --eval-file or --eval-split",
                |c| c.keep_best = true,
                |c| c.eval_file = Some("text.txt".into()),
            ),
            (
                "--rewarm-steps has no effect without --resume",
                |c| c.rewarm_steps = Some(5),
                |c| c.resume_if_exists = true,
            ),
            (
                "--resume has no effect with --resume-if-exists, which begins at step 0 where there is \
                 nothing to resume",
                |c| (c.resume, c.resume_if_exists) = (true, true),
                |c| c.resume_if_exists = false,
            ),
            (
                "--brain-name has no effect with --save-dir",
                |c| (c.brain_name, c.save_dir) = ("a".into(), Some("b".into())),
                |c| c.save_dir = None,
            ),
            (
                "--bundle-dir has no effect with --save-dir",
                |c| (c.bundle_dir, c.save_dir) = (Some("a".into()), Some("b".into())),
                |c| c.save_dir = None,
            ),
        ];
        for (words, idle, needed) in cases {
            assert_eq!(all(&after(&[idle])), [words]);
            assert_eq!(
                all(&after(&[idle, needed])),
                Vec::<String>::new(),
                "{words}"
            );
        }
    }

    #[test]
    fn a_gpu_has_use_for_the_hosts_memory() {
        let config = after(&[|c| c.cpu_offload = true]);
        assert_eq!(on_device(&config, Kind::Cuda), Vec::<String>::new());
    }
}
