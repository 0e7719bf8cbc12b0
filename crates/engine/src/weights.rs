//! Reading a model's weights from a bundle or a safetensors file.

use crate::{Adapter, adapter};
use aios_adapters::names as adapter_names;
use aios_base::config::WeightsDtype;
use aios_base::error::{Error, Result};
use aios_base::storage::Storage;
use aios_bundle::{NamedTensor, TensorFile};
use aios_hf::InBlocks;
use aios_kernels::buffer;
use aios_models::decoder::{HfModel, PartOf, is_nf4, part_of};
use aios_models::{Model, Objective, Packed, Values, drawn};
use aios_nn::ParamInfo;
use aios_tensor::{Ops, stored_in};
use burn::tensor::DType;
use std::collections::HashSet;

/// Build a model from the tensors of a file, for sequences of no more than `positions` tokens.
///
/// # Errors
/// A tensor that is missing or has another shape, named with both shapes; one that may be meant by two
/// names; or a value that is not a finite number.
pub fn load<B: Ops>(
    config: &Model,
    file: &mut TensorFile,
    format: WeightsDtype,
    positions: usize,
    device: &B::Device,
) -> Result<Box<dyn Objective<B>>> {
    let (mut names, origin) = (Names::of(file), Origin::of(config));
    let model = aios_models::build(config, positions, device, &mut |info, _| {
        Ok(held(info, format, read(file, &mut names, info, &origin)?))
    })?;
    names.say_what_is_left(file);
    Ok(model)
}

/// Build a model with fresh weights.
///
/// # Errors
/// An impossible configuration.
pub fn draw<B: Ops>(
    config: &Model,
    seed: u64,
    format: WeightsDtype,
    positions: usize,
    device: &B::Device,
) -> Result<Box<dyn Objective<B>>> {
    let mut drawn = drawn(seed);
    aios_models::build(config, positions, device, &mut |info, init| {
        Ok(held(info, format, drawn(info, init)?.numbers))
    })
}

fn held(info: &ParamInfo, format: WeightsDtype, numbers: Vec<f32>) -> Values {
    let storage = Some(info.held_in(format));
    Values {
        numbers,
        storage,
        packed: None,
    }
}

/// Build a model from the tensors of a Hugging Face folder, read one after the other.
///
/// # Errors
/// As [`load`].
pub fn load_folder<B: Ops>(
    config: &Model,
    folder: &aios_hf::Weights,
    format: WeightsDtype,
    positions: usize,
    device: &B::Device,
) -> Result<Box<dyn Objective<B>>> {
    let mut used = HashSet::new();
    let grown_from = grown_from(config);
    let model = aios_models::build(config, positions, device, &mut |info, _| {
        let values = read_from_folder(folder, info, grown_from, &mut used)?;
        Ok(match values.packed {
            Some(_) => values,
            None => held(info, format, values.numbers),
        })
    })?;
    say_what_is_left(folder, &used);
    Ok(model)
}

/// The same with an adapter around it, which is trained or only read. Its own weights are drawn anew, or read from its file
/// strictly: a tensor that is missing there or that the model has no place for is an error.
///
/// # Errors
/// As [`load`].
pub fn load_adapted<B: Ops>(
    config: &Model,
    base: &aios_hf::Weights,
    mut adapter: Adapter,
    positions: usize,
    trains: bool,
    device: &B::Device,
) -> Result<Box<dyn Objective<B>>> {
    if let Adapter::File(file) = &adapter {
        adapter::check(config, file)?;
    }
    let in_nf4 = match config.as_decoder() {
        Some(decoder) => is_nf4(decoder.config())?,
        None => false,
    };
    let mut used = HashSet::new();
    let grown_from = grown_from(config);
    let model = aios_models::build(config, positions, device, &mut |info, init| {
        match &mut adapter {
            Adapter::File(file) if info.trained => {
                // What is trained as a whole is in both.
                used.extend(names_in_folder(&info.name));
                adapter::read(file, info).map(Into::into)
            }
            Adapter::Seed(seed) if adapter_names::is_of_an_adapter(&info.name) => {
                drawn(*seed)(info, init)
            }
            _ => {
                let mut values = read_from_folder(base, info, grown_from, &mut used)?;
                if in_nf4 && values.packed.is_none() && info.storage.is_quantized() {
                    // What was left as it is by whoever quantized the others.
                    values.storage = config.adapter().map(|adapted| adapted.frozen.storage);
                }
                let storage = values.storage.unwrap_or(info.storage);
                if !trains && lacks::<B>(storage, device) {
                    values.storage = Some(Storage::F32);
                }
                Ok(values)
            }
        }
    })?;
    say_what_is_left(base, &used);
    Ok(model)
}

