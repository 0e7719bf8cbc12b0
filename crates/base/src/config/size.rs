//! Sizes that are each sensible but together too much to be counted.

use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Most elements accepted of anything that is made of several sizes: far above what any machine
/// holds, and low enough that bytes and sums computed from it overflow nowhere.
const MOST_ELEMENTS: u128 = 1 << 50;

/// Most runs of blocks that a sequence goes through, one after the other: some thousand times what
/// any published model of this kind does, and few enough to keep a list of.
const MOST_RUNS: u128 = 1 << 18;

/// Elements of something, and the sizes that make them up.
struct Product {
    what: &'static str,
    elements: u128,
    most: u128,
    flags: Vec<(&'static str, usize)>,
}

impl TrainConfig {
    /// Refuses what would overflow before a device could say that it does not fit.
    pub(super) fn validate_size(&self) -> Result<()> {
        let by_batch = [self.activations(), self.scores(), self.ids()];
        if self.trains_decoder() {
            // Its own sizes are its config.json's. Those of ACT-v1 stand for them, which no flag is for.
            let mut by_batch = by_batch.into_iter().map(Product::of_flags_for_batches);
            return by_batch.try_for_each(|product| product.check());
        }
        let by_shape = [self.weights(), self.runs()];
        let mut all = by_shape.into_iter().chain(by_batch);
        all.try_for_each(|product| product.check())
    }

    /// Weights of all blocks. A table of positions, of two sizes only, cannot be too large by itself.
    fn weights(&self) -> Product {
        let hidden = self.hidden_size as u128;
        let block = 4 * hidden * hidden + 3 * hidden * self.inner_width();
        Product {
            what: "weights",
            elements: self.layers() * block,
            most: MOST_ELEMENTS,
            flags: self.depth().to_vec(),
        }
    }

    /// What a batch keeps in all blocks.
    fn activations(&self) -> Product {
        let width = self.hidden_size as u128 + self.inner_width();
        Product {
            what: "activations",
            elements: self.tokens() * self.layers() * width,
            most: MOST_ELEMENTS,
            flags: [self.depth().as_slice(), &self.batch()].concat(),
        }
    }

    /// How much each token attends to each other one.
    fn scores(&self) -> Product {
        let [batch, length] = self.batch();
        Product {
            what: "attention scores",
            elements: self.tokens() * self.max_seq_len as u128 * self.num_heads as u128,
            most: MOST_ELEMENTS,
            flags: vec![("num-heads", self.num_heads), batch, length],
        }
    }

    /// Tokens of a step.
    fn ids(&self) -> Product {
        let [batch, length] = self.batch();
        let accumulation = self.gradient_accumulation_steps;
        Product {
            what: "tokens of a step",
            elements: self.tokens() * accumulation as u128,
            most: MOST_ELEMENTS,
            flags: vec![("gradient-accumulation-steps", accumulation), batch, length],
        }
    }

    /// Blocks that all segments of a sequence run, each as often as it does.
    fn runs(&self) -> Product {
        let [h_cycles, l_cycles, segments] = [self.h_cycles, self.l_cycles, self.halt_max_steps];
        let a_cycle = l_cycles as u128 * self.l_layers as u128 + self.h_layers as u128;
        Product {
            what: "runs of blocks for a sequence",
            elements: segments as u128 * h_cycles as u128 * a_cycle,
            most: MOST_RUNS,
            flags: vec![
                ("halt-max-steps", segments),
                ("h-cycles", h_cycles),
                ("l-cycles", l_cycles),
                ("h-layers", self.h_layers),
                ("l-layers", self.l_layers),
            ],
        }
    }

    /// Inner width of SwiGLU before it is rounded up, and the most that rounding adds.
    fn inner_width(&self) -> u128 {
        (self.expansion * self.hidden_size as f64 * 2.0 / 3.0) as u128 + 256
    }

    fn tokens(&self) -> u128 {
        self.batch_size as u128 * self.max_seq_len as u128
    }

