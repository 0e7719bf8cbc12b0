//! Settings of a run of several ranks: which are the same on all, and which follow from there being several.

use crate::saved::Saved;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_distributed::World;
use aios_engine::Sharing;
use aios_metrics::{Fallback, OomBackoff};
use aios_process::split::Split;
use serde::{Deserialize, Serialize};

/// What the ranks of a run with these settings exchange.
pub fn sharing(config: &TrainConfig) -> Sharing {
    match (config.local_steps, config.shard_optimizer) {
        (Some(_), _) => Sharing::Weights,
        (None, true) => Sharing::OptimizerParts,
        (None, false) => Sharing::Gradients,
    }
}

/// The settings of one of several ranks: the first one alone writes and speaks.
pub fn as_one_of(config: &mut TrainConfig, world: &World) {
    config.ranks = world.size();
    config.ranks_here = world.on_host().1;
    // A process that is started again could not join.
    config.supervise &= !world.has_others();
    if !world.is_first() {
        (config.log_file, config.tensorboard) = (None, None);
        (config.quiet, config.json) = (true, false);
    }
}

/// After a resume: as many sequences a step as before, whatever the number of ranks, unless flags ask for others than they did
/// when the run began; gives what they asked for then.
pub fn divide_again(config: &mut TrainConfig, saved: &Saved) -> Split {
    let (split, before, now) = (Split::of(&saved.config), saved.state.ranks, config.ranks);
    let first = saved.state.requested.map_or(split, Split::from);
    let asked = Split::of(config);
    // Each is what was saved, or what the same flags as at first say over it.
    let same = [split.batch_size, first.batch_size].contains(&asked.batch_size)
        && [split.accumulation, first.accumulation].contains(&asked.accumulation);
    if !same {
        return asked;
    }
    let most = split.batch_size.max(first.batch_size);
    match split.among(before, now, most) {
        Some(split) => split.apply(config),
        None => {
            first.apply(config);
            tracing::warn!(
                "a step had {} sequences, which {now} ranks cannot share evenly: from now on it has {}",
                split.effective() * before,
                config.effective_batch()
            );
        }
    }
    first
}

/// All ranks divide their parts as the one with the least memory has to: what is said of it, if another one is that.
///
/// # Errors
/// A rank that is lost.
pub fn smallest_batch(config: &mut TrainConfig, world: &World) -> Result<Option<OomBackoff>> {
    let all = world.gather(&config.batch_size)?;
    let split = Split::of(config);
    let Some((rank, smallest)) = all.into_iter().enumerate().min_by_key(|(_, size)| *size) else {
        return Ok(None);
    };
    if smallest == split.batch_size {
        return Ok(None);
    }
    let smaller = split.in_batches_of(smallest);
    smaller.apply(config);
    Ok(Some(OomBackoff {
        from: split.batch_size as u64,
        to: smallest as u64,
        accumulation: smaller.accumulation as u64,
        step: 0,
        reason: format!(
            "rank {rank} has less memory, and all ranks do as it has to: {}",
            smaller.flags()
        ),
    }))
}

/// What other ranks do without, in words.
///
/// # Errors
/// A rank that is lost.
pub fn of_others(world: &World, own: &[Fallback]) -> Result<Vec<String>> {
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let all = world.gather(&own)?.into_iter().enumerate().skip(1);
    let named = all.flat_map(|(rank, of_rank)| {
        let named = of_rank.into_iter();
        named.map(move |words| format!("rank {rank}: {words}"))
    });
    Ok(named.collect())
}

/// Devices of different kinds round differently, so that weights that each updates would drift apart: where each has a part
/// and gets the others', all have the same.
pub fn part_if_mixed(config: &mut TrainConfig, devices: &[String]) {
    // Without its flag and, of a CPU, its threads, whose number changes nothing.
    let kind = |device: &String| {
        let (_, name) = device.split_once(' ')?;
        Some(
            name.split_once(" (")
                .map_or(name, |(name, _)| name)
                .to_string(),
        )
    };
    let kinds = devices.iter().map(kind);
    let mut kinds: Vec<_> = kinds.collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() > 1 && sharing(config) == Sharing::Gradients {
        config.shard_optimizer = true;
        tracing::info!(
            "the ranks' devices differ, and so does their rounding: each updates a part of the weights, as by \
             --shard-optimizer, so that all have the same"
        );
    }
}

