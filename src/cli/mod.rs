//! The command line: what there is to run, one file a subcommand. Decisions are made elsewhere.

pub mod arch_summary;
pub mod args;
mod bench;
mod brain;
pub mod chat;
pub mod completions;
pub mod data;
pub mod devices;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod finetune;
pub mod generate;
pub mod init;
pub mod man;
pub mod measured;
pub mod merge;
mod named;
mod report;
pub mod rows;
pub mod sampling;
pub mod schema;
pub mod serve;
mod speech;
mod sums;
pub mod train;
pub mod train_flags;

use clap::{Parser, Subcommand};

use aios_base::error::Result;
use aios_base::terminal::write_stdout;
use args::{
    ArchSummaryArgs, BenchAttentionArgs, BenchContextArgs, BenchMemoryArgs, BenchStepArgs,
    DevicesArgs, EvalArgs, GenerateArgs, ReportArgs,
};
use chat::ChatArgs;
use completions::CompletionsArgs;
use data::DataCommand;
use doctor::DoctorArgs;
use export::ExportArgs;
use finetune::{FinetuneFlags, PretrainFlags};
use init::InitArgs;
use man::ManArgs;
use merge::MergeArgs;
use schema::SchemaArgs;
use serve::ServeArgs;
use train_flags::TrainFlags;

/// Train bigger language models and longer contexts on the GPU you have
///
/// aios fine-tunes Hugging Face models and trains the HRM ACT-v1 language model on CUDA, on any GPU with Vulkan, Metal or DX12, or on
/// the CPU. Messages go to standard error, results to standard output. The environment variable
/// AIOS_LOG sets how much is logged, for example AIOS_LOG=aios=debug.
#[derive(Debug, Parser)]
#[command(name = "aios", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done or stopped on request, 1 failed, 2 bad arguments.")]
pub struct Cli {
    /// What to run; without it, what to do next is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train the HRM ACT-v1 model on text (short for `hrm-hf train-actv1`)
    Train(Box<TrainFlags>),
    /// Train a pretrained Hugging Face model on text: all of it, or a LoRA adapter beside it
    ///
    /// Llama, Mistral, Qwen 2 and 3, SmolLM 2, GPT-2, Phi-3, Gemma 3, OLMo 2, Granite and HRM-Text. What is saved is a
    /// Hugging Face folder that other programs load, or with --lora-rank an adapter that PEFT loads, beside what --resume needs.
    Finetune(Box<FinetuneFlags>),
    /// Train a Hugging Face model from random weights, as a config.json describes it
    Pretrain(Box<PretrainFlags>),
    /// The HRM ACT-v1 model: train it, look at its size
    #[command(subcommand)]
    HrmHf(HrmHfCommand),
    /// List the devices, what each can compute in, and which one would be used
    Devices(DevicesArgs),
    /// Ask what is to be trained, and write settings that fit this machine
    ///
    /// Writes a TOML file with comments, of sequences and a micro-batch that are predicted to fit the device, and says the
    /// command that trains with it. Flags answer the questions; with all three nothing is asked, and no terminal is needed.
    Init(Box<InitArgs>),
    /// Say what is installed, what works here and how fast, and what mends what does not
    ///
    /// Devices are tried one after the other, each for at most 20 seconds in a process of its own. The text is made for bug
    /// reports: secrets are not in it, and ~ stands for the home folder and for names of users in paths. The exit code is 1 if
    /// not even the CPU works.
    Doctor(DoctorArgs),
    /// Generate text with a trained model
    Generate(GenerateArgs),
    /// Talk with a model, by its chat template
    ///
    /// Answers are written as they come; what was said before is remembered. At a terminal, lines are edited as in a shell, with
    /// a history; a line that ends in \ goes on in the next one, and text between two lines of """ is one message. Ctrl-C ends
    /// the answer, Ctrl-D the program. /help names the commands: begin anew, another answer, another system message, save. From a
    /// pipe, each line is answered in turn.
    Chat(Box<ChatArgs>),
    /// Serve a model over HTTP as OpenAI's servers do, to try it with the programs that speak to those
    ///
    /// /v1/chat/completions and /v1/completions, whole or streamed, and /v1/models; one request at a time, the others wait.
    /// Only this machine can reach it unless --host says otherwise.
    Serve(Box<ServeArgs>),
    /// Measure the loss of a trained model on a text
    Eval(EvalArgs),
    /// Add an adapter to its model, and write the model
    ///
    /// What is written is a Hugging Face folder with tokenizer and chat template, in the number format of the model: sums are
    /// in f32, and rounded once. The adapter is that of a training with --lora-rank, or one that PEFT wrote.
    Merge(MergeArgs),
    /// Write a model or an adapter for other programs: transformers, PEFT, llama.cpp, Ollama, LM Studio
    ///
    /// A bundle of a training, a Hugging Face folder, a Hub id or a GGUF file becomes a folder of safetensors or a GGUF file; with
    /// --merge an adapter is added to its model first. Sums are in f32, and rounded once. What a form cannot hold is refused.
    Export(Box<ExportArgs>),
    /// Look at data sets
    #[command(subcommand)]
    Data(DataCommand),
    /// Measure memory and speed on this machine
    ///
    /// What does not fit is a row that says so. The exit code is 1 if a row failed, or if nothing was
    /// measured.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Draw what runs logged as one interactive HTML page
    ///
    /// Losses, learning rate, gradients, loss scale, speed and memory over steps, tokens or time,
    /// with what happened on the way, several runs over one another, and tables of their results and
    /// of the settings in which they differ. The page needs no network and can be passed on.
    Report(ReportArgs),
    /// Write a shell completion script to standard output
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
    /// Write a JSON Schema of configuration files to standard output, for editors
    ///
    /// Keys, types, defaults and possible values with their help, as --config reads them. Editors with Taplo (such as Even
    /// Better TOML) complete and check by it: aios schema > aios.schema.json, and `#:schema ./aios.schema.json` as the first
    /// line of the TOML file.
    Schema(SchemaArgs),
}

