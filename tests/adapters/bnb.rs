//! Checkpoints of bitsandbytes, which transformers wrote: see scripts/make_adapter_goldens.

use super::runs::{PLAIN, loss, refused};
use crate::common::lab::Lab;
use crate::common::{DeviceJob, Golden, ndarray, on, root, run_on};
use crate::decoders::{assert_near, write_rows};
use aios_base::config::WeightsDtype;
use aios_device::Selected;
use aios_engine::weights::load_folder;
use aios_hf::{Folder, Weights};
use aios_models::Model;
use aios_models::decoder::HfModel;
use aios_tensor::{Ops, floats};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = ["nf4_double", "nf4_single"];

fn folder(name: &str) -> PathBuf {
    root().join("tests/golden/bnb").join(name)
}

fn golden(name: &str) -> Golden {
    Golden::open(&folder(name).join("golden.safetensors"))
}

/// Compare each weight that is in few bits.
struct Decoded;

impl DeviceJob for Decoded {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for name in NAMES {
            let (golden, folder) = (golden(name), Folder::open(&folder(name)).unwrap());
            let model = HfModel::new(folder.config().clone(), 8, 0).unwrap();
            let weights = Weights::open(&folder).unwrap();
            let model = Model::Decoder(model);
            let model = load_folder::<B>(&model, &weights, WeightsDtype::F32, 8, &device).unwrap();
            let mut packed = 0;
            for param in model.params() {
                let key = format!("dequantized.{}", param.info.name);
                if golden.has(&key) {
                    packed += 1;
                    assert!(floats(param.value()) == golden.floats(&key), "{name} {key}");
                }
            }
            assert_eq!(packed, 21, "{name}");
        }
    }
}

#[test]
fn weights_are_what_bitsandbytes_decodes_on_cpu() {
    on(&Selected::Cpu, Decoded);
}

#[test]
fn weights_are_what_bitsandbytes_decodes_on_ndarray() {
    run_on(ndarray(), Decoded);
}

#[test]
fn a_checkpoint_is_scored_adapted_and_merged() {
    for name in NAMES {
        let (lab, golden) = (Lab::new(), golden(name));
        write_rows(&lab, &golden);
        let model = folder(name);
        let model = model.display();
        let want: f64 = golden.text("loss").parse().unwrap();
        let before = loss(&lab, &format!("--model {model}"));
        assert_near(name, before, want, 1e-5);
        lab.succeed(&format!(
            "generate --model {model} --prompt One --max-new-tokens 4 --device cpu"
        ));
        let train = |flags: &str| {
            format!(
                "finetune --model {model} --dataset-file rows.jsonl {PLAIN} --steps 3 --brain-name a {flags}"
            )
        };
        let (text, code) = refused(&lab, &train(""));
        assert!(
            code == 2 && text.contains("--lora-rank") && text.contains("nf4"),
            "{text}"
        );
        let (text, code) = refused(&lab, &train("--lora-rank 4 --quantize q8_0"));
        assert!(code == 2 && text.contains("--quantize"), "{text}");
        lab.succeed(&train("--lora-rank 4 --log-file a.jsonl"));
        assert_near(
            "the first step",
            lab.events("a").steps("loss")[0],
            want,
            1e-5,
        );
        let own = loss(&lab, "brains/a");
        assert!(own < before);
        lab.succeed("merge --adapter brains/a --output merged");
        assert_near("merged", loss(&lab, "--model merged"), own, 1e-5);
        let config = std::fs::read_to_string(lab.path("merged").join("config.json")).unwrap();
        assert!(!config.contains("quantization_config"));
        lab.succeed("finetune --model merged --dataset-file rows.jsonl --batch-size 2 --steps 1 --device cpu --quiet");
    }
}

type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

