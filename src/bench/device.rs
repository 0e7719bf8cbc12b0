//! One row's step, on the device that the configuration asks for. It goes on to no other: the table names this one.

use aios_base::config::TrainConfig;
use aios_base::error::Result;
use aios_base::meter;
use aios_device::{MemoryMeter, select};
use aios_models::{Architecture, Model};
use aios_plan::Plan;
use aios_plan::fit::Room;
use aios_train::devices::held;
use aios_train::step::TrialStep;

/// Measure a step in this process. If it is to be `limited`, it has to be known how much memory there is.
///
/// # Errors
/// A device that is missing or fails, or memory that is not enough.
pub fn on_device<T>(
    config: &TrainConfig,
    model: &Model,
    limited: bool,
    measure: impl FnOnce(&TrialStep) -> Result<T>,
) -> Result<T> {
    model.validate()?;
    let selection = select(&config.device)?;
    let mut plan = Plan::new(config, &selection.adapter, model.attention())?;
    let device = aios_backends::open(&selection.adapter.selected)?;
    let room = Room::of(config, &selection);
    // Else a GPU that does not say how much memory it has refuses by itself.
    if room.is_ok() || limited {
        room?.refuse(&plan, config, model)?;
    }
    plan.check_device(config, &held(model), &mut |check| device.check(check))?;
    if !plan.kind.is_gpu() {
        meter::set_limit(config.memory_limit.map(|limit| limit.0));
    }
    measure(&TrialStep {
        config,
        model,
        plan: &plan,
        meter: &MemoryMeter::new(selection.adapter.selected.clone()),
        device: &*device,
    })
}