/// The subcommands of `aios hrm-hf`.
#[derive(Debug, Subcommand)]
pub enum HrmHfCommand {
    /// Train the HRM ACT-v1 model on text
    TrainActv1(Box<TrainFlags>),
    /// Count the parameters of a model and the memory that training it takes
    ArchSummary(Box<ArchSummaryArgs>),
}

/// The subcommands of `aios bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Take the memory of a training step apart: plain, with each feature alone, with all
    ///
    /// Of ACT-v1, or of a Hugging Face model with --model. Every row is the real training step on made-up
    /// tokens, 8 sequences of 512 unless flags say otherwise, in a process of its own: two passes to warm up
    /// and to take the memory apart, then the timed steps. Flags hold for every row; those that rows differ
    /// in are for --rows to choose. Peaks on the CPU are exact, counted by the allocator; on a GPU they are
    /// what the runtime took from the device.
    Memory(Box<BenchMemoryArgs>),
    /// Measure attention over the sequence length: time and memory of each path
    ///
    /// Causal self-attention on random numbers, with and without a window: `flash` is the kernel
    /// whose memory is linear in the sequence length, `sdpa` the same in tensor operations. Both run
    /// in turns. A case that does not fit is a row that says so.
    Attention(Box<BenchAttentionArgs>),
    /// Measure a training step over the length of its sequence: memory and speed of each form
    ///
    /// Of ACT-v1, or of a Hugging Face model with --model. One sequence a step, a window of 1024 tokens,
    /// unless flags say otherwise, in each form from short to long until it no longer fits the device or
    /// --memory-limit: `plain` keeps everything and all attention scores, `flash` is the default,
    /// `flash-window` adds a window, `chunked-exact` and `chunked` split the sequence, `chunked-offload`
    /// (on a GPU) keeps what waits in host memory. Each length in a process of its own.
    Context(Box<BenchContextArgs>),
    /// Take the time of a training step apart, operation by operation, on the CPU
    ///
    /// Of ACT-v1, or of a Hugging Face model with --model. The real training step on made-up tokens, in this
    /// process: for each operation its time, the arithmetic of its products and how much that is of what the
    /// processor does at most (multiply-adds on registers alone, measured before and after), and the bytes of
    /// the tensors that it reads and writes. The last line sets the model's arithmetic, counted once where
    /// gradient checkpointing does it twice, beside that limit.
    Step(Box<BenchStepArgs>),
}

