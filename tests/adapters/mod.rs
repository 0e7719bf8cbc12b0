//! Adapters against PEFT: see tests/golden/README.md.

mod bnb;
mod dropout;
mod golden;
mod memory;
mod quantized;
mod runs;

use crate::common::{Golden, root};
use crate::decoders::{Tiny, batch_of};
use aios_adapters::peft::AdapterConfig;
use aios_adapters::{Frozen, names};
use aios_base::micro_batch::MicroBatch;
use aios_engine::weights::read_parameter;
use aios_hf::{Folder, TensorFile, Weights};
use aios_models::decoder::{Adapted, Decoder, HfModel};
use aios_nn::ParamInfo;
use aios_tensor::Ops;
use std::path::PathBuf;

/// An adapter of PEFT, of one of the tiny models, and what PEFT computes with it.
pub struct Adapter {
    pub path: PathBuf,
    pub base: Tiny,
    pub golden: Golden,
}

impl Adapter {
    pub fn open(set: &str, name: &str) -> Self {
        let path = root().join("tests/golden/adapters").join(set).join(name);
        let (_, base) = name.split_once('_').unwrap();
        Self {
            base: Tiny::named(base),
            golden: Golden::open(&path.join("golden.safetensors")),
            path,
        }
    }

    /// The model with the adapter, held in some way.
    pub fn model(&self, frozen: Frozen) -> HfModel {
        let lora = AdapterConfig::open(&self.path).unwrap().lora;
        let adapted = Adapted { lora, frozen };
        self.base.model().with_adapter(adapted).unwrap()
    }

    /// The golden data.
    pub fn batch(&self) -> MicroBatch {
        batch_of(&self.golden)
    }

    pub fn on<B: Ops>(&self, model: &HfModel, device: &B::Device) -> Decoder<B> {
        let folder = Folder::open(&self.base.path).unwrap();
        let weights = Weights::open(&folder).unwrap();
        let own = TensorFile::open(&self.path.join(aios_hf::ADAPTER_FILE)).unwrap();
        let source = &mut |info: &ParamInfo, _| match info.trained {
            true => own.read_f32(&names::in_file(&info.name)).map(Into::into),
            false => read_parameter(&weights, info),
        };
        Decoder::build(model, self.base.batch().seq, device, source).unwrap()
    }
}

const PLAIN: [&str; 5] = [
    "lora_llama",
    "lora_qwen3",
    "lora_gpt2",
    "lora_phi3",
    "lora_hrm_text",
];

/// All that there are.
pub fn all() -> Vec<Adapter> {
    let of = |set: &'static str, names: &[&str]| -> Vec<Adapter> {
        names.iter().map(|name| Adapter::open(set, name)).collect()
    };
    let plain = of("a", &PLAIN);
    let more = [
        "dora_llama",
        "dora_gpt2",
        "whole_llama",
        "tied_llama3_scaled_tied",
    ];
    let more = of("b", &more);
    plain.into_iter().chain(more).collect()
}
