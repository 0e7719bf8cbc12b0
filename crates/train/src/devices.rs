//! A device that works: the one chosen, or with `--device auto` the next one where that fails.

use aios_base::config::{DeviceChoice, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_device::{Adapter, Selection, select_except};
use aios_engine::OpenDevice;
use aios_metrics::Fallback;
use aios_plan::Plan;

/// A device that has been started and has passed its checks, and what will run on it.
pub struct Ready {
    pub selection: Selection,
    pub plan: Plan,
    pub device: Box<dyn OpenDevice>,
}

/// Start the device that was chosen and check what it computes. With `--device auto` one that cannot be started or
/// computes wrongly is left for the next best, as a fallback.
///
/// # Errors
/// A named device that does not work; with `--strict`, the first that does not.
pub fn ready(config: &TrainConfig, selection: Selection, plan: Plan) -> Result<Ready> {
    let open = |adapter: &Adapter| aios_backends::open(&adapter.selected);
    first_that_works(config, selection, plan, &open, &select_except)
}

type Open<'a> = &'a dyn Fn(&Adapter) -> Result<Box<dyn OpenDevice>>;
type Next<'a> = &'a dyn Fn(&DeviceChoice, &[Adapter]) -> Result<Selection>;

fn first_that_works(
    config: &TrainConfig,
    mut selection: Selection,
    mut plan: Plan,
    open: Open,
    next: Next,
) -> Result<Ready> {
    let mut failed: Vec<(Adapter, String)> = Vec::new();
    loop {
        let adapter = &selection.adapter;
        if adapter.kind.is_gpu() && !config.quiet {
            terminal::say("compiling kernels for this device: the first step takes longer");
        }
        let works = open(adapter).and_then(|device| {
            plan.check_device(config, &mut |check| device.check(check))?;
            Ok(device)
        });
        let error = match works {
            Ok(device) => {
                plan.fallbacks.extend(of_devices(&failed, adapter));
                return Ok(Ready {
                    selection,
                    plan,
                    device,
                });
            }
            Err(error) => error,
        };
        if config.device != DeviceChoice::Auto || !adapter.kind.is_gpu() {
            return Err(error);
        }
        if config.strict {
            return Err(strictly(adapter, &error));
        }
        failed.push((adapter.clone(), error.to_string()));
        let without: Vec<Adapter> = failed.iter().map(|(adapter, _)| adapter.clone()).collect();
        selection = next(&config.device, &without)?;
        plan = Plan {
            loss_path: plan.loss_path,
            ..Plan::new(config, &selection.adapter)?
        };
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
    use aios_tensor::{AttentionShape, Check};

    /// A device that fails every check, or none.
    struct Fake {
        works: bool,
    }

    impl OpenDevice for Fake {
        fn confirm(&self) -> Result<()> {
            Ok(())
        }

        fn release_memory(&self) {}

        fn check(&self, _: Check) -> Result<()> {
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

    /// Of a machine whose CUDA device cannot be started and whose other GPU computes wrongly.
    fn ready_on_it(choice: DeviceChoice, strict: bool) -> Result<Ready> {
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
                    works: !kind.is_gpu(),
                })),
            }
        };
        let next = |_: &DeviceChoice, failed: &[Adapter]| {
            Ok(selection(match failed.len() {
                1 => Kind::Wgpu,
                _ => Kind::Cpu,
            }))
        };
        let first = selection(Kind::Cuda);
        let plan = Plan::new(&config, &first.adapter)?;
        first_that_works(&config, first, plan, &open, &next)
    }

    #[test]
    fn auto_goes_on_to_the_next_device_and_says_so() {
        let ready = ready_on_it(DeviceChoice::Auto, false).unwrap();
        assert_eq!(ready.plan.kind, Kind::Cpu);
        let of_devices = ready
            .plan
            .fallbacks
            .iter()
            .filter(|f| f.feature == "device");
        let said: Vec<_> = of_devices.map(|f| (&*f.wanted, &*f.used)).collect();
        assert_eq!(said, [("cuda:0", "cpu"), ("wgpu:0", "cpu")]);
        let reasons: Vec<_> = ready.plan.fallbacks.iter().map(|f| &*f.reason).collect();
        assert!(reasons[0].contains("out of order") && reasons[1].contains("computes wrongly"));
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
