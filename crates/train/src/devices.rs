//! A device that works: the one chosen, or with `--device auto` the next one where that fails.

use aios_base::config::{DeviceChoice, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::storage::Storage;
use aios_base::terminal;
use aios_device::{Adapter, Selection, select_except};
use aios_engine::OpenDevice;
use aios_metrics::Fallback;
use aios_models::{Architecture, Model};
use aios_plan::Plan;
use aios_tensor::LossPath;

/// A device that has been started and has passed its checks, and what will run on it.
pub struct Ready {
    pub selection: Selection,
    pub plan: Plan,
    pub device: Box<dyn OpenDevice>,
}

/// Start the device that was chosen and check what it computes, attention and formats of weights as the model has them too. With `--device auto` one that
/// cannot be started or computes wrongly is left for the next best, as a fallback.
///
/// # Errors
/// A named device that does not work; with `--strict`, the first that does not.
pub fn ready(
    config: &TrainConfig,
    selection: Selection,
    loss_path: LossPath,
    shape: &Model,
) -> Result<Ready> {
    ready_on(&THIS, config, selection, loss_path, shape)
}

fn ready_on(
    machine: &Machine,
    config: &TrainConfig,
    selection: Selection,
    loss_path: LossPath,
    shape: &Model,
) -> Result<Ready> {
    let held = held(shape);
    let mut check = |adapter: &Adapter, device: &dyn OpenDevice| {
        if adapter.kind.is_gpu() && !config.quiet {
            terminal::say("compiling kernels for this device: the first step takes longer");
        }
        let mut plan = Plan {
            loss_path,
            ..Plan::new(config, adapter, shape.attention())?
        };
        plan.check_device(config, &held, &mut |check| device.check(check))?;
        Ok(plan)
    };
    let found = machine.first_that_works(&config.device, config.strict, selection, &mut check)?;
    let mut plan = found.checked;
    plan.fallbacks.extend(found.fallbacks);
    Ok(Ready {
        selection: found.selection,
        plan,
        device: found.device,
    })
}

/// Formats of frozen weights that a device may have to decode.
pub fn held(shape: &Model) -> Vec<Storage> {
    let frozen = shape.adapter().map(|adapted| adapted.frozen.storage);
    let halves = frozen.filter(|storage| matches!(storage, Storage::F16 | Storage::Bf16));
    shape.formats_of_files().into_iter().chain(halves).collect()
}

/// A device that has been started, and what its check gave.
pub struct Found<T> {
    pub selection: Selection,
    pub device: Box<dyn OpenDevice>,
    pub checked: T,
    /// One for each device that was left for this one.
    pub fallbacks: Vec<Fallback>,
}

/// The first device that can be started and passes a check, from the one that was chosen on; beyond it with
/// `--device auto` alone.
///
/// # Errors
/// A named device that does not work, or none that does; if `strict`, the first that does not.
pub fn first_that_works<T>(
    choice: &DeviceChoice,
    strict: bool,
    selection: Selection,
    check: Check<T>,
) -> Result<Found<T>> {
    THIS.first_that_works(choice, strict, selection, check)
}

type Check<'a, T> = &'a mut dyn FnMut(&Adapter, &dyn OpenDevice) -> Result<T>;

/// Where devices come from.
struct Machine<'a> {
    open: &'a dyn Fn(&Adapter) -> Result<Box<dyn OpenDevice>>,
    /// The device to take where these do not work.
    next: &'a dyn Fn(&DeviceChoice, &[Adapter]) -> Result<Selection>,
}

const THIS: Machine<'static> = Machine {
    open: &|adapter| aios_backends::open(&adapter.selected),
    next: &select_except,
};

impl Machine<'_> {
    fn first_that_works<T>(
        &self,
        choice: &DeviceChoice,
        strict: bool,
        mut selection: Selection,
        check: Check<T>,
    ) -> Result<Found<T>> {
        let mut failed: Vec<(Adapter, String)> = Vec::new();
        loop {
            let adapter = &selection.adapter;
            let works = (self.open)(adapter).and_then(|device| {
                let checked = check(adapter, &*device)?;
                Ok((device, checked))
            });
            let error = match works {
                Ok((device, checked)) => {
                    return Ok(Found {
                        fallbacks: of_devices(&failed, adapter),
                        selection,
                        device,
                        checked,
                    });
                }
                Err(error) => error,
            };
            if *choice != DeviceChoice::Auto {
                return Err(error);
            }
            failed.push((adapter.clone(), error.to_string()));
            let without: Vec<Adapter> = failed.iter().map(|(adapter, _)| adapter.clone()).collect();
            let Ok(next) = (self.next)(choice, &without) else {
                return Err(none_works(&failed, error));
            };
            if strict {
                return Err(strictly(adapter, &error));
            }
            selection = next;
        }
    }
}

fn none_works(failed: &[(Adapter, String)], last: Error) -> Error {
    let each = |(adapter, reason): &(Adapter, String)| format!("{}: {reason}", adapter.flag());
    match failed {
        [_] => last,
        several => Error::failed(format!(
            "no device works: {}",
            several.iter().map(each).collect::<Vec<_>>().join("; ")
        )),
    }
}

fn strictly(adapter: &Adapter, error: &Error) -> Error {
    let cause = error.to_string();
    match cause.starts_with("--strict") {
        true => Error::failed(cause),
        false => Error::failed(format!(
            "--strict: {} ({}) would be left for another device: {cause}; name one with --device, or leave out --strict",
            adapter.flag(),
            adapter.name
        )),
    }
}