/// Whether a format of 16 bits is none of the device's. What is read for each token, and not for some thousand, is better held in f32
/// then than decoded each time.
fn lacks<B: Ops>(storage: Storage, device: &B::Device) -> bool {
    match storage {
        Storage::F16 => !B::supports_dtype(device, DType::F16),
        Storage::Bf16 => !B::supports_dtype(device, DType::BF16),
        _ => false,
    }
}

/// Warn of tensors that a model has no use for.
fn say_what_is_left(folder: &aios_hf::Weights, used: &HashSet<String>) {
    // Tables that older programs saved beside the weights.
    let is_table = |name: &str| {
        let tables = ["inv_freq", "attn.bias", "attn.masked_bias"];
        tables.iter().any(|table| name.ends_with(table))
    };
    let left = folder
        .names()
        .filter(|name| !used.contains(*name) && !is_table(name) && !folder.is_beside_codes(name));
    let left: Vec<&str> = left.collect();
    if let [first, ..] = left.as_slice() {
        tracing::warn!(
            "{} of the tensors in the model's files are not those of its config.json and are left out, {first} among them",
            left.len()
        );
    }
}

/// Names by which a folder may hold a parameter: files of the bare model have no word before them, and those of a model
/// with images one more.
fn names_in_folder(name: &str) -> Vec<String> {
    let mut names = vec![name.to_string()];
    for prefix in ["transformer.", "model."] {
        if let Some(bare) = name.strip_prefix(prefix) {
            names.push(bare.to_string());
            names.push(format!("model.language_model.{bare}"));
            names.push(format!("language_model.model.{bare}"));
        }
    }
    names
}

/// The name by which a folder holds a parameter, if it does.
pub fn name_in_folder(folder: &aios_hf::Weights, parameter: &str) -> Option<String> {
    let mut names = names_in_folder(parameter).into_iter();
    names.find(|name| folder.info(name).is_some())
}

fn grown_from(model: &Model) -> Option<usize> {
    model.as_decoder().and_then(HfModel::grown_from)
}

/// As many rows as are wanted, the new ones the mean of the others: the logit of a new token is then below the largest of the
/// old ones, so that at the start no probability changes by more than the share of a token, whatever came before (Hewitt,
/// "Initializing New Word Embeddings for Pretrained Language Models", 2021). Rows drawn at random may be the likeliest
/// everywhere.
fn with_mean_rows(mut values: Vec<f32>, rows: usize, wanted: usize) -> Vec<f32> {
    let width = values.len() / rows.max(1);
    let mut sums = vec![0_f64; width];
    for row in values.chunks_exact(width.max(1)) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / rows as f64) as f32).collect();
    // The buffer is the parameter's own: it must not be larger than that.
    values.reserve_exact(wanted.saturating_sub(rows) * width);
    for _ in rows..wanted {
        values.extend_from_slice(&mean);
    }
    values
}

/// The same, with the part of that tensor that the parameter is.
pub fn place_in_folder(
    folder: &aios_hf::Weights,
    parameter: &str,
) -> Option<(String, Option<PartOf>)> {
    if let Some(name) = name_in_folder(folder, parameter) {
        return Some((name, None));
    }
    let part = part_of(parameter)?;
    Some((name_in_folder(folder, &part.name)?, Some(part)))
}

/// A parameter's values.
///
/// # Errors
/// As [`load`].
pub fn read_parameter(folder: &aios_hf::Weights, info: &ParamInfo) -> Result<Values> {
    read_from_folder(folder, info, None, &mut HashSet::new())
}

