// A matrix of Q8_0 in f32 or f16. The format is in crates/kernels/src/q8_0.rs.
//
// An invocation takes words of four numbers, all of one block.

@group(0) @binding(0) var<storage, read_write> codes: array<i32>;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;
@group(0) @binding(2) var<storage, read_write> dense: array<Packed>;
// How many numbers there are.
@group(0) @binding(3) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn q8_0_dense(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = info[0];
    let words = n / 4u + u32(n % 4u > 0u);
    for (var word = group.x * THREADS + thread; word < words; word += groups.x * THREADS) {
        let scale = scales[word / 8u];
        let packed = codes[word];
#if QUADS
        let codes = vec4<i32>(
            extractBits(packed, 0u, 8u), extractBits(packed, 8u, 8u), extractBits(packed, 16u, 8u), extractBits(packed, 24u, 8u));
        dense[word] = Packed(Piece(codes) * scale);
#else
        for (var lane = 0u; lane < 4u; lane++) {
            let i = word * 4u + lane;
            if i < n {
                dense[i] = Packed(f32(extractBits(packed, 8u * lane, 8u)) * scale);
            }
        }
#endif
    }
}
