//! Which attention runs.

use crate::fallback;
use aios_base::config::TrainConfig;
use aios_base::error::Result;
use aios_base::execution::Kind;
use aios_metrics::{AttentionChoice, Fallback};
use aios_tensor::attention::flash_refusal;
use aios_tensor::{AttentionPath, Check, Precision};

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
pub fn checked_path(
    kind: Kind,
    config: &TrainConfig,
    check: &mut dyn FnMut(Check) -> Result<()>,
) -> AttentionPath {
    if config.use_flash_attn == Some(false) || kind == Kind::Ndarray {
        return AttentionPath::Sdpa;
    }
    let head_dim = config.head_dim();
    let problem = match (kind, refusal(kind, head_dim)) {
        (Kind::Cpu, None) => None,
        (_, None) => {
            let outcome = check(Check::Attention(Precision::F32, head_dim));
            outcome.err().map(|e| e.to_string())
        }
        (_, refusal) => refusal,
    };
    match problem {
        None => AttentionPath::Flash,
        Some(reason) => {
            tracing::warn!(
                "attention: sdpa instead of {}: {reason}",
                kind.flash_attention()
            );
            AttentionPath::Sdpa
        }
    }
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
        assert_eq!(path(None, Kind::Wgpu, 2), ("sdpa".into(), 1));
        assert_eq!(path(None, Kind::Cpu, 2), ("flash-cpu".into(), 0));
    }
}
