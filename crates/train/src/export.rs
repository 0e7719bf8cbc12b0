//! A model or an adapter written for other programs: as a Hugging Face folder, or as GGUF.

use crate::adapting::base_of;
use crate::blueprint::named_format;
use crate::whole::{Part, Whole};
use aios_adapters::peft::AdapterConfig;
use aios_base::error::{Error, Result};
use aios_bundle::TensorFile;
use aios_engine::weights::floats;
use aios_gguf::{Change, Kind, Tensor, lora, model};
use aios_hf::{
    ADAPTER_CONFIG_FILE, ADAPTER_FILE, Dtype, Folder, TensorSource, encode, read_config,
    tokenizer_in_gguf, write_adapter, write_folder,
};
use aios_kernels::ggml::encode_q8_0;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// In which numbers weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 8-bit numbers with a scale, for GGUF alone.
    Q8_0,
}

impl Numbers {
    /// As in flags.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn dtype(self) -> Result<Dtype> {
        match self {
            Self::F32 => Ok(Dtype::F32),
            Self::F16 => Ok(Dtype::F16),
            Self::Bf16 => Ok(Dtype::BF16),
            Self::Q8_0 => Err(Error::invalid(
                "--dtype q8_0 is for --format gguf: safetensors are written in f32, f16 or bf16",
            )),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::F32,
            Self::F16 => Kind::F16,
            Self::Bf16 => Kind::BF16,
            Self::Q8_0 => Kind::Q8_0,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub tensors: usize,
    /// In which most of the numbers are.
    pub numbers: Numbers,
    /// What other programs do not do as the model does.
    pub remarks: Vec<String>,
}

/// Writes a model as a folder that `from_pretrained` of transformers loads.
///
/// # Errors
/// A place that is taken, or a number beyond the range of the format.
pub fn folder(whole: &Whole, numbers: Option<Numbers>, output: &Path) -> Result<Exported> {
    let wanted = numbers.map(Numbers::dtype).transpose()?;
    let parts = whole.parts()?;
    let of = |part: &Part| match wanted {
        Some(wanted) if part.is_float() => wanted,
        _ => part.dtype,
    };
    let sources = parts.iter().map(|part| TensorSource {
        name: part.name.clone(),
        dtype: of(part),
        shape: part.shape.clone(),
        fetch: Box::new(move || part.bytes(of(part))),
    });
    let most = numbers.unwrap_or_else(|| usual(&parts));
    let config = said_in(whole.config(), most);
    write_folder(output, &config, sources, &whole.passengers()?)?;
    Ok(Exported {
        tensors: parts.len(),
        numbers: most,
        remarks: Vec::new(),
    })
}

/// Writes a model as a GGUF file, with its tokenizer and its chat template. Norms and what else llama.cpp wants so is in f32,
/// and in f16 where rows are no whole blocks.
///
/// # Errors
/// A model or a tokenizer that has no place in such a file, a place that is taken, or a number beyond the range of the format.
pub fn gguf(
    whole: &Whole,
    name: &str,
    numbers: Option<Numbers>,
    output: &Path,
) -> Result<Exported> {
    let config = whole.config();
    let parts = whole.parts_by_usual_names()?;
    let most = numbers.unwrap_or_else(|| {
        let all: Vec<&Part> = parts.iter().map(|(_, part)| part).collect();
        usual_of(&all)
    });
    let file_type = model::file_type(most.kind()).unwrap_or_default();
    let mut metadata = model::metadata_of(&config, name, file_type)?;
    let rows = rows_of_embedding(&parts)?;
    metadata.extend(tokenizer_in_gguf(&whole.passengers()?, rows)?);
    let mut tensors = Vec::new();
    for (name, values) in model::extra_tensors(&config)? {
        tensors.push(Tensor {
            name,
            shape: vec![values.len()],
            kind: Kind::F32,
            fetch: Box::new(move || encode(&values, Dtype::F32)),
        });
    }
    for (usual, part) in &parts {
        let Some((name, change)) = model::tensor_out(&config, usual)? else {
            continue;
        };
        let shape = change.shape(&part.shape);
        let kind = kind_of(&name, &shape, most);
        tensors.push(Tensor {
            fetch: Box::new(move || {
                let values = change.apply(part.values()?, &part.shape)?;
                in_kind(&values, kind).map_err(|error| error.of_file(&part.name))
            }),
            name,
            shape,
            kind,
        });
    }
    aios_gguf::write(output, &metadata, &tensors)?;
    Ok(Exported {
        tensors: tensors.len(),
        numbers: most,
        remarks: model::remarks(&config)?,
    })
}

fn rows_of_embedding(parts: &[(String, Part)]) -> Result<usize> {
    let is_table =
        |name: &str| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight");
    let table = parts.iter().find(|(name, _)| is_table(name));
    let rows = table.and_then(|(_, part)| part.shape.first().copied());
    rows.ok_or_else(|| Error::failed("the model has no embedding"))
}

/// In what most of the numbers are.
fn usual(parts: &[Part]) -> Numbers {
    usual_of(&parts.iter().collect::<Vec<_>>())
}

fn usual_of(parts: &[&Part]) -> Numbers {
    let mut counts: BTreeMap<&str, (usize, Numbers)> = BTreeMap::new();
    for part in parts {
        if let Some(numbers) = Numbers::of(part.dtype) {
            let count = counts.entry(numbers.as_str()).or_insert((0, numbers));
            count.0 += part.shape.iter().product::<usize>();
        }
    }
    let most = counts.into_values().max_by_key(|(count, _)| *count);
    most.map_or(Numbers::F32, |(_, numbers)| numbers)
}

fn said_in(config: Value, numbers: Numbers) -> Value {
    named_format(
        config,
        match numbers {
            Numbers::F16 => "float16",
            Numbers::Bf16 => "bfloat16",
            Numbers::F32 | Numbers::Q8_0 => "float32",
        },
    )
}

fn kind_of(name: &str, shape: &[usize], wanted: Numbers) -> Kind {
    let columns = shape.last().copied().unwrap_or(0);
    match wanted.kind() {
        _ if model::is_always_f32(name, shape) => Kind::F32,
        kind if columns.is_multiple_of(kind.block_values()) => kind,
        _ => Kind::F16,
    }
}

fn in_kind(values: &[f32], kind: Kind) -> Result<Vec<u8>> {
    match kind {
        Kind::F16 => encode(values, Dtype::F16),
        Kind::BF16 => encode(values, Dtype::BF16),
        Kind::Q8_0 => Ok(encode_q8_0(values)),
        _ => encode(values, Dtype::F32),
    }
}

/// An adapter that is written without its model.
pub struct Alone {
    path: std::path::PathBuf,
    tensors: TensorFile,
    config: Value,
    /// The model that it names is a GGUF file.
    of_gguf: bool,
}

impl Alone {
    /// The adapter in a folder.
    ///
    /// # Errors
    /// It is none, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        // Says what it is, if it is no adapter.
        let base = AdapterConfig::open(path)?.base;
        let tensors = TensorFile::open(&path.join(ADAPTER_FILE))?;
        tensors.require(f32::is_finite)?;
        Ok(Self {
            config: read_config(&path.join(ADAPTER_CONFIG_FILE))?,
            of_gguf: base.is_some_and(|base| base.ends_with(".gguf")),
            tensors,
            path: path.to_path_buf(),
        })
    }

