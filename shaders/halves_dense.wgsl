// A matrix that is held in 16 bits a number, in a format that the device lacks. An invocation takes pieces of the result.

// Two numbers a word, the first in the lower half.
@group(0) @binding(0) var<storage, read_write> words: array<u32>;
@group(0) @binding(1) var<storage, read_write> dense: array<Packed>;
// How many numbers there are.
@group(0) @binding(2) var<storage, read_write> info: array<u32>;

fn pair(word: u32) -> vec2<f32> {
#if BFLOAT
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
#else
    return vec2<f32>(f16_value(word & 0xffffu), f16_value(word >> 16u));
#endif
}

@compute @workgroup_size(THREADS, 1, 1)
#if BFLOAT
fn bf16_dense(
#else
fn f16_dense(
#endif
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let all = info[0] / LANES;
    for (var i = group.x * THREADS + thread; i < all; i += groups.x * THREADS) {
#if QUADS
        dense[i] = Packed(Piece(pair(words[2u * i]), pair(words[2u * i + 1u])));
#else
        dense[i] = Packed(pair(words[i / 2u])[i % 2u]);
#endif
    }
}