/// For whoever starts the program to see what it is.
const NEXT: &str = "\
aios train --config quickstart   watch a small model learn: two minutes, nothing to download
aios init                        train or fine-tune on your own text, with settings that fit this machine
aios doctor                      what works here, and how fast; aios --help lists all commands
";

/// Runs the chosen subcommand; returns the exit code.
pub fn run(cli: Cli) -> Result<u8> {
    let Some(command) = cli.command else {
        return write_stdout(NEXT.as_bytes()).map(|()| 0);
    };
    match command {
        Command::Train(flags) | Command::HrmHf(HrmHfCommand::TrainActv1(flags)) => {
            return train::run(*flags);
        }
        Command::Finetune(flags) => return finetune::run(&*flags, &flags.shared),
        Command::Pretrain(flags) => return finetune::run(&*flags, &flags.shared),
        Command::HrmHf(HrmHfCommand::ArchSummary(args)) => arch_summary::run(*args),
        Command::Devices(args) => devices::run(args),
        Command::Init(args) => init::run(*args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(*args),
        Command::Serve(args) => serve::run(*args),
        Command::Eval(args) => return eval::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Export(args) => export::run(*args),
        Command::Data(command) => data::run(command),
        Command::Bench(BenchCommand::Memory(args)) => bench::memory(*args),
        Command::Bench(BenchCommand::Attention(args)) => bench::attention(&args),
        Command::Bench(BenchCommand::Context(args)) => bench::context(*args),
        Command::Bench(BenchCommand::Step(args)) => bench::step(*args),
        Command::Report(args) => report::run(&args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Schema(args) => schema::run(args),
    }?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).unwrap()
    }

    #[test]
    fn clap_finds_no_mistake() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_describes_itself() {
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().unwrap().to_string();
            // Clap would also take the description of the arguments' own type.
            assert!(!about.starts_with("Arguments"), "{}", command.get_name());
        }
    }

    #[test]
    fn both_training_commands_take_the_same_flags() {
        let flags = "--model gpt2 --dataset-file t.txt --steps 50 --batch-size 1 \
                     --gradient-checkpointing --amp --use-8bit-optimizer --window-size 2048 \
                     --log-file m.jsonl";
        let command = |line: String| parse(&line).command.unwrap();
        let (Command::Train(short), Command::HrmHf(HrmHfCommand::TrainActv1(long))) = (
            command(format!("aios train {flags}")),
            command(format!("aios hrm-hf train-actv1 {flags}")),
        ) else {
            panic!("another subcommand was parsed");
        };
        let config = |flags: &TrainFlags| aios_base::config::TrainConfig::resolve(flags).unwrap();
        assert_eq!(config(&short), config(&long));
        assert_eq!(config(&short).window(), Some(2048));
    }

    #[test]
    fn alone_it_says_what_there_is_to_run() {
        assert!(parse("aios").command.is_none());
        for line in NEXT.lines() {
            let (command, _) = line.split_once("   ").unwrap();
            assert!(parse(command).command.is_some(), "{command}");
        }
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for line in [
            "aios fly",
            "aios hrm-hf",
            "aios train --step 3",
            "aios train --device gpu",
            "aios hrm-hf arch-summary --strict",
            "aios hrm-hf arch-summary --memory-limit 1GiB",
            "aios hrm-hf arch-summary --halt-exploration 0.5",
            "aios bench memory --no-supervise",
            "aios bench context --sys-mem-cap-pct 90",
        ] {
            let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
