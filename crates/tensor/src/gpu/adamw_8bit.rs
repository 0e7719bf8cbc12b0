//! AdamW with 8-bit state: one kernel for each parameter, in place.

use crate::gpu::adamw;
use crate::gpu::fused::{Gpu, Lazy, Matrix, float, queue};
use crate::gpu::kernel::{KernelRuntime, numbers, writable};
use crate::gpu::source::{Kernel, Part, shader};
use crate::{AdamWStep, Codes, State8bit};
use aios_kernels::adamw_8bit::{BLOCK, SIGNED, UNSIGNED, WORDS};
use burn::tensor::{Int, Tensor};
use burn_cubecl::CubeRuntime;
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

type State<R, BT> = State8bit<Gpu<R, BT>>;

const WGSL: &[Part] = &[shader!("adamw_8bit.wgsl")];
const CUDA: &[Part] = &[shader!("adamw_8bit.cu")];

/// The kernel. It counts elements in 32 bits: a wgpu binding is at most 4 GiB, 2^30 of them, and a
/// launch checks for CUDA.
fn kernel() -> Kernel {
    Kernel {
        name: "adamw_8bit",
        constants: vec![],
        wgsl: WGSL,
        cuda: CUDA,
        // A thread for each word of a block.
        threads: WORDS as u32,
        cuda_shared_bytes: 0,
    }
}

/// [`crate::Ops::adamw_8bit`] on a GPU.
pub(super) fn step<R, BT>(
    parameter: Matrix<R, BT>,
    gradient: Matrix<R, BT>,
    state: State<R, BT>,
    step: &AdamWStep,
) -> (Matrix<R, BT>, State<R, BT>)
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let State8bit { m, v } = state;
    let (m, v) = (m.into_lazy(), v.into_lazy());
    let gradient = gradient.into_primitive().tensor();
    let inputs = [parameter.into_primitive().tensor(), m.0, m.1, v.0, v.1];
    let outlines = inputs.each_ref().map(|t| (t.shape.clone(), t.dtype));
    let [parameter, m_codes, m_absmax, v_codes, v_absmax] = inputs;
    let step = *step;
    let [parameter, m_codes, m_absmax, v_codes, v_absmax] = queue::<R, BT, 6, 5>(
        "adamw_8bit",
        [parameter, gradient, m_codes, m_absmax, v_codes, v_absmax],
        outlines,
        move |tensors| launch(tensors, &step),
    );
    let state = State8bit {
        m: Codes::from_lazy(m_codes, m_absmax),
        v: Codes::from_lazy(v_codes, v_absmax),
    };
    (float(parameter), state)
}

fn launch<R: KernelRuntime>(tensors: [CubeTensor<R>; 6], step: &AdamWStep) -> [CubeTensor<R>; 5] {
    let [parameter, gradient, m_codes, m_absmax, v_codes, v_absmax] = tensors;
    let written = [parameter, m_codes, m_absmax, v_codes, v_absmax].map(writable);
    let gradient = into_contiguous(gradient);
    let n = gradient.meta.shape().num_elements();
    let count = u32::try_from(n).expect("a parameter has fewer than 2^32 elements");
    let info = numbers(&gradient, &info(count, step));
    let [parameter, m_codes, m_absmax, v_codes, v_absmax] = written.each_ref().map(|t| &t.handle);
    let buffers = [
        parameter,
        &gradient.handle,
        m_codes,
        m_absmax,
        v_codes,
        v_absmax,
        &info,
    ];
    kernel().launch(&gradient.client, n.div_ceil(BLOCK), &buffers);
    written
}

/// What the kernel reads besides the tensors: the maps' values, their first cells, the numbers.
fn info(n: u32, step: &AdamWStep) -> Vec<u32> {
    let maps = [&*SIGNED, &*UNSIGNED];
    let values = maps.iter().flat_map(|map| map.values.map(f32::to_bits));
    let first_cells = maps.iter().flat_map(|map| map.first_cells());
    values
        .chain(first_cells)
        .chain(adamw::told(n, step))
        .collect()
}

