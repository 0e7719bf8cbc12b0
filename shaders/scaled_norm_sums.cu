// The gradients of scaled_norm's weight and bias, as sums of some rows each: of dy (x - mean) r, and of dy. A thread takes a column,
// or four, of a part of the rows, and adds up in their order.

extern "C" __global__ void __launch_bounds__(THREADS)
scaled_norm_sums(const Element *__restrict__ x, const Element *__restrict__ dy,
                 // Mean and r of each row.
                 const float *__restrict__ statistics,
                 // A row for each part: the sums of the weight, and those of the bias if there is one.
                 float *__restrict__ sums,
                 // Rows, elements of a row, rows of a part, sums of an element (1 or 2).
                 INFO) {
    const unsigned rows = TOLD(0), width = TOLD(1), some = TOLD(2), each = TOLD(3);
    const unsigned pieces = width / LANES, parts = (rows + some - 1) / some;
    for (unsigned work = blockIdx.x * THREADS + threadIdx.x; work < parts * pieces; work += gridDim.x * THREADS) {
        const unsigned part = work / pieces, column = work % pieces;
        Piece scaled = {}, plain = {};
        for (unsigned row = part * some; row < rows && row < (part + 1) * some; ++row) {
            const unsigned long long start = (unsigned long long)row * width;
            const Piece p = load(x + start, column), q = load(dy + start, column);
            const float mean = statistics[2ull * row], r = statistics[2ull * row + 1];
            for (int lane = 0; lane < LANES; ++lane) {
                scaled.at[lane] += q.at[lane] * ((p.at[lane] - mean) * r);
                plain.at[lane] += q.at[lane];
            }
        }
        float *to = sums + (unsigned long long)part * each * width + column * LANES;
        for (int lane = 0; lane < LANES; ++lane) {
            to[lane] = scaled.at[lane];
            if (each == 2) to[width + lane] = plain.at[lane];
        }
    }
}
