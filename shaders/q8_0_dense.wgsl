// A matrix of Q8_0 in f32. The format is in crates/kernels/src/q8_0.rs.
//
// An invocation takes words of four numbers, all of one block.

// Read-write even where only read: parts of one buffer may be bound more than once, and a buffer
// has to be bound for one use only.
@group(0) @binding(0) var<storage, read_write> codes: array<i32>;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;
@group(0) @binding(2) var<storage, read_write> dense: array<f32>;
// How many numbers there are.
@group(0) @binding(3) var<storage, read_write> info: array<u32>;

const THREADS: u32 = 256u;

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
        for (var lane = 0u; lane < 4u; lane++) {
            let i = word * 4u + lane;
            if i < n {
                dense[i] = f32(extractBits(packed, 8u * lane, 8u)) * scale;
            }
        }
    }
}
