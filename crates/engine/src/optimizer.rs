//! AdamW over the model's parameters, with global-norm clipping and skipped steps.

use crate::buckets::part;
use crate::weights::{check_finite, floats as floats_of};
use aios_base::error::{Error, Result};
use aios_bundle::{Dtype, NamedTensor, TensorSource};
use aios_hf::encode;
use aios_memory::bf16_weights::rounded;
use aios_memory::moments::Moments;
use aios_memory::record::{Contents, Record, RecordTensor, SavedMoment, of_moments, suffix};
use aios_nn::{Gradients, Param, ParamInfo, Visit};
use aios_tensor::adamw_8bit::{self, Moment};
use aios_tensor::{AdamWStep, AdamWUpdate, Ops, TOGETHER, TOGETHER_ELEMENTS, floats};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use std::ops::Range;

/// Decay of the mean gradient: what nearly every language model uses.
const BETA1: f32 = 0.9;
/// Decay of the mean squared gradient: 0.95 rather than Adam's 0.999, because text has rare tokens
/// whose gradients come in bursts.
const BETA2: f32 = 0.95;
/// Keeps the division finite.
const EPS: f32 = 1e-8;

/// Gives a parameter's gradient, if there is one.
type Take<'a, B> = &'a mut dyn FnMut(&Param<B>) -> Option<Tensor<B, 2>>;

/// AdamW's state.
pub struct AdamW<B: Ops> {
    /// By parameter index; `None` where nothing has been allocated yet.
    records: Vec<Option<Box<dyn Record<B>>>>,
    moments: Moments,
    rounding_seed: u64,
    /// This rank's number and how many there are, where each has a part of the state.
    parted: Option<(usize, usize)>,
    /// Updates made.
    pub updates: u64,
    pub weight_decay: f64,
    /// Longest global gradient norm; 0 for no limit.
    pub grad_clip: f64,
}

/// Parameters that wait to be updated in one go: for a GPU the launch of a small one takes longer than the work. Their values and
/// records are here meanwhile: whoever unwinds out of an update has no model any more, as within the update of one.
struct Together<'a, B: Ops> {
    parameters: Vec<&'a Param<B>>,
    updates: Vec<AdamWUpdate<B>>,
}

impl<B: Ops> Default for Together<'_, B> {
    fn default() -> Self {
        Self {
            parameters: Vec::new(),
            updates: Vec::new(),
        }
    }
}

impl<'a, B: Ops> Together<'a, B> {
    fn takes(&self, parameter: &Param<B>) -> bool {
        !B::ON_HOST && parameter.info.elements() <= TOGETHER_ELEMENTS
    }

    fn add(
        &mut self,
        parameter: &'a Param<B>,
        gradient: Tensor<B, 2>,
        moments: [Tensor<B, 2>; 2],
        step: AdamWStep,
    ) {
        self.parameters.push(parameter);
        self.updates.push(AdamWUpdate {
            parameter: parameter.take(),
            gradient,
            moments,
            step,
        });
    }

    /// Update those that wait.
    fn finish(&mut self, records: &mut [Option<Box<dyn Record<B>>>]) {
        let updated = B::adamw_all(std::mem::take(&mut self.updates));
        for (parameter, (value, moments)) in self.parameters.drain(..).zip(updated) {
            parameter.put(value);
            records[parameter.index] = Some(of_moments(moments));
        }
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Nothing was changed because the gradient was not finite.
    pub skipped: bool,
}

impl<B: Ops> AdamW<B> {
    /// No state yet, for a model of `parameters` parameters; it will be in f32.
    pub fn new(parameters: usize, weight_decay: f64, grad_clip: f64) -> Self {
        Self {
            records: (0..parameters).map(|_| None).collect(),
            moments: Moments::F32,
            rounding_seed: 0,
            parted: None,
            updates: 0,
            weight_decay,
            grad_clip,
        }
    }

    /// The same with state in this format, as far as there is none yet.
    pub fn with_moments(mut self, moments: Moments) -> Self {
        self.moments = moments;
        self
    }

    /// The same with this seed of the rounding of weights in bf16.
    pub fn with_rounding(mut self, seed: u64) -> Self {
        self.rounding_seed = seed;
        self
    }

    /// The same with the state of a rank's part of each parameter alone.
    pub(crate) fn part_of(&mut self, rank: usize, size: usize) {
        self.parted = Some((rank, size));
    }