fn read_from_folder(
    folder: &aios_hf::Weights,
    info: &ParamInfo,
    grown_from: Option<usize>,
    used: &mut HashSet<String>,
) -> Result<Values> {
    let Some((name, part)) = place_in_folder(folder, &info.name) else {
        return Err(Error::failed(format!(
            "the model's files have no tensor {} of shape {:?}, which its config.json asks for",
            info.name, info.shape
        )));
    };
    let name = &name;
    let place = folder.path(name)?.display().to_string();
    let in_few_bits = folder.nf4(name)?;
    let blocks = folder.block_format(name);
    let shape = match &in_few_bits {
        Some(nf4) => Some(nf4.shape.clone()),
        None => folder.info(name).map(|(_, shape)| shape),
    };
    let found = Found {
        place: &place,
        name,
        shape: &shape.unwrap_or_default(),
    };
    let whole = ParamInfo {
        shape: part
            .as_ref()
            .map_or_else(|| info.shape.clone(), |part| part.whole(&info.shape)),
        ..info.clone()
    };
    let grown = match (grown_from, found.shape, info.shape.as_slice()) {
        (Some(rows), [own, width], [wanted, columns]) => {
            let is_table = info.is_embedding() || info.name == "lm_head.weight";
            (is_table && *own == rows && width == columns).then_some((rows, *wanted))
        }
        _ => None,
    };
    if grown.is_none() {
        found.fits(&whole, "by config.json", "")?;
    }
    used.insert(name.clone());
    let stays = blocks.is_some_and(|format| stored_in(format) == info.storage);
    if stays
        && part.is_none()
        && grown.is_none()
        && let Some(InBlocks { format, bytes }) = folder.blocks(name)?
    {
        folder.finite(name)?;
        folder.release(name);
        return Ok(Packed::Blocks(format, bytes).into());
    }
    let mut values = match in_few_bits {
        Some(nf4) if part.is_none() && grown.is_none() => return Ok(Packed::Nf4(nf4.packed).into()),
        Some(nf4) => nf4.values(),
        None => found.finite(folder.read_f32(name)?)?,
    };
    if let Some(part) = part {
        values = values[part.elements(&info.shape)].to_vec();
    }
    if let Some((rows, wanted)) = grown {
        values = with_mean_rows(values, rows, wanted);
    }
    folder.release(name);
    Ok(values.into())
}

fn read(
    file: &mut TensorFile,
    names: &mut Names,
    info: &ParamInfo,
    origin: &Origin,
) -> Result<Vec<f32>> {
    let place = file.path().display().to_string();
    let name = names.find(&place, info, origin)?;
    let tensor = file.read(&name)?;
    let found = Found {
        place: &place,
        name: &name,
        shape: &tensor.shape,
    };
    found.fits(info, origin.by, origin.way_out)?;
    let values = floats(&tensor).map_err(|error| error.of_file(&place))?;
    found.finite(values)
}

/// What a checkpoint's model is described by, for errors.
struct Origin {
    by: &'static str,
    way_out: &'static str,
}

impl Origin {
    fn of(model: &Model) -> Self {
        match model {
            Model::ActV1(_) => Self {
                by: "in this configuration",
                way_out: ": give the model flags it was trained with",
            },
            Model::Decoder(_) => Self {
                by: "by config.json",
                way_out: ": it is of another model",
            },
        }
    }
}

/// A tensor, and where it was found.
struct Found<'a> {
    place: &'a str,
    name: &'a str,
    shape: &'a [usize],
}

impl Found<'_> {
    /// Of the shape that the model has `by` its description.
    fn fits(&self, info: &ParamInfo, by: &str, way_out: &str) -> Result<()> {
        let Self { place, name, shape } = self;
        match *shape == info.shape {
            true => Ok(()),
            false => Err(Error::failed(format!(
                "{place}: tensor {name} has shape {shape:?} there and {:?} {by}{way_out}",
                info.shape
            ))),
        }
    }

    /// Its values, if they are numbers.
    fn finite(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        let checked = check_finite(self.name, self.shape, &values);
        checked.map_err(|error| error.of_file(self.place))?;
        Ok(values)
    }
}

/// The names in a file. The published trainer wraps the model, which puts the same words before every
/// name.
struct Names {
    left: Vec<String>,
    /// What stands before every name, once one has been found, and that first one.
    prefix: Option<(String, String)>,
}

impl Names {
    fn of(file: &TensorFile) -> Self {
        Self {
            left: file.names(),
            prefix: None,
        }
    }