/// A checkpoint that somebody changed, as `bad`.
fn change(lab: &Lab, changed: impl Fn(&mut Value, &mut Tensors)) {
    let from = folder("nf4_double");
    write_rows(lab, &golden("nf4_double"));
    let to = lab.path("bad");
    std::fs::create_dir(&to).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let config = std::fs::read(from.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let mut tensors = tensors_of(&from);
    changed(&mut config, &mut tensors);
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
}

fn tensors_of(folder: &Path) -> Tensors {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView)| {
        (
            name,
            (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
        )
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// What is said of it.
fn said(changed: impl Fn(&mut Value, &mut Tensors)) -> String {
    let lab = Lab::new();
    change(&lab, changed);
    let (text, code) = refused(&lab, "eval --model bad --file rows.jsonl --device cpu");
    assert_eq!((code, text.trim().lines().count()), (1, 1), "{text}");
    text
}

#[test]
fn a_module_that_was_left_as_it_is_stays_so() {
    let lab = Lab::new();
    let plain = tensors_of(&root().join("tests/golden/decoders/a/llama"));
    change(&lab, |_, tensors| {
        tensors.retain(|name, _| !name.starts_with(WEIGHT));
        tensors.insert(WEIGHT.to_string(), plain[WEIGHT].clone());
    });
    let scored = loss(&lab, "--model bad");
    let line = format!(
        "finetune --model bad --dataset-file rows.jsonl {PLAIN} --steps 1 --brain-name a --lora-rank 2 --log-file a.jsonl"
    );
    lab.succeed(&line);
    assert_near(
        "the first step",
        lab.events("a").steps("loss")[0],
        scored,
        1e-6,
    );
    lab.succeed("merge --adapter brains/a --output merged");
    assert_near(
        "merged",
        loss(&lab, "--model merged"),
        loss(&lab, "brains/a"),
        1e-5,
    );
}

fn set(tensors: &mut Tensors, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let (_, shape, bytes) = tensors.get_mut(&format!("{WEIGHT}{name}")).unwrap();
    let before = bytes.len();
    change(bytes);
    match before == bytes.len() {
        true => {}
        false => *shape = vec![bytes.len()],
    }
}

/// Changes the description of a weight.
fn described(tensors: &mut Tensors, key: &str, value: Value) {
    set(tensors, ".quant_state.bitsandbytes__nf4", |bytes| {
        let mut state: Value = serde_json::from_slice(bytes).unwrap();
        state[key] = value;
        *bytes = state.to_string().into_bytes();
    });
}

#[test]
fn other_formats_are_named() {
    let with = |key: &'static str, value: Value| {
        said(move |config, _| config["quantization_config"][key] = value.clone())
    };
    assert!(with("bnb_4bit_quant_type", json!("fp4")).contains("fp4"));
    assert!(with("load_in_8bit", json!(true)).contains("int8"));
    assert!(with("quant_method", json!("gptq")).contains("gptq"));
    let renamed = said(|_, tensors| {
        let name = format!("{WEIGHT}.quant_state.bitsandbytes__");
        let state = tensors.remove(&format!("{name}nf4")).unwrap();
        tensors.insert(format!("{name}fp4"), state);
    });
    assert!(
        renamed.contains("is in fp4") && renamed.contains(WEIGHT),
        "{renamed}"
    );
}

#[test]
fn what_is_no_weight_in_nf4_is_one_line() {
    let huge = u64::MAX >> 12;
    for (key, value, word) in [
        ("shape", json!([huge, huge]), "not those of shape"),
        ("shape", json!([1_u64 << 40, 1]), "not those of shape"),
        ("shape", json!([]), "not those of shape"),
        ("shape", json!([24, 96]), "has shape [24, 96]"),
        ("shape", json!("x"), "cannot be read"),
        ("blocksize", json!(0), "blocks of 0"),
        ("blocksize", json!(32), "blocks of 32"),
        ("nested_blocksize", json!(0), "Some(0)"),
        ("nested_offset", Value::Null, "offset of None"),
        ("nested_offset", json!(1e300), "inf"),
        ("dtype", json!("int4"), "int4"),
        ("quant_type", json!("fp4"), "fp4"),
    ] {
        let text = said(|_, tensors| described(tensors, key, value.clone()));
        assert!(
            text.contains(word) && text.contains(WEIGHT),
            "{key}: {text}"
        );
    }
    for (name, word) in [
        ("", "bytes of codes"),
        (".absmax", "scales (absmax)"),
        (".nested_absmax", "nested_absmax"),
        (".quant_map", "quant_map"),
        (".nested_quant_map", "nested_quant_map"),
    ] {
        let shorter = said(|_, tensors| {
            set(tensors, name, |bytes| bytes.truncate(bytes.len() - 4));
            if let Some((safetensors::Dtype::F32, shape, bytes)) =
                tensors.get_mut(&format!("{WEIGHT}{name}"))
            {
                *shape = vec![bytes.len() / 4];
            }
        });
        assert!(shorter.contains(word), "{name}: {shorter}");
        if !name.is_empty() {
            let missing = said(|_, tensors| drop(tensors.remove(&format!("{WEIGHT}{name}"))));
            assert!(missing.contains(name), "{name}: {missing}");
        }
    }
    let other = said(|_, tensors| set(tensors, ".quant_map", |bytes| bytes[0] ^= 1));
    assert!(other.contains("other numbers"), "{other}");
    let nan = |bytes: &mut Vec<u8>| bytes.copy_from_slice(&f32::NAN.to_le_bytes());
    let nan = said(|_, tensors| set(tensors, ".nested_absmax", nan));
    assert!(nan.contains("NaN"), "{nan}");
}
