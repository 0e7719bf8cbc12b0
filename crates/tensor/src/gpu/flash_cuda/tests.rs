//! The kernels' texts, run by the emulator in `tests/cuda_emulator/`, against the CPU's kernels.
//!
//! The emulator shows that the arithmetic, the layouts and the barriers are right as PTX's manual has
//! them. It knows nothing of what a GPU's compiler makes of the texts, nor of its rounding.

use super::*;
use crate::gpu::flash_info::{Layout, Layouts, Problem, info};

#[test]
fn shared_memory_fits_every_gpu() {
    for head_dim in (8..=128).step_by(8) {
        for entry in ENTRIES {
            let bytes = |element, tensor_cores| {
                let variant = Variant {
                    entry,
                    head_dim,
                    element,
                    tensor_cores,
                };
                variant.stage().kernel.cuda_shared_bytes
            };
            assert!(bytes(Element::F32, false) <= 64 << 10);
            assert!(bytes(Element::F16, true) <= 99 << 10);
        }
    }
}

const ENTRIES: [Entry; 4] = [
    Entry::Forward,
    Entry::Delta,
    Entry::BackwardQueries,
    Entry::BackwardKeys,
];

#[cfg(target_os = "linux")]
mod emulated {
    use super::*;
    use crate::gpu::emulator;
    use crate::gpu::emulator::{Launch, Memory, UNWRITTEN};
    use aios_kernels::attention::{Heads, Saved, Shape, backward, forward};
    use half::{bf16, f16};

    impl Element {
        fn bytes(self) -> usize {
            match self {
                Element::F32 => 4,
                Element::F16 | Element::Bf16 => 2,
            }
        }

        fn encode(self, x: f32) -> Vec<u8> {
            match self {
                Element::F32 => x.to_ne_bytes().to_vec(),
                Element::F16 => f16::from_f32(x).to_ne_bytes().to_vec(),
                Element::Bf16 => bf16::from_f32(x).to_ne_bytes().to_vec(),
            }
        }

        fn decode(self, bytes: &[u8]) -> f32 {
            match self {
                Element::F32 => f32::from_ne_bytes(bytes.try_into().unwrap()),
                Element::F16 => f16::from_ne_bytes(bytes.try_into().unwrap()).to_f32(),
                Element::Bf16 => bf16::from_ne_bytes(bytes.try_into().unwrap()).to_f32(),
            }
        }

        /// Relative to the largest value. Half precision rounds probabilities and their gradients
        /// (to 2^-11 and 2^-8), then the results: what is seen is a third of this.
        fn tolerance(self) -> f32 {
            match self {
                Element::F32 => 1e-5,
                Element::F16 => 2e-3,
                Element::Bf16 => 1.5e-2,
            }
        }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Arrangement {
        /// `[batch, heads, seq, head_dim]`, one buffer each.
        Heads,
        /// Rows further apart than they are long, and something in front.
        Padded,
        /// q, k and v side by side in one buffer, their gradients in another, as of a fused
        /// projection.
        Fused,
    }

    #[derive(Clone, Copy)]
    struct Case {
        problem: Problem,
        arrangement: Arrangement,
        blocks: usize,
        /// Of the elements of q and k.
        magnitude: f32,
        nan_key: Option<usize>,
        /// Later threads run before earlier ones.
        descending: bool,
    }

    impl Case {
        fn new(seq_q: usize, seq_kv: usize, causal: bool, window: usize) -> Self {
            Self {
                problem: Problem {
                    batch: 1,
                    heads: 1,
                    seq_q,
                    seq_kv,
                    causal,
                    window,
                    scale: 0.0,
                },
                arrangement: Arrangement::Heads,
                blocks: 4096,
                magnitude: 1.5,
                nan_key: None,
                descending: false,
            }
        }
    }

    /// The emulator with one head dimension's four kernels.
    struct Emulator {
        emulator: emulator::Emulator,
        head_dim: usize,
        element: Element,
        tensor_cores: bool,
    }