    fn layers(&self) -> u128 {
        self.h_layers as u128 + self.l_layers as u128
    }

    fn depth(&self) -> [(&'static str, usize); 3] {
        [
            ("h-layers", self.h_layers),
            ("l-layers", self.l_layers),
            ("hidden-size", self.hidden_size),
        ]
    }

    fn batch(&self) -> [(&'static str, usize); 2] {
        [
            ("batch-size", self.batch_size),
            ("max-seq-len", self.max_seq_len),
        ]
    }
}

impl Product {
    fn of_flags_for_batches(mut self) -> Self {
        let of_model = ["h-layers", "l-layers", "hidden-size", "num-heads"];
        self.flags.retain(|(flag, _)| !of_model.contains(flag));
        self
    }

    fn check(&self) -> Result<()> {
        if self.elements <= self.most {
            return Ok(());
        }
        let largest = self.flags.iter().max_by_key(|(_, value)| value);
        let (flag, value) = largest.copied().unwrap_or_default();
        Err(Error::invalid(format!(
            "--{flag} is {value}: with the other sizes that makes {} {}, and {} are the most; lower \
             it",
            self.elements, self.what, self.most
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of the default configuration after `change`.
    fn message(change: impl FnOnce(&mut TrainConfig)) -> String {
        let mut config = TrainConfig::default();
        change(&mut config);
        let error = config.validate_model().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn too_many_weights_name_the_largest_size() {
        let message = message(|c| (c.hidden_size, c.h_layers) = (1 << 20, 1 << 24));
        assert!(message.starts_with("--h-layers is 16777216"), "{message}");
        assert!(message.contains(" weights, "), "{message}");
    }

    #[test]
    fn the_largest_counts_together_are_an_error_like_any_other() {
        let message = message(|c| (c.hidden_size, c.h_layers) = (1 << 24, 1 << 24));
        assert!(
            message.starts_with("--hidden-size is 16777216"),
            "{message}"
        );
    }

    #[test]
    fn too_large_a_batch_names_the_largest_size() {
        let message = message(|c| (c.batch_size, c.max_seq_len) = (1 << 24, 1 << 20));
        assert!(message.starts_with("--batch-size is 16777216"), "{message}");
    }

    #[test]
    fn too_many_scores_name_the_length() {
        let message = message(|c| (c.batch_size, c.max_seq_len) = (1, 1 << 24));
        assert!(
            message.starts_with("--max-seq-len is 16777216"),
            "{message}"
        );
        assert!(message.contains(" attention scores, "), "{message}");
    }

    #[test]
    fn too_many_tokens_of_a_step_name_the_accumulation() {
        let message = message(|c| {
            c.batch_size = 1 << 14;
            c.max_seq_len = 1 << 16;
            c.num_heads = 1;
            c.gradient_accumulation_steps = 1 << 24;
        });
        let start = "--gradient-accumulation-steps is 16777216";
        assert!(message.starts_with(start), "{message}");
    }

    #[test]
    fn more_runs_than_any_list_should_have_name_the_largest_number() {
        for (flag, change) in [
            (
                "halt-max-steps",
                (|c, n| c.halt_max_steps = n) as fn(&mut TrainConfig, usize),
            ),
            ("h-cycles", |c, n| c.h_cycles = n),
            ("l-cycles", |c, n| c.l_cycles = n),
        ] {
            for number in [1 << 18, 1 << 24] {
                let message = message(|c| change(c, number));
                assert!(message.starts_with(&format!("--{flag} is {number}")));
                assert!(message.contains("runs of blocks"), "{message}");
            }
            let mut config = TrainConfig::default();
            change(&mut config, 10_000);
            config.validate_model().unwrap();
        }
    }

    #[test]
    fn models_larger_than_any_yet_are_accepted() {
        let config = TrainConfig {
            hidden_size: 1 << 16,
            num_heads: 512,
            h_layers: 256,
            l_layers: 256,
            max_seq_len: 1 << 17,
            batch_size: 16,
            ..TrainConfig::default()
        };
        config.validate_model().unwrap();
    }
}