    pub(crate) fn moments(&self) -> Moments {
        self.moments
    }

    pub(crate) fn record(&self, index: usize) -> Option<&dyn Record<B>> {
        self.records[index].as_deref()
    }

    /// The elements of a parameter whose state is here.
    pub(crate) fn own(&self, parameter: &Param<B>) -> Range<usize> {
        let elements = parameter.info.elements();
        match self.parted {
            Some((rank, size)) => part(elements, rank, size),
            None => 0..elements,
        }
    }

    /// Dimensions of a record of them.
    fn dims(&self, parameter: &Param<B>) -> [usize; 2] {
        match self.parted {
            Some(_) => [1, self.own(parameter).len()],
            None => parameter.dims(),
        }
    }

    /// Whether there is state for every parameter that is trained.
    pub fn is_prepared(&self, model: &dyn Visit<B>) -> bool {
        let trained = model.params().into_iter().filter(|p| p.info.trained);
        let mut own = trained.filter(|parameter| self.dims(parameter)[1] > 0);
        own.all(|parameter| self.records[parameter.index].is_some())
    }

    /// Allocate the state that is missing, so that an update allocates nothing of a model's size
    /// and cannot fail half-way for lack of memory.
    pub fn prepare(&mut self, model: &dyn Visit<B>) {
        for parameter in model.params().into_iter().filter(|p| p.info.trained) {
            let dims = self.dims(parameter);
            let (moments, seed) = (self.moments, self.rounding_seed);
            let zeros = || rounded(moments.zeros(parameter, dims), parameter, seed);
            if dims[1] > 0 {
                self.records[parameter.index].get_or_insert_with(zeros);
            }
        }
    }

    /// Bytes of the state that is there.
    pub fn state_bytes(&self) -> u64 {
        self.records.iter().flatten().map(|r| r.bytes()).sum()
    }

    /// Change the parameters by their gradients, freeing each as it is used. State that is missing is
    /// allocated first (see [`AdamW::prepare`]).
    ///
    /// The gradients are those of the loss times `loss_scale`. One with NaN or infinity changes
    /// nothing: the step is skipped.
    pub fn step(
        &mut self,
        model: &dyn Visit<B>,
        mut grads: Gradients<B>,
        learning_rate: f64,
        loss_scale: f64,
    ) -> Update {
        let grad_norm = grads.norm() / loss_scale;
        let take = &mut |parameter: &Param<B>| grads.take(parameter);
        self.step_by(model, grad_norm, learning_rate, loss_scale, take)
    }

    /// The same by gradients that `take` gives, of which this is the global norm without the loss scale.
    pub(crate) fn step_by(
        &mut self,
        model: &dyn Visit<B>,
        grad_norm: f64,
        learning_rate: f64,
        loss_scale: f64,
        take: Take<B>,
    ) -> Update {
        let step = self.begin(model, grad_norm, learning_rate, loss_scale);
        let mut together = Together::default();
        for parameter in model.params() {
            if let Some(step) = step
                && let Some(gradient) = take(parameter)
            {
                let step = self.decaying(parameter, step);
                self.update(parameter, gradient, step, &mut together);
            }
        }
        together.finish(&mut self.records);
        Update {
            grad_norm,
            skipped: step.is_none(),
        }
    }

    /// Count an update; `None` if the gradient is not finite, so that there is none.
    pub(crate) fn begin(
        &mut self,
        model: &dyn Visit<B>,
        grad_norm: f64,
        learning_rate: f64,
        loss_scale: f64,
    ) -> Option<AdamWStep> {
        if !grad_norm.is_finite() {
            return None;
        }
        self.prepare(model);
        self.updates += 1;
        let clip = self.grad_clip > 0.0 && grad_norm > self.grad_clip;
        Some(AdamWStep {
            learning_rate: learning_rate as f32,
            beta1: BETA1,
            beta2: BETA2,
            eps: EPS,
            weight_decay: 0.0,
            step: self.updates,
            gradient_scale: match clip {
                true => (self.grad_clip / grad_norm / loss_scale) as f32,
                false => (1.0 / loss_scale) as f32,
            },
        })
    }

