// square_sums of four tensors in one launch: the parts of each behind those of the one before.

extern "C" __global__ void __launch_bounds__(THREADS)
square_sums_of_four(const Element *__restrict__ first, const Element *__restrict__ second,
                    const Element *__restrict__ third, const Element *__restrict__ fourth, float *__restrict__ parts,
                    // Place of the first part, elements of each tensor.
                    INFO) {
    for (unsigned part = blockIdx.x; part < 4 * PARTS; part += gridDim.x) {
        const unsigned tensor = part / PARTS;
        const Element *values = tensor == 0 ? first : tensor == 1 ? second : tensor == 2 ? third : fourth;
        const unsigned pieces = TOLD(1 + tensor) / LANES;
        float squares = 0;
        for (unsigned i = part % PARTS * THREADS + threadIdx.x; i < pieces; i += PARTS * THREADS) {
            const Piece x = load(values, i);
            for (int lane = 0; lane < LANES; ++lane) squares += x.at[lane] * x.at[lane];
        }
        const float sum = summed(squares);
        if (threadIdx.x == 0) parts[TOLD(0) + part] = sum;
    }
}
