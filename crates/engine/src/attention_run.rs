//! Attention on random numbers.

use aios_base::error::Result;
use aios_tensor::{AttentionPath, AttentionShape, Ops, Precision, confirmed, dtype, in_format};
use burn::tensor::{Distribution, Tensor};

/// Attention of one shape in one format, run after run.
pub trait AttentionRun {
    /// Whether the device has a kernel for such shapes.
    ///
    /// # Errors
    /// A device that fails.
    fn has_flash(&self) -> Result<bool>;

    /// Draw what is read.
    ///
    /// # Errors
    /// Not enough memory.
    fn draw(&mut self) -> Result<()>;

    /// Run it forward, or forward and backward, and keep what comes out.
    ///
    /// # Errors
    /// Not enough memory, or a device that fails.
    fn run(&mut self, path: AttentionPath, backward: bool) -> Result<()>;

    /// The same, with a GPU's pools taking just what is asked for in place of whole pages, so that what they take more is
    /// what was needed. Slower, since the driver is asked for each.
    ///
    /// # Errors
    /// As [`Self::run`].
    fn run_to_measure(&mut self, path: AttentionPath, backward: bool) -> Result<()>;

    /// Let go of what came out.
    fn release(&mut self);
}

pub struct Attention<B: Ops> {
    device: B::Device,
    shape: AttentionShape,
    precision: Precision,
    /// The fused projection, and the gradient of what attention gives.
    inputs: Option<[Tensor<B, 2>; 2]>,
    results: Option<Results<B>>,
}

type Results<B> = (Tensor<B, 2>, Tensor<B, 3>, Option<Tensor<B, 2>>);

impl<B: Ops> Attention<B> {
    pub fn new(device: &B::Device, shape: AttentionShape, precision: Precision) -> Self {
        Self {
            device: device.clone(),
            shape,
            precision,
            inputs: None,
            results: None,
        }
    }
}

impl<B: Ops> AttentionRun for Attention<B> {
    fn has_flash(&self) -> Result<bool> {
        // A short sequence tells as much as a long one.
        let shape = AttentionShape {
            batch: 1,
            seq: 64,
            heads: self.shape.heads / self.shape.kv_heads,
            kv_heads: 1,
            ..self.shape
        };
        confirmed::<B, _>(&self.device, || {
            let [q, k] = [shape.heads, shape.kv_heads].map(|heads| {
                let dims = [1, heads, shape.seq, shape.head_dim];
                in_format(Tensor::zeros(dims, &self.device), dtype(self.precision))
            });
            B::flash_attention(&q, &k, &k, &shape, None).is_some()
        })
    }

    fn draw(&mut self) -> Result<()> {
        let s = &self.shape;
        let tokens = s.batch * s.seq;
        let random = |columns| {
            let spread = Distribution::Uniform(-1.0, 1.0);
            let x = Tensor::<B, 2>::random([tokens, columns], spread, &self.device);
            in_format(x, dtype(self.precision))
        };
        let draw = || [random(s.qkv_width()), random(s.q_width())];
        self.inputs = Some(confirmed::<B, _>(&self.device, draw)?);
        Ok(())
    }

    fn run(&mut self, path: AttentionPath, backward: bool) -> Result<()> {
        if self.inputs.is_none() {
            self.draw()?;
        }
        let Some([qkv, d_out]) = &self.inputs else {
            return Ok(());
        };
        let shape = &self.shape;
        self.results = Some(confirmed::<B, _>(&self.device, || {
            let (out, lse) = B::attention_fused(qkv, shape, None, path);
            let gradient = backward
                .then(|| B::attention_fused_backward(qkv, &out, &lse, d_out, shape, None, path));
            (out, lse, gradient)
        })?);
        Ok(())
    }

    fn run_to_measure(&mut self, path: AttentionPath, backward: bool) -> Result<()> {
        // The run waits for its work, so that nothing of it is allocated afterwards.
        let device = self.device.clone();
        B::memory_persistent_allocations(&device, self, move |own| own.run(path, backward))
    }

    fn release(&mut self) {
        self.results = None;
    }
}
