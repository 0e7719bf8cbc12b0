//! A model and its optimizer on one backend.

use crate::eval::{EvalOptions, Tally, evaluate};
use crate::generate::OnDevice;
use crate::optimizer::{AdamW, Update, source};
use crate::parted::of_rank;
use crate::ranked::Ranked;
use crate::{Engine, Observer, On, Session, Settings, Sharing, Weights, weights};
use aios_adapters::{Lora, names};
use aios_base::error::{Error, Result};
use aios_base::micro_batch::{MicroBatch, Tokens};
use aios_bundle::{TensorFile, TensorSource};
use aios_distributed::World;
use aios_models::{LossSums, Losses, Objective, Reading, Recipe, StepPart};
use aios_nn::watch::{Point, Watch};
use aios_nn::{Gradients, Param};
use aios_tensor::{Ops, asked, confirmed, total};
use burn::tensor::Tensor;

pub struct Training<B: Ops> {
    device: B::Device,
    model: Box<dyn Objective<B>>,
    optimizer: AdamW<B>,
    grads: Option<Gradients<B>>,
    /// Of the step's micro-batches.
    losses: Losses<B>,
    /// Euclidean norm of the gradient sums, once they are complete and known to be.
    norm: Option<f64>,
    /// What is trained, if the model is frozen.
    adapter: Option<Lora>,
    /// The other ranks, if there are any.
    ranked: Option<Ranked<B>>,
}

impl<B: Ops> Training<B> {
    pub fn new(device: &B::Device, settings: &Settings, weights: Weights) -> Result<Self> {
        let (shape, positions) = (&settings.model, settings.positions);
        let format = settings.weights;
        let mut model = confirmed::<B, _>(device, || match weights {
            Weights::Seed(seed) => weights::draw(shape, seed, format, positions, device),
            Weights::File(file) => weights::load(shape, file, format, positions, device),
            Weights::Folder(folder) => {
                weights::load_folder(shape, folder, format, positions, device)
            }
            Weights::Adapted { base, adapter } => {
                weights::load_adapted(shape, base, adapter, positions, settings.trains, device)
            }
        })??;
        model.decorate(&|blocks| settings.decoration.around(blocks));
        let (decay, clip) = (settings.weight_decay, settings.grad_clip);
        let optimizer = AdamW::new(model.params().len(), decay, clip);
        Ok(Self {
            device: device.clone(),
            optimizer: optimizer
                .with_moments(settings.moments)
                .with_rounding(settings.rounding_seed),
            model,
            grads: None,
            losses: Losses::default(),
            norm: None,
            adapter: shape.adapter().map(|adapted| adapted.lora.clone()),
            ranked: None,
        })
    }
}

impl<B: Ops> Training<B> {
    /// The other ranks, if each has an optimizer's state of its own.
    fn own_states(&self) -> Option<&Ranked<B>> {
        let ranked = self.ranked.as_ref();
        ranked.filter(|ranked| ranked.sharing == Sharing::Weights)
    }
}

/// A look-up beyond the table is not for a device to find.
pub(crate) fn check_ids<B: Ops>(
    model: &dyn Objective<B>,
    mut ids: impl Iterator<Item = i32>,
) -> Result<()> {
    let [vocabulary, _] = model.head().dims();
    match ids.find(|id| *id >= vocabulary as i32) {
        None => Ok(()),
        Some(id) => Err(Error::failed(format!(
            "token {id} is not in the model's vocabulary of {vocabulary}: the tokenizer is of another model"
        ))),
    }
}

/// An observer who is told of one device.
struct Observed<'a, B: Ops> {
    observer: &'a dyn Observer,
    device: On<B>,
    ranked: Option<&'a Ranked<B>>,
}

impl<B: Ops> Watch<B> for Observed<'_, B> {
    fn at(&self, point: Point) {
        self.observer.at(point, &self.device);
    }

    fn gradient_is_final(&self, param: &Param<B>, gradient: &mut Option<Tensor<B, 2>>) {
        self.observer.gradient_is_final(&param.info);
        if let Some(ranked) = self.ranked {
            ranked.is_final(param, gradient);
        }
    }
}

