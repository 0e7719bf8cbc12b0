// A matrix of NF4 in f32 or f16. The format is in crates/kernels/src/nf4.rs; this differs from it by rounding only.
//
// An invocation takes words of eight codes, all of one block.

@group(0) @binding(0) var<storage, read_write> codes: array<u32>;
// Four codes of absmaxes a word, or absmaxes in f32.
@group(0) @binding(1) var<storage, read_write> absmax: array<u32>;
// Not read if the absmaxes are in f32.
@group(0) @binding(2) var<storage, read_write> nested: array<f32>;
@group(0) @binding(3) var<storage, read_write> dense: array<Packed>;
// What codes of absmaxes stand for, what codes do, how many numbers there are, whether the absmaxes are codes, their mean.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

const VALUES: u32 = 256u;
const SCALARS: u32 = 272u;

var<workgroup> table: array<f32, SCALARS>;

// Of two codes in a byte the upper half is the first.
fn value(packed: u32, lane: u32) -> f32 {
    return table[VALUES + ((packed >> (4u * (lane ^ 1u))) & 15u)];
}

@compute @workgroup_size(THREADS, 1, 1)
fn nf4_dense(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var i = thread; i < SCALARS; i += THREADS) {
        table[i] = bitcast<f32>(info[i]);
    }
    workgroupBarrier();

    let n = info[SCALARS];
    let coded = info[SCALARS + 1u] != 0u;
    let offset = bitcast<f32>(info[SCALARS + 2u]);
    let words = n / 8u + u32(n % 8u > 0u);
    for (var word = group.x * THREADS + thread; word < words; word += groups.x * THREADS) {
        let block = word / 8u;
        var scale: f32;
        if coded {
            let code = (absmax[block / 4u] >> (8u * (block % 4u))) & 255u;
            scale = table[code] * nested[block / 256u] + offset;
        } else {
            scale = bitcast<f32>(absmax[block]);
        }
        let packed = codes[word];
        for (var lane = 0u; lane < 8u; lane += LANES) {
            let i = word * 8u + lane;
            if i < n {
#if QUADS
                let piece = Piece(value(packed, lane), value(packed, lane + 1u), value(packed, lane + 2u), value(packed, lane + 3u));
#else
                let piece = value(packed, lane);
#endif
                dense[i / LANES] = Packed(piece * scale);
            }
        }
    }
}
