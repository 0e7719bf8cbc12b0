//! The kernels' texts, run by the emulator in `tests/cuda_emulator/`, against the CPU's kernels.
//!
//! The emulator shows that the arithmetic, the layouts and the barriers are right as PTX's manual has
//! them. It knows nothing of what a GPU's compiler makes of the texts, nor of its rounding.

use super::*;
use crate::gpu::flash_info::{Layout, Layouts, Problem, info};

/// What a thread block may have of shared memory, in bytes: on sm_75, sm_86 and sm_89, sm_80, sm_90.
const SHARED: [usize; 4] = [64 << 10, 99 << 10, 163 << 10, 227 << 10];

#[test]
fn shared_memory_fits_every_gpu() {
    for head_dim in (8..=256).step_by(8) {
        for (entry, shared_limit) in Entry::ALL
            .into_iter()
            .flat_map(|entry| SHARED.map(|bytes| (entry, bytes)))
        {
            let stage = |element, tensor_cores| {
                let variant = Variant {
                    entry,
                    head_dim,
                    element,
                    tensor_cores,
                    ranges: false,
                    shared_limit,
                };
                variant.stage()
            };
            let plain = stage(Element::F32, false).unwrap();
            assert!(plain.kernel.cuda_shared_bytes <= shared_limit);
            if shared_limit >= SHARED[1] {
                let tensor = stage(Element::F16, true).unwrap();
                assert!(tensor.kernel.cuda_shared_bytes <= shared_limit);
            }
        }
    }
}

