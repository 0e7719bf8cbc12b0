//! A part of a model that has a backward pass, and what it saves for it.

use crate::attended::Attended;
use crate::block::Context;
use crate::cache::{Cached, Earlier};
use crate::param::{Gradients, Param, Visit};
use crate::watch::{Point, Watch, are_final};
use aios_tensor::Ops;
use aios_tensor::attention::KeysValues;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::ops::Range;
use std::rc::Rc;

/// Maps tokens to tokens, `[T, hidden]` each.
///
/// Memory features are decorators: layers around a layer, put together at run time, since as types they would multiply by
/// models and backends.
pub trait Layer<B: Ops>: Visit<B> {
    /// The result, keeping nothing for a backward pass.
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Tensor<B, 2>;

    /// The result, and what [`Layer::backward`] needs. What the next chunk is to see is left by the backward pass.
    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>);

    /// What [`Layer::backward`] needs, if nobody wants the result.
    fn save(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Saved<B> {
        self.forward_saving(ctx, x, cached).1
    }

    /// Gradient with respect to `x`, given that of the result; adds those of the parameters. Keys and values of earlier
    /// chunks count as constants.
    fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        cached: Cached<B>,
    ) -> Tensor<B, 2>;

    /// What [`Layer::forward_saving`] keeps of each token.
    fn saves(&self) -> Vec<Saves>;

    /// Its blocks' numbers within a call, by which keys and values are kept.
    fn blocks(&self) -> Range<usize>;

    /// The layer as one whose tokens see each other in one place only, if it is one.
    fn as_attend_then_each(&self) -> Option<&dyn AttendThenEach<B>> {
        None
    }
}

/// A layer as others hold it.
pub type SharedLayer<B> = Rc<dyn Layer<B>>;

/// Layers of one kind as others hold them.
pub fn shared<B: Ops, L: Layer<B> + 'static>(layers: &[Rc<L>]) -> Vec<SharedLayer<B>> {
    let layers = layers.iter().cloned();
    layers.map(|layer| layer as SharedLayer<B>).collect()
}

/// A layer whose tokens see each other in attention, its first half, and go through the second half each by itself. That
/// half can so be computed for some rows at a time.
pub trait AttendThenEach<B: Ops>: Layer<B> {
    /// The first half on all tokens.
    fn attend(&self, ctx: &Context<B>, x: &Tensor<B, 2>, earlier: Earlier<B>) -> Attended<B>;

    /// Leave for the next chunk what of the keys and values that were seen it will see.
    fn leave(&self, ctx: &Context<B>, attended: &Attended<B>, cached: &mut Cached<B>);

    /// The second half on some rows of `x` and of what attention gave, from `first` on of the tokens at hand.
    fn each(
        &self,
        ctx: &Context<B>,
        first: usize,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
    ) -> Tensor<B, 2>;

    /// Both halves one after the other, keeping nothing.
    fn in_turn(&self, ctx: &Context<B>, x: Tensor<B, 2>, mut cached: Cached<B>) -> Tensor<B, 2> {
        let attended = self.attend(ctx, &x, cached.take(self.blocks().start));
        let y = self.each(ctx, 0, x, &attended.out);
        self.leave(ctx, &attended, &mut cached);
        y
    }

    /// Gradients of [`AttendThenEach::each`], which is computed anew, with respect to `x` (as far as it does not pass
    /// attention) and to `attended`.
    fn each_backward(
        &self,
        ctx: &Context<B>,
        first: usize,
        x: Tensor<B, 2>,
        attended: &Tensor<B, 2>,
        dy: &Tensor<B, 2>,
        grads: &mut Gradients<B>,
    ) -> [Tensor<B, 2>; 2];

    /// Gradient with respect to `x`, added to the part that did not pass attention.
    fn attend_backward(
        &self,
        ctx: &Context<B>,
        x: &Tensor<B, 2>,
        attended: Attended<B>,
        gradients: [Tensor<B, 2>; 2],
        grads: &mut Gradients<B>,
    ) -> Tensor<B, 2>;
}

/// What is there during a backward pass.
pub struct Backward<'a, B: Ops> {
    pub grads: &'a mut Gradients<B>,
    pub watch: &'a dyn Watch<B>,
    /// No other pass adds to the gradients of this step after this one.
    pub last: bool,
}

impl<B: Ops> Backward<'_, B> {
    /// What some layer saved is there, and it is about to go backward.
    pub fn begins(&self) {
        self.watch.at(Point::Backward);
    }

    /// These parameters have got all that this pass adds.
    pub fn done(&mut self, parameters: &dyn Visit<B>) {
        if self.last {
            let all = parameters.params().into_iter().rev();
            are_final(self.watch, self.grads, all);
        }
    }
}

/// A tensor that a layer saves: its size a token, and its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saves {
    pub name: &'static str,
    /// Numbers a token.
    pub numbers: usize,
    pub format: Format,
    /// The layer before or after holds the same tensor, where it counts.
    pub shared: bool,
}

/// Format of what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// That of the activations.
    Activations,
    F32,
    /// Two bytes a number.
    Half,
}

/// Bytes a token of what is saved, with activations of so many bytes a number.
pub fn saved_bytes(saves: &[Saves], activation_bytes: usize) -> usize {
    let own = saves.iter().filter(|saves| !saves.shared);
    own.map(|saves| match saves.format {
        Format::Activations => activation_bytes * saves.numbers,
        Format::F32 => 4 * saves.numbers,
        Format::Half => 2 * saves.numbers,
    })
    .sum()
}

/// A tensor that was saved.
pub enum Kept<B: Backend> {
    Here(Tensor<B, 2>),
    /// Put aside: gives the tensor on its device when it is wanted again.
    Aside(Box<dyn FnOnce() -> Tensor<B, 2>>),
}

