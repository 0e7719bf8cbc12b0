// A matrix that is held in 16 bits a number, in a format that the device lacks. A thread takes pieces of the result.

// The number in the lower half of a word, or in its upper one.
DEVICE float number(unsigned word, bool upper) {
    const unsigned bits = upper ? word >> 16 : word & 0xffffu;
#if BFLOAT
    return __uint_as_float(bits << 16);
#else
    return f16_to_float((unsigned short)bits);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS)
#if BFLOAT
bf16_dense(
#else
f16_dense(
#endif
    // Two numbers a word, the first in the lower half.
    const unsigned *__restrict__ words, Element *__restrict__ dense,
    // How many numbers there are.
    INFO) {
    const unsigned all = TOLD(0) / LANES;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        Piece piece;
        for (int lane = 0; lane < LANES; ++lane) {
            const unsigned at = LANES * i + lane;
            piece.at[lane] = number(words[at / 2], at % 2);
        }
        store(dense, i, piece);
    }
}
