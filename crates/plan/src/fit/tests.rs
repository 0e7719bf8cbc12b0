//! What is tried when, and what is said.

use super::*;
use crate::fit::form::SLICES;
use aios_base::config::{DeviceChoice, MemorySize};
use aios_device::select;
use aios_models::actv1::ModelConfig;
use aios_tensor::SLICE_BYTES;

/// A run with its plan and its model.
struct Case {
    config: TrainConfig,
    plan: Plan,
    model: ModelConfig,
    selection: Selection,
}

impl Case {
    fn new(config: TrainConfig, vocabulary: usize) -> Self {
        let selection = select(&DeviceChoice::Cpu).unwrap();
        let model = ModelConfig::of(&config, vocabulary);
        Self {
            plan: Plan::new(&config, &selection.adapter, model.attention()).unwrap(),
            model,
            config,
            selection,
        }
    }

    /// Narrow, with a large vocabulary: the loss's slices are most of what changes.
    fn narrow(batch_size: usize, accumulation: usize, max_seq_len: usize) -> Self {
        let config = TrainConfig {
            hidden_size: 16,
            num_heads: 2,
            batch_size,
            gradient_accumulation_steps: accumulation,
            max_seq_len,
            ..TrainConfig::default()
        };
        Self::new(config, 50_257)
    }

    fn predicted(&self) -> u64 {
        let run = self.plan.run(&self.config, &self.model);
        run.estimate().total
    }

    fn within(mut self, limit: u64) -> (Self, Result<Option<OomBackoff>>) {
        self.config.memory_limit = Some(MemorySize(limit));
        let (config, plan) = (&mut self.config, &mut self.plan);
        let outcome = batch(config, &self.selection, plan, &self.model);
        (self, outcome)
    }

    fn slice(&self) -> usize {
        self.plan.loss_path.slice_bytes().unwrap()
    }
}

#[test]
fn what_fits_stays_as_it_is() {
    let case = Case::narrow(4, 1, 128);
    let (form, limit) = (Form::of(&case.config, &case.plan), case.predicted());
    let (case, outcome) = case.within(limit);
    assert!(outcome.unwrap().is_none());
    assert_eq!(Form::of(&case.config, &case.plan), form);
}

#[test]
fn slices_shrink_before_micro_batches_do() {
    let case = Case::narrow(4, 1, 128);
    let limit = case.predicted() - (10 << 20);
    let (case, outcome) = case.within(limit);
    let event = outcome.unwrap().unwrap();
    assert_eq!((event.from, event.to), (4, 4));
    assert_eq!(case.slice(), SLICE_BYTES / 2);
    for words in ["--memory-limit", "slices of 20.00 MiB", "--batch-size 4"] {
        assert!(event.reason.contains(words), "{}", event.reason);
    }
    assert!(case.predicted() <= limit);
}

#[test]
fn the_step_stays_the_same_and_fits_whatever_the_limit() {
    for (batch, accumulation) in [(16, 1), (12, 2), (7, 1), (1, 4)] {
        let most = Case::narrow(batch, accumulation, 100).predicted();
        for part in (30..100).step_by(2) {
            let limit = most / 100 * part;
            let (case, outcome) = Case::narrow(batch, accumulation, 100).within(limit);
            if outcome.is_ok() {
                let split = Split::of(&case.config);
                assert_eq!(split.effective(), batch * accumulation);
                assert!(
                    case.predicted() <= most,
                    "{split:?} takes more than what was asked for"
                );
                // Beyond it by no more than a prediction may be off, with nothing smaller left.
                let fits = case.predicted() <= limit;
                assert!(fits || !could_back_off(&case.config, &case.plan, &case.model));
            }
        }
    }
}

/// 246 tokens make two slices of 123, a part of them one slice of 164.
#[test]
fn what_would_take_more_is_never_taken() {
    let case = Case::narrow(6, 2, 41);
    let larger = Form {
        split: Split {
            batch_size: 4,
            accumulation: 3,
        },
        loss_path: case.plan.loss_path,
    };
    let needed = |form: Form| form.needed(&case.plan, &case.config, &case.model);
    let now = Form::of(&case.config, &case.plan);
    assert!(needed(larger) > needed(now));
    let less = less(&case.config, &case.plan, &case.model).unwrap();
    assert!(less != larger && needed(less) < needed(now));
    let limit = needed(now) - 1000;
    let (case, outcome) = case.within(limit);
    outcome.unwrap().unwrap();
    assert!(case.predicted() <= limit);
}

#[test]
fn an_error_names_what_would_fit() {
    let mut case = Case::narrow(2, 1, 128);
    case.config.gradient_checkpointing = false;
    let least = {
        let mut small = Case::narrow(1, 2, 128);
        small.plan.slice_at_most(Some(SLICES[5]));
        small.predicted()
    };
    let (_, outcome) = case.within(least / 5 * 4);
    let error = outcome.unwrap_err().to_string();
    for words in [
        "one sequence in a micro-batch",
        "--memory-limit allows",
        "--use-8bit-optimizer would save about",
        "which fits",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn backing_off_takes_less_each_time_and_ends() {
    let mut case = Case::narrow(8, 1, 128);
    let mut before = case.predicted();
    let mut steps = 0;
    let error = loop {
        let (config, plan) = (&mut case.config, &mut case.plan);
        match back_off(config, plan, &case.model, 7, "out of memory") {
            Ok(event) => assert!(event.reason.contains("step 7"), "{}", event.reason),
            Err(error) => break error.to_string(),
        }
        assert!((case.predicted() as f64) <= WORTH_A_TRY * before as f64);
        before = case.predicted();
        steps += 1;
    };
    assert!((3..20).contains(&steps), "{steps}");
    assert!(error.contains("out of memory, in step 7"), "{error}");
    assert!(error.contains("--use-8bit-optimizer"), "{error}");
}

#[test]
fn what_follows_a_death_is_smaller_or_nothing() {
    let case = Case::narrow(8, 1, 128);
    assert_eq!(after_a_death(&case.config, &case.plan, &case.model), 4);
    // With one sequence its slices are what is left to shrink, once.
    let mut alone = Case::narrow(1, 1, 256);
    assert_eq!(after_a_death(&alone.config, &alone.plan, &alone.model), 1);
    alone.plan.slice_at_most(Some(QUICK_SLICE));
    assert_eq!(after_a_death(&alone.config, &alone.plan, &alone.model), 0);
}