#[test]
fn a_gpu_with_too_little_shared_memory_is_told() {
    let variant = Variant {
        entry: Entry::BackwardKeys,
        head_dim: 256,
        element: Element::F32,
        tensor_cores: false,
        ranges: false,
        shared_limit: 48 << 10,
    };
    assert!(variant.stage().is_none());
}

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

    /// Ranges of keys that the queries of a sequence see, given its number.
    type Visible = fn(&Problem, usize) -> Vec<[u32; 2]>;

    #[derive(Clone, Copy)]
    struct Case {
        problem: Problem,
        visible: Option<Visible>,
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
                    kv_heads: 1,
                    seq_q,
                    seq_kv,
                    causal,
                    window,
                    scale: 0.0,
                },
                visible: None,
                arrangement: Arrangement::Heads,
                blocks: 4096,
                magnitude: 1.5,
                nan_key: None,
                descending: false,
            }
        }
    }

    impl Case {
        fn grouped(mut self, heads: usize, kv_heads: usize) -> Self {
            (self.problem.heads, self.problem.kv_heads) = (heads, kv_heads);
            self
        }

        fn seeing(self, visible: Visible) -> Self {
            Self {
                visible: Some(visible),
                ..self
            }
        }

        /// `[batch, seq_q]`
        fn ranges(&self) -> Option<Vec<[u32; 2]>> {
            let of_sequence = self.visible?;
            let sequences = 0..self.problem.batch;
            Some(
                sequences
                    .flat_map(|n| of_sequence(&self.problem, n))
                    .collect(),
            )
        }

        fn sees(&self, query: usize, key: usize) -> bool {
            let Problem { causal, window, .. } = self.problem;
            let at = query + self.problem.seq_kv - self.problem.seq_q;
            let range = match self.ranges() {
                Some(ranges) => ranges[query].map(|bound| bound as usize),
                None if causal => [0, at + 1],
                None => [0, self.problem.seq_kv],
            };
            (range[0]..range[1]).contains(&key) && (window == 0 || at < key + window)
        }
    }

    /// Documents of which one is a single token, and two end beside a tile's border.
    fn documents(p: &Problem, sequence: usize) -> Vec<[u32; 2]> {
        let starts = [0, 5, 64, 65, 129, 170];
        let starts = &starts[..starts.len() - 3 * sequence];
        let start = |i: usize| *starts.iter().rfind(|start| **start <= i).unwrap_or(&0);
        (0..p.seq_q)
            .map(|i| [start(i) as u32, i as u32 + 1])
            .collect()
    }

    fn prefix(p: &Problem, _: usize) -> Vec<[u32; 2]> {
        let length = p.seq_kv / 2;
        (p.seq_kv - p.seq_q..p.seq_kv)
            .map(|i| [0, length.max(i + 1) as u32])
            .collect()
    }

    /// Bounds that rise by fits and starts, and queries between that see nothing.
    fn steps(p: &Problem, sequence: usize) -> Vec<[u32; 2]> {
        let bound = |i: usize| (i / 7 * 7 * p.seq_kv / p.seq_q) as u32;
        let blind = |i: usize| (30..45).contains(&i) || i == 70;
        let mut ranges: Vec<[u32; 2]> = (0..p.seq_q)
            .map(|i| match blind(i) {
                true => [bound(i); 2],
                false => [bound(i), bound(i + 21 + 14 * sequence) + 1],
            })
            .collect();
        // Neither bound may fall.
        for i in 0..p.seq_q {
            let before = ranges[i.max(1) - 1];
            let risen = std::array::from_fn(|b| ranges[i][b].max(before[b]));
            ranges[i] = risen.map(|bound: u32| bound.min(p.seq_kv as u32));
        }
        ranges
    }

    /// Nobody sees anything.
    fn nothing(p: &Problem, _: usize) -> Vec<[u32; 2]> {
        vec![[3, 3]; p.seq_q]
    }

    /// The emulator with one head dimension's four kernels.
    struct Emulator {
        emulator: emulator::Emulator,
        variant: Variant,
    }

    impl Emulator {
        /// `variant` is the same for all kernels.
        fn build(variant: Variant) -> Option<Self> {
            let kernel = |entry| Variant { entry, ..variant }.stage().unwrap().kernel;
            let kernels = Entry::ALL.map(kernel);
            Some(Self {
                emulator: emulator::Emulator::build(&kernels, variant.element as usize)?,
                variant,
            })
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
            let stage = Variant {
                entry,
                ..self.variant
            }
            .stage()
            .unwrap();
            let work = case.problem.work(entry, stage.rows);
            let launch = Launch {
                blocks: work.min(case.blocks),
                descending: case.descending,
            };
            // All of the work at once, or in two launches, of which the first may have nothing to do.
            let cut = (work / 3) as u32;
            let parts = match case.descending {
                true => vec![[0, cut], [cut, u32::MAX]],
                false => vec![[0, u32::MAX]],
            };
            for part in parts {
                let (buffers, info) = ((read, written), [info, &part].concat());
                (self.emulator).launch(&stage.kernel, &launch, memory, buffers, &info);
            }
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
        heads: usize,
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
        let l = operand.layout;
        let mut places = vec![];
        for b in 0..case.problem.batch {
            for i in 0..operand.seq {
                for h in 0..operand.heads {
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
            let p = &case.problem;
            let (queries, keys) = ((p.heads, p.seq_q), (p.kv_heads, p.seq_kv));
            let (front, gap) = match case.arrangement {
                Arrangement::Padded => (16, 8),
                _ => (0, 0),
            };
            let operands = [queries, keys, keys, queries, queries, queries, keys, keys];
            operands.map(|(heads, seq)| {
                let row_stride = self.variant.head_dim + gap;
                let layout = Layout {
                    offset: front,
                    batch_stride: heads * seq * row_stride,
                    head_stride: seq * row_stride,
                    row_stride,
                };
                // Nothing may touch the gap behind the last row.
                let elements = front + p.batch * heads * seq * row_stride - gap;
                Operand {
                    buffer: memory.add(elements * self.variant.element.bytes()),
                    layout,
                    heads,
                    seq,
                }
            })
        }

        fn fused(&self, case: &Case, memory: &mut Memory) -> [Operand; 8] {
            let Problem {
                batch,
                heads,
                kv_heads,
                seq_q: seq,
                ..
            } = case.problem;
            let mut buffer = |all_heads: usize| {
                let row_stride = all_heads * self.variant.head_dim;
                let buffer = memory.add(batch * seq * row_stride * self.variant.element.bytes());
                move |first: usize, heads: usize| Operand {
                    buffer,
                    layout: Layout {
                        offset: first * self.variant.head_dim,
                        batch_stride: seq * row_stride,
                        head_stride: self.variant.head_dim,
                        row_stride,
                    },
                    heads,
                    seq,
                }
            };
            let all = heads + 2 * kv_heads;
            let (qkv, out, d_out, d_qkv) = (buffer(all), buffer(heads), buffer(heads), buffer(all));
            let parts = [(0, heads), (heads, kv_heads), (heads + kv_heads, kv_heads)];
            let [q, k, v] = parts.map(|(first, heads)| qkv(first, heads));
            let [dq, dk, dv] = parts.map(|(first, heads)| d_qkv(first, heads));
            [q, k, v, out(0, heads), d_out(0, heads), dq, dk, dv]
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
                stats: memory.add(8 * rows + 8 * case.problem.batch * case.problem.seq_q),
            }
        }

        fn write(&self, memory: &mut Memory, operand: &Operand, case: &Case, values: &[f32]) {
            let size = self.variant.element.bytes();
            let places = places(operand, case, self.variant.head_dim);
            assert_eq!(places.len(), values.len());
            for (place, value) in places.into_iter().zip(values) {
                let bytes = self.variant.element.encode(*value);
                memory.buffers[operand.buffer][place * size..][..size].copy_from_slice(&bytes);
            }
        }

        fn read(&self, memory: &Memory, operand: &Operand, case: &Case) -> Vec<f32> {
            let size = self.variant.element.bytes();
            let buffer = &memory.buffers[operand.buffer];
            let places = places(operand, case, self.variant.head_dim).into_iter();
            places
                .map(|place| self.variant.element.decode(&buffer[place * size..][..size]))
                .collect()
        }

        /// Panics unless of these tensors' buffers exactly their elements have been written.
        fn assert_written(&self, memory: &Memory, operands: &[Operand], case: &Case) {
            let size = self.variant.element.bytes();
            for Operand { buffer, .. } in operands {
                let bytes = &memory.buffers[*buffer];
                let mut expected = vec![false; bytes.len() / size];
                for operand in operands.iter().filter(|other| other.buffer == *buffer) {
                    for place in places(operand, case, self.variant.head_dim) {
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
            let row = p.kv_heads * self.variant.head_dim;
            let queries = p.batch * p.seq_q * p.heads * self.variant.head_dim;
            let keys = p.batch * p.seq_kv * row;
            let values = |n, magnitude, seed| values(n, magnitude, seed, self.variant.element);
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
            let ranges = case.ranges().map_or(vec![], |ranges| {
                let bound = |which: usize| ranges.iter().flat_map(move |r| r[which].to_ne_bytes());
                [0, 1]
                    .map(|which| memory.put(bound(which).collect()))
                    .to_vec()
            });
            let qkv = [q, k, v].map(|t| t.buffer);
            let forward = [&qkv[..], &ranges].concat();
            let delta = [&[out.buffer, d_out.buffer, lse][..], &ranges].concat();
            let read = [&qkv[..], &[d_out.buffer, stats]].concat();
            for (entry, read, written) in [
                (Entry::Forward, &forward, &[out.buffer, lse][..]),
                (Entry::Delta, &delta, &[stats]),
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
            let ranges = case.ranges();
            let shape = Shape {
                batch: p.batch,
                heads: p.heads,
                kv_heads: p.kv_heads,
                seq_q: p.seq_q,
                seq_kv: p.seq_kv,
                head_dim: self.variant.head_dim,
                causal: p.causal,
                window: p.window,
                scale: p.scale,
                visible: ranges.as_deref(),
                unit: None,
            };
            let of_heads = |data, heads: usize, seq: usize| Heads {
                data,
                batch_stride: seq * heads * self.variant.head_dim,
                head_stride: self.variant.head_dim,
                row_stride: heads * self.variant.head_dim,
            };
            let (q, k, v) = (
                of_heads(&inputs.q, p.heads, p.seq_q),
                of_heads(&inputs.k, p.kv_heads, p.seq_kv),
                of_heads(&inputs.v, p.kv_heads, p.seq_kv),
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
            case.problem.scale = 1.0 / (self.variant.head_dim as f32).sqrt();
            let inputs = self.inputs(&case);
            let got = self.run(&case, &inputs);
            let want = self.reference(&case, &inputs);
            let what = (self.variant, case.problem, case.ranges());
            // In dq and dk terms of this size cancel, to nothing where a query sees one key.
            let term = case.magnitude * case.problem.scale;
            for ((name, got), (_, want)) in got.parts().into_iter().zip(want.parts()) {
                let least = if name == "dq" || name == "dk" {
                    term
                } else {
                    0.1
                };
                let finite = want.iter().filter(|x| x.is_finite());
                let scale = finite.fold(least, |m, x| m.max(x.abs()));
                // Of a query without keys both log-sum-exps are -inf.
                let off = |(g, w): (&f32, &f32)| if g == w { 0.0 } else { (g - w).abs() };
                let error = got
                    .iter()
                    .zip(want)
                    .map(off)
                    .fold(0.0_f32, |m, d| if d <= m { m } else { d });
                assert!(
                    error <= tolerance * scale,
                    "{name}: {error} of {scale} {what:?}"
                );
            }
        }

        fn check_repeatable(&self, mut case: Case) {
            case.problem.scale = 1.0 / (self.variant.head_dim as f32).sqrt();
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
                .map(|x| x.chunks(self.variant.head_dim))
                .into_iter()
                .flat_map(|rows| rows.enumerate())
            {
                let sees = case.sees(i, key);
                let near = i.saturating_sub(192)..(i + 192).min(case.problem.seq_q);
                let far = !near.into_iter().any(|i| case.sees(i, key));
                assert!(!sees || rows.iter().all(|x| x.is_nan()), "query {i}");
                assert!(!far || rows.iter().all(|x| x.is_finite()), "query {i}");
            }
        }
    }

    /// The kernels with and without ranges.
    fn check(head_dim: usize, element: Element, tensor_cores: bool, shared_limit: usize) {
        let variant = Variant {
            entry: Entry::Forward,
            head_dim,
            element,
            tensor_cores,
            ranges: false,
            shared_limit,
        };
        let ranges = Variant {
            ranges: true,
            ..variant
        };
        if let Some(emulator) = Emulator::build(variant) {
            check_masks(&emulator);
        }
        if let Some(emulator) = Emulator::build(ranges) {
            check_ranges(&emulator);
        }
    }

    /// Two sequences in a fused projection, in fewer blocks than pieces of work.
    fn several(case: Case) -> Case {
        let mut case = case.grouped(4, 2);
        case.problem.batch = 2;
        Case {
            arrangement: Arrangement::Fused,
            blocks: 4,
            ..case
        }
    }

    fn check_masks(emulator: &Emulator) {
        let tolerance = emulator.variant.element.tolerance();
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
            Case::new(77, 77, true, 0).grouped(3, 3),
            several(Case::new(77, 77, true, 0)),
            padded.grouped(3, 1),
        ] {
            emulator.check(case, tolerance);
        }
        // Scores up to some 4e4, where f32 has steps of 4e-3: of a probability, that is as much.
        let large = Case {
            magnitude: 200.0,
            ..Case::new(40, 70, true, 0)
        };
        emulator.check(large, tolerance + 8e-3);
        emulator.check_repeatable(several(Case::new(77, 77, true, 0)));
        if emulator.variant.head_dim > 128 {
            // The emulator takes its time, and the text is the same.
            return;
        }
        emulator.check_repeatable(Case::new(200, 200, true, 70));
        emulator.check_nan(Case::new(500, 500, true, 20), 250);
    }

    fn check_ranges(emulator: &Emulator) {
        let padded = Case {
            arrangement: Arrangement::Padded,
            ..Case::new(70, 150, true, 0)
        };
        for case in [
            Case::new(1, 1, true, 0).seeing(prefix),
            Case::new(1, 77, true, 0).seeing(prefix),
            Case::new(200, 200, true, 0).seeing(documents),
            Case::new(200, 200, false, 30).seeing(documents),
            Case::new(200, 200, true, 0).seeing(prefix),
            Case::new(77, 190, true, 25).seeing(prefix),
            Case::new(140, 140, true, 0).seeing(steps),
            Case::new(130, 250, true, 100).seeing(steps),
            Case::new(40, 70, true, 0).seeing(nothing),
            several(Case::new(150, 150, true, 0).seeing(documents)),
            padded.grouped(3, 1).seeing(steps),
        ] {
            emulator.check(case, emulator.variant.element.tolerance());
        }
        emulator.check_repeatable(several(Case::new(150, 150, true, 0).seeing(steps)));
        if emulator.variant.head_dim > 128 {
            return;
        }
        emulator.check_nan(Case::new(500, 500, true, 20).seeing(documents), 250);
        emulator.check_nan(Case::new(500, 500, true, 0).seeing(documents), 100);
    }

    /// Shared memory of GPUs: without tensor cores, with, with more, and with the most.
    const SM_75: usize = SHARED[0];
    const SM_86: usize = SHARED[1];
    const SM_80: usize = SHARED[2];
    const SM_90: usize = SHARED[3];

    #[test]
    fn flash_f32_8() {
        check(8, Element::F32, false, SM_75);
    }

    #[test]
    fn flash_f32_40() {
        check(40, Element::F32, false, SM_75);
    }

    #[test]
    fn flash_f32_64() {
        check(64, Element::F32, false, SM_75);
    }

    #[test]
    fn flash_f32_128() {
        check(128, Element::F32, false, SM_75);
    }

    #[test]
    fn flash_f32_256() {
        check(256, Element::F32, false, SM_75);
    }

    #[test]
    fn flash_f16_without_tensor_cores() {
        check(64, Element::F16, false, SM_75);
    }

    #[test]
    fn flash_bf16_without_tensor_cores() {
        check(16, Element::Bf16, false, SM_75);
    }

    #[test]
    fn flash_f16_16() {
        check(16, Element::F16, true, SM_86);
    }

    #[test]
    fn flash_f16_64() {
        check(64, Element::F16, true, SM_86);
    }

    #[test]
    fn flash_f16_128() {
        check(128, Element::F16, true, SM_86);
    }

    #[test]
    fn flash_f16_256_in_little_memory() {
        check(256, Element::F16, true, SM_86);
    }

    #[test]
    fn flash_f16_256() {
        check(256, Element::F16, true, SM_90);
    }

    #[test]
    fn flash_bf16_8() {
        check(8, Element::Bf16, true, SM_86);
    }

    #[test]
    fn flash_bf16_40() {
        check(40, Element::Bf16, true, SM_86);
    }

    #[test]
    fn flash_bf16_64() {
        check(64, Element::Bf16, true, SM_86);
    }

    #[test]
    fn flash_bf16_136() {
        check(136, Element::Bf16, true, SM_80);
    }
}
