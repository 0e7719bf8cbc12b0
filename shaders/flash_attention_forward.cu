// Attention's forward pass: the output, and the log-sum-exp of each query's scaled scores for the
// backward pass. Masks and a query without a key are as in crates/kernels/src/attention.rs.
//
// The softmax is kept in powers of 2: `base` is the largest scaled score so far, as an exponent,
// `sum` the sum of the powers relative to it.

struct Softmax {
    float base, sum;
};

// Take a row's scores, of which this thread has some and its `THREADS_OF_ROW` neighbours the rest,
// and make powers of them. Returns the factor of what was added up before.
//
// NaN is never the largest, but makes the sum one. A row that has seen nothing yet must not subtract
// infinity from infinity.
template <int THREADS_OF_ROW, int N>
DEVICE float absorb(Softmax &row, float *const (&scores)[N], float exponents) {
    float top = minus_infinity();
#pragma unroll
    for (int i = 0; i < N; ++i) top = fmaxf(top, *scores[i]);
#pragma unroll
    for (int step = 1; step < THREADS_OF_ROW; step *= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    const float before = row.base;
    row.base = fmaxf(before, __fmul_rn(top, exponents));
    const float base = row.base == minus_infinity() ? 0.0f : row.base;
    const float factor = exp2_fast(before - base);
    row.sum *= factor;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        *scores[i] = exp2_fast(fmaf(*scores[i], exponents, -base));
        row.sum += *scores[i];
    }
    return factor;
}

// The row's whole sum, which all its threads get.
template <int THREADS_OF_ROW>
DEVICE void complete(Softmax &row) {
#pragma unroll
    for (int step = 1; step < THREADS_OF_ROW; step *= 2)
        row.sum += __shfl_xor_sync(0xffffffffu, row.sum, step);
}

DEVICE float normaliser(const Softmax &row) { return row.sum == 0.0f ? 0.0f : 1.0f / row.sum; }

DEVICE float log_sum_exp(const Softmax &row) {
    return row.sum == 0.0f ? minus_infinity() : fmaf(row.base, LN2, logf(row.sum));
}

#if TENSOR_CORES

static_assert((OWN_ROWS + 2 * OTHER_ROWS) * PITCH * 2 == SHARED_BYTES, "flash_attention_tiles.txt");

typedef Softmax Softmaxes[M_TILES][2];

DEVICE void scale_rows(Sums &sums, int m, int half, float factor) {
#pragma unroll
    for (int n = 0; n < DIM / 8; ++n) {
        sums[m][n][2 * half] *= factor;
        sums[m][n][2 * half + 1] *= factor;
    }
}

DEVICE void soften(Scores &scores, Sums &sums, Softmaxes &rows, float exponents) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float *row[OTHER_ROWS / 4];
#pragma unroll
            for (int i = 0; i < OTHER_ROWS / 4; ++i) row[i] = &scores[m][i / 2][2 * half + i % 2];
            scale_rows(sums, m, half, absorb<4>(rows[m][half], row, exponents));
        }
}

DEVICE void finish(Sums &sums, Softmaxes &rows, float *lse, int query, int end) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Softmax &row = rows[m][half];
            complete<4>(row);
            scale_rows(sums, m, half, normaliser(row));
            const int i = query + fragment_row(m, 2 * half);
            if (threadIdx.x % 4 == 0 && i < end) lse[i] = log_sum_exp(row);
        }
}

// Keys and values have one buffer each: a tile of either is copied while the other is multiplied.
DEVICE void attend(const Problem &p, const Work &work, const Ranges &ranges, const Rows &q,
                   const Rows &k, const Rows &v, const void *out, float *lse, Element *shared) {
    Element *queries = shared, *keys = queries + OWN_ROWS * PITCH;
    Element *values = keys + OTHER_ROWS * PITCH;
    const int warp_row = (int)threadIdx.x / 32 * WARP_ROWS, query = work.first + warp_row;
    Element *own = queries + warp_row * PITCH;
    const Seen seen = keep_sights(queries, p, ranges, {work.first, work.end},
                                  {query, query + WARP_ROWS});
    const int seq_kv = seq_kv_of(p);
    const float exponents = scale_of(p) * LOG2E;
    Sums sums;
    clear(sums);
    Softmaxes rows;
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
        rows[m][0].base = rows[m][1].base = minus_infinity();
        rows[m][0].sum = rows[m][1].sum = 0.0f;
    }

    copy_tile<OWN_ROWS>(queries, q, work.first, work.end);
    copy_tile<OTHER_ROWS>(keys, k, seen.any.first, seq_kv);
    cp_async_commit();
    for (int key = seen.any.first; key < seen.any.end; key += OTHER_ROWS) {
        cp_async_wait<0>();
        __syncthreads();
        copy_tile<OTHER_ROWS>(values, v, key, seq_kv);
        cp_async_commit();
        Scores scores;
        multiply_transposed(scores, own, keys);
        if (partly_hidden(seen, key)) hide(scores, own, key, minus_infinity());
        soften(scores, sums, rows, exponents);
        Weights weights;
        pack(weights, scores);
        cp_async_wait<0>();
        __syncthreads();
        if (key + OTHER_ROWS < seen.any.end) {
            copy_tile<OTHER_ROWS>(keys, k, key + OTHER_ROWS, seq_kv);
            cp_async_commit();
        }
        multiply_add(sums, weights, values);
    }
    finish(sums, rows, lse + stats_row(p, work), query, work.end);
    // Without a key the queries may still be on their way.
    cp_async_wait<0>();
    __syncthreads();
    store_rows(rows_of(out, OUT, p, work), query, work.end, sums, own);
}

