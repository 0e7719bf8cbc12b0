//! Matrices in NF4 as bitsandbytes saves them: the codes under the weight's own name, and beside them what they are of.

use super::Safetensors;
use crate::dtype::Dtype;
use crate::tensors::NamedTensor;
use aios_base::error::{Error, Result, shortened};
use aios_kernels::adamw_8bit::SIGNED;
use aios_kernels::nf4::{Absmax, BLOCK, CODES, NESTED_BLOCK, Packed, blocks};
use serde::Deserialize;

/// What stands between a weight's name and the name of its format.
const STATE: &str = ".quant_state.bitsandbytes__";
const FORMAT: &str = "nf4";
/// No description of a weight is longer.
const LONGEST_STATE: usize = 1 << 16;
/// What lies beside a weight.
const BESIDE: [&str; 4] = [
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
];

/// The description of a weight.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    /// That of the numbers before.
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// A weight in NF4.
#[derive(Debug)]
pub struct InNf4 {
    pub packed: Packed,
    /// `[outputs, inputs]`
    pub shape: Vec<usize>,
    /// Type of the numbers that were quantized.
    pub dtype: Dtype,
}

impl InNf4 {
    /// The numbers that the codes stand for.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn values(&self) -> Vec<f32> {
        self.packed.values(self.shape.iter().product())
    }
}

impl Safetensors {
    /// The shape of a weight that bitsandbytes has in few bits, in whatever format; `None` of any other tensor.
    fn state_of(&self, name: &str) -> Option<(String, String)> {
        let start = format!("{name}{STATE}");
        let state = self.places.range(start.clone()..).next()?.0;
        let format = state.strip_prefix(&start)?;
        Some((state.clone(), format.to_string()))
    }

    /// Whether a tensor only says what the codes of another one stand for.
    pub fn is_beside_codes(&self, name: &str) -> bool {
        if let Some((weight, _)) = name.split_once(STATE) {
            return self.places.contains_key(weight);
        }
        let mut weights = BESIDE.iter().filter_map(|end| name.strip_suffix(end));
        weights.any(|weight| self.state_of(weight).is_some())
    }

    /// A weight in NF4, as it lies; `None` if it is not in few bits.
    ///
    /// # Errors
    /// Another format of few bits, or tensors that are not of one weight: names the file and the tensor.
    pub fn nf4(&self, name: &str) -> Result<Option<InNf4>> {
        let wrong = |cause: String| self.wrong(name, &cause);
        match self.described(name, &wrong)? {
            Some((state, dtype)) => self.read_nf4(name, state, dtype, &wrong).map(Some),
            None => Ok(None),
        }
    }

    /// Type and shape of the numbers that a weight in NF4 was quantized of; `None` if it is not in few bits. Reads no codes.
    ///
    /// # Errors
    /// As [`Safetensors::nf4`].
    pub fn before_nf4(&self, name: &str) -> Result<Option<(Dtype, Vec<usize>)>> {
        let found = self.described(name, &|cause| self.wrong(name, &cause))?;
        Ok(found.map(|(state, dtype)| (dtype, state.shape)))
    }

    fn wrong(&self, name: &str, cause: &str) -> Error {
        match self.path(name) {
            Ok(path) => {
                Error::failed(shortened(&format!("tensor {name} {cause}"))).of_file(path.display())
            }
            Err(error) => error,
        }
    }

