//! Which number format activations are in.

use crate::fallback;
use aios_base::config::{AmpDtype, Subject, TrainConfig};
use aios_base::execution::Kind;
use aios_device::{Adapter, Class};
use aios_metrics::{Fallback, PrecisionChoice};
use aios_tensor::Precision;

/// bf16 before f16: it needs no loss scale.
const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

/// What f32 means in the products of a GPU with tensor cores for TF32: Burn takes whichever kernel is the fastest, and cannot
/// be asked to leave these out.
const TF32: &str = "products of matrices may round their factors to TF32, of 10 bits";

/// The format asked for, or else the best that the device is fast in.
pub(super) fn choose(
    config: &TrainConfig,
    adapter: &Adapter,
    fallbacks: &mut Vec<Fallback>,
) -> (Precision, PrecisionChoice) {
    let (precision, mut choice) = wanted(config, adapter, fallbacks);
    let tensor_cores = adapter.limits.compute_capability >= Some((8, 0));
    if precision == Precision::F32 && tensor_cores {
        choice.reason = format!("{}; {TF32}", choice.reason);
    }
    (precision, choice)
}

fn wanted(
    config: &TrainConfig,
    adapter: &Adapter,
    fallbacks: &mut Vec<Fallback>,
) -> (Precision, PrecisionChoice) {
    if config.amp == Some(false) {
        return chosen(Precision::F32, "--no-amp");
    }
    let named = match config.amp_dtype {
        AmpDtype::Auto => return automatic(config, adapter, fallbacks),
        AmpDtype::Bf16 => Precision::Bf16,
        AmpDtype::F16 => Precision::F16,
    };
    if adapter.holds(named.as_str()) {
        let how = match (adapter.kind, computes_in(adapter, named)) {
            (Kind::Cpu, false) => "--amp-dtype; kept in half precision, computed in f32",
            _ => "--amp-dtype",
        };
        return chosen(named, how);
    }
    let other = HALVES
        .into_iter()
        .find(|&half| adapter.holds(half.as_str()));
    let used = other.unwrap_or(Precision::F32);
    let reason = format!("this device cannot compute in {}", named.as_str());
    let wanted = named.as_str();
    fallbacks.push(fallback("mixed precision", wanted, used.as_str(), &reason));
    chosen(used, &reason)
}

fn automatic(
    config: &TrainConfig,
    adapter: &Adapter,
    fallbacks: &mut Vec<Fallback>,
) -> (Precision, PrecisionChoice) {
    let half = HALVES.into_iter().find(|&half| computes_in(adapter, half));
    let slow = match (adapter.kind, adapter.class, half) {
        (Kind::Cpu, _, None) => Some("matrix products run in f32 on this CPU"),
        (_, Class::Software, _) => Some("a software renderer is slower in half precision"),
        _ => None,
    };
    if let (Kind::Cpu, Some(half), None) = (adapter.kind, half, config.amp)
        && matches!(config.subject, Subject::Pretrained | Subject::Adapter)
    {
        // Weights that were saved in bf16 lie amid its steps: no product sees an update until it is half a step.
        let reason = format!(
            "of a trained model small updates show late in {0}; --amp computes in {0}, faster",
            half.as_str()
        );
        return chosen(Precision::F32, &reason);
    }
    let reason = match (slow, half) {
        (None, Some(half)) => return chosen(half, "the fastest that this device computes in"),
        (Some(slow), _) => slow,
        (None, None) => "this device has no half-precision arithmetic",
    };
    // Left to itself, f32 is then the best choice and nothing has fallen back.
    if config.amp == Some(true) {
        fallbacks.push(fallback("mixed precision", "bf16 or f16", "f32", reason));
    }
    chosen(Precision::F32, reason)
}

fn chosen(precision: Precision, reason: &str) -> (Precision, PrecisionChoice) {
    let choice = PrecisionChoice {
        compute: precision.as_str().to_string(),
        reason: reason.to_string(),
    };
    (precision, choice)
}