#else

static_assert(4 * (OWN_ROWS + OTHER_ROWS) * PITCH + 4 * OWN_ROWS * WEIGHTS_PITCH == SHARED_BYTES,
              "flash_attention_tiles.txt");

DEVICE void scale_row(Sums &sums, int i, float factor) {
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][c][e] *= factor;
}

DEVICE void soften(Scores &scores, Sums &sums, Softmax (&rows)[THREAD_ROWS], float exponents) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
        float *row[THREAD_COLUMNS];
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) row[j] = &scores[i][j];
        scale_row(sums, i, absorb<LANES>(rows[i], row, exponents));
    }
}

DEVICE void finish(Sums &sums, Softmax (&rows)[THREAD_ROWS], float *lse, int first, int end) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
        complete<LANES>(rows[i]);
        scale_row(sums, i, normaliser(rows[i]));
        const int query = first + tile_row(i);
        if (lane_of_row() == 0 && query < end) lse[query] = log_sum_exp(rows[i]);
    }
}

// Keys and values take turns in one buffer: 64 KiB is all that sm_75 has.
DEVICE void attend(const Problem &p, const Work &work, const Ranges &ranges, const Rows &q,
                   const Rows &k, const Rows &v, const void *out, float *lse, float *shared) {
    float *queries = shared, *other = queries + OWN_ROWS * PITCH;
    float *scratch = other + OTHER_ROWS * PITCH;
    const Range rows_of_block = {work.first, work.end};
    const Seen seen = keep_sights(queries, p, ranges, rows_of_block, rows_of_block);
    const int seq_kv = seq_kv_of(p);
    const float exponents = scale_of(p) * LOG2E;
    Sums sums;
    clear(sums);
    Softmax rows[THREAD_ROWS];
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
        rows[i].base = minus_infinity();
        rows[i].sum = 0.0f;
    }

    copy_tile<OWN_ROWS>(queries, q, work.first, work.end);
    for (int key = seen.any.first; key < seen.any.end; key += OTHER_ROWS) {
        __syncthreads();
        copy_tile<OTHER_ROWS>(other, k, key, seq_kv);
        __syncthreads();
        Scores scores;
        multiply_transposed(scores, queries, other);
        if (partly_hidden(seen, key)) hide(scores, queries, key, minus_infinity());
        soften(scores, sums, rows, exponents);
        share_weights(scratch, scores);
        __syncthreads();
        copy_tile<OTHER_ROWS>(other, v, key, seq_kv);
        __syncthreads();
        multiply_add(sums, scratch, other);
    }
    finish(sums, rows, lse + stats_row(p, work), work.first, work.end);
    store_rows(rows_of(out, OUT, p, work), work.first, work.end, sums);
}

#endif

extern __shared__ uint4 shared_memory[];

// `first` and `end`: the keys that each query sees, `[batch, seq_q]`.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
flash_attention_forward(const void *q, const void *k, const void *v,
#if RANGES
                        const int *first, const int *end,
#endif
                        void *out, float *lse, const unsigned *info) {
#if !RANGES
    const int *first = nullptr, *end = nullptr;
#endif
    const Problem p = {info};
    for (int item = first_item(p) + blockIdx.x; item < end_item(p, seq_q_of(p)); item += gridDim.x) {
        const Work work = work_at(p, item, seq_q_of(p), RANGES || is_causal(p));
        // The piece before may still be at work in shared memory.
        __syncthreads();
        attend(p, work, ranges_of(first, end, p, work), rows_of(q, Q, p, work),
               rows_of(k, K, p, work), rows_of(v, V, p, work), out, lse,
#if TENSOR_CORES
               (Element *)shared_memory);
#else
               (float *)shared_memory);
#endif
    }
}