impl<B: Backend> Kept<B> {
    fn fetch(self) -> Tensor<B, 2> {
        match self {
            Self::Here(tensor) => tensor,
            Self::Aside(fetch) => fetch(),
        }
    }
}

/// What a layer saved for its backward pass.
pub struct Saved<B: Backend> {
    /// In the order in which the layer declares them ([`Layer::saves`]).
    pub(crate) matrices: Vec<Kept<B>>,
    /// Log-sum-exps of attention.
    pub lse: Option<Tensor<B, 3>>,
    /// What its attention saw of earlier chunks, or sees.
    pub earlier: Vec<Earlier<B>>,
    /// Of the layers in it.
    pub parts: Vec<Saved<B>>,
}

impl<B: Backend> Saved<B> {
    /// Of one layer.
    pub fn new(matrices: impl IntoIterator<Item = Tensor<B, 2>>) -> Self {
        Self {
            matrices: matrices.into_iter().map(Kept::Here).collect(),
            lse: None,
            earlier: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// Of one that attends, with what its queries saw if they were a chunk's.
    pub(crate) fn with_attention(
        matrices: impl IntoIterator<Item = Tensor<B, 2>>,
        seen: Option<KeysValues<B>>,
        lse: Tensor<B, 3>,
    ) -> Self {
        let earlier = seen.map(|seen| Earlier::Chunks(Some(seen)));
        Self {
            lse: Some(lse),
            earlier: earlier.into_iter().collect(),
            ..Self::new(matrices)
        }
    }

    /// What [`Saved::with_attention`] was given beside the matrices.
    pub(crate) fn attention(&mut self) -> (Option<KeysValues<B>>, Tensor<B, 3>) {
        let seen = match self.earlier.pop() {
            Some(Earlier::Chunks(seen)) => seen,
            _ => None,
        };
        (
            seen,
            self.lse.take().expect("a layer that attends saves one"),
        )
    }

    /// The input alone, with what attention sees of earlier chunks.
    pub fn input(x: Tensor<B, 2>, earlier: Vec<Earlier<B>>) -> Self {
        Self {
            earlier,
            ..Self::new([x])
        }
    }

    /// Of several.
    pub fn of(parts: Vec<Self>) -> Self {
        Self {
            parts,
            ..Self::new([])
        }
    }

    /// The matrices, of which there are `N`.
    ///
    /// # Panics
    /// If there are not.
    pub fn matrices<const N: usize>(&mut self) -> [Tensor<B, 2>; N] {
        let matrices: Vec<_> = self.matrices.drain(..).map(Kept::fetch).collect();
        let count = matrices.len();
        matrices
            .try_into()
            .unwrap_or_else(|_| panic!("{count} matrices were saved, and {N} are wanted"))
    }

    /// The matrices, however many there are.
    pub fn all(&mut self) -> Vec<Tensor<B, 2>> {
        self.matrices.drain(..).map(Kept::fetch).collect()
    }

    /// Keep each matrix in another way.
    pub fn kept_as(self, how: &mut dyn FnMut(Tensor<B, 2>) -> Kept<B>) -> Self {
        let matrices = self.matrices.into_iter();
        Self {
            matrices: matrices.map(|kept| how(kept.fetch())).collect(),
            parts: (self.parts.into_iter())
                .map(|part| part.kept_as(how))
                .collect(),
            ..self
        }
    }

    /// Numbers in each matrix that is here.
    pub fn sizes(&self) -> Vec<usize> {
        let size = |kept: &Kept<B>| match kept {
            Kept::Here(tensor) => tensor.dims().iter().product(),
            Kept::Aside(_) => 0,
        };
        self.matrices.iter().map(size).collect()
    }
}

/// Layers one after the other.
pub struct Stack<B: Ops> {
    layers: Vec<SharedLayer<B>>,
}

impl<B: Ops> Stack<B> {
    /// At least one.
    pub fn new(layers: Vec<SharedLayer<B>>) -> Self {
        Self { layers }
    }
}

impl<B: Ops> Visit<B> for Stack<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.layers.iter().for_each(|layer| layer.visit(each));
    }
}

impl<B: Ops> Layer<B> for Stack<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, mut cached: Cached<B>) -> Tensor<B, 2> {
        let layers = self.layers.iter();
        layers.fold(x, |x, layer| layer.forward(ctx, x, cached.again()))
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        mut x: Tensor<B, 2>,
        mut cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        let mut parts = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, saved) = layer.forward_saving(ctx, x, cached.again());
            parts.push(saved);
            x = y;
        }
        (x, Saved::of(parts))
    }

    fn save(&self, ctx: &Context<B>, mut x: Tensor<B, 2>, mut cached: Cached<B>) -> Saved<B> {
        let mut parts = Vec::with_capacity(self.layers.len());
        let Some((last, before)) = self.layers.split_last() else {
            return Saved::of(parts);
        };
        for layer in before {
            let (y, saved) = layer.forward_saving(ctx, x, cached.again());
            parts.push(saved);
            x = y;
        }
        parts.push(last.save(ctx, x, cached));
        Saved::of(parts)
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        mut cached: Cached<B>,
    ) -> Tensor<B, 2> {
        let each = self.layers.iter().zip(saved.parts).rev();
        each.fold(dy, |dy, (layer, saved)| {
            layer.backward(ctx, saved, dy, pass, cached.again())
        })
    }

    fn saves(&self) -> Vec<Saves> {
        self.layers.iter().flat_map(|layer| layer.saves()).collect()
    }

    fn blocks(&self) -> Range<usize> {
        let first = self.layers.first().map_or(0, |layer| layer.blocks().start);
        let last = self.layers.last().map_or(0, |layer| layer.blocks().end);
        first..last
    }
}
