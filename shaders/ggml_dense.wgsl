// A matrix of ggml's blocks in f32 or f16. The formats are in crates/kernels/src/ggml; this differs from them by rounding only.
//
// An invocation takes four values in a row, which share a scale: parts with one are of 16 or 32 values.

// The bytes of all blocks of BYTES each, padded to whole words.
@group(0) @binding(0) var<storage, read_write> blocks: array<u32>;
@group(0) @binding(1) var<storage, read_write> dense: array<Packed>;
// How many values there are: whole blocks of BLOCK.
@group(0) @binding(2) var<storage, read_write> info: array<u32>;

fn byte(at: u32) -> u32 {
    return extractBits(blocks[at / 4u], 8u * (at % 4u), 8u);
}

// Four bytes of a block. Where they begin within a word the next one has the last of them, so it is there; else it is not read.
fn four(at: u32) -> u32 {
    let word = at / 4u;
    let shift = 8u * (at % 4u);
    if shift == 0u {
        return blocks[word];
    }
    return (blocks[word] >> shift) | (blocks[word + 1u] << (32u - shift));
}

// The f16 at an even place.
fn f16_at(at: u32) -> f32 {
    return f16_value(extractBits(blocks[at / 4u], 8u * (at % 4u), 16u));
}

@compute @workgroup_size(THREADS, 1, 1)
fn ggml_dense(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let fours = info[0] / 4u;
    for (var one = group.x * THREADS + thread; one < fours; one += groups.x * THREADS) {
        let first = 4u * one;
        let block = first / BLOCK * BYTES;
        // Which of the block's values the first is.
        let e = first % BLOCK;
#if SMALL
        let scale = f16_at(block);
#if Q4_1
        let minimum = f16_at(block + 2u);
#endif
#if Q4_0
        let codes = four(block + 2u + e % 16u) >> (4u * (e / 16u));
#endif
#if Q4_1
        let codes = four(block + 4u + e % 16u) >> (4u * (e / 16u));
#endif
#if Q5_0
        let codes = four(block + 6u + e % 16u) >> (4u * (e / 16u));
        let fifths = four(block + 2u) >> e;
#endif
#if Q8_0
        let codes = four(block + 2u + e);
#endif
#else
#if Q6_K
        let scale = f16_at(block + 208u) * f32(extractBits(i32(byte(block + 192u + e / 16u)), 0u, 8u));
        // Of 128 values the first 64 have the lower halves of 64 bytes, and each 32 two bits of 32 others.
        let n = e / 128u;
        let m = e % 128u / 32u;
        let codes = four(block + 64u * n + e % 64u) >> (4u * (m / 2u));
        let high = four(block + 128u + 32u * n + e % 32u) >> (2u * m);
#else
        // Six bits each: those of the last four parts are four, and the two above the six of the first four.
        let part = e / 32u;
        var scale_bits = byte(block + 4u + part);
        var minimum_bits = byte(block + 8u + part);
        if part < 4u {
            scale_bits &= 63u;
            minimum_bits &= 63u;
        } else {
            let low = minimum_bits;
            minimum_bits = (low >> 4u) | ((scale_bits >> 6u) << 4u);
            scale_bits = (low & 15u) | ((byte(block + part) >> 6u) << 4u);
        }
        let scale = f16_at(block) * f32(scale_bits);
        let minimum = f16_at(block + 2u) * f32(minimum_bits);
        let at = e / 64u * 32u + e % 32u;
#if Q4_K
        let codes = four(block + 16u + at) >> (4u * (part % 2u));
#else
        let codes = four(block + 48u + at) >> (4u * (part % 2u));
        let fifths = four(block + 16u + e % 32u) >> part;
#endif
#endif
#endif
        var values: Piece;
        for (var lane = 0u; lane < 4u; lane++) {
            let code = (codes >> (8u * lane)) & 15u;
#if Q4_0
            values[lane] = scale * f32(i32(code) - 8);
#endif
#if Q4_1
            values[lane] = scale * f32(code) + minimum;
#endif
#if Q5_0
            values[lane] = scale * f32(i32(code | (((fifths >> lane) & 1u) << 4u)) - 16);
#endif
#if Q8_0
            values[lane] = scale * f32(extractBits(i32(codes), 8u * lane, 8u));
#endif
#if Q4_K
            values[lane] = scale * f32(code) - minimum;
#endif
#if Q5_K
            values[lane] = scale * f32(code | (((fifths >> (8u * lane)) & 1u) << 4u)) - minimum;
#endif
#if Q6_K
            values[lane] = scale * f32(i32(code | (((high >> (8u * lane)) & 3u) << 4u)) - 32);
#endif
        }
        dense[one] = Packed(values);
    }
}