    /// Update these elements of a parameter; gives what they become.
    pub(crate) fn update_part(
        &mut self,
        parameter: &Param<B>,
        own: Range<usize>,
        gradient: Tensor<B, 2>,
        step: AdamWStep,
    ) -> Vec<f32> {
        let value = parameter.value();
        let elements = parameter.info.elements();
        let value = value.reshape([1, elements]).slice([0..1, own]);
        let step = self.decaying(parameter, step);
        let record = self.records[parameter.index].take();
        let (value, record) = record
            .expect("made by `prepare`")
            .step(value, gradient, &step);
        self.records[parameter.index] = Some(record);
        floats(value)
    }

    fn decaying(&self, parameter: &Param<B>, step: AdamWStep) -> AdamWStep {
        AdamWStep {
            weight_decay: match parameter.info.decay {
                true => self.weight_decay as f32,
                false => 0.0,
            },
            ..step
        }
    }

    fn update<'a>(
        &mut self,
        parameter: &'a Param<B>,
        gradient: Tensor<B, 2>,
        step: AdamWStep,
        together: &mut Together<'a, B>,
    ) {
        let record = self.records[parameter.index].take();
        let record = record.expect("made by `prepare`");
        let record = match together.takes(parameter) {
            true => record.into_moments(),
            false => Err(record),
        };
        match record {
            Ok(moments) => {
                together.add(parameter, gradient, moments, step);
                if together.parameters.len() == TOGETHER {
                    together.finish(&mut self.records);
                }
            }
            Err(record) => {
                let record = parameter.change(|value| record.step(value, gradient, &step));
                self.records[parameter.index] = Some(record);
            }
        }
    }

    /// The state as named tensors for the bundle: `NAME.m` and `NAME.v` in the parameter's shape, in
    /// f32 or as codes of one byte with `NAME.m.absmax` and `NAME.v.absmax`, `[blocks]`.
    pub fn tensors<'a>(&'a self, model: &'a dyn Visit<B>) -> Vec<TensorSource<'a>> {
        let mut tensors = Vec::new();
        for parameter in model.params() {
            let Some(record) = &self.records[parameter.index] else {
                continue;
            };
            let own = record.tensors(&parameter.info.shape).into_iter();
            tensors.extend(own.map(|tensor| named(&parameter.info, tensor)));
        }
        tensors
    }

    /// Put saved state back, converted where it was saved in the other format; `read` gives a named
    /// tensor, or `None` if it was not saved.
    ///
    /// # Errors
    /// A tensor of another shape than its parameter's, or half of a pair.
    pub fn restore(
        &mut self,
        model: &dyn Visit<B>,
        mut read: impl FnMut(&str) -> Result<Option<NamedTensor>>,
    ) -> Result<()> {
        for parameter in model.params() {
            let name = &parameter.info.name;
            let mut saved = |moment| read_moment(parameter, moment, &mut read);
            let moments = (saved(Moment::Mean)?, saved(Moment::Square)?);
            let (own, dims) = (self.own(parameter), self.dims(parameter));
            self.records[parameter.index] = match moments {
                (Some(_), Some(_)) if own.is_empty() => None,
                (Some(m), Some(v)) => {
                    let moments = [m, v].map(|saved| match self.parted {
                        Some(_) => saved.part(&own),
                        None => saved,
                    });
                    let record = self.moments.restored(parameter, dims, moments);
                    Some(rounded(record, parameter, self.rounding_seed))
                }
                (None, None) => None,
                _ => {
                    return Err(Error::failed(format!(
                        "optimizer state of {name} is incomplete: one of .m and .v is missing"
                    )));
                }
            };
        }
        Ok(())
    }
}

fn named<'a>(info: &ParamInfo, tensor: RecordTensor<'a>) -> TensorSource<'a> {
    let (dtype, fetch): (_, Box<dyn Fn() -> Result<Vec<u8>> + 'a>) = match tensor.contents {
        Contents::F32(fetch) => (Dtype::F32, Box::new(move || encode(&fetch(), Dtype::F32))),
        Contents::U8(fetch) => (Dtype::U8, Box::new(move || Ok(fetch()))),
    };
    TensorSource {
        name: format!("{}.{}", info.name, tensor.suffix),
        dtype,
        shape: tensor.shape,
        fetch,
    }
}

