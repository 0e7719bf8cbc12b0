// y = (x + a) * scale, where scale = 1 / sqrt(mean((x + a)^2) + eps) of each row (Zhang and Sennrich, "Root Mean Square Layer
// Normalization", 2019). A thread block takes whole rows.
//
// y may be x or a: a thread writes what it alone has read.

extern "C" __global__ void __launch_bounds__(THREADS)
add_rms_norm(const Element *x, const Element *a, Element *y, float *__restrict__ scale,
             // Rows, elements of a row, eps.
             INFO) {
    const unsigned rows = TOLD(0), width = TOLD(1);
    const float eps = TOLD_FLOAT(2);
    const unsigned pieces = width / LANES;
    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const unsigned long long start = (unsigned long long)row * width;
        float squares = 0;
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece p = load(x + start, i), q = load(a + start, i);
            for (int lane = 0; lane < LANES; ++lane) {
                const float sum = p.at[lane] + q.at[lane];
                squares += sum * sum;
            }
        }
        const float r = 1 / sqrtf(summed(squares) / (float)width + eps);
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            Piece p = load(x + start, i);
            const Piece q = load(a + start, i);
            for (int lane = 0; lane < LANES; ++lane) p.at[lane] = (p.at[lane] + q.at[lane]) * r;
            store(y + start, i, p);
        }
        if (threadIdx.x == 0) scale[row] = r;
    }
}
