//! Models in GGUF, and what is done with a model: talk, serve, export.

mod families;
mod quantized;
mod talk;
mod walk_through;

use crate::common::lab::Lab;
use aios_hf::Folder;
use aios_train::export::{Numbers, gguf};
use aios_train::whole::Whole;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The model in a folder as a GGUF file.
pub fn exported(model: &Path, numbers: Numbers, file: &Path) -> PathBuf {
    let whole = Whole::open(Folder::open(model).unwrap(), None).unwrap();
    gguf(&whole, "tiny", Some(numbers), file).unwrap();
    file.to_path_buf()
}

/// The config.json of a small Llama whose rows are whole blocks of all formats.
pub fn wide() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 288, "hidden_size": 256,
        "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 512, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "initializer_range": 0.05, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": true,
        "torch_dtype": "float32"})
}

/// A folder `wide` in the lab with such a model, the tokenizer of the tiny ones and a chat template.
pub fn write_wide(lab: &Lab) -> PathBuf {
    lab.write("wide.json", wide().to_string());
    let tiny = crate::decoders::folder("llama");
    let tokenizer = tiny.join("tokenizer.json").display().to_string();
    lab.succeed(&format!(
        "pretrain --model-config wide.json --tokenizer {tokenizer} --dataset-file text.txt --steps 1 --max-seq-len 32 \
         --batch-size 1 --device cpu --no-amp --quiet --bundle-dir brains --brain-name wide"
    ));
    lab.succeed("export brains/wide -o wide");
    for name in ["tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(tiny.join(name), lab.path("wide").join(name)).unwrap();
    }
    std::fs::write(lab.path("wide").join("chat_template.jinja"), TEMPLATE).unwrap();
    lab.path("wide")
}

const TEMPLATE: &str = "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}";