/// A moment of a parameter from named tensors, or `None` if it was not saved.
fn read_moment<B: Backend>(
    parameter: &Param<B>,
    moment: Moment,
    read: &mut impl FnMut(&str) -> Result<Option<NamedTensor>>,
) -> Result<Option<SavedMoment>> {
    let name = format!("{}.{}", parameter.info.name, suffix(moment));
    let Some(tensor) = read(&name)? else {
        return Ok(None);
    };
    if tensor.shape != parameter.info.shape {
        return Err(Error::failed(format!(
            "optimizer state {name} has shape {:?}, the parameter {:?}",
            tensor.shape, parameter.info.shape
        )));
    }
    if tensor.dtype != Dtype::U8 {
        let values = checked_floats(&tensor, moment == Moment::Square)?;
        return Ok(Some(SavedMoment::F32(values)));
    }
    let absmax = read(&format!("{name}.absmax"))?;
    let absmax = absmax.map(|absmax| checked_floats(&absmax, true));
    let absmax = absmax.transpose()?;
    let blocks = adamw_8bit::blocks(parameter.info.elements());
    match absmax {
        Some(absmax) if absmax.len() == blocks => Ok(Some(SavedMoment::Codes {
            codes: tensor.bytes,
            absmax,
        })),
        other => Err(Error::failed(format!(
            "optimizer state {name}.absmax has {} values and should have {blocks}",
            other.map_or(0, |absmax| absmax.len())
        ))),
    }
}

/// What is to be finite, and perhaps a magnitude.
pub(crate) fn checked_floats(tensor: &NamedTensor, magnitude: bool) -> Result<Vec<f32>> {
    let values = floats_of(tensor)?;
    let name = &tensor.name;
    check_finite(name, &tensor.shape, &values)?;
    match values.iter().find(|value| magnitude && **value < 0.0) {
        None => Ok(values),
        Some(value) => Err(Error::failed(format!(
            "optimizer state {name} holds {value}, which no magnitude can be: take another checkpoint"
        ))),
    }
}

