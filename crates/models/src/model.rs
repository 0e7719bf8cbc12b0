//! Any model that there is.

use crate::actv1::{self, ModelConfig};
use crate::decoder::{Adapted, HfModel};
use crate::{Architecture, BlockCosts, Decoded};
use aios_adapters::names;
use aios_base::error::Result;
use aios_base::storage::Storage;
use aios_nn::{Init, ParamInfo};
use aios_tensor::AttentionClass;
use serde::{Deserialize, Serialize};

/// A model by its architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Model {
    ActV1(ModelConfig),
    Decoder(HfModel),
}

impl Model {
    /// Every parameter, and how it starts.
    pub fn layout(&self) -> Vec<(ParamInfo, Init)> {
        match self {
            Self::ActV1(model) => actv1::layout(model),
            Self::Decoder(model) => model.layout(),
        }
    }

    /// Parameters of each part, named as in the architecture summary; their sum is the model.
    pub fn parts(&self) -> Vec<(&'static str, usize)> {
        match self {
            Self::ActV1(model) => model.parts(),
            Self::Decoder(model) => model.parts(),
        }
    }

    /// Check sizes that a file may hold but no machine.
    ///
    /// # Errors
    /// One line that names the values and what to change.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::ActV1(model) => model.validate(),
            // Checked as it was read.
            Self::Decoder(_) => Ok(()),
        }
    }

    /// What keeps weights saved with another model from meaning the same in this one: a flag, and its value then.
    pub fn other_weights(&self, saved: &Self) -> Option<(&'static str, String)> {
        match (self, saved) {
            (Self::ActV1(own), Self::ActV1(saved)) => own.other_weights(saved),
            // A decoder goes on as the config.json says that was saved with it.
            _ => None,
        }
    }

    /// Tokens that it knows, if these are not its tokenizer's.
    pub fn own_vocabulary(&self) -> Option<u32> {
        u32::try_from(self.as_decoder()?.decoder.vocab_size).ok()
    }

    /// Its adapter, if it is trained by one.
    pub fn adapter(&self) -> Option<&Adapted> {
        self.as_decoder()?.adapted()
    }

    /// Formats of its parameters that only files have, each once.
    pub fn formats_of_files(&self) -> Vec<Storage> {
        let mut found = Vec::new();
        for info in self.parameters() {
            if info.storage.is_of_a_file() && !found.contains(&info.storage) {
                found.push(info.storage);
            }
        }
        found
    }

    /// The parameters that are saved, under their names in the file: all, or those of the adapter.
    pub fn saved(&self) -> Vec<ParamInfo> {
        let all = self.parameters().into_iter();
        match self.adapter() {
            None => all.collect(),
            Some(adapted) => {
                let mut own: Vec<ParamInfo> = all.filter(|info| info.trained).collect();
                if adapted.lora.tied {
                    let table = own.iter().find(|info| info.is_embedding()).cloned();
                    own.extend(table.map(|table| ParamInfo {
                        name: names::TIED_HEAD.to_string(),
                        ..table
                    }));
                }
                for info in &mut own {
                    info.name = names::in_file(&info.name);
                }
                own
            }
        }
    }

    /// The decoder, if it is one.
    pub fn as_decoder(&self) -> Option<&HfModel> {
        match self {
            Self::ActV1(_) => None,
            Self::Decoder(model) => Some(model),
        }
    }

    fn architecture(&self) -> &dyn Architecture {
        match self {
            Self::ActV1(model) => model,
            Self::Decoder(model) => model,
        }
    }
}

impl Architecture for Model {
    fn parameters(&self) -> Vec<ParamInfo> {
        self.architecture().parameters()
    }

    fn trained(&self) -> usize {
        self.architecture().trained()
    }

    fn fixed(&self) -> usize {
        self.architecture().fixed()
    }

    fn fixed_bytes(&self, halves: bool) -> u64 {
        self.architecture().fixed_bytes(halves)
    }

    fn decoded(&self) -> Decoded {
        self.architecture().decoded()
    }

    fn trains_head(&self) -> bool {
        self.architecture().trains_head()
    }

    fn trains_embedding(&self) -> bool {
        self.architecture().trains_embedding()
    }

    fn vocabulary(&self) -> usize {
        self.architecture().vocabulary()
    }

    fn max_seq_len(&self) -> usize {
        self.architecture().max_seq_len()
    }

    fn window(&self) -> usize {
        self.architecture().window()
    }

    fn is_tied(&self) -> bool {
        self.architecture().is_tied()
    }

    fn attention(&self) -> Vec<AttentionClass> {
        self.architecture().attention()
    }

    fn block(&self) -> BlockCosts {
        self.architecture().block()
    }

    fn backward_calls(&self) -> Vec<usize> {
        self.architecture().backward_calls()
    }

    fn distinct_blocks(&self) -> usize {
        self.architecture().distinct_blocks()
    }

    fn kept_casts(&self) -> usize {
        self.architecture().kept_casts()
    }

    fn drops(&self) -> bool {
        self.architecture().drops()
    }

    fn cached_blocks(&self) -> usize {
        self.architecture().cached_blocks()
    }

    fn halved(&self) -> Box<dyn Architecture> {
        self.architecture().halved()
    }
}

impl From<ModelConfig> for Model {
    fn from(model: ModelConfig) -> Self {
        Self::ActV1(model)
    }
}
