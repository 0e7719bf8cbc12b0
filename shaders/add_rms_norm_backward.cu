// dx = (dy - y * mean(y * dy)) * scale of each row: the gradient of add_rms_norm. With TWO the gradient of the result is in two
// parts. A thread block takes whole rows.
//
// dx may be dy, or its other part: a thread writes what it alone has read.

// The gradient of the result, of the row that begins at `start`.
DEVICE Piece given(const Element *dy, const Element *more, unsigned long long start, unsigned i) {
    Piece piece = load(dy + start, i);
#if TWO
    const Piece other = load(more + start, i);
    for (int lane = 0; lane < LANES; ++lane) piece.at[lane] += other.at[lane];
#endif
    return piece;
}

extern "C" __global__ void __launch_bounds__(THREADS)
#if TWO
add_rms_norm_backward_of_two(
#else
add_rms_norm_backward(
#endif
    const Element *__restrict__ y, const Element *dy, const float *__restrict__ scale,
#if TWO
    const Element *more,
#endif
    Element *dx,
    // Rows, elements of a row.
    INFO) {
#if !TWO
    const Element *more = nullptr;
#endif
    const unsigned rows = TOLD(0), width = TOLD(1);
    const unsigned pieces = width / LANES;
    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const unsigned long long start = (unsigned long long)row * width;
        float along = 0;
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece p = load(y + start, i);
            const Piece q = given(dy, more, start, i);
            for (int lane = 0; lane < LANES; ++lane) along += p.at[lane] * q.at[lane];
        }
        const float mean = summed(along) / (float)width, r = scale[row];
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece p = load(y + start, i);
            Piece q = given(dy, more, start, i);
            for (int lane = 0; lane < LANES; ++lane) q.at[lane] = (q.at[lane] - p.at[lane] * mean) * r;
            store(dx + start, i, q);
        }
    }
}