/// A parameter's value, to be fetched from its device when its turn to be written comes.
pub fn source<B: Ops>(parameter: &Param<B>) -> TensorSource<'_> {
    let dtype = match parameter.dtype() {
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    };
    TensorSource {
        name: parameter.info.name.clone(),
        dtype,
        shape: parameter.info.shape.clone(),
        fetch: Box::new(move || encode(&floats(parameter.value()), dtype)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_models::actv1::{ActV1, ModelConfig, PosEncodings};
    use aios_tensor::{CpuBackend, in_format};
    use burn::tensor::TensorData;

    fn model() -> ActV1<CpuBackend> {
        let config = ModelConfig {
            vocab_size: 300,
            hidden_size: 40,
            num_heads: 2,
            expansion: 1.0,
            h_layers: 1,
            l_layers: 1,
            h_cycles: 1,
            l_cycles: 1,
            pos_encodings: PosEncodings::Rope,
            tie_embeddings: false,
            max_seq_len: 8,
            window_size: 0,
            causal: true,
        };
        ActV1::init(&config, 0, &Default::default()).unwrap()
    }

    const EIGHT_BIT: Moments = Moments::EightBit {
        f32_embedding: false,
    };

    fn prepared(moments: Moments) -> (ActV1<CpuBackend>, AdamW<CpuBackend>) {
        let model = model();
        let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0).with_moments(moments);
        optimizer.prepare(&model);
        (model, optimizer)
    }

    /// Some updates with gradients that are waves.
    fn trained(moments: Moments) -> (ActV1<CpuBackend>, AdamW<CpuBackend>) {
        let (model, mut optimizer) = prepared(moments);
        for step in 1..=3 {
            let mut grads = model.gradients();
            for parameter in model.params() {
                let wave = |i| (i as f32 * 0.1 * step as f32).sin();
                let values: Vec<f32> = (0..parameter.info.elements()).map(wave).collect();
                let data = TensorData::new(values, parameter.dims());
                let gradient = Tensor::from_data(data, &parameter.device());
                grads.change(parameter, |_| gradient);
            }
            optimizer.step(&model, grads, 1e-3, 1.0);
        }
        (model, optimizer)
    }

    fn saved(model: &ActV1<CpuBackend>, optimizer: &AdamW<CpuBackend>) -> Vec<NamedTensor> {
        let sources = optimizer.tensors(model);
        let fetch = |source: TensorSource| NamedTensor {
            bytes: (source.fetch)().unwrap(),
            name: source.name,
            dtype: source.dtype,
            shape: source.shape,
        };
        sources.into_iter().map(fetch).collect()
    }

    fn restored(tensors: &[NamedTensor], moments: Moments) -> Result<Vec<NamedTensor>> {
        let model = model();
        let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0).with_moments(moments);
        optimizer.restore(&model, |name| {
            Ok(tensors.iter().find(|t| t.name == name).cloned())
        })?;
        Ok(saved(&model, &optimizer))
    }

    #[test]
    fn what_is_allocated_is_what_was_predicted() {
        for moments in [Moments::F32, EIGHT_BIT] {
            let (model, optimizer) = prepared(moments);
            let predicted = moments.state_bytes(model.params().iter().map(|p| &p.info));
            assert_eq!(optimizer.state_bytes(), predicted, "{moments:?}");
        }
    }

    #[test]
    fn an_update_allocates_no_state() {
        let (model, optimizer) = trained(EIGHT_BIT);
        let predicted = EIGHT_BIT.state_bytes(model.params().iter().map(|p| &p.info));
        assert_eq!(optimizer.state_bytes(), predicted);
    }

    #[test]
    fn the_same_format_comes_back_bit_for_bit() {
        for moments in [Moments::F32, EIGHT_BIT] {
            let (model, optimizer) = trained(moments);
            let tensors = saved(&model, &optimizer);
            assert!(
                restored(&tensors, moments).unwrap() == tensors,
                "{moments:?}"
            );
        }
    }

    #[test]
    fn codes_become_the_floats_they_stand_for_and_codes_again() {
        let (model, optimizer) = trained(EIGHT_BIT);
        let codes = saved(&model, &optimizer);
        let floats = restored(&codes, Moments::F32).unwrap();
        assert!(floats.iter().all(|t| t.dtype == Dtype::F32));
        let again = restored(&floats, EIGHT_BIT).unwrap();
        // The largest of a block may be a rounding smaller; codes of squares stay exactly.
        let squares = |tensors: &[NamedTensor]| -> Vec<NamedTensor> {
            let squares = tensors.iter().filter(|t| t.name.ends_with(".v"));
            squares.cloned().collect()
        };
        assert!(squares(&again) == squares(&codes));
    }

    #[test]
    fn floats_become_codes_close_to_them() {
        let (model, optimizer) = trained(Moments::F32);
        let floats = saved(&model, &optimizer);
        let codes = restored(&floats, EIGHT_BIT).unwrap();
        let back = restored(&codes, Moments::F32).unwrap();
        for (want, got) in floats.iter().zip(&back) {
            let (want, got) = (floats_of(want).unwrap(), floats_of(got).unwrap());
            let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let off = want.iter().zip(&got).map(|(w, g)| (w - g).abs());
            // Half of the widest step of the maps, 1/64 of [0.1, 1] being the wider one's.
            assert!(off.fold(0.0, f32::max) <= 0.0072 * largest);
        }
    }

    /// Names of the parameters that a step with gradients of zero scales by what weight decay leaves;
    /// it leaves all others as they are.
    fn decaying(tie_embeddings: bool, pos_encodings: PosEncodings) -> Vec<String> {
        let config = ModelConfig {
            tie_embeddings,
            pos_encodings,
            ..model().config
        };
        let source = &mut |info: &aios_nn::ParamInfo, _| Ok(vec![2.0; info.elements()].into());
        let model = ActV1::<CpuBackend>::build(&config, &Default::default(), source).unwrap();
        let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0);
        let mut grads = model.gradients();
        for parameter in model.params() {
            grads.change(parameter, |_| parameter.value().zeros_like());
        }
        optimizer.step(&model, grads, 0.5, 1.0);
        let decays = |p: &&Param<CpuBackend>| {
            let values = floats(p.value());
            assert!(values.iter().all(|&v| v == values[0]));
            let decays = values[0] == 2.0 * (1.0 - 0.5 * 0.1);
            assert!(decays || values[0] == 2.0, "{}: {}", p.info.name, values[0]);
            decays
        };
        let names = model.params().into_iter().filter(decays);
        names.map(|p| p.info.name.clone()).collect()
    }

    const MATRICES: [&str; 8] = [
        "H_level.layers.0.self_attn.qkv_proj.weight",
        "H_level.layers.0.self_attn.o_proj.weight",
        "H_level.layers.0.mlp.gate_up_proj.weight",
        "H_level.layers.0.mlp.down_proj.weight",
        "L_level.layers.0.self_attn.qkv_proj.weight",
        "L_level.layers.0.self_attn.o_proj.weight",
        "L_level.layers.0.mlp.gate_up_proj.weight",
        "L_level.layers.0.mlp.down_proj.weight",
    ];

    #[test]
    fn every_matrix_that_multiplies_decays_and_nothing_else() {
        for positions in [PosEncodings::Rope, PosEncodings::Learned] {
            let heads = ["lm_head.weight", "q_head.weight"];
            let want = [&MATRICES[..], &heads].concat();
            assert_eq!(decaying(false, positions), want);
        }
    }

    #[test]
    fn a_table_that_is_the_head_too_decays() {
        for positions in [PosEncodings::Rope, PosEncodings::Learned] {
            let want = [
                &["embed_tokens.embedding_weight"][..],
                &MATRICES,
                &["q_head.weight"],
            ];
            assert_eq!(decaying(true, positions), want.concat());
        }
    }

    /// Rows of 40 share a block of 256 with six others.
    #[test]
    fn rows_that_are_never_looked_up_stay_what_they_are() {
        let (model, mut optimizer) = prepared(EIGHT_BIT);
        let rare = |i: usize| (i / 40).is_multiple_of(3);
        let before = floats(model.embedding.value());
        for step in 1..=40 {
            let mut grads = model.gradients();
            let wave = |i: usize| match rare(i) {
                true => 0.0,
                false => (i as f32 * 0.1 * step as f32).sin(),
            };
            let values: Vec<f32> = (0..before.len()).map(wave).collect();
            let data = TensorData::new(values, model.embedding.dims());
            let gradient = Tensor::from_data(data, &Default::default());
            grads.change(&model.embedding, |_| gradient);
            optimizer.step(&model, grads, 1e-3, 1.0);
        }
        let after = floats(model.embedding.value());
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(before == after, rare(i), "element {i}");
        }
    }

    #[test]
    fn state_that_no_run_can_have_saved_is_an_error() {
        for (moments, name) in [
            (Moments::F32, "lm_head.weight.v"),
            (EIGHT_BIT, "lm_head.weight.m.absmax"),
        ] {
            for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-0.5, "-0.5")] {
                let (model, optimizer) = trained(moments);
                let mut tensors = saved(&model, &optimizer);
                let tensor = tensors.iter_mut().find(|t| t.name == name).unwrap();
                tensor.bytes[4..8].copy_from_slice(&value.to_le_bytes());
                let error = restored(&tensors, moments).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(shown), "{error}");
            }
        }
    }

    /// Updates of a hundredth of a last place, which rounding to nearest would all take back.
    #[test]
    fn weights_in_bf16_move_by_changes_smaller_than_their_last_place() {
        let (model, mut optimizer) = prepared(Moments::F32);
        let weight = &model.embedding;
        weight.change(|value| {
            let ones = Tensor::ones(value.dims(), &Default::default());
            (in_format(ones, DType::BF16), ())
        });
        optimizer
            .records
            .iter_mut()
            .for_each(|record| *record = None);
        for _ in 0..50 {
            let mut grads = model.gradients();
            grads.change(weight, |_| Tensor::ones(weight.dims(), &Default::default()));
            // Below 1, bf16's last place is 2^-8.
            optimizer.step(&model, grads, 2.0_f64.powi(-8) / 100.0, 1.0);
        }
        assert_eq!(weight.dtype(), DType::BF16);
        let after = floats(weight.value());
        let mean = after.iter().map(|v| f64::from(*v)).sum::<f64>() / after.len() as f64;
        let moved = (1.0 - mean) / 2.0_f64.powi(-8);
        assert!((moved - 0.5).abs() < 0.1, "{moved}");
    }

    #[test]
    fn missing_absmaxes_are_an_error() {
        let (model, optimizer) = trained(EIGHT_BIT);
        let mut tensors = saved(&model, &optimizer);
        tensors.retain(|t| t.name != "lm_head.weight.m.absmax");
        let error = restored(&tensors, EIGHT_BIT).unwrap_err().to_string();
        assert!(error.contains("lm_head.weight.m.absmax"), "{error}");
    }
}