fn computes_in(adapter: &Adapter, precision: Precision) -> bool {
    adapter.dtypes.contains(&precision.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::config::DeviceChoice;
    use aios_device as backend;
    use aios_device::Selection;

    fn adapter(kind: Kind, class: Class, dtypes: &[&'static str]) -> Adapter {
        let Selection { adapter, .. } = backend::select(&DeviceChoice::Cpu).unwrap();
        Adapter {
            kind,
            class,
            dtypes: dtypes.to_vec(),
            emulated_dtypes: Vec::new(),
            ..adapter
        }
    }

    /// The format chosen, and how many fallbacks that was.
    fn choice(amp: Option<bool>, amp_dtype: AmpDtype, adapter: &Adapter) -> (Precision, usize) {
        let config = TrainConfig {
            amp,
            amp_dtype,
            ..TrainConfig::default()
        };
        let mut fallbacks = Vec::new();
        let (precision, choice) = choose(&config, adapter, &mut fallbacks);
        assert_eq!(choice.compute, precision.as_str());
        (precision, fallbacks.len())
    }

    #[test]
    fn a_gpu_computes_in_the_best_half_it_has() {
        let ampere = adapter(Kind::Cuda, Class::Discrete, &["f32", "f16", "bf16"]);
        let turing = adapter(Kind::Cuda, Class::Discrete, &["f32", "f16"]);
        let old = adapter(Kind::Wgpu, Class::Integrated, &["f32"]);
        assert_eq!(choice(None, AmpDtype::Auto, &ampere), (Precision::Bf16, 0));
        assert_eq!(choice(None, AmpDtype::Auto, &turing), (Precision::F16, 0));
        assert_eq!(choice(None, AmpDtype::Auto, &old), (Precision::F32, 0));
        assert_eq!(
            choice(Some(true), AmpDtype::Auto, &old),
            (Precision::F32, 1)
        );
        assert_eq!(
            choice(Some(false), AmpDtype::Auto, &ampere),
            (Precision::F32, 0)
        );
    }

    #[test]
    fn products_in_tf32_are_told() {
        for (capability, told) in [(None, false), (Some((7, 5)), false), (Some((9, 0)), true)] {
            let mut adapter = adapter(Kind::Cuda, Class::Discrete, &["f32", "f16", "bf16"]);
            adapter.limits.compute_capability = capability;
            for amp in [None, Some(false)] {
                let config = TrainConfig {
                    amp,
                    ..TrainConfig::default()
                };
                let (_, choice) = choose(&config, &adapter, &mut Vec::new());
                let in_f32 = choice.compute == "f32";
                assert_eq!(choice.reason.contains("TF32"), told && in_f32);
            }
        }
    }

    #[test]
    fn a_cpu_computes_in_bf16_where_it_has_instructions() {
        let amx = adapter(Kind::Cpu, Class::Host, &["f32", "bf16"]);
        assert_eq!(choice(None, AmpDtype::Auto, &amx), (Precision::Bf16, 0));
        let off = choice(Some(false), AmpDtype::Auto, &amx);
        assert_eq!(off, (Precision::F32, 0));
    }

    #[test]
    fn a_cpu_fine_tunes_in_f32_unless_asked() {
        let amx = adapter(Kind::Cpu, Class::Host, &["f32", "bf16"]);
        for (amp, precision) in [(None, Precision::F32), (Some(true), Precision::Bf16)] {
            let config = TrainConfig {
                amp,
                ..TrainConfig::defaults(Subject::Adapter)
            };
            let mut fallbacks = Vec::new();
            assert_eq!(choose(&config, &amx, &mut fallbacks).0, precision);
            assert!(fallbacks.is_empty());
        }
    }

    #[test]
    fn another_cpu_computes_in_f32_unless_a_format_is_named() {
        let mut adapter = adapter(Kind::Cpu, Class::Host, &["f32"]);
        adapter.emulated_dtypes = vec!["f16", "bf16"];
        assert_eq!(choice(None, AmpDtype::Auto, &adapter), (Precision::F32, 0));
        assert_eq!(
            choice(Some(true), AmpDtype::Auto, &adapter),
            (Precision::F32, 1)
        );
        assert_eq!(choice(None, AmpDtype::F16, &adapter), (Precision::F16, 0));
        assert_eq!(choice(None, AmpDtype::Bf16, &adapter), (Precision::Bf16, 0));
    }

    #[test]
    fn what_a_device_lacks_is_a_fallback() {
        let turing = adapter(Kind::Cuda, Class::Discrete, &["f32", "f16"]);
        assert_eq!(choice(None, AmpDtype::Bf16, &turing), (Precision::F16, 1));
        let software = adapter(Kind::Wgpu, Class::Software, &["f32", "f16"]);
        assert_eq!(choice(None, AmpDtype::Auto, &software), (Precision::F32, 0));
        assert_eq!(choice(None, AmpDtype::F16, &software), (Precision::F16, 0));
    }
}
