// The gradient of scaled_norm: with g = dy (weight + offset), n = (x - mean) r and the means of g n and, where the mean of x is taken
// off, of g over each row, dx = (g - mean(g) - n mean(g n)) r. A thread block takes whole rows.

extern "C" __global__ void __launch_bounds__(THREADS)
scaled_norm_backward(const Element *__restrict__ x, const Element *__restrict__ dy, const float *__restrict__ weight,
                     Element *__restrict__ dx,
                     // Mean and r of each row.
                     float *__restrict__ statistics,
                     // Rows, elements of a row, eps, offset, the kind of norm.
                     INFO) {
    const unsigned rows = TOLD(0), width = TOLD(1), kind = TOLD(4);
    const float eps = TOLD_FLOAT(2), offset = TOLD_FLOAT(3), n = (float)width;
    const unsigned pieces = width / LANES;
    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const unsigned long long start = (unsigned long long)row * width;
        const float mean = kind & CENTERED ? level_of_row(x + start, pieces) / n : 0;
        float squares = 0, products = 0, level = 0;
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece p = load(x + start, i), q = load(dy + start, i);
            for (int lane = 0; lane < LANES; ++lane) {
                const float own = p.at[lane] - mean;
                const float g = kind & WEIGHTED ? q.at[lane] * (weight[i * LANES + lane] + offset) : q.at[lane];
                squares += own * own;
                products += g * own;
                level += g;
            }
        }
        const float r = 1 / sqrtf(summed(squares) / n + eps);
        const float along = summed(products) * r / n;
        const float level_of_all = kind & CENTERED ? summed(level) / n : 0;
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece p = load(x + start, i);
            Piece q = load(dy + start, i);
            for (int lane = 0; lane < LANES; ++lane) {
                const float g = kind & WEIGHTED ? q.at[lane] * (weight[i * LANES + lane] + offset) : q.at[lane];
                q.at[lane] = (g - level_of_all - (p.at[lane] - mean) * r * along) * r;
            }
            store(dx + start, i, q);
        }
        if (threadIdx.x == 0) {
            statistics[2ull * row] = mean;
            statistics[2ull * row + 1] = r;
        }
    }
}
