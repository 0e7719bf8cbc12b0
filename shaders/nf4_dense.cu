// A matrix of NF4 in any format. The format of the codes is in crates/kernels/src/nf4.rs, and in f32 the numbers are the same to
// the bit: products and sums are rounded one by one.
//
// A thread takes words of eight codes, all of one block.

#define VALUES 256
#define SCALARS 272

extern "C" __global__ void __launch_bounds__(THREADS)
nf4_dense(const unsigned *__restrict__ codes,
          // Four codes of absmaxes a word, or absmaxes in f32: then `nested` is not read.
          const unsigned *__restrict__ absmax, const float *__restrict__ nested, Element *__restrict__ dense,
          // What codes of absmaxes stand for, what codes do, how many numbers there are, whether the absmaxes are codes,
          // their mean.
          const unsigned *__restrict__ info) {
    __shared__ float table[SCALARS];
    for (unsigned i = threadIdx.x; i < SCALARS; i += THREADS) table[i] = __uint_as_float(info[i]);
    __syncthreads();

    const unsigned n = info[SCALARS];
    const bool coded = info[SCALARS + 1] != 0;
    const float offset = __uint_as_float(info[SCALARS + 2]);
    const unsigned words = n / 8 + (n % 8 > 0);
    for (unsigned word = blockIdx.x * THREADS + threadIdx.x; word < words; word += gridDim.x * THREADS) {
        const unsigned block = word / 8;
        float scale;
        if (coded) {
            const unsigned code = (absmax[block / 4] >> (8 * (block % 4))) & 255u;
            scale = __fadd_rn(__fmul_rn(table[code], nested[block / 256]), offset);
        } else {
            scale = __uint_as_float(absmax[block]);
        }
        const unsigned packed = codes[word];
        for (unsigned first = 0; first < 8; first += LANES) {
            const unsigned i = word * 8 + first;
            if (i >= n) break;
            Piece piece;
            for (unsigned lane = 0; lane < LANES; ++lane) {
                // Of two codes in a byte the upper half is the first.
                const unsigned code = (packed >> (4 * ((first + lane) ^ 1))) & 15u;
                piece.at[lane] = __fmul_rn(table[VALUES + code], scale);
            }
            store(dense, i / LANES, piece);
        }
    }
}