fn of_devices(failed: &[(Adapter, String)], used: &Adapter) -> Vec<Fallback> {
    let fallback = |(adapter, reason): &(Adapter, String)| Fallback {
        feature: "device".to_string(),
        wanted: adapter.flag(),
        used: used.flag(),
        reason: reason.clone(),
    };
    failed.iter().map(fallback).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::execution::{Kind, Precision};
    use aios_device::{Class, select};
    use aios_engine::{AttentionRun, Engine, Settings, Weights};
    use aios_models::actv1::ModelConfig;
    use aios_tensor::AttentionShape;

    /// A device that fails every check, or none.
    struct Fake {
        works: bool,
    }

    impl OpenDevice for Fake {
        fn confirm(&self) -> Result<()> {
            Ok(())
        }

        fn release_memory(&self) {}

        fn check(&self, _: aios_tensor::Check) -> Result<()> {
            match self.works {
                true => Ok(()),
                false => Err(Error::failed("this device computes wrongly")),
            }
        }

        fn model(&self, _: &Settings, _: Weights) -> Result<Box<dyn Engine>> {
            Err(Error::failed("not here"))
        }

        fn attention(&self, _: AttentionShape, _: Precision) -> Box<dyn AttentionRun> {
            unreachable!("no benchmark runs here")
        }
    }

    fn adapter(kind: Kind) -> Adapter {
        Adapter {
            kind,
            class: match kind.is_gpu() {
                true => Class::Discrete,
                false => Class::Host,
            },
            ..select(&DeviceChoice::Cpu).unwrap().adapter
        }
    }

    fn selection(kind: Kind) -> Selection {
        Selection {
            adapter: adapter(kind),
            reason: String::new(),
        }
    }

    /// On a machine whose CUDA device cannot be started and whose other GPU computes wrongly; the CPU does too if it is
    /// not to work.
    fn ready_with(choice: DeviceChoice, strict: bool, cpu_works: bool) -> Result<Ready> {
        let config = TrainConfig {
            device: choice,
            strict,
            quiet: true,
            ..TrainConfig::default()
        };
        let open = |adapter: &Adapter| -> Result<Box<dyn OpenDevice>> {
            match adapter.kind {
                Kind::Cuda => Err(Error::failed("cannot start the device: out of order")),
                kind => Ok(Box::new(Fake {
                    works: kind == Kind::Cpu && cpu_works,
                })),
            }
        };
        let next = |_: &DeviceChoice, failed: &[Adapter]| match failed.len() {
            1 => Ok(selection(Kind::Wgpu)),
            2 => Ok(selection(Kind::Cpu)),
            _ => Ok(selection(Kind::Ndarray)),
        };
        let machine = Machine {
            open: &open,
            next: &next,
        };
        ready_on(
            &machine,
            &config,
            selection(Kind::Cuda),
            LossPath::FUSED,
            &ModelConfig::of(&config, 257).into(),
        )
    }

    fn ready_on_it(choice: DeviceChoice, strict: bool) -> Result<Ready> {
        ready_with(choice, strict, true)
    }

    fn devices_left(ready: &Ready) -> Vec<(&str, &str)> {
        let of_devices = ready.plan.fallbacks.iter();
        of_devices
            .filter(|f| f.feature == "device")
            .map(|f| (&*f.wanted, &*f.used))
            .collect()
    }

    #[test]
    fn auto_goes_on_to_the_next_device_and_says_so() {
        let ready = ready_on_it(DeviceChoice::Auto, false).unwrap();
        assert_eq!(ready.plan.kind, Kind::Cpu);
        let said = devices_left(&ready);
        assert_eq!(said, [("cuda:0", "cpu"), ("wgpu:0", "cpu")]);
        let reasons: Vec<_> = ready.plan.fallbacks.iter().map(|f| &*f.reason).collect();
        assert!(reasons[0].contains("out of order") && reasons[1].contains("computes wrongly"));
    }

    #[test]
    fn auto_goes_past_a_cpu_that_computes_wrongly_to_the_reference() {
        let ready = ready_with(DeviceChoice::Auto, false, false).unwrap();
        assert_eq!(ready.plan.kind, Kind::Ndarray);
        let left: Vec<_> = ["cuda:0", "wgpu:0", "cpu"]
            .into_iter()
            .map(|wanted| (wanted, "ndarray"))
            .collect();
        assert_eq!(devices_left(&ready), left);
    }

    #[test]
    fn what_every_device_has_is_told_where_none_is_left() {
        let open =
            |_: &Adapter| -> Result<Box<dyn OpenDevice>> { Ok(Box::new(Fake { works: false })) };
        let next = |_: &DeviceChoice, failed: &[Adapter]| match failed.len() {
            1 => Ok(selection(Kind::Cpu)),
            _ => Err(Error::failed("nothing is left")),
        };
        let machine = Machine {
            open: &open,
            next: &next,
        };
        let check =
            &mut |_: &Adapter, device: &dyn OpenDevice| device.check(aios_tensor::Check::AdamW8bit);
        let error = machine
            .first_that_works(&DeviceChoice::Auto, false, selection(Kind::Wgpu), check)
            .map(drop)
            .unwrap_err()
            .to_string();
        for word in ["no device works", "wgpu:0: this", "cpu: this"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_device_that_was_named_is_not_left_for_another() {
        let error = ready_on_it(DeviceChoice::Cuda(0), false).map(drop);
        assert!(error.unwrap_err().to_string().contains("out of order"));
    }

    #[test]
    fn strict_leaves_no_device_for_another() {
        let error = ready_on_it(DeviceChoice::Auto, true).map(drop).unwrap_err();
        let error = error.to_string();
        for word in ["--strict", "cuda:0", "out of order", "--device"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