    /// The model that it says it is for.
    ///
    /// # Errors
    /// It says none.
    pub fn base(&self) -> Result<String> {
        base_of(&AdapterConfig::open(&self.path)?, &self.path)
    }

    fn usual(&self) -> Numbers {
        let names = self.tensors.names();
        let halves = |name: &String| self.tensors.dtype(name).and_then(Numbers::of);
        names.iter().find_map(halves).unwrap_or(Numbers::F32)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        floats(&self.tensors.read(name)?)
    }

    /// Writes a folder that PEFT loads.
    ///
    /// # Errors
    /// A place that is taken, or a number beyond the range of the format.
    pub fn folder(&self, numbers: Option<Numbers>, output: &Path) -> Result<Exported> {
        let wanted = numbers.map(Numbers::dtype).transpose()?;
        let names = self.tensors.names();
        let sources: Vec<TensorSource> = names
            .iter()
            .map(|name| {
                let own = self.tensors.dtype(name).unwrap_or(Dtype::F32);
                let dtype = wanted.filter(|_| own.is_float()).unwrap_or(own);
                TensorSource {
                    name: name.clone(),
                    dtype,
                    shape: self.tensors.shape(name).unwrap_or_default().to_vec(),
                    fetch: Box::new(move || match dtype == own {
                        true => Ok(self.tensors.read(name)?.bytes),
                        false => {
                            encode(&self.values(name)?, dtype).map_err(|error| error.of_file(name))
                        }
                    }),
                }
            })
            .collect();
        let passengers = Folder::of_adapter(&self.path)?.load_passengers()?;
        write_adapter(output, &self.config, sources, &passengers)?;
        let remark = "the adapter names a GGUF file as its model, which PEFT does not load: export that to a folder too, and give \
                      PEFT both";
        Ok(Exported {
            tensors: names.len(),
            numbers: numbers.unwrap_or_else(|| self.usual()),
            remarks: self
                .of_gguf
                .then(|| remark.to_string())
                .into_iter()
                .collect(),
        })
    }

