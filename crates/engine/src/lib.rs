//! Models at work on one device: what is generic over a Burn backend, behind traits that are not.
//!
//! [`OpenDevice`] and [`Engine`] are all that training, commands and benchmarks see of a backend. Their one
//! implementation, [`On`], is instantiated once for each backend, in a crate of its own (`aios-backends`), so that all
//! above it is plain Rust that builds in seconds.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod adapter;
mod attention_run;
mod buckets;
mod device;
pub mod eval;
pub mod generate;
pub mod optimizer;
mod outer;
mod parted;
mod ranked;
pub mod sampling;
mod training;
pub mod weights;

pub use aios_models::{Denominators, LossSums, Reading, Recipe, StepPart};
pub use attention_run::AttentionRun;
pub use device::On;
pub use eval::{EvalOptions, Score, Tally};
pub use generate::{Ended, GenerateOptions};
pub use optimizer::Update;
pub use ranked::Sharing;
pub use sampling::Sampling;

use aios_base::config::WeightsDtype;
use aios_base::error::Result;
use aios_base::execution::Chunking;
use aios_base::micro_batch::{MicroBatch, Tokens};
use aios_bundle::{TensorFile, TensorSource};
use aios_distributed::World;
use aios_memory::Decoration;
use aios_memory::moments::Moments;
use aios_models::Model;
use aios_nn::ParamInfo;
use aios_nn::watch::Point;
use aios_tensor::{AttentionShape, Check, Precision};

/// A device whose runtime has been started.
pub trait OpenDevice {
    /// Wait for all work.
    ///
    /// # Errors
    /// What the device reports of any of it.
    fn confirm(&self) -> Result<()>;

    /// Give back what the runtime's pools keep for reuse.
    fn release_memory(&self);

    /// Try something, on a thread of its own: a kernel that does not compile spoils the queue of the thread that launched
    /// it.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn check(&self, check: Check) -> Result<()>;

    /// A model with weights.
    ///
    /// # Errors
    /// Not enough memory, or weights that do not fit the model.
    fn model(&self, settings: &Settings, weights: Weights) -> Result<Box<dyn Engine>>;

    /// Attention on random numbers, for a benchmark.
    fn attention(&self, shape: AttentionShape, precision: Precision) -> Box<dyn AttentionRun>;
}

/// What a model is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub model: Model,
    /// Longest sequence that will be asked for.
    pub positions: usize,
    /// What is put around its blocks.
    pub decoration: Decoration,
    /// It is trained, rather than only read.
    pub trains: bool,
    /// Format of the weights that are trained.
    pub weights: WeightsDtype,
    /// Seed of the rounding of weights that are not in f32.
    pub rounding_seed: u64,
    /// Format of the optimizer's state.
    pub moments: Moments,
    pub weight_decay: f64,
    /// Longest gradient, as global norm; 0 for any.
    pub grad_clip: f64,
}

impl Settings {
    /// For a model that is not trained.
    pub fn fixed(model: &Model, positions: usize, chunking: Chunking) -> Self {
        Self {
            model: model.clone(),
            positions,
            decoration: Decoration::of_reading(chunking),
            trains: false,
            weights: WeightsDtype::F32,
            rounding_seed: 0,
            moments: Moments::F32,
            weight_decay: 0.0,
            grad_clip: 0.0,
        }
    }
}