    /// The name in the file at `place` of a parameter.
    fn find(&mut self, place: &str, info: &ParamInfo, origin: &Origin) -> Result<String> {
        let name = &info.name;
        let suffix = format!(".{name}");
        let meant = |n: &&String| *n == name || n.ends_with(&suffix);
        let found: Vec<String> = self.left.iter().filter(meant).cloned().collect();
        let [found] = found.as_slice() else {
            return Err(match found.as_slice() {
                [] => Error::failed(format!(
                    "{place}: the checkpoint has no tensor {name}, of shape {:?} {}{}",
                    info.shape, origin.by, origin.way_out
                )),
                several => Error::failed(format!(
                    "{place}: {} tensors are meant by {name}, which are {}: keep those of one model \
                     only",
                    several.len(),
                    several.join(", ")
                )),
            });
        };
        let prefix = found[..found.len() - name.len()].to_string();
        let (first_prefix, first) = self
            .prefix
            .get_or_insert_with(|| (prefix.clone(), found.clone()));
        if *first_prefix != prefix {
            return Err(Error::failed(format!(
                "{place}: tensors {first} and {found} are of two models, by what stands before their \
                 names: keep those of one only"
            )));
        }
        self.left.retain(|n| n != found);
        Ok(found.clone())
    }

    fn say_what_is_left(&self, file: &TensorFile) {
        if let Some(first) = self.left.first() {
            tracing::warn!(
                "{}: tensors that this model has no use for are left out: {}, such as {first}",
                file.path().display(),
                self.left.len()
            );
        }
    }
}

/// A stored tensor's elements in f32.
///
/// # Errors
/// A tensor of integers.
///
/// # Panics
/// With `aios_kernels::buffer::OutOfMemory`.
pub fn floats(tensor: &NamedTensor) -> Result<Vec<f32>> {
    let NamedTensor { name, dtype, .. } = tensor;
    if !dtype.is_float() {
        return Err(Error::failed(format!(
            "tensor {name} holds {dtype:?}, not floating-point numbers"
        )));
    }
    let mut values: Vec<f32> = buffer::zeros(tensor.bytes.len() / dtype.size());
    dtype.decode(&tensor.bytes, &mut values);
    Ok(values)
}

/// Check that a tensor's values are numbers that can be computed with.
///
/// # Errors
/// One is NaN or infinite: its name, and the place of the first.
pub fn check_finite(name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
    let bad = || values.iter().enumerate().filter(|(_, v)| !v.is_finite());
    let Some((first, value)) = bad().next() else {
        return Ok(());
    };
    let more = match bad().count() - 1 {
        0 => String::new(),
        more => format!(" and {more} more values that are not finite"),
    };
    Err(Error::failed(format!(
        "tensor {name} holds {value} at {:?}{more}: it cannot be computed with; take another \
         checkpoint",
        index(first, shape)
    )))
}

