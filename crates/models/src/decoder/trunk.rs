//! What stands between embedding and head: blocks once through, or HRM-Text's two stacks in cycles.

use crate::decoder::config::Cycles;
use aios_nn::{
    Backward, Context, DecoderBlock, KvCaches, Layer, Linear, Norm, Param, Saved, SharedLayer,
    Stack, Visit, shared,
};
use aios_tensor::{Ops, added};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use std::rc::Rc;

/// Blocks one after the other, and the norm they end in.
pub struct Level<B: Ops> {
    blocks: Vec<Rc<DecoderBlock<B>>>,
    /// The same as they are run: with what was put around them.
    stack: Stack<B>,
    norm: Norm<B>,
}

impl<B: Ops> Level<B> {
    pub fn new(blocks: Vec<DecoderBlock<B>>, norm: Norm<B>) -> Self {
        let blocks: Vec<_> = blocks.into_iter().map(Rc::new).collect();
        let stack = Stack::new(shared(&blocks));
        Self {
            blocks,
            stack,
            norm,
        }
    }

    /// The linear layers of its blocks.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        self.blocks.iter().flat_map(|block| block.linears())
    }
}

impl<B: Ops> Visit<B> for Level<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.blocks.iter().for_each(|block| block.visit(each));
        self.norm.visit(each);
    }
}

/// One run of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    level: usize,
    /// Its number among all calls, by which keys and values are kept.
    number: usize,
    backward: bool,
}

/// The calls of a pass, in their order.
fn calls(cycles: Option<&Cycles>) -> Vec<Call> {
    let Some(cycles) = cycles else {
        return vec![Call {
            level: 0,
            number: 0,
            backward: true,
        }];
    };
    let mut all = Vec::new();
    for backward in &cycles.backward {
        let low = (0..cycles.low).map(|at| (LOW, at + backward >= cycles.low));
        for (level, backward) in low.chain([(HIGH, true)]) {
            all.push(Call {
                level,
                number: all.len(),
                backward,
            });
        }
    }
    all
}

const LOW: usize = 0;
const HIGH: usize = 1;

/// Blocks of each call that goes backward, and of all calls together.
pub fn blocks_of_calls(cycles: Option<&Cycles>, blocks: usize) -> (Vec<usize>, usize) {
    let calls = calls(cycles);
    let backward = calls.iter().filter(|call| call.backward);
    (backward.map(|_| blocks).collect(), calls.len() * blocks)
}

/// All levels, and how they follow each other.
pub struct Trunk<B: Ops> {
    /// One; or the low and the high one.
    pub levels: Vec<Level<B>>,
    /// Where the low level's state starts, `[1, hidden]`.
    pub low_start: Option<Param<B>>,
    calls: Vec<Call>,
}

/// What the calls that go backward saved: their blocks' and their last norm's input.
pub struct Tape<B: Backend>(Vec<(Call, Saved<B>, Tensor<B, 2>)>);

/// States of the two levels; of a plain decoder the second alone.
struct States<B: Backend> {
    low: Option<Tensor<B, 2>>,
    high: Tensor<B, 2>,
}

impl<B: Ops> Trunk<B> {
    pub fn new(
        levels: Vec<Level<B>>,
        low_start: Option<Param<B>>,
        cycles: Option<&Cycles>,
    ) -> Self {
        Self {
            levels,
            low_start,
            calls: calls(cycles),
        }
    }

    /// Put decorators around the blocks of each level, in place of those that are there.
    pub fn decorate(&mut self, around: &dyn Fn(Vec<SharedLayer<B>>) -> Stack<B>) {
        for level in &mut self.levels {
            level.stack = around(shared(&level.blocks));
        }
    }

    /// Blocks of each call.
    pub fn blocks_of_calls(&self) -> impl Iterator<Item = usize> {
        let blocks = |call: &Call| self.levels[call.level].blocks.len();
        self.calls.iter().map(blocks)
    }

