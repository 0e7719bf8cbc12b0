//! What is trained, and the learning rate that goes with it.

use crate::config::{TextDocuments, TrainConfig};

/// What is trained, by which the learning rate's default goes. Which one it is, is the command's to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Subject {
    /// All of a model whose weights are drawn anew.
    #[default]
    Scratch,
    /// All of a model that was pretrained: full fine-tuning.
    Pretrained,
    /// All of a decoder whose weights are drawn anew.
    Decoder,
    /// An adapter of a model that was pretrained.
    Adapter,
}

impl Subject {
    /// Peak learning rate unless another one is given. It is reached by the warm-up of [`TrainConfig::warmup`], a tenth of
    /// the steps.
    ///
    /// From scratch 2e-4: stable at the default size with the default batch.
    ///
    /// Of a pretrained model 1e-5: that of OLMo 2 7B's fine-tuning (allenai/open-instruct, `olmo2_1124_7b_sft.yaml`: 1e-5,
    /// 3% of the steps of warm-up, 128 sequences a step) and MLX-LM's default; TRL's `SFTConfig`, torchtune's Llama 3.1 8B
    /// and Zephyr 7B (huggingface/alignment-handbook: 10% of warm-up, cosine) have 2e-5, of which the lower one is the
    /// safer for the few sequences of a step that fit a small device.
    ///
    /// Of an adapter 2e-4: that of QLoRA's paper for models of up to 13B and of PEFT's and Unsloth's examples; the best rate
    /// of an adapter is about ten times that of all weights (Schulman et al., "LoRA Without Regret", 2025).
    pub fn learning_rate(self) -> f64 {
        match self {
            Self::Scratch => 2e-4,
            // The lower end of what models of up to a few hundred million parameters were pretrained with.
            Self::Decoder => 3e-4,
            Self::Pretrained => 1e-5,
            Self::Adapter => 2e-4,
        }
    }

    /// Why that rate, in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Scratch | Self::Decoder => {
                "default for training from scratch: stable from random weights"
            }
            Self::Pretrained => {
                "default for fine-tuning all weights: small, so that what the model knows is kept"
            }
            Self::Adapter => "default for adapters: ten times and more of what suits all weights",
        }
    }
}

impl TrainConfig {
    /// What holds without a file or a flag, for what is trained.
    pub fn defaults(subject: Subject) -> Self {
        Self {
            subject,
            lr: subject.learning_rate(),
            ..match subject {
                Subject::Scratch => Self::default(),
                Subject::Pretrained | Subject::Decoder | Subject::Adapter => Self::of_decoders(),
            }
        }
    }

    /// A decoder sees a text as it is, and goes through it once.
    fn of_decoders() -> Self {
        Self {
            max_seq_len: 512,
            halt_max_steps: 1,
            text_documents: TextDocuments::Whole,
            ..Self::default()
        }
    }

    /// What takes less memory whatever else does not, as the flags of the command have it.
    pub fn smaller_model(&self) -> &'static str {
        match self.trains_decoder() {
            true => "a smaller model",
            false => "a smaller --hidden-size",
        }
    }

    /// Why the learning rate is what it is, if it is the default.
    pub fn lr_reason(&self) -> Option<&'static str> {
        let subject = self.subject;
        (self.lr == subject.learning_rate()).then(|| subject.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_from_scratch_has_the_defaults() {
        let defaults = TrainConfig::defaults(Subject::Scratch);
        assert_eq!(defaults, TrainConfig::default());
        assert_eq!(defaults.lr, 2e-4);
    }

    #[test]
    fn a_pretrained_model_is_trained_at_a_lower_rate_and_warmed_up() {
        let config = TrainConfig::defaults(Subject::Pretrained);
        assert_eq!((config.lr, config.warmup()), (1e-5, 20));
        assert!(config.lr_reason().unwrap().contains("fine-tuning"));
        let given = TrainConfig { lr: 2e-5, ..config };
        assert_eq!(given.lr_reason(), None);
    }
}