/// Where weights come from.
pub enum Weights<'a> {
    /// Drawn anew.
    Seed(u64),
    File(&'a mut TensorFile),
    /// Of a Hugging Face folder.
    Folder(&'a aios_hf::Weights),
    /// Of a Hugging Face folder, and an adapter's from a file of its own, or drawn anew.
    Adapted {
        base: &'a aios_hf::Weights,
        adapter: Adapter<'a>,
    },
}

/// Where an adapter's weights come from.
pub enum Adapter<'a> {
    Seed(u64),
    File(&'a mut TensorFile),
}

/// Looks on as a step is computed.
pub trait Observer {
    /// The step is here.
    ///
    /// May panic with `aios_kernels::buffer::OutOfMemory` to end it, or with what the device reported.
    fn at(&self, point: Point, device: &dyn OpenDevice);

    /// The step's sum of this parameter's gradient is complete: in the order of the backward pass, while it goes on.
    fn gradient_is_final(&self, _: &ParamInfo) {}
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn at(&self, _: Point, _: &dyn OpenDevice) {}
}

/// A text of a model, of which it remembers what it has read: turns of a conversation are read once.
pub trait Session {
    /// Continue a prompt (not empty), handing each token to `token`, which says whether to go on and is asked so, without a
    /// token, between the parts of a long prompt too; a token to stop at ends the text and is not handed on. Of the prompt is
    /// read what does not begin as the text so far.
    ///
    /// # Errors
    /// A model whose output is not a number, not enough memory, or a device that fails.
    fn go_on(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        token: &mut dyn FnMut(Option<u32>) -> bool,
    ) -> Result<Ended>;
}

/// A model at work. Each method returns when the device has confirmed what it did, but for [`Engine::micro_batch`] and
/// [`Engine::update`], which a GPU may still be at: what fails in them is an error of the next method that waits. After an
/// error of a micro-batch nothing but the gradient sums has changed, and these are gone.
pub trait Engine {
    /// Allocate the optimizer's state as far as it is missing, so that an update cannot run out of memory.
    ///
    /// # Errors
    /// Not enough memory.
    fn prepare(&mut self) -> Result<()>;

    /// Take over saved state of the optimizer, of a run of so many ranks.
    ///
    /// # Errors
    /// A tensor that does not fit its parameter.
    fn restore(&mut self, updates: u64, ranks: usize, state: &mut TensorFile) -> Result<()>;

    /// Forward and backward: adds to the gradient sums and to the losses of a step.
    ///
    /// # Errors
    /// Not enough memory, or a device that fails.
    fn micro_batch(
        &mut self,
        batch: &MicroBatch,
        recipe: &Recipe,
        part: StepPart,
        observer: &dyn Observer,
    ) -> Result<()>;

    /// Wait for the step's micro-batches, whose gradients are complete then: the sums of their losses. Once a step, before
    /// [`Engine::update`].
    ///
    /// # Errors
    /// Not enough memory, or a device that fails.
    fn losses(&mut self) -> Result<LossSums>;

    /// Make the gradients that wait for the end of the step.
    ///
    /// # Errors
    /// Not enough memory.
    fn settle(&mut self) -> Result<()>;

    /// Change the weights by the gradient sums, which are gone then.
    ///
    /// # Errors
    /// Not enough memory, with nothing changed; or a device that fails.
    fn update(&mut self, learning_rate: f64, loss_scale: f64) -> Result<Update>;

    /// Forget the gradient sums and the losses.
    fn discard(&mut self);

    /// From now on this is one of several ranks, before there is any state of the optimizer.
    ///
    /// # Errors
    /// Not enough memory.
    fn join(&mut self, world: &World, sharing: Sharing) -> Result<()>;

    /// All ranks get the trained weights of rank 0.
    ///
    /// # Errors
    /// A rank that is lost, or a device that fails.
    fn share_weights(&mut self) -> Result<()>;

    /// Whatever became of this step's micro-batches here: the other ranks get what they wait for. Once a step.
    ///
    /// # Errors
    /// A device that fails.
    fn complete(&mut self) -> Result<()>;

    /// With [`Sharing::Weights`]: average what all ranks have learnt since the last time. Then their weights are the same.
    ///
    /// # Errors
    /// A rank that is lost, or a device that fails.
    fn outer_step(&mut self) -> Result<()>;

    /// While rank 0 saves: give it what it has not.
    ///
    /// # Errors
    /// A rank that is lost.
    fn serve(&self) -> Result<()>;

    /// Rank 0 has saved, or has failed to.
    ///
    /// # Errors
    /// A rank that is lost.
    fn served(&self) -> Result<()>;

    /// Updates made so far.
    fn updates(&self) -> u64;

    /// Add up the loss over a text, or this rank's share of one; `None` if `stopped` said so between batches.
    ///
    /// # Errors
    /// Not enough memory, or a device that fails.
    fn evaluate(
        &self,
        tokens: &dyn Tokens,
        options: &EvalOptions,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Tally>>;

    /// Begin a text.
    fn session(&self, reading: &Reading) -> Box<dyn Session + '_>;

    /// [`Session::go_on`] of a text that is not gone on with after; `token` is asked of each token.
    ///
    /// # Errors
    /// As there.
    fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        token: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Ended> {
        let mut each = |id: Option<u32>| id.is_none_or(&mut *token);
        self.session(&options.reading)
            .go_on(prompt, options, &mut each)
    }

    /// Whether all weights that are trained are finite numbers.
    ///
    /// # Errors
    /// A device that fails.
    fn weights_are_finite(&self) -> Result<bool>;

    /// The weights that are saved, each to be fetched when its turn to be written comes: all, or those of the adapter.
    fn weights(&self) -> Vec<TensorSource<'_>>;

    /// The optimizer's state, likewise.
    fn optimizer_state(&self) -> Vec<TensorSource<'_>>;
}
