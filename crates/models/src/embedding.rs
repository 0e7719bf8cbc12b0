//! What blocks read of token ids.

use aios_nn::{Context, Gradients, Param};
use aios_tensor::{AttentionShape, Ops, Precision, dtype, ids_tensor, in_format, widened};
use burn::tensor::{Int, Tensor};

/// A table whose rows are looked up, that of positions which are added, and the factor of both.
pub(crate) struct Embedding<'a, B: Ops> {
    /// `[vocabulary, hidden]`
    pub table: &'a Param<B>,
    /// `[positions, hidden]`, with learned positions.
    pub positions: Option<&'a Param<B>>,
    pub scale: f32,
}

impl<B: Ops> Embedding<'_, B> {
    /// `[batch * seq, hidden]` for token ids, sequence after sequence, in a format in which all that follows is computed.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        ids: &Tensor<B, 1, Int>,
        precision: Precision,
    ) -> Tensor<B, 2> {
        let [_, hidden] = self.table.dims();
        // The rows, their scaled copy and, with positions, the sum.
        B::require(3 * 4 * ids.dims()[0] * hidden);
        let rows = widened(self.table.rows(ids));
        let rows = match self.positions {
            None => rows,
            Some(positions) => {
                let positions = positions.value();
                match &ctx.positions {
                    Some(of_tokens) => {
                        let ids = ids_tensor(of_tokens, &self.table.device());
                        rows + widened(positions.select(0, ids))
                    }
                    None => {
                        let AttentionShape { batch, seq, .. } = ctx.shape;
                        let positions = widened(positions.narrow(0, ctx.start, seq));
                        let rows = rows.reshape([batch, seq, hidden]) + positions.unsqueeze_dim(0);
                        rows.reshape([batch * seq, hidden])
                    }
                }
            }
        };
        let rows = match self.scale == 1.0 {
            true => rows,
            false => rows * self.scale,
        };
        in_format(rows, dtype(precision))
    }

    /// Add the gradients of table and positions, given that of the result, f32; with `later` the table's own is left for
    /// [`Embedding::settle`].
    pub fn backward(
        &self,
        ctx: &Context<B>,
        ids: &[i32],
        dx: Tensor<B, 2>,
        later: bool,
        grads: &mut Gradients<B>,
    ) {
        if let Some(positions) = self.positions {
            let [entries, hidden] = positions.dims();
            let (order, rows) = match &ctx.positions {
                Some(of_tokens) => (of_tokens.to_vec(), dx.clone()),
                None => {
                    let AttentionShape { batch, seq, .. } = ctx.shape;
                    let rows = dx.clone().reshape([batch, seq, hidden]).sum_dim(0);
                    let order = (0..seq).map(|i| (ctx.start + i) as i32);
                    (order.collect(), rows.reshape([seq, hidden]))
                }
            };
            grads.change(positions, |sum| {
                B::embedding_gradient(sum, entries, &order, rows, self.scale)
            });
        }
        match later {
            false => self.add_lookups(ids, dx, grads),
            true if self.table.info.trained => grads.wait(ids, dx),
            true => {}
        }
    }

    /// Make the table's gradient of what waits: the same sums in the same order as if nothing had waited.
    pub fn settle(&self, grads: &mut Gradients<B>) {
        for (ids, dx) in grads.take_waiting() {
            self.add_lookups(&ids, dx, grads);
        }
    }

    fn add_lookups(&self, ids: &[i32], dx: Tensor<B, 2>, grads: &mut Gradients<B>) {
        let [entries, _] = self.table.dims();
        grads.change(self.table, |sum| {
            B::embedding_gradient(sum, entries, ids, dx, self.scale)
        });
    }
}
