//! Mixed precision: what is chosen, that it learns as f32 does, and that an overflow does no harm.

use crate::common::lab::{Lab, assert_clear_error, assert_same_brain};
use aios_base::execution::Execution;
use aios_base::micro_batch::MicroBatch;
use aios_engine::optimizer::AdamW;
use aios_kernels::matmul::bf16;
use aios_memory::loss_scale::LossScaler;
use aios_models::actv1::{ActV1, ModelConfig, PosEncodings, Supervisor};
use aios_models::{Recipe, StepPart};
use aios_nn::Visit;
use aios_nn::watch::Unwatched;
use aios_tensor::{CpuBackend, Precision, floats};

/// Learns something in 200 steps that take a second.
const LEARN: &str = "--steps 200 --lr 3e-3 --batch-size 4 --amp-dtype";

/// Mean cross-entropy of each tenth of a run.
fn curve(lab: &Lab, name: &str, flags: &str) -> Vec<f64> {
    let ce = lab.train(name, flags).steps("ce");
    let tenth = ce.len() / 10;
    ce.chunks(tenth)
        .map(|part| part.iter().sum::<f64>() / part.len() as f64)
        .collect()
}

#[track_caller]
fn learns_as_f32_does(dtype: &str) {
    let lab = Lab::new();
    let flags = |flags: &str| format!("{LEARN} {dtype} {flags}");
    let half = curve(&lab, "half", &flags("--amp"));
    let wide = curve(
        &lab,
        "wide",
        &flags("").replace(&format!("--amp-dtype {dtype}"), ""),
    );
    assert!(wide[9] < wide[0] - 1.0, "it learns nothing: {wide:?}");
    for (half, wide) in half.iter().zip(&wide) {
        assert!(
            (half / wide - 1.0).abs() < 0.01,
            "{half} in {dtype}, {wide} in f32"
        );
    }
    let start = lab.events("half");
    assert_eq!(start.of("start")[0]["precision"]["compute"], dtype);
    assert!(start.of("fallback").is_empty());
}

#[test]
fn bf16_learns_as_f32_does() {
    learns_as_f32_does("bf16");
}

#[test]
fn f16_learns_as_f32_does() {
    learns_as_f32_does("f16");
}

#[test]
fn f16_scales_the_loss_and_keeps_the_scale_over_a_resume() {
    let lab = Lab::new();
    let whole = lab.train("whole", "--amp --steps 6 --amp-dtype f16");
    assert_eq!(whole.steps("loss_scale"), [65_536.0; 6]);
    let flags = "--amp --amp-dtype f16 --lr-schedule constant --warmup-steps 0 --steps";
    lab.train("cut", &format!("{flags} 3"));
    lab.train("cut", &format!("{flags} 6 --resume"));
    lab.train("same", &format!("{flags} 6"));
    assert_same_brain(&lab.brain("cut"), &lab.brain("same"));
    let state = std::fs::read_to_string(lab.brain("cut").join("trainer.json")).unwrap();
    assert!(state.contains("\"good_steps\": 6"), "{state}");
}

#[test]
fn a_run_that_f16_does_not_do_for_says_so() {
    let lab = Lab::new();
    let flags =
        "--steps 60 --weight-decay 1e38 --warmup-steps 2 --grad-clip 0 --amp --amp-dtype f16";
    let output = lab.try_train("a", flags);
    let words = ["loss scale of 1:", "f16", "--amp-dtype bf16", "--no-amp"];
    assert_clear_error(&output, 1, &words);
    let scales = lab.events("a").steps("loss_scale");
    assert_eq!(scales.last(), Some(&1.0));
}

#[test]
fn a_loss_scale_that_no_run_can_have_saved_is_refused() {
    let lab = Lab::new();
    lab.train("a", "--steps 2 --amp --amp-dtype f16");
    for (i, scale) in ["0.0", "-65536.0", "0.25", "1e300"].into_iter().enumerate() {
        let name = format!("bad-{i}");
        lab.altered("a", &name, |trainer, _| {
            trainer["loss_scale"] = serde_json::from_str(scale).unwrap();
        });
        let output = lab.try_train(&name, "--resume --steps 3 --amp --amp-dtype f16");
        assert_clear_error(&output, 1, &["trainer.json", "loss_scale"]);
    }
    lab.altered("a", "good", |trainer, _| trainer["loss_scale"] = 2.0.into());
    let resumed = lab.train("good", "--resume --steps 3 --amp --amp-dtype f16");
    assert_eq!(resumed.steps("loss_scale"), [2.0]);
}