    impl Emulator {
        fn build(head_dim: usize, element: Element, tensor_cores: bool) -> Option<Self> {
            let kernels = ENTRIES.map(|entry| {
                let variant = Variant {
                    entry,
                    head_dim,
                    element,
                    tensor_cores,
                };
                variant.stage().kernel
            });
            Some(Self {
                emulator: emulator::Emulator::build(&kernels, element as usize)?,
                head_dim,
                element,
                tensor_cores,
            })
        }

        fn variant(&self, entry: Entry) -> Variant {
            Variant {
                entry,
                head_dim: self.head_dim,
                element: self.element,
                tensor_cores: self.tensor_cores,
            }
        }

        /// Launch with these buffers of `memory` as arguments; those of `written` get new contents.
        fn launch(
            &self,
            entry: Entry,
            case: &Case,
            memory: &mut Memory,
            (read, written): (&[usize], &[usize]),
            info: &[u32],
        ) {
            let tile = self.variant(entry).stage();
            let rows = match entry {
                Entry::BackwardKeys => case.problem.seq_kv,
                _ => case.problem.seq_q,
            };
            let work = case.problem.batch * case.problem.heads * rows.div_ceil(tile.rows);
            let launch = Launch {
                blocks: work.min(case.blocks),
                descending: case.descending,
            };
            let buffers = (read, written);
            (self.emulator).launch(&tile.kernel, &launch, memory, buffers, info);
        }
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        let words = bytes.chunks(4);
        words.map(|word| Element::F32.decode(word)).collect()
    }

    /// One tensor of a case: its buffer, its place there, its rows a head.
    #[derive(Clone, Copy)]
    struct Operand {
        buffer: usize,
        layout: Layout,
        seq: usize,
    }

    /// A case's tensors, in the order of [`Layouts`], and its statistics.
    struct Operands {
        tensors: [Operand; 8],
        lse: usize,
        stats: usize,
    }

    /// Where in its buffer each element of an operand lies, in the order of the CPU's tensors:
    /// `[batch, seq, heads, head_dim]`.
    fn places(operand: &Operand, case: &Case, head_dim: usize) -> Vec<usize> {
        let Problem { batch, heads, .. } = case.problem;
        let l = operand.layout;
        let mut places = vec![];
        for b in 0..batch {
            for i in 0..operand.seq {
                for h in 0..heads {
                    let row = b * l.batch_stride + h * l.head_stride + i * l.row_stride;
                    places.extend((0..head_dim).map(|c| l.offset + row + c));
                }
            }
        }
        places
    }

    impl Emulator {
        /// Tensors in buffers of their own.
        fn separate(&self, case: &Case, memory: &mut Memory) -> [Operand; 8] {
            let Problem {
                batch,
                heads,
                seq_q,
                seq_kv,
                ..
            } = case.problem;
            let (front, gap) = match case.arrangement {
                Arrangement::Padded => (16, 8),
                _ => (0, 0),
            };
            [seq_q, seq_kv, seq_kv, seq_q, seq_q, seq_q, seq_kv, seq_kv].map(|seq| {
                let row_stride = self.head_dim + gap;
                let layout = Layout {
                    offset: front,
                    batch_stride: heads * seq * row_stride,
                    head_stride: seq * row_stride,
                    row_stride,
                };
                // Nothing may touch the gap behind the last row.
                let elements = front + batch * heads * seq * row_stride - gap;
                Operand {
                    buffer: memory.add(elements * self.element.bytes()),
                    layout,
                    seq,
                }
            })
        }

