//! What the user is told of the ranks.

use super::settings::sharing;
use aios_base::config::TrainConfig;
use aios_device::{Adapter, Kind};
use aios_distributed::World;
use aios_engine::Sharing;
use aios_metrics::Ranks;

/// The ranks in the banner: what is between them, and who has which device.
pub fn in_words(config: &TrainConfig, world: &World, devices: &[String]) -> Vec<String> {
    if !world.has_others() {
        return Vec::new();
    }
    let mut lines = vec![format!(
        "{} by {}; not supervised, since a process that is started again could not join",
        world.size(),
        world.library()
    )];
    let each = world.hosts().into_iter().zip(devices);
    let each = each.map(|(host, device)| format!("{host}, {device}"));
    let each: Vec<String> = each.collect();
    let mut rank = 0;
    for same in each.chunk_by(|a, b| a == b) {
        let last = rank + same.len() - 1;
        lines.push(match last == rank {
            true => format!("rank {rank} on {}", same[0]),
            false => format!("ranks {rank} to {last} on {}", same[0]),
        });
        rank = last + 1;
    }
    lines.push(match sharing(config) {
        Sharing::Gradients => "gradients are summed in every step".to_string(),
        Sharing::OptimizerParts => {
            "gradients are summed in every step; each rank has a part of the optimizer's state"
                .to_string()
        }
        Sharing::Weights => {
            let steps = config.local_steps.unwrap_or(1);
            format!("each rank by itself for {steps} steps, then what they learnt is averaged")
        }
    });
    lines
}

/// A rank's device, with the threads that are its share of a CPU.
pub fn device(adapter: &Adapter) -> String {
    let words = adapter.in_words();
    match (adapter.kind, words.split_once(" (")) {
        (Kind::Cpu, Some((name, _))) => match aios_kernels::team::threads() {
            1 => format!("{name} (1 thread)"),
            threads => format!("{name} ({threads} threads)"),
        },
        _ => words,
    }
}

/// The same for the metrics.
pub fn started(world: &World, devices: Vec<String>) -> Option<Ranks> {
    world.has_others().then(|| Ranks {
        size: world.size(),
        library: world.library().to_string(),
        hosts: world.hosts().into_iter().map(str::to_string).collect(),
        devices,
    })
}
