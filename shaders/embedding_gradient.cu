// sum[id] += scale * (the sum of the rows that were looked up by this id), each id once: a thread block takes a part of an id's
// row, and adds up in the order in which the rows come.

extern "C" __global__ void __launch_bounds__(THREADS)
embedding_gradient(const float *__restrict__ rows,
                   // Ids that occur; where their rows begin in `order`, and where the last one's end; the rows of each.
                   const unsigned *__restrict__ ids, Element *__restrict__ sum,
                   // How many ids occur, elements of a row, scale.
                   INFO) {
    const unsigned distinct = TOLD(0), width = TOLD(1), pieces = width / LANES;
    const float scale = TOLD_FLOAT(2);
    const unsigned *const order = ids + 2 * distinct + 1;
    const unsigned parts = (pieces + THREADS - 1) / THREADS;
    for (unsigned work = blockIdx.x; work < distinct * parts; work += gridDim.x) {
        const unsigned number = work / parts, column = work % parts * THREADS + threadIdx.x;
        if (column < pieces) {
            Piece own = {};
            for (unsigned i = ids[distinct + number]; i < ids[distinct + number + 1]; ++i) {
                const float *const row = rows + (unsigned long long)order[i] * width + column * LANES;
                for (int lane = 0; lane < LANES; ++lane) own.at[lane] += row[lane];
            }
            Element *const to = sum + (unsigned long long)ids[number] * width;
            Piece all = load(to, column);
            for (int lane = 0; lane < LANES; ++lane) all.at[lane] += own.at[lane] * scale;
            store(to, column, all);
        }
    }
}