impl<B: Ops> Engine for Training<B> {
    fn prepare(&mut self) -> Result<()> {
        if self.optimizer.is_prepared(&*self.model) {
            return Ok(());
        }
        confirmed::<B, _>(&self.device, || self.optimizer.prepare(&*self.model))
    }

    fn restore(&mut self, updates: u64, ranks: usize, state: &mut TensorFile) -> Result<()> {
        let own = self.own_states().map(|ranked| of_rank(ranked.world.rank()));
        // A run that shared its moments has those of all under the plain names.
        let has = |own: &String| {
            let mut all = self.model.params().into_iter();
            all.any(|param| {
                state
                    .shape(&format!("{own}{}.m", param.info.name))
                    .is_some()
            })
        };
        let prefix = own.filter(has).unwrap_or_default();
        let mut read = |name: &str| match state.shape(name) {
            Some(_) => state.read(name).map(Some),
            None => Ok(None),
        };
        if let Some(ranked) = self.own_states() {
            ranked.restore_momentum(&*self.model, &mut read)?;
            if ranked.world.size() != ranks {
                return Ok(());
            }
        }
        self.optimizer.updates = updates;
        let mut read = |name: &str| read(&format!("{prefix}{name}"));
        confirmed::<B, _>(&self.device, || {
            self.optimizer.restore(&*self.model, &mut read)
        })?
    }

    fn micro_batch(
        &mut self,
        batch: &MicroBatch,
        recipe: &Recipe,
        part: StepPart,
        observer: &dyn Observer,
    ) -> Result<()> {
        let ids = batch.inputs.iter().chain(&batch.labels);
        check_ids(&*self.model, ids.copied())?;
        // Out of `self`, so that an error leaves nothing of it.
        let grads = self.grads.take();
        let mut grads = grads.unwrap_or_else(|| self.model.gradients());
        let watch = Observed {
            observer,
            device: On::<B>(self.device.clone()),
            ranked: self.ranked.as_ref(),
        };
        if let Some(ranked) = self.ranked.as_ref().filter(|_| part.last) {
            ranked.begin(recipe.loss_scale);
        }
        let work = || (self.model).micro_batch(batch, recipe, part, &watch, &mut grads);
        let losses = match self.ranked {
            // Each rank's progress is watched by the others.
            Some(_) => confirmed::<B, _>(&self.device, work)?,
            None => asked(work)?,
        };
        self.losses.add(losses);
        (self.grads, self.norm) = (Some(grads), None);
        Ok(())
    }

    fn losses(&mut self) -> Result<LossSums> {
        let losses = std::mem::take(&mut self.losses);
        // Out of `self`, so that an error leaves nothing of it.
        let grads = self.grads.take();
        let mut grads = grads.unwrap_or_else(|| self.model.gradients());
        let read = || {
            self.model.settle(&mut grads);
            if B::ON_HOST {
                return (losses.read(), grads.norm());
            }
            let (sums, squares) = losses.read_with(grads.squares());
            (sums, total(&squares).sqrt())
        };
        let (sums, norm) = confirmed::<B, _>(&self.device, read)?;
        (self.grads, self.norm) = (Some(grads), Some(norm));
        Ok(sums)
    }

    fn settle(&mut self) -> Result<()> {
        let Some(mut grads) = self.grads.take() else {
            return Ok(());
        };
        confirmed::<B, _>(&self.device, || self.model.settle(&mut grads))?;
        self.grads = Some(grads);
        Ok(())
    }

    fn update(&mut self, learning_rate: f64, loss_scale: f64) -> Result<Update> {
        self.losses = Losses::default();
        let (model, optimizer) = (&self.model, &mut self.optimizer);
        if let Some(ranked) = &self.ranked {
            let update = || ranked.update(&**model, optimizer, learning_rate);
            if let Some(update) = confirmed::<B, _>(&self.device, update)?? {
                self.grads = None;
                return Ok(update);
            }
        }
        let (grads, norm) = (self.grads.take(), self.norm.take());
        let mut grads = grads.unwrap_or_else(|| model.gradients());
        asked(|| {
            // Before anything is changed, since memory may run out.
            model.settle(&mut grads);
            let norm = norm.unwrap_or_else(|| grads.norm()) / loss_scale;
            let take = &mut |parameter: &Param<B>| grads.take(parameter);
            let update = optimizer.step_by(&**model, norm, learning_rate, loss_scale, take);
            B::send(&self.device);
            update
        })
    }

