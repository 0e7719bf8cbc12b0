// Sums of squares of PARTS parts of the values, behind those of others. A thread block takes whole parts: every PARTS-th row of
// THREADS pieces.

extern "C" __global__ void __launch_bounds__(THREADS)
square_sums(const Element *__restrict__ values, float *__restrict__ parts,
            // Elements, place of the first part.
            INFO) {
    const unsigned pieces = TOLD(0) / LANES;
    for (unsigned part = blockIdx.x; part < PARTS; part += gridDim.x) {
        float squares = 0;
        for (unsigned i = part * THREADS + threadIdx.x; i < pieces; i += PARTS * THREADS) {
            const Piece x = load(values, i);
            for (int lane = 0; lane < LANES; ++lane) squares += x.at[lane] * x.at[lane];
        }
        const float sum = summed(squares);
        if (threadIdx.x == 0) parts[TOLD(1) + part] = sum;
    }
}
