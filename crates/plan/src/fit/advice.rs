//! Which flags would make a run fit.

use crate::Plan;
use crate::estimate::Run;
use crate::fit::form::QUICK_SLICE;
use aios_base::config::{Subject, TrainConfig};
use aios_base::execution::{Chunking, Kind, Place};
use aios_base::meter::format_bytes;
use aios_memory::Decoration;
use aios_memory::checkpoint::Keep;
use aios_memory::moments::Moments;
use aios_models::Architecture;
use aios_tensor::{AttentionPath, LossPath, Precision};

/// A flag that saves memory, and what it does to a run.
struct Saving<'a> {
    flag: String,
    turn_on: Box<dyn Fn(Run<'a>) -> Run<'a> + 'a>,
}

/// Which flags would save how much, most first; and of `room`, if it is known, which would do.
pub fn advice(
    plan: &Plan,
    config: &TrainConfig,
    model: &dyn Architecture,
    room: Option<u64>,
) -> String {
    let now = plan.run(config, model);
    let peak = now.estimate().total;
    let half_length = model.halved();
    let mut savings: Vec<(u64, Saving)> = savings(plan, config, &*half_length)
        .into_iter()
        .map(|saving| {
            let then = (saving.turn_on)(now).estimate().total;
            (peak.saturating_sub(then), saving)
        })
        .filter(|(saved, _)| *saved > peak / 100)
        .collect();
    savings.sort_by_key(|(saved, _)| std::cmp::Reverse(*saved));
    let mut parts: Vec<String> = savings
        .iter()
        .map(|(saved, s)| format!("{} would save about {}", s.flag, format_bytes(*saved)))
        .collect();
    parts.push(format!("{} saves most", config.smaller_model()));
    let advice = parts.join(", ");
    let advice = match config.subject {
        Subject::Pretrained => format!(
            "{advice}, and an adapter (--lora-rank 16, with --quantize nf4 beside weights of 4 bits) needs a fraction"
        ),
        _ => advice,
    };
    let Some(room) = room else { return advice };
    match enough(&savings, now, room) {
        Some((flags, bytes)) => format!(
            "{advice}; with {flags} about {} would be needed, which fits",
            format_bytes(bytes)
        ),
        None => {
            let all = savings
                .iter()
                .fold(now, |run, (_, saving)| (saving.turn_on)(run));
            let least = format_bytes(all.estimate().total);
            format!("{advice}; all flags together would still need about {least}")
        }
    }
}

/// The fewest flags with which a run fits, and what it then takes: one alone, or those that save most.
fn enough<'a>(savings: &[(u64, Saving<'a>)], now: Run<'a>, room: u64) -> Option<(String, u64)> {
    let needed = |run: Run| run.estimate().total;
    let alone = savings.iter().find_map(|(_, saving)| {
        let bytes = needed((saving.turn_on)(now));
        (bytes <= room).then(|| (saving.flag.clone(), bytes))
    });
    let together = || {
        let (mut run, mut flags) = (now, Vec::new());
        for (_, saving) in savings {
            run = (saving.turn_on)(run);
            flags.push(saving.flag.as_str());
            if needed(run) <= room {
                return Some((flags.join(" "), needed(run)));
            }
        }
        None
    };
    alone.or_else(together)
}

/// The run with another decoration.
fn with<'a>(mut run: Run<'a>, change: impl FnOnce(&mut Decoration)) -> Run<'a> {
    change(&mut run.decoration);
    run
}

/// What could be turned on or lowered.
fn savings<'a>(
    plan: &Plan,
    config: &TrainConfig,
    half_length: &'a dyn Architecture,
) -> Vec<Saving<'a>> {
    let mut savings: Vec<Saving> = Vec::new();
    let mut add = |flag: &str, turn_on: Box<dyn Fn(Run<'a>) -> Run<'a> + 'a>| {
        let flag = flag.to_string();
        savings.push(Saving { flag, turn_on });
    };
    let seq_len = half_length.max_seq_len();
    add(
        &format!("--max-seq-len {seq_len}"),
        Box::new(move |run| Run {
            model: half_length,
            seq_len,
            ..run
        }),
    );
    if config.ranks > 1 && !config.shard_optimizer && config.local_steps.is_none() {
        let parts = config.ranks;
        add(
            "--shard-optimizer",
            Box::new(move |run| Run { parts, ..run }),
        );
    }
    if config.batch_size > 1 {
        let one = move |run| Run {
            batch_size: 1,
            ..run
        };
        add("--batch-size 1", Box::new(one));
    }
    if config.gradient_accumulation_steps > 1 {
        let accumulation = config.gradient_accumulation_steps / 2;
        let flag = format!("--gradient-accumulation-steps {accumulation}");
        add(
            &flag,
            Box::new(move |run| Run {
                accumulation,
                ..run
            }),
        );
    }
    if plan.decoration.keep == Keep::Everything {
        let turn_on = |run| with(run, |of| of.keep = Keep::EACH_INPUT);
        add("--gradient-checkpointing", Box::new(turn_on));
    }
    if plan.loss_path == LossPath::Plain {
        let loss_path = LossPath::Fused {
            slice_bytes: QUICK_SLICE,
        };
        let turn_on = move |run| Run { loss_path, ..run };
        add("--fused-cross-entropy", Box::new(turn_on));
    }
    if plan.path == AttentionPath::Sdpa && config.use_flash_attn == Some(false) {
        let path = AttentionPath::Flash;
        add("--use-flash-attn", Box::new(move |run| Run { path, ..run }));
    }
    let (seq, size) = (config.max_seq_len, config.chunk_size);
    let in_chunks = TrainConfig {
        use_chunked_training: true,
        ..config.clone()
    };
    match plan.decoration.chunking {
        Chunking::Off if size < seq && in_chunks.validate_model().is_ok() => {
            let chunking = in_chunks.chunking();
            let turn_on = move |run| with(run, |of| of.chunking = chunking);
            add("--use-chunked-training", Box::new(turn_on));
        }
        Chunking::Off => {}
        Chunking::Truncated { .. } | Chunking::Exact { .. } => {
            let chunking = plan.decoration.chunking.halved();
            let flag = format!("--chunk-size {}", size.div_ceil(2));
            let turn_on = move |run| with(run, |of| of.chunking = chunking);
            add(&flag, Box::new(turn_on));
        }
    }
    if plan.kind.is_gpu() && plan.decoration.place == Place::Device {
        let turn_on = |run| with(run, |of| of.place = Place::Host);
        add("--cpu-offload", Box::new(turn_on));
    }
    if plan.moments == Moments::F32 {
        let moments = Moments::EightBit {
            f32_embedding: false,
        };
        let turn_on = move |run| Run { moments, ..run };
        add("--use-8bit-optimizer", Box::new(turn_on));
    }
    if plan.precision == Precision::F32 && plan.kind == Kind::Cpu {
        let precision = Precision::Bf16;
        let turn_on = move |run| Run { precision, ..run };
        add("--amp-dtype bf16", Box::new(turn_on));
    } else if config.amp == Some(false) {
        let precision = Precision::F16;
        add("--amp", Box::new(move |run| Run { precision, ..run }));
    }
    savings
}