/// Index of an element in row-major order.
fn index(mut place: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = Vec::new();
    for &extent in shape.iter().rev() {
        index.push(place % extent.max(1));
        place /= extent.max(1);
    }
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_models::actv1::{ModelConfig, PosEncodings};
    use aios_tensor::CpuBackend;
    use safetensors::Dtype as Stored;
    use safetensors::tensor::TensorView;
    use std::collections::BTreeMap;

    fn shape() -> Model {
        Model::ActV1(ModelConfig {
            vocab_size: 7,
            hidden_size: 8,
            num_heads: 2,
            expansion: 1.0,
            h_layers: 1,
            l_layers: 1,
            h_cycles: 1,
            l_cycles: 1,
            pos_encodings: PosEncodings::Rope,
            tie_embeddings: false,
            max_seq_len: 5,
            window_size: 0,
            causal: true,
        })
    }

    type Tensors = BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)>;

    /// The model's tensors, all ones.
    fn tensors() -> Tensors {
        let model =
            draw::<CpuBackend>(&shape(), 0, WeightsDtype::F32, 5, &Default::default()).unwrap();
        let tensor = |info: &ParamInfo| {
            let ones = [1.0_f32.to_le_bytes()].repeat(info.elements()).concat();
            (info.name.clone(), (Stored::F32, info.shape.clone(), ones))
        };
        model.params().iter().map(|p| tensor(&p.info)).collect()
    }

    fn loaded(tensors: &Tensors) -> Result<Box<dyn Objective<CpuBackend>>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("teacher.safetensors");
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            (name, view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
        load(
            &shape(),
            &mut TensorFile::open(&path)?,
            WeightsDtype::F32,
            5,
            &Default::default(),
        )
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Tensors), words: &[&str]) {
        let mut tensors = tensors();
        change(&mut tensors);
        let error = loaded(&tensors).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let error = error.to_string();
        assert!(!error.contains('\n') && error.contains("teacher.safetensors"));
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    const HEAD: &str = "lm_head.weight";

    fn put(bytes: &mut [u8], element: usize, value: f32) {
        bytes[4 * element..][..4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_whole_file_is_taken_with_and_without_words_before_its_names() {
        loaded(&tensors()).unwrap();
        let wrapped = tensors().into_iter().map(|(n, t)| (format!("a.b.{n}"), t));
        loaded(&wrapped.collect()).unwrap();
    }

    #[test]
    fn new_rows_are_the_mean_of_the_others() {
        let grown = with_mean_rows(vec![1.0, 2.0, 3.0, 6.0], 2, 4);
        assert_eq!(grown, [1.0, 2.0, 3.0, 6.0, 2.0, 4.0, 2.0, 4.0]);
        assert_eq!(grown.capacity(), grown.len());
    }

    #[test]
    fn what_is_not_finite_is_named_with_its_place() {
        for (value, shown) in [
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
        ] {
            let change = |t: &mut Tensors| put(&mut t.get_mut(HEAD).unwrap().2, 8 * 3 + 5, value);
            refused(change, &[HEAD, &format!("holds {shown} at [3, 5]:")]);
        }
        let several = |t: &mut Tensors| {
            let bytes = &mut t.get_mut("q_head.bias").unwrap().2;
            (0..2).for_each(|i| put(bytes, i, f32::NAN));
        };
        refused(several, &["q_head.bias", "NaN at [0] and 1 more"]);
    }

    #[test]
    fn half_precision_that_is_not_finite_is_found_too() {
        for (dtype, bits) in [(Stored::F16, 0x7c00_u16), (Stored::BF16, 0x7f80)] {
            let change = |t: &mut Tensors| {
                let shape = vec![7, 8];
                let mut bytes = vec![0; 2 * 56];
                bytes[2 * 9..][..2].copy_from_slice(&bits.to_le_bytes());
                t.insert(HEAD.to_string(), (dtype, shape, bytes));
            };
            refused(change, &[HEAD, "inf at [1, 1]"]);
        }
    }

    /// The names of a second model beside the first, or of a part of it.
    #[test]
    fn names_that_may_mean_two_tensors_are_refused() {
        for prefix in ["ema.", "model.inner."] {
            let change = |t: &mut Tensors| {
                let copy = t["H_init"].clone();
                t.insert(format!("{prefix}H_init"), copy);
            };
            let both = format!("H_init, {prefix}H_init");
            refused(change, &["2 tensors are meant by H_init", &both]);
        }
        let wrapped = |t: &mut Tensors| {
            for (name, tensor) in std::mem::take(t) {
                for prefix in ["a", "b"] {
                    t.insert(format!("{prefix}.{name}"), tensor.clone());
                }
            }
        };
        refused(wrapped, &["2 tensors are meant by", "a.", "b."]);
    }

    #[test]
    fn tensors_of_two_models_are_not_put_together() {
        let change = |t: &mut Tensors| {
            let head = t.remove(HEAD).unwrap();
            t.insert(format!("ema.{HEAD}"), head);
        };
        let both = "embed_tokens.embedding_weight and ema.lm_head.weight";
        refused(change, &[both, "two models"]);
    }

    #[test]
    fn what_does_not_fit_is_named_with_both_shapes() {
        let transposed = |t: &mut Tensors| t.get_mut(HEAD).unwrap().1.reverse();
        refused(transposed, &[HEAD, "[8, 7]", "[7, 8]"]);
        let missing = |t: &mut Tensors| drop(t.remove(HEAD));
        refused(missing, &["no tensor lm_head.weight, of shape [7, 8]"]);
        let integers = |t: &mut Tensors| t.get_mut(HEAD).unwrap().0 = Stored::I32;
        refused(integers, &[HEAD, "I32"]);
    }
}