    /// What the file says of a weight in NF4, and the type that it names.
    fn described(
        &self,
        name: &str,
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<Option<(State, Dtype)>> {
        let Some((state, format)) = self.state_of(name) else {
            return Ok(None);
        };
        let state = &state;
        if format != FORMAT {
            return Err(wrong(format!(
                "is in {format}, which is not supported: take the model in bitsandbytes' {FORMAT}, or in bf16, f16 or f32"
            )));
        }
        let length = self
            .info(state)
            .map_or(0, |(_, shape)| shape.iter().product());
        if length > LONGEST_STATE {
            return Err(wrong(format!(
                "has a description of {length} bytes ({state})"
            )));
        }
        let text = self.tensor(state)?.bytes;
        let state: State = serde_json::from_slice(&text)
            .map_err(|cause| wrong(format!("has a description that cannot be read: {cause}")))?;
        if state.quant_type != FORMAT {
            return Err(wrong(format!(
                "is in {:?} by its description",
                state.quant_type
            )));
        }
        if state.blocksize != BLOCK {
            return Err(wrong(format!(
                "is in blocks of {} values, and blocks of {BLOCK} alone are supported",
                state.blocksize
            )));
        }
        let dtype = match state.dtype.as_str() {
            "float32" => Dtype::F32,
            "float16" => Dtype::F16,
            "bfloat16" => Dtype::BF16,
            other => {
                return Err(wrong(format!(
                    "was quantized of {other:?}, which is no type of weights"
                )));
            }
        };
        Ok(Some((state, dtype)))
    }

    fn read_nf4(
        &self,
        name: &str,
        state: State,
        dtype: Dtype,
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<InNf4> {
        let count = state
            .shape
            .iter()
            .try_fold(1_usize, |n, &extent| n.checked_mul(extent));
        let codes = self.tensor(name)?.bytes;
        let Some(count) = count.filter(|n| n.div_ceil(2) == codes.len()) else {
            return Err(wrong(format!(
                "has {} bytes of codes, which are not those of shape {:?}",
                codes.len(),
                state.shape
            )));
        };
        self.require_map(name, ".quant_map", &CODES, wrong)?;
        let absmax = self.absmax(name, &state, blocks(count), wrong)?;
        if let Some(bad) = absmax.values().iter().find(|v| !v.is_finite()) {
            return Err(wrong(format!(
                "has a block whose largest magnitude is {bad}"
            )));
        }
        Ok(InNf4 {
            packed: Packed::of_bytes(codes, count, absmax),
            shape: state.shape,
            dtype,
        })
    }

    fn absmax(
        &self,
        name: &str,
        state: &State,
        blocks: usize,
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<Absmax> {
        let absmax = self.tensor(&format!("{name}.absmax"))?;
        if absmax.dtype != Dtype::U8 {
            return self
                .floats(name, ".absmax", blocks, wrong)
                .map(Absmax::Plain);
        }
        if absmax.bytes.len() != blocks {
            return Err(wrong(format!(
                "has {} scales (absmax) for {blocks} blocks",
                absmax.bytes.len()
            )));
        }
        let (Some(NESTED_BLOCK), Some(offset)) = (state.nested_blocksize, state.nested_offset)
        else {
            return Err(wrong(format!(
                "has scales in blocks of {:?} and an offset of {:?}, and blocks of {NESTED_BLOCK} with an offset alone are \
                 supported",
                state.nested_blocksize, state.nested_offset
            )));
        };
        self.require_map(name, ".nested_quant_map", &SIGNED.values, wrong)?;
        let nested = blocks.div_ceil(NESTED_BLOCK);
        Ok(Absmax::Nested {
            codes: absmax.bytes,
            nested: self.floats(name, ".nested_absmax", nested, wrong)?,
            offset: offset as f32,
        })
    }

    /// So many numbers beside a weight.
    fn floats(
        &self,
        name: &str,
        beside: &str,
        count: usize,
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<Vec<f32>> {
        let tensor = self.tensor(&format!("{name}{beside}"))?;
        if tensor.dtype != Dtype::F32 || tensor.bytes.len() != 4 * count {
            return Err(wrong(format!(
                "has {} bytes of {} as {}, and {count} numbers in F32 are expected",
                tensor.bytes.len(),
                tensor.dtype,
                &beside[1..]
            )));
        }
        let mut values = vec![0.0; count];
        tensor.dtype.decode(&tensor.bytes, &mut values);
        Ok(values)
    }

    fn require_map(
        &self,
        name: &str,
        beside: &str,
        map: &[f32],
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<()> {
        match self.floats(name, beside, map.len(), wrong)? == map {
            true => Ok(()),
            false => Err(wrong(format!(
                "has codes that stand for other numbers than bitsandbytes' ({})",
                &beside[1..]
            ))),
        }
    }

    fn tensor(&self, name: &str) -> Result<NamedTensor> {
        self.shard(name)?.tensors.read(name)
    }
}