/// What ranks may have different settings for.
pub fn forget_what_may_differ(config: &mut TrainConfig) {
    let default = TrainConfig::default();
    config.device = default.device;
    config.memory_limit = default.memory_limit;
    config.sys_mem_cap_pct = default.sys_mem_cap_pct;
    (config.quiet, config.json) = (default.quiet, default.json);
    config.use_flash_attn = default.use_flash_attn;
    (config.log_file, config.tensorboard) = (None, None);
    (config.dataset_file, config.eval_file) = (None, None);
    (config.save_dir, config.bundle_dir, config.stop_file) = (None, None, None);
    (config.pretrained, config.model_config, config.adapter) = (None, None, None);
    (config.student_init, config.chat_template) = (None, None);
    config.model = default.model;
}

/// What must be the same on all ranks.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Common {
    pub version: String,
    pub tokenizer: String,
    /// The text and the order of its sequences.
    pub data: String,
    /// Shape of the model, as text.
    pub model: String,
    /// The text that is evaluated, if there is one.
    pub evaluated: Option<String>,
    /// Of a Hugging Face model's weights, some.
    pub weights: Option<u64>,
    /// Those that may not differ, by their keys.
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl Common {
    /// What is different on another rank, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        let settings = self.settings.iter().filter_map(|(key, ours)| {
            let theirs = other.settings.get(key).unwrap_or(&serde_json::Value::Null);
            let flag = key.replace('_', "-");
            (ours != theirs).then(|| format!("--{flag} {theirs} instead of {ours}"))
        });
        let settings: Vec<String> = settings.collect();
        let words = |is_other: bool, what: &str| is_other.then(|| what.to_string());
        None.or_else(|| {
            let (ours, theirs) = (&self.version, &other.version);
            (ours != theirs).then(|| format!("version {theirs} instead of {ours}"))
        })
        .or_else(|| (!settings.is_empty()).then(|| settings.join(", ")))
        .or_else(|| words(self.model != other.model, "a model of another shape"))
        .or_else(|| words(self.tokenizer != other.tokenizer, "another tokenizer"))
        .or_else(|| {
            let what = "another text: compare the files of --dataset-file";
            words(self.data != other.data, what)
        })
        .or_else(|| {
            let what = "another text to evaluate: compare the files of --eval-file";
            words(self.evaluated != other.evaluated, what)
        })
        .or_else(|| {
            let what = "other weights of the model: compare the folders of --model, or the Hub's revisions";
            words(self.weights != other.weights, what)
        })
    }
}

/// Whether it is.
///
/// # Errors
/// Names a rank and what is different there.
pub fn check_common(world: &World, own: &Common) -> Result<()> {
    let all = world.gather(own)?;
    let hosts = world.hosts();
    let different = all.iter().enumerate().find_map(|(rank, other)| {
        let what = all[0].difference(other)?;
        Some(format!("rank {rank} ({}) has {what}", hosts[rank]))
    });
    match different {
        None => Ok(()),
        Some(different) => Err(Error::failed(format!(
            "{different}; all ranks need the same as rank 0"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_of_different_kinds_part_the_weights() {
        let parted = |devices: &[&str]| {
            let mut config = TrainConfig::default();
            let devices: Vec<String> = devices.iter().map(|d| d.to_string()).collect();
            part_if_mixed(&mut config, &devices);
            config.shard_optimizer
        };
        assert!(!parted(&["cuda:0 NVIDIA H200", "cuda:1 NVIDIA H200"]));
        assert!(!parted(&["cpu Intel (8 threads)", "cpu Intel (2 threads)"]));
        assert!(parted(&["cuda:0 NVIDIA H200", "cpu Intel (8 threads)"]));
        assert!(parted(&["cpu AMD (8 threads)", "cpu Intel (8 threads)"]));
    }
}