        fn fused(&self, case: &Case, memory: &mut Memory) -> [Operand; 8] {
            let Problem {
                batch,
                heads,
                seq_q: seq,
                ..
            } = case.problem;
            let width = heads * self.head_dim;
            let mut buffer = |parts: usize| {
                let row_stride = parts * width;
                let buffer = memory.add(batch * seq * row_stride * self.element.bytes());
                move |part: usize| Operand {
                    buffer,
                    layout: Layout {
                        offset: part * width,
                        batch_stride: seq * row_stride,
                        head_stride: self.head_dim,
                        row_stride,
                    },
                    seq,
                }
            };
            let (qkv, out, d_out, d_qkv) = (buffer(3), buffer(1), buffer(1), buffer(3));
            let [q, k, v] = [0, 1, 2].map(qkv);
            let [dq, dk, dv] = [0, 1, 2].map(d_qkv);
            [q, k, v, out(0), d_out(0), dq, dk, dv]
        }

        fn operands(&self, case: &Case, memory: &mut Memory) -> Operands {
            let tensors = match case.arrangement {
                Arrangement::Fused => self.fused(case, memory),
                Arrangement::Heads | Arrangement::Padded => self.separate(case, memory),
            };
            let rows = case.problem.batch * case.problem.heads * case.problem.seq_q;
            Operands {
                tensors,
                lse: memory.add(4 * rows),
                stats: memory.add(8 * rows),
            }
        }

        fn write(&self, memory: &mut Memory, operand: &Operand, case: &Case, values: &[f32]) {
            let size = self.element.bytes();
            let places = places(operand, case, self.head_dim);
            assert_eq!(places.len(), values.len());
            for (place, value) in places.into_iter().zip(values) {
                let bytes = self.element.encode(*value);
                memory.buffers[operand.buffer][place * size..][..size].copy_from_slice(&bytes);
            }
        }

        fn read(&self, memory: &Memory, operand: &Operand, case: &Case) -> Vec<f32> {
            let size = self.element.bytes();
            let buffer = &memory.buffers[operand.buffer];
            let places = places(operand, case, self.head_dim).into_iter();
            places
                .map(|place| self.element.decode(&buffer[place * size..][..size]))
                .collect()
        }

        /// Panics unless of these tensors' buffers exactly their elements have been written.
        fn assert_written(&self, memory: &Memory, operands: &[Operand], case: &Case) {
            let size = self.element.bytes();
            for Operand { buffer, .. } in operands {
                let bytes = &memory.buffers[*buffer];
                let mut expected = vec![false; bytes.len() / size];
                for operand in operands.iter().filter(|other| other.buffer == *buffer) {
                    for place in places(operand, case, self.head_dim) {
                        expected[place] = true;
                    }
                }
                for (i, (element, expected)) in bytes.chunks(size).zip(expected).enumerate() {
                    let written = element.iter().any(|byte| *byte != UNWRITTEN);
                    assert_eq!(written, expected, "element {i} of {}", bytes.len() / size);
                }
            }
        }
    }

    /// Inputs and results, in the CPU's layout.
    struct Results {
        out: Vec<f32>,
        lse: Vec<f32>,
        dq: Vec<f32>,
        dk: Vec<f32>,
        dv: Vec<f32>,
    }

    impl Results {
        fn parts(&self) -> [(&'static str, &[f32]); 5] {
            [
                ("out", &self.out),
                ("lse", &self.lse),
                ("dq", &self.dq),
                ("dk", &self.dk),
                ("dv", &self.dv),
            ]
        }
    }

    /// q, k, v and the output's gradient, rounded to the format.
    struct Inputs {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        d_out: Vec<f32>,
    }

