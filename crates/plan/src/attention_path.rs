//! Which attention runs.

use crate::{computes, fallback};
use aios_base::config::TrainConfig;
use aios_base::error::Result;
use aios_base::execution::Kind;
use aios_metrics::{AttentionChoice, Fallback};
use aios_tensor::attention::flash_refusal;
use aios_tensor::{AttentionClass, AttentionPath, Check, Precision};

/// Why the reference computes as it does.
const NO_KERNEL: &str = "burn-ndarray has no kernel for it";

/// FlashAttention, unless it is turned off or the device's kernels do not take such heads.
pub(super) fn choose(
    config: &TrainConfig,
    kind: Kind,
    fallbacks: &mut Vec<Fallback>,
) -> (AttentionPath, AttentionChoice) {
    if config.use_flash_attn == Some(false) {
        return (AttentionPath::Sdpa, chosen("sdpa", "--no-flash-attn"));
    }
    if kind == Kind::Ndarray && config.use_flash_attn.is_none() {
        return (AttentionPath::Sdpa, chosen("sdpa", NO_KERNEL));
    }
    match refusal(kind, config.head_dim()) {
        None => {
            let reason = "memory linear in the sequence length";
            (AttentionPath::Flash, chosen(kind.flash_attention(), reason))
        }
        Some(reason) => {
            fallbacks.push(instead_of(kind, &reason));
            (AttentionPath::Sdpa, chosen("sdpa", &reason))
        }
    }
}

/// The attention to compute with where nothing can be said about a fallback but to the user.
/// `check` tries something on the device.
///
/// # Errors
/// The device cannot even compute in f32.
pub fn checked_path(
    kind: Kind,
    config: &TrainConfig,
    check: &mut dyn FnMut(Check) -> Result<()>,
) -> Result<AttentionPath> {
    computes(kind, check)?;
    if config.use_flash_attn == Some(false) || kind == Kind::Ndarray {
        return Ok(AttentionPath::Sdpa);
    }
    let problem = refusal(kind, config.head_dim()).or_else(|| {
        let outcome = check(trial(config, Precision::F32));
        outcome.err().map(|e| e.to_string())
    });
    Ok(match problem {
        None => AttentionPath::Flash,
        Some(reason) => {
            tracing::warn!(
                "attention: sdpa instead of {}: {reason}",
                kind.flash_attention()
            );
            AttentionPath::Sdpa
        }
    })
}

/// A trial of the kernels that a run's attention takes.
pub(super) fn trial(config: &TrainConfig, precision: Precision) -> Check {
    Check::Attention(precision, AttentionClass::plain(config.head_dim()))
}

/// SDPA in place of the kernels of this kind of device.
pub(super) fn instead_of(kind: Kind, reason: &str) -> Fallback {
    let wanted = match kind {
        Kind::Ndarray => "flash",
        kind => kind.flash_attention(),
    };
    fallback("attention", wanted, "sdpa", reason)
}

pub(super) fn chosen(path: &str, reason: &str) -> AttentionChoice {
    AttentionChoice {
        path: path.to_string(),
        reason: reason.to_string(),
    }
}

fn refusal(kind: Kind, head_dim: usize) -> Option<String> {
    match kind {
        Kind::Cpu => None,
        Kind::Cuda | Kind::Wgpu => flash_refusal(head_dim),
        Kind::Ndarray => Some(NO_KERNEL.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(flash: Option<bool>, kind: Kind, num_heads: usize) -> (String, usize) {
        let config = TrainConfig {
            use_flash_attn: flash,
            hidden_size: 512,
            num_heads,
            ..TrainConfig::default()
        };
        let mut fallbacks = Vec::new();
        let (path, choice) = choose(&config, kind, &mut fallbacks);
        assert_eq!(path == AttentionPath::Sdpa, choice.path == "sdpa");
        (choice.path, fallbacks.len())
    }

    #[test]
    fn each_kind_of_device_has_kernels() {
        assert_eq!(path(None, Kind::Cpu, 8), ("flash-cpu".into(), 0));
        assert_eq!(path(None, Kind::Wgpu, 8), ("flash-wgsl".into(), 0));
        assert_eq!(path(Some(true), Kind::Cuda, 8), ("flash-cuda".into(), 0));
    }

    #[test]
    fn turned_off_is_no_fallback() {
        assert_eq!(path(Some(false), Kind::Wgpu, 8), ("sdpa".into(), 0));
    }

    #[test]
    fn heads_that_the_gpu_kernels_do_not_take_fall_back() {
        assert_eq!(path(None, Kind::Wgpu, 1), ("sdpa".into(), 1));
        assert_eq!(path(None, Kind::Cpu, 1), ("flash-cpu".into(), 0));
        assert_eq!(path(None, Kind::Cuda, 2), ("flash-cuda".into(), 0));
    }
}
