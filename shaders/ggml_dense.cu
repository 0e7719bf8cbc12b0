// A matrix of ggml's blocks in any format. Those of the blocks are in crates/kernels/src/ggml, and in f32 the values are the same
// to the bit: products and sums are rounded one by one.
//
// A thread takes four values in a row, which share a scale: parts with one are of 16 or 32 values.

DEVICE unsigned byte_at(const unsigned *blocks, unsigned at) {
    return (blocks[at / 4] >> (8 * (at % 4))) & 255u;
}

// Four bytes of a block. Where they begin within a word the next one has the last of them, so it is there; else it is not read.
DEVICE unsigned four(const unsigned *blocks, unsigned at) {
    const unsigned word = at / 4, shift = 8 * (at % 4);
    return shift == 0 ? blocks[word] : (blocks[word] >> shift) | (blocks[word + 1] << (32 - shift));
}

// The f16 at an even place.
DEVICE float half_at(const unsigned *blocks, unsigned at) {
    return f16_to_float((unsigned short)(blocks[at / 4] >> (8 * (at % 4))));
}

DEVICE float signed_byte(unsigned byte) { return (float)(signed char)(byte & 255u); }

extern "C" __global__ void __launch_bounds__(THREADS)
ggml_dense( // The bytes of all blocks of BYTES each, padded to whole words.
    const unsigned *__restrict__ blocks, Element *__restrict__ dense,
    // How many values there are: whole blocks of BLOCK.
    INFO) {
    const unsigned fours = TOLD(0) / 4;
    for (unsigned one = blockIdx.x * THREADS + threadIdx.x; one < fours; one += gridDim.x * THREADS) {
        const unsigned first = 4 * one, block = first / BLOCK * BYTES;
        // Which of the block's values the first is.
        const unsigned e = first % BLOCK;
#if SMALL
        const float scale = half_at(blocks, block);
#if Q4_0
        const unsigned codes = four(blocks, block + 2 + e % 16) >> (4 * (e / 16));
#elif Q4_1
        const float minimum = half_at(blocks, block + 2);
        const unsigned codes = four(blocks, block + 4 + e % 16) >> (4 * (e / 16));
#elif Q5_0
        const unsigned codes = four(blocks, block + 6 + e % 16) >> (4 * (e / 16));
        const unsigned fifths = four(blocks, block + 2) >> e;
#else
        const unsigned codes = four(blocks, block + 2 + e);
#endif
#elif Q6_K
        const float scale = __fmul_rn(half_at(blocks, block + 208), signed_byte(byte_at(blocks, block + 192 + e / 16)));
        // Of 128 values the first 64 have the lower halves of 64 bytes, and each 32 two bits of 32 others.
        const unsigned n = e / 128, m = e % 128 / 32;
        const unsigned codes = four(blocks, block + 64 * n + e % 64) >> (4 * (m / 2));
        const unsigned high = four(blocks, block + 128 + 32 * n + e % 32) >> (2 * m);
#else
        // Six bits each: those of the last four parts are four, and the two above the six of the first four.
        const unsigned part = e / 32;
        unsigned scale_bits = byte_at(blocks, block + 4 + part), minimum_bits = byte_at(blocks, block + 8 + part);
        if (part < 4) {
            scale_bits &= 63u;
            minimum_bits &= 63u;
        } else {
            const unsigned low = minimum_bits;
            minimum_bits = (low >> 4) | ((scale_bits >> 6) << 4);
            scale_bits = (low & 15u) | ((byte_at(blocks, block + part) >> 6) << 4);
        }
        const float scale = __fmul_rn(half_at(blocks, block), (float)scale_bits);
        const float minimum = __fmul_rn(half_at(blocks, block + 2), (float)minimum_bits);
        const unsigned at = e / 64 * 32 + e % 32;
#if Q4_K
        const unsigned codes = four(blocks, block + 16 + at) >> (4 * (part % 2));
#else
        const unsigned codes = four(blocks, block + 48 + at) >> (4 * (part % 2));
        const unsigned fifths = four(blocks, block + 16 + e % 32) >> part;
#endif
#endif
        Piece values;
        for (unsigned lane = 0; lane < 4; ++lane) {
            const unsigned code = (codes >> (8 * lane)) & (Q8_0 ? 255u : 15u);
#if Q4_0
            values.at[lane] = __fmul_rn(scale, (float)((int)code - 8));
#elif Q4_1
            values.at[lane] = __fadd_rn(__fmul_rn(scale, (float)code), minimum);
#elif Q5_0
            values.at[lane] = __fmul_rn(scale, (float)((int)(code | ((fifths >> lane) & 1u) << 4) - 16));
#elif Q8_0
            values.at[lane] = __fmul_rn(signed_byte(code), scale);
#elif Q4_K
            values.at[lane] = __fsub_rn(__fmul_rn(scale, (float)code), minimum);
#elif Q5_K
            const unsigned whole = code | ((fifths >> (8 * lane)) & 1u) << 4;
            values.at[lane] = __fsub_rn(__fmul_rn(scale, (float)whole), minimum);
#else
            values.at[lane] = __fmul_rn(scale, (float)((int)(code | ((high >> (8 * lane)) & 3u) << 4) - 32));
#endif
        }
        store(dense, one, values);
    }
}