    /// From embedded tokens to what the head reads, `[T, hidden]` each.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) -> Tensor<B, 2> {
        let mut states = self.start(x);
        for call in &self.calls {
            let level = &self.levels[call.level];
            let input = states.input();
            let ctx = &*ctx.of_call(call.number);
            let y = level.stack.forward(ctx, input, caches.call(call.number));
            states.set(call, level.norm.forward(&y));
        }
        states.high
    }

    /// The same, and what [`Trunk::backward`] needs.
    pub fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        caches: &mut KvCaches<B>,
    ) -> (Tensor<B, 2>, Tape<B>) {
        let (mut states, mut tape) = (self.start(x), Vec::new());
        for call in &self.calls {
            let level = &self.levels[call.level];
            let (input, cached) = (states.input(), caches.call(call.number));
            let ctx = &*ctx.of_call(call.number);
            let y = match call.backward {
                false => level.stack.forward(ctx, input, cached),
                true => {
                    let (y, saved) = level.stack.forward_saving(ctx, input, cached);
                    tape.push((*call, saved, y.clone()));
                    y
                }
            };
            states.set(call, level.norm.forward(&y));
        }
        (states.high, Tape(tape))
    }

    /// Gradient with respect to the embedded tokens, given that of the result; adds those of the parameters.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        tape: Tape<B>,
        dz: Tensor<B, 2>,
        pass: &mut Backward<B>,
        caches: &mut KvCaches<B>,
    ) -> Tensor<B, 2> {
        let (mut high, mut low): (_, Option<Tensor<B, 2>>) = (dz, None);
        let last = pass.last;
        let mut left: Vec<usize> = tape.0.iter().map(|(call, ..)| call.level).collect();
        let mut after = self.calls.len();
        for (call, saved, y) in tape.0.into_iter().rev() {
            left.pop();
            pass.last = last && !left.contains(&call.level);
            // The low level's state comes from calls without gradients.
            if after - call.number > 1 {
                low = None;
            }
            after = call.number;
            // The only level of a plain decoder is its high one.
            let is_high = call.level + 1 == self.levels.len();
            let dy = match (is_high, low.take()) {
                (true, before) => {
                    low = before;
                    high.clone()
                }
                (false, Some(low)) => low,
                (false, None) => continue,
            };
            let level = &self.levels[call.level];
            let dy = level.norm.backward(&y, &dy, pass.grads);
            drop(y);
            if pass.last {
                pass.done(&level.norm);
            }
            let cached = caches.call(call.number);
            let ctx = &*ctx.of_call(call.number);
            let d = level.stack.backward(ctx, saved, dy, pass, cached);
            // A call's input is the sum of both states.
            match is_high {
                true => {
                    low = self.low_start.as_ref().map(|_| added(low, d.clone()));
                    high = d;
                }
                false => {
                    high = high + d.clone();
                    low = Some(d);
                }
            }
        }
        pass.last = last;
        high
    }

    fn start(&self, x: Tensor<B, 2>) -> States<B> {
        let tokens = x.dims()[0];
        let low = self.low_start.as_ref().map(|start| {
            let start = aios_tensor::in_format(start.value(), x.dtype());
            start.repeat_dim(0, tokens)
        });
        States { low, high: x }
    }
}

impl<B: Backend> States<B> {
    fn input(&self) -> Tensor<B, 2> {
        match &self.low {
            Some(low) => low.clone() + self.high.clone(),
            None => self.high.clone(),
        }
    }

    fn set(&mut self, call: &Call, state: Tensor<B, 2>) {
        match (&mut self.low, call.level) {
            (Some(low), LOW) => *low = state,
            _ => self.high = state,
        }
    }
}

impl<B: Ops> Visit<B> for Trunk<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.low_start.iter().for_each(&mut *each);
        self.levels.iter().for_each(|level| level.visit(each));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_carry_gradients_at_their_end() {
        let cycles = Cycles {
            high: 2,
            low: 3,
            backward: vec![1, 2],
        };
        let run: Vec<(usize, bool)> = calls(Some(&cycles))
            .iter()
            .map(|call| (call.level, call.backward))
            .collect();
        let first = [(LOW, false), (LOW, false), (LOW, true), (HIGH, true)];
        let second = [(LOW, false), (LOW, true), (LOW, true), (HIGH, true)];
        assert_eq!(run, [first, second].concat());
        assert_eq!(blocks_of_calls(Some(&cycles), 2), (vec![2; 5], 16));
    }
}
