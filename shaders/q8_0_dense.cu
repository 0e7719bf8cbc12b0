// A matrix of Q8_0 in any format. The format of the codes is in crates/kernels/src/q8_0.rs.
//
// A thread takes words of four numbers, all of one block.

extern "C" __global__ void __launch_bounds__(THREADS)
q8_0_dense(const unsigned *__restrict__ codes, const float *__restrict__ scales, Element *__restrict__ dense,
           // How many numbers there are.
           INFO) {
    const unsigned n = TOLD(0);
    const unsigned words = n / 4 + (n % 4 > 0);
    for (unsigned word = blockIdx.x * THREADS + threadIdx.x; word < words; word += gridDim.x * THREADS) {
        const float scale = scales[word / 8];
        const unsigned packed = codes[word];
        for (unsigned first = 0; first < 4; first += LANES) {
            const unsigned i = word * 4 + first;
            if (i >= n) break;
            Piece piece;
            for (unsigned lane = 0; lane < LANES; ++lane) {
                const unsigned code = (packed >> (8 * (first + lane))) & 255u;
                piece.at[lane] = (float)(signed char)code * scale;
            }
            store(dense, i / LANES, piece);
        }
    }
}