impl<R, BT> Codes<Gpu<R, BT>>
where
    R: CubeRuntime,
    BT: BoolElement,
{
    fn into_lazy(self) -> (Lazy<R>, Lazy<R>) {
        let absmax = self.absmax.into_primitive().tensor();
        (self.codes.into_primitive(), absmax)
    }

    fn from_lazy(codes: Lazy<R>, absmax: Lazy<R>) -> Self {
        Self {
            codes: Tensor::<_, 1, Int>::from_primitive(codes),
            absmax: float(absmax),
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use crate::gpu::emulator::{Emulator, Launch, Memory};
    use aios_kernels::adamw_8bit::{Moment, adamw_8bit};

    /// Parameters, then codes and absmaxes of both moments.
    type Buffers = (Vec<f32>, [(Vec<i32>, Vec<f32>); 2]);

    fn floats(x: &[f32]) -> Vec<u8> {
        x.iter().flat_map(|x| x.to_ne_bytes()).collect()
    }

    fn words(x: &[i32]) -> Vec<u8> {
        x.iter().flat_map(|x| x.to_ne_bytes()).collect()
    }

    /// Cubed waves, so that there are small ones; none for two thirds of each row of 100 from the
    /// tenth step on, and never for a third.
    fn gradient(n: usize, step: u64) -> Vec<f32> {
        let wave = |i: usize| ((i as f32 * 0.37 + step as f32 * 1.7).sin()).powi(3);
        let value = |i: usize| match i % 100 / 33 {
            0 => 0.0,
            1 if step > 10 => 0.0,
            _ => wave(i),
        };
        (0..n).map(value).collect()
    }

    fn emulated(emulator: &Emulator, state: &Buffers, g: &[f32], step: &AdamWStep) -> Buffers {
        let mut memory = Memory::default();
        let (p, [m, v]) = state;
        let gradient = memory.put(floats(g));
        let parameter = memory.put(floats(p));
        let moments = [m, v].map(|(codes, absmax)| {
            let codes = memory.put(words(codes));
            [codes, memory.put(floats(absmax))]
        });
        let [m, v] = moments;
        let launch = Launch {
            // Fewer than there are blocks of values.
            blocks: 3,
            descending: step.step.is_multiple_of(2),
        };
        let written = [parameter, m[0], m[1], v[0], v[1]];
        let info = info(g.len() as u32, step);
        let buffers = (&[gradient][..], &written[..]);
        emulator.launch(&kernel(), &launch, &mut memory, buffers, &info);
        let read = |buffer: usize| memory.buffers[buffer].chunks(4);
        let word = |word: &[u8]| i32::from_ne_bytes(word.try_into().unwrap());
        let floats = |buffer| read(buffer).map(|w| f32::from_bits(word(w) as u32));
        let moment = |[codes, absmax]: [usize; 2]| {
            let codes = read(codes).map(word).collect();
            (codes, floats(absmax).collect())
        };
        (floats(parameter).collect(), [moment(m), moment(v)])
    }

    fn on_the_cpu(state: &mut Buffers, g: &[f32], step: &AdamWStep) {
        let (p, moments) = state;
        let [m, v] = moments
            .each_mut()
            .map(|(codes, absmax)| Moment { codes, absmax });
        adamw_8bit(p, g, m, v, *step);
    }

    #[test]
    fn the_cuda_text_computes_what_the_cpu_does_to_the_bit() {
        let Some(emulator) = Emulator::build(&[kernel()], 0) else {
            return;
        };
        for n in [1_usize, 300, 5 * 384] {
            let blocks = n.div_ceil(BLOCK);
            let zeros = || (vec![0; blocks * WORDS], vec![0.0; blocks]);
            let start = gradient(n, 0).iter().map(|g| g + 0.5).collect();
            let mut state: Buffers = (start, [zeros(), zeros()]);
            for number in 1..=30 {
                let step = AdamWStep {
                    learning_rate: 1e-2,
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: 0.1,
                    step: number,
                    gradient_scale: 0.5,
                };
                let g = gradient(n, number);
                let got = emulated(&emulator, &state, &g, &step);
                on_the_cpu(&mut state, &g, &step);
                assert!(got == state, "{n} values, step {number}");
            }
        }
    }
}