    /// Writes a GGUF file that llama.cpp puts on a model of this config.json.
    ///
    /// # Errors
    /// What has no place in such a file, a place that is taken, or a number beyond the range of the format.
    pub fn gguf(&self, base: &Value, numbers: Option<Numbers>, output: &Path) -> Result<Exported> {
        let most = numbers.unwrap_or_else(|| self.usual());
        let metadata = lora::metadata(lora::architecture(base)?, lora::alpha(&self.config)?);
        let mut tensors = Vec::new();
        for own in self.tensors.names() {
            let (name, change): (String, Change) = lora::tensor(base, &own)?;
            let shape = self.tensors.shape(&own).unwrap_or_default().to_vec();
            let written = change.shape(&shape);
            let kind = kind_of(&name, &written, most);
            tensors.push(Tensor {
                fetch: Box::new(move || {
                    let values = change.apply(self.values(&own)?, &shape)?;
                    in_kind(&values, kind).map_err(|error| error.of_file(&own))
                }),
                name,
                shape: written,
                kind,
            });
        }
        aios_gguf::write(output, &metadata, &tensors)?;
        Ok(Exported {
            tensors: tensors.len(),
            numbers: most,
            remarks: Vec::new(),
        })
    }
}

/// What a model is called that was asked for by a path or an id of the Hub.
pub fn name_of(spec: &str) -> String {
    aios_base::config::name_of(Path::new(spec)).unwrap_or_else(|| spec.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_no_blocks_are_in_16_bits_and_norms_in_32() {
        let kind = |name: &str, shape: &[usize]| kind_of(name, shape, Numbers::Q8_0);
        assert_eq!(kind("blk.0.attn_q.weight", &[48, 64]), Kind::Q8_0);
        assert_eq!(kind("blk.0.attn_q.weight", &[64, 48]), Kind::F16);
        assert_eq!(kind("blk.0.attn_norm.weight", &[64]), Kind::F32);
    }

    #[test]
    fn a_model_is_called_as_it_was_asked_for() {
        for spec in ["a/tiny.gguf", "owner/tiny@main", "a/b/tiny/", "tiny"] {
            assert_eq!(name_of(spec), "tiny", "{spec}");
        }
    }
}
