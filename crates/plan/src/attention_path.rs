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
    classes: &[AttentionClass],
    fallbacks: &mut Vec<Fallback>,
) -> (AttentionPath, AttentionChoice) {
    if config.use_flash_attn == Some(false) {
        return (AttentionPath::Sdpa, chosen("sdpa", "--no-flash-attn"));
    }
    if kind == Kind::Ndarray && config.use_flash_attn.is_none() {
        return (AttentionPath::Sdpa, chosen("sdpa", NO_KERNEL));
    }
    match refusal(kind, classes) {
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

/// The attention of these kinds to compute with where nothing can be said about a fallback but to the user.
/// `check` tries something on the device.
///
/// # Errors
/// The device cannot even compute in f32.
pub fn checked_path(
    kind: Kind,
    config: &TrainConfig,
    classes: &[AttentionClass],
    check: &mut dyn FnMut(Check) -> Result<()>,
) -> Result<AttentionPath> {
    computes(kind, check)?;
    if config.use_flash_attn == Some(false) || kind == Kind::Ndarray {
        return Ok(AttentionPath::Sdpa);
    }
    let problem = refusal(kind, classes).or_else(|| {
        let outcome = try_all(classes, Precision::F32, check);
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

/// Try the kernels that attention of these kinds takes.
///
/// # Errors
/// Of the first that the device computes wrongly.
pub(super) fn try_all(
    classes: &[AttentionClass],
    precision: Precision,
    check: &mut dyn FnMut(Check) -> Result<()>,
) -> Result<()> {
    let mut checks = classes
        .iter()
        .map(|&class| Check::Attention(precision, class));
    checks.try_for_each(check)
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

fn refusal(kind: Kind, classes: &[AttentionClass]) -> Option<String> {
    match kind {
        Kind::Cpu => None,
        Kind::Cuda | Kind::Wgpu => classes
            .iter()
            .find_map(|class| flash_refusal(class.head_dim)),
        Kind::Ndarray => Some(NO_KERNEL.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::error::Error;

    fn path(flash: Option<bool>, kind: Kind, head_dims: &[usize]) -> (String, usize) {
        let config = TrainConfig {
            use_flash_attn: flash,
            ..TrainConfig::default()
        };
        let classes: Vec<_> = head_dims
            .iter()
            .map(|&d| AttentionClass::plain(d))
            .collect();
        let mut fallbacks = Vec::new();
        let (path, choice) = choose(&config, kind, &classes, &mut fallbacks);
        assert_eq!(path == AttentionPath::Sdpa, choice.path == "sdpa");
        (choice.path, fallbacks.len())
    }

    #[test]
    fn each_kind_of_device_has_kernels() {
        assert_eq!(path(None, Kind::Cpu, &[64]), ("flash-cpu".into(), 0));
        assert_eq!(path(None, Kind::Wgpu, &[64]), ("flash-wgsl".into(), 0));
        assert_eq!(
            path(Some(true), Kind::Cuda, &[64]),
            ("flash-cuda".into(), 0)
        );
    }

    #[test]
    fn turned_off_is_no_fallback() {
        assert_eq!(path(Some(false), Kind::Wgpu, &[64]), ("sdpa".into(), 0));
    }

    #[test]
    fn heads_that_the_gpu_kernels_do_not_take_fall_back() {
        assert_eq!(path(None, Kind::Wgpu, &[512]), ("sdpa".into(), 1));
        assert_eq!(path(None, Kind::Wgpu, &[64, 512]), ("sdpa".into(), 1));
        assert_eq!(path(None, Kind::Cpu, &[512]), ("flash-cpu".into(), 0));
        assert_eq!(path(None, Kind::Cuda, &[256]), ("flash-cuda".into(), 0));
    }

    #[test]
    fn every_kind_of_attention_of_a_model_is_tried() {
        let grouped = AttentionClass {
            group: 4,
            ..AttentionClass::plain(96)
        };
        let classes = [AttentionClass::plain(64), grouped];
        let path = |wrong: Option<AttentionClass>| {
            let mut tried = Vec::new();
            let path = checked_path(Kind::Cpu, &TrainConfig::default(), &classes, &mut |check| {
                tried.push(check);
                match (check, wrong) {
                    (Check::Attention(_, class), Some(wrong)) if class == wrong => {
                        Err(Error::failed("wrong numbers"))
                    }
                    _ => Ok(()),
                }
            });
            (path.unwrap(), tried)
        };
        let (flash, tried) = path(None);
        let attention = classes.map(|class| Check::Attention(Precision::F32, class));
        assert_eq!((flash, &tried[1..]), (AttentionPath::Flash, &attention[..]));
        assert_eq!(path(Some(grouped)).0, AttentionPath::Sdpa);
    }
}
