//! What llama.cpp does otherwise than a model.

use aios_base::error::Result;

use crate::model::out::Model;
use crate::model::rope::Scaling;

impl Model<'_> {
    pub(super) fn remarks(&self) -> Result<Vec<String>> {
        let (config, sizes) = (&self.config, self.sizes()?);
        let mut lines = Vec::new();
        if ["mistral", "phi3"].contains(&self.model_type)
            && let Some(window) = self.window()?
            && window < sizes.positions
        {
            lines.push(format!(
                "llama.cpp passes over sliding_window: beyond {window} tokens it computes something else"
            ));
        }
        let scaling = self.rope()?.scaling;
        if let Scaling::Yarn(yarn) = &scaling
            && !yarn.has_usual_betas()
        {
            lines.push(
                "llama.cpp takes 32 for beta_fast and 1 for beta_slow: it computes something else"
                    .to_string(),
            );
        }
        if scaling == Scaling::Dynamic {
            lines.push(format!(
                "GGUF files have no rotary embeddings of type dynamic: beyond {} tokens llama.cpp computes something else",
                sizes.positions
            ));
        }
        if self.family.architecture == "gemma3" {
            let (scalar, usual) = self.query_scalar(&sizes)?;
            if scalar != usual {
                lines.push(format!(
                    "llama.cpp takes {usual} for query_pre_attn_scalar, which is {scalar}: it computes something else"
                ));
            }
        }
        let is_read = ["llama", "mistral", "granite"].contains(&self.model_type);
        if !is_read
            && self.family.architecture != "qwen2"
            && config.flag("attention_bias")? == Some(true)
        {
            lines.push(format!(
                "llama.cpp does not read all biases of models of type {}: it may refuse the file",
                self.model_type
            ));
        }
        let is_square = sizes.head_dim.checked_mul(sizes.heads) == Some(sizes.hidden);
        if ["phi3", "olmo2"].contains(&self.model_type) && !is_square {
            lines.push(format!(
                "llama.cpp needs {} heads to have {} numbers in all in models of type {}: it will refuse the file",
                sizes.heads, sizes.hidden, self.model_type
            ));
        }
        if self.model_type == "olmo2" && config.flag("tie_word_embeddings")? == Some(true) {
            lines.push(
                "llama.cpp needs a head in models of type olmo2: it will refuse the file"
                    .to_string(),
            );
        }
        Ok(lines)
    }
}