    fn discard(&mut self) {
        (self.grads, self.norm, self.losses) = (None, None, Losses::default());
        if let Some(ranked) = &self.ranked {
            ranked.discard();
        }
    }

    fn join(&mut self, world: &World, sharing: Sharing) -> Result<()> {
        let ranked = Ranked::new(world, sharing, &*self.model);
        if sharing == Sharing::OptimizerParts {
            self.optimizer.part_of(world.rank(), world.size());
        }
        self.ranked = Some(ranked);
        Ok(())
    }

    fn share_weights(&mut self) -> Result<()> {
        let share = || match &self.ranked {
            Some(ranked) => ranked.share_weights(&*self.model),
            None => Ok(()),
        };
        confirmed::<B, _>(&self.device, share)?
    }

    fn complete(&mut self) -> Result<()> {
        let Some(ranked) = &self.ranked else {
            return Ok(());
        };
        confirmed::<B, _>(&self.device, || ranked.complete())
    }

    fn outer_step(&mut self) -> Result<()> {
        let step = || match &self.ranked {
            Some(ranked) => ranked.outer_step(&*self.model),
            None => Ok(()),
        };
        confirmed::<B, _>(&self.device, step)?
    }

    fn serve(&self) -> Result<()> {
        match &self.ranked {
            Some(ranked) if ranked.has_states() => ranked.serve(&*self.model, &self.optimizer),
            _ => Ok(()),
        }
    }

    fn served(&self) -> Result<()> {
        match &self.ranked {
            Some(ranked) if ranked.has_states() => ranked.served(),
            _ => Ok(()),
        }
    }

    fn updates(&self) -> u64 {
        self.optimizer.updates
    }

    fn evaluate(
        &self,
        tokens: &dyn Tokens,
        options: &EvalOptions,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Tally>> {
        let work = || evaluate(&*self.model, tokens, options, stopped);
        confirmed::<B, _>(&self.device, work)?
    }

    fn session(&self, reading: &Reading) -> Box<dyn Session + '_> {
        Box::new(OnDevice::new(&*self.model, reading, &self.device))
    }

    fn weights_are_finite(&self) -> Result<bool> {
        confirmed::<B, _>(&self.device, || {
            let trained = self.model.params().into_iter().filter(|p| p.info.trained);
            let values: Vec<_> = trained.map(|p| p.value()).collect();
            let values: Vec<_> = values.iter().collect();
            B::sum_of_squares(&values).is_finite()
        })
    }

    fn weights(&self) -> Vec<TensorSource<'_>> {
        let all = self.model.params().into_iter();
        let Some(lora) = &self.adapter else {
            return all.map(source).collect();
        };
        let mut own = Vec::new();
        for param in all.filter(|param| param.info.trained) {
            let named = |name: String| TensorSource {
                name,
                ..source(param)
            };
            own.push(named(names::in_file(&param.info.name)));
            // The first of all is the embedding.
            if lora.tied && param.index == 0 {
                own.push(named(names::TIED_HEAD.to_string()));
            }
        }
        own
    }

    fn optimizer_state(&self) -> Vec<TensorSource<'_>> {
        match &self.ranked {
            Some(ranked) if ranked.sharing == Sharing::OptimizerParts => {
                ranked.state(&*self.model, &self.optimizer)
            }
            Some(ranked) if ranked.sharing == Sharing::Weights => {
                let mut all = self.optimizer.tensors(&*self.model);
                all.extend(ranked.states_of_others(&*self.model, &self.optimizer));
                all.extend(ranked.momentum(&*self.model));
                all
            }
            _ => self.optimizer.tensors(&*self.model),
        }
    }
}