    /// `n` values in [-magnitude, magnitude) from a linear congruential generator.
    fn values(n: usize, magnitude: f32, mut state: u32, element: Element) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / 8_388_608.0 - 1.0) * magnitude
        };
        let mut rounded = || element.decode(&element.encode(next()));
        (0..n).map(|_| rounded()).collect()
    }

    impl Emulator {
        fn inputs(&self, case: &Case) -> Inputs {
            let p = &case.problem;
            let row = p.heads * self.head_dim;
            let (queries, keys) = (p.batch * p.seq_q * row, p.batch * p.seq_kv * row);
            let values = |n, magnitude, seed| values(n, magnitude, seed, self.element);
            let mut inputs = Inputs {
                q: values(queries, case.magnitude, 1),
                k: values(keys, case.magnitude, 2),
                v: values(keys, 1.0, 3),
                d_out: values(queries, 1.0, 4),
            };
            if let Some(key) = case.nan_key {
                inputs.k[key * row] = f32::NAN;
            }
            inputs
        }

        fn run(&self, case: &Case, inputs: &Inputs) -> Results {
            let mut memory = Memory::default();
            let Operands {
                tensors,
                lse,
                stats,
            } = self.operands(case, &mut memory);
            let [q, k, v, out, d_out, dq, dk, dv] = tensors;
            let given = [(q, &inputs.q), (k, &inputs.k), (v, &inputs.v)];
            for (operand, values) in given.into_iter().chain([(d_out, &inputs.d_out)]) {
                self.write(&mut memory, &operand, case, values);
            }
            let layouts = Layouts {
                q: q.layout,
                k: k.layout,
                v: v.layout,
                out: out.layout,
                d_out: d_out.layout,
                dq: dq.layout,
                dk: dk.layout,
                dv: dv.layout,
            };
            let info = info(&case.problem, &layouts).unwrap();
            let [qkv, saved] = [[q, k, v], [out, d_out, d_out]].map(|t| t.map(|t| t.buffer));
            let read = [&qkv[..], &[d_out.buffer, stats]].concat();
            for (entry, read, written) in [
                (Entry::Forward, &qkv[..], &[out.buffer, lse][..]),
                (Entry::Delta, &[saved[0], saved[1], lse], &[stats]),
                (Entry::BackwardQueries, &read, &[dq.buffer]),
                (Entry::BackwardKeys, &read, &[dk.buffer, dv.buffer]),
            ] {
                self.launch(entry, case, &mut memory, (read, written), &info);
            }
            self.assert_written(&memory, &[out], case);
            self.assert_written(&memory, &[dq, dk, dv], case);
            Results {
                out: self.read(&memory, &out, case),
                lse: floats(&memory.buffers[lse]),
                dq: self.read(&memory, &dq, case),
                dk: self.read(&memory, &dk, case),
                dv: self.read(&memory, &dv, case),
            }
        }

        fn reference(&self, case: &Case, inputs: &Inputs) -> Results {
            let p = &case.problem;
            let shape = Shape {
                batch: p.batch,
                heads: p.heads,
                seq_q: p.seq_q,
                seq_kv: p.seq_kv,
                head_dim: self.head_dim,
                causal: p.causal,
                window: p.window,
                scale: p.scale,
            };
            let heads = |data, seq: usize| Heads {
                data,
                batch_stride: seq * p.heads * self.head_dim,
                head_stride: self.head_dim,
                row_stride: p.heads * self.head_dim,
            };
            let (q, k, v) = (
                heads(&inputs.q, p.seq_q),
                heads(&inputs.k, p.seq_kv),
                heads(&inputs.v, p.seq_kv),
            );
            let (out, lse) = forward(q, k, v, shape);
            let saved = Saved {
                q,
                k,
                v,
                out: &out,
                lse: &lse,
            };
            let [dq, dk, dv] = backward(saved, &inputs.d_out, shape);
            Results {
                out,
                lse,
                dq,
                dk,
                dv,
            }
        }

        fn check(&self, mut case: Case, tolerance: f32) {
            case.problem.scale = 1.0 / (self.head_dim as f32).sqrt();
            let inputs = self.inputs(&case);
            let got = self.run(&case, &inputs);
            let want = self.reference(&case, &inputs);
            let what = (self.head_dim, self.element, self.tensor_cores, case.problem);
            // In dq and dk terms of this size cancel, to nothing where a query sees one key.
            let term = case.magnitude * case.problem.scale;
            for ((name, got), (_, want)) in got.parts().into_iter().zip(want.parts()) {
                let least = if name == "dq" || name == "dk" {
                    term
                } else {
                    0.1
                };
                let scale = want.iter().fold(least, |m, x| m.max(x.abs()));
                let error = got
                    .iter()
                    .zip(want)
                    .map(|(g, w)| (g - w).abs())
                    .fold(0.0_f32, |m, d| if d <= m { m } else { d });
                assert!(
                    error <= tolerance * scale,
                    "{name}: {error} of {scale} {what:?}"
                );
            }
        }

        fn check_repeatable(&self, mut case: Case) {
            case.problem.scale = 1.0 / (self.head_dim as f32).sqrt();
            let inputs = self.inputs(&case);
            let once = self.run(&case, &inputs);
            (case.blocks, case.descending) = (3, true);
            let again = self.run(&case, &inputs);
            for ((name, once), (_, again)) in once.parts().into_iter().zip(again.parts()) {
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(once), bits(again), "{name} differs");
            }
        }

        /// Queries that see the key are NaN; those too far from it to share a tile with it are not.
        fn check_nan(&self, mut case: Case, key: usize) {
            case.problem.scale = 1.0;
            case.nan_key = Some(key);
            let inputs = self.inputs(&case);
            let got = self.run(&case, &inputs);
            for (i, rows) in [&got.out, &got.dq]
                .map(|x| x.chunks(self.head_dim))
                .into_iter()
                .flat_map(|rows| rows.enumerate())
            {
                let sees = i >= key && i - key < case.problem.window;
                let far = i + 192 < key || i > key + case.problem.window + 192;
                assert!(!sees || rows.iter().all(|x| x.is_nan()), "query {i}");
                assert!(!far || rows.iter().all(|x| x.is_finite()), "query {i}");
            }
        }
    }

    fn check(head_dim: usize, element: Element, tensor_cores: bool) {
        let Some(emulator) = Emulator::build(head_dim, element, tensor_cores) else {
            return;
        };
        let mut several = Case::new(77, 77, true, 0);
        several.problem.batch = 2;
        several.problem.heads = 3;
        several.blocks = 4;
        several.arrangement = Arrangement::Fused;
        let padded = Case {
            arrangement: Arrangement::Padded,
            ..Case::new(70, 150, false, 40)
        };
        for case in [
            Case::new(1, 1, true, 0),
            Case::new(1, 77, true, 0),
            Case::new(200, 200, true, 1 << 20),
            Case::new(130, 130, true, 1),
            Case::new(33, 200, true, 16),
            Case::new(130, 130, false, 0),
            several,
            padded,
        ] {
            emulator.check(case, element.tolerance());
        }
        // Scores up to some 4e4, where f32 has steps of 4e-3: of a probability, that is as much.
        let large = Case {
            magnitude: 200.0,
            ..Case::new(40, 70, true, 0)
        };
        emulator.check(large, element.tolerance() + 8e-3);
        emulator.check_repeatable(several);
        emulator.check_repeatable(Case::new(200, 200, true, 70));
        emulator.check_nan(Case::new(500, 500, true, 20), 250);
    }

    #[test]
    fn flash_f32_8() {
        check(8, Element::F32, false);
    }

    #[test]
    fn flash_f32_40() {
        check(40, Element::F32, false);
    }

    #[test]
    fn flash_f32_64() {
        check(64, Element::F32, false);
    }

    #[test]
    fn flash_f32_128() {
        check(128, Element::F32, false);
    }

    #[test]
    fn flash_f16_without_tensor_cores() {
        check(64, Element::F16, false);
    }

    #[test]
    fn flash_bf16_without_tensor_cores() {
        check(16, Element::Bf16, false);
    }

    #[test]
    fn flash_f16_16() {
        check(16, Element::F16, true);
    }

    #[test]
    fn flash_f16_64() {
        check(64, Element::F16, true);
    }

    #[test]
    fn flash_f16_128() {
        check(128, Element::F16, true);
    }

    #[test]
    fn flash_bf16_8() {
        check(8, Element::Bf16, true);
    }

    #[test]
    fn flash_bf16_40() {
        check(40, Element::Bf16, true);
    }

    #[test]
    fn flash_bf16_64() {
        check(64, Element::Bf16, true);
    }
}
