//! Points of a step at which its memory is worth a look: where something large has just been made.

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before the head and its loss: of the logits there is nothing yet.
    LossBegins,
    /// After them: the logits are gone again.
    LossEnds,
    /// A group of blocks is about to go backward: what they saved is there.
    Backward,
}

/// Looks at memory, or at nothing.
///
/// An implementation may panic with `aios_kernels::buffer::OutOfMemory` to end the step.
pub trait Watch {
    /// The step is here.
    fn at(&self, point: Point);
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn at(&self, _: Point) {}
}
