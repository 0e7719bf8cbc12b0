//! Sizes that are each sensible but together too much to be counted.

use super::TrainConfig;
use crate::error::{Error, Result};

/// Most elements accepted of anything that is made of several sizes: far above what any machine
/// holds, and low enough that bytes and sums computed from it overflow nowhere.
const MOST_ELEMENTS: u128 = 1 << 50;

/// Elements of something, and the sizes that make them up.
struct Product {
    what: &'static str,
    elements: u128,
    flags: Vec<(&'static str, usize)>,
}

impl TrainConfig {
    /// Refuses what would overflow before a device could say that it does not fit.
    pub(super) fn validate_size(&self) -> Result<()> {
        [self.weights(), self.activations(), self.scores()]
            .iter()
            .try_for_each(Product::check)
    }

    /// Weights of all blocks. A table of positions, of two sizes only, cannot be too large by itself.
    fn weights(&self) -> Product {
        let hidden = self.hidden_size as u128;
        let block = 4 * hidden * hidden + 3 * hidden * self.inner_width();
        Product {
            what: "weights",
            elements: self.layers() * block,
            flags: self.depth().to_vec(),
        }
    }

    /// What a batch keeps in all blocks.
    fn activations(&self) -> Product {
        let width = self.hidden_size as u128 + self.inner_width();
        Product {
            what: "activations",
            elements: self.tokens() * self.layers() * width,
            flags: [self.depth().as_slice(), &self.batch()].concat(),
        }
    }

    /// How much each token attends to each other one.
    fn scores(&self) -> Product {
        let [batch, length] = self.batch();
        Product {
            what: "attention scores",
            elements: self.tokens() * self.max_seq_len as u128 * self.num_heads as u128,
            flags: vec![("num-heads", self.num_heads), batch, length],
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
    fn check(&self) -> Result<()> {
        if self.elements <= MOST_ELEMENTS {
            return Ok(());
        }
        let largest = self.flags.iter().max_by_key(|(_, value)| value);
        let (flag, value) = largest.copied().unwrap_or_default();
        Err(Error::invalid(format!(
            "--{flag} is {value}: with the other sizes that makes {} {}, more than any machine \
             holds; lower it",
            self.elements, self.what
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
