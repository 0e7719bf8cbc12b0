// y = (x - mean) r (weight + offset) + bias of each row, with r = 1 / sqrt(mean((x - mean)^2) + eps): RMSNorm, whose mean is left
// at 0, or LayerNorm (Ba et al., "Layer Normalization", 2016). A thread block takes whole rows.

extern "C" __global__ void __launch_bounds__(THREADS)
scaled_norm(const Element *__restrict__ x, const float *__restrict__ weight, const float *__restrict__ bias,
            Element *__restrict__ y,
            // Rows, elements of a row, eps, offset, the kind of norm.
            INFO) {
    const unsigned rows = TOLD(0), width = TOLD(1), kind = TOLD(4);
    const float eps = TOLD_FLOAT(2), offset = TOLD_FLOAT(3), n = (float)width;
    const unsigned pieces = width / LANES;
    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const unsigned long long start = (unsigned long long)row * width;
        const float mean = kind & CENTERED ? level_of_row(x + start, pieces) / n : 0;
        float squares = 0;
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece p = load(x + start, i);
            for (int lane = 0; lane < LANES; ++lane) squares += (p.at[lane] - mean) * (p.at[lane] - mean);
        }
        const float r = 1 / sqrtf(summed(squares) / n + eps);
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            Piece p = load(x + start, i);
            for (int lane = 0; lane < LANES; ++lane) {
                float own = (p.at[lane] - mean) * r;
                if (kind & WEIGHTED) own *= weight[i * LANES + lane] + offset;
                if (kind & BIASED) own += bias[i * LANES + lane];
                p.at[lane] = own;
            }
            store(y + start, i, p);
        }
    }
}
