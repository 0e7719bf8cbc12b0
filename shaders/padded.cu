// Numbers in f32 in another format, with zeros behind them. A thread takes pieces of the result.

extern "C" __global__ void __launch_bounds__(THREADS)
padded(const float *__restrict__ numbers, Element *__restrict__ result,
       // Elements, and those of the result.
       INFO) {
    const unsigned there = TOLD(0) / LANES, all = TOLD(1) / LANES;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        Piece piece;
        for (int lane = 0; lane < LANES; ++lane) {
            piece.at[lane] = i < there ? numbers[(unsigned long long)i * LANES + lane] : 0;
        }
        store(result, i, piece);
    }
}
