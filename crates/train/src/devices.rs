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