#[test]
fn asking_a_cpu_for_half_precision_without_naming_one_is_bf16_or_falls_back_and_says_so() {
    let lab = Lab::new();
    let events = lab.train("a", "--amp --steps 1");
    if bf16::unit().is_some() {
        assert_eq!(events.of("start")[0]["precision"]["compute"], "bf16");
        assert!(events.of("fallback").is_empty());
        return;
    }
    assert_eq!(events.of("start")[0]["precision"]["compute"], "f32");
    assert_eq!(events.of("fallback")[0]["feature"], "mixed precision");
    let strict = lab.try_train("b", "--amp --strict --steps 1");
    assert_clear_error(&strict, 1, &["--strict", "mixed precision", "--no-amp"]);
}

/// A model, its optimizer and one batch, in f16 and by hand, so that the loss scale can be set.
struct ByHand {
    model: ActV1<CpuBackend>,
    optimizer: AdamW<CpuBackend>,
    scaler: LossScaler,
    batch: MicroBatch,
}

impl ByHand {
    fn new(scale: f64) -> Self {
        const SEQ: usize = 16;
        let shape = ModelConfig {
            vocab_size: 40,
            hidden_size: 32,
            num_heads: 2,
            expansion: 2.0,
            h_layers: 1,
            l_layers: 1,
            h_cycles: 2,
            l_cycles: 2,
            pos_encodings: PosEncodings::Rope,
            tie_embeddings: false,
            max_seq_len: SEQ,
            window_size: 0,
            causal: true,
        };
        let model = ActV1::init(&shape, 3, &Default::default()).unwrap();
        let ids: Vec<i32> = (0..=4 * SEQ as i32).map(|i| i * 7 % 40).collect();
        Self {
            optimizer: AdamW::new(model.params().len(), 0.0, 1.0),
            model,
            scaler: LossScaler::restored(Precision::F16, scale, 0),
            batch: MicroBatch {
                inputs: ids[..4 * SEQ].to_vec(),
                labels: ids[1..].to_vec(),
                seq: SEQ,
                ..MicroBatch::default()
            },
        }
    }

    /// One step as in training: its loss, and whether it was skipped.
    fn step(&mut self, number: u64) -> (f64, bool) {
        let recipe = Recipe {
            execution: Execution {
                precision: Precision::F16,
                ..Recipe::default().execution
            },
            loss_scale: self.scaler.scale(),
            ..Recipe::default()
        };
        let supervisor = Supervisor {
            model: &self.model,
            recipe: &recipe,
            part: StepPart::whole(number, &self.batch),
            watch: &Unwatched,
        };
        let mut grads = self.model.gradients();
        let loss = supervisor.run(&self.batch, &mut grads).read().mean_ce();
        let scale = self.scaler.scale();
        let update = self.optimizer.step(&self.model, grads, 3e-3, scale);
        self.scaler.update(update.skipped);
        (loss, update.skipped)
    }

    fn head(&self) -> Vec<f32> {
        floats(self.model.head().value())
    }
}

#[test]
fn an_overflow_skips_the_step_halves_the_scale_and_training_recovers() {
    // So large that the gradients of the head's input are beyond f16.
    let mut run = ByHand::new(2.0_f64.powi(40));
    let before = run.head();
    let (first_loss, skipped) = run.step(1);
    assert!(skipped && run.head() == before);
    assert_eq!(run.scaler.scale(), 2.0_f64.powi(39));
    let outcomes: Vec<(f64, bool)> = (2..80).map(|number| run.step(number)).collect();
    let skipped = outcomes.iter().filter(|(_, skipped)| *skipped).count();
    assert!((1..40).contains(&skipped), "{skipped} more were skipped");
    assert!(outcomes[58..].iter().all(|(_, skipped)| !skipped));
    let last = outcomes.last().unwrap().0;
    assert!(last < first_loss - 1.0, "from {first_loss} to {last}");
}

#[test]
fn the_scale_does_not_change_the_update() {
    let after = |scale: f64| {
        let mut run = ByHand::new(scale);
        run.step(1);
        run.head()
    };
    // Far from both ends of f16: powers of two only move exponents.
    crate::common::assert_close("head", &after(1024.0), &after(8192.0), 1e-3);
}
