// Attention's backward pass. Probabilities come from the forward pass's log-sum-exp:
//
//   P = exp(scale Q K^T - lse)           dV = P^T dO
//   dS = scale P (dO V^T - delta)        dQ = dS K        dK = dS^T Q
//
// One kernel makes dQ, another dK and dV, each computing the scores for itself: so each row has one
// writer, and nothing is added up in an order that varies. They are one text. The block owns rows of
// one kind (queries: Q and dO; keys: K and V) and goes through the other kind's, its first tensor
// paired with the other kind's first, its second with the second.

extern __shared__ uint4 shared_memory[];

#if ENTRY == DELTA

// Threads that share a row.
#define LANES 8

DEVICE float row_dot(const Element *x, const Element *y) {
    float sum = 0.0f;
    for (int c = threadIdx.x % LANES * VECTOR; c < HEAD_DIM; c += LANES * VECTOR) {
        float a[VECTOR], b[VECTOR];
        widen(a, *(const uint4 *)(x + c));
        widen(b, *(const uint4 *)(y + c));
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) sum = fmaf(a[i], b[i], sum);
    }
#pragma unroll
    for (int step = 1; step < LANES; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
flash_attention_delta(const void *out, const void *d_out, const float *lse, float *stats,
                      const unsigned *info) {
    const Problem p = problem_from(info);
    const long long items = work_items(p, p.seq_q);
    const long long plane = (long long)p.batch * p.heads * p.seq_q;
    for (long long item = blockIdx.x; item < items; item += gridDim.x) {
        const Work work = work_at(p, item, p.seq_q, false);
        const int row = work.first + (int)threadIdx.x / LANES;
        // Past the end too every thread takes part in the sum.
        const int there = min(row, work.end - 1);
        const float delta = row_dot(row_of(rows_of(out, OUT, p, work), there),
                                    row_of(rows_of(d_out, D_OUT, p, work), there));
        const long long at = stats_row(p, work) + row;
        if (threadIdx.x % LANES == 0 && row < work.end) {
            stats[at] = lse[at];
            stats[plane + at] = delta;
        }
    }
}

#else

// The tensors of one piece of work.
struct Operands {
    Rows own[2], other[2], gradients[2];
    const float *lse, *delta;
    // Where the other kind's rows end.
    int other_end;
};

DEVICE bool needs_mask(const Problem &p, int own, int own_rows, int other) {
    return BY_KEYS ? partly_hidden(p, other, other + OTHER_ROWS, own, own + own_rows)
                   : partly_hidden(p, own, own + own_rows, other, other + OTHER_ROWS);
}

// What a masked tile holds where nothing is seen must be 0 even beside infinities.
DEVICE float d_score(const Problem &p, float weight, float d_weight, float delta) {
    return weight == 0.0f ? 0.0f : weight * (d_weight - delta) * p.scale;
}

DEVICE float probability(float score, float exponents, float lse) {
    return exp2_fast(fmaf(score, exponents, -__fmul_rn(lse, LOG2E)));
}

#if TENSOR_CORES

#define TILE (OTHER_ROWS * PITCH)
#define STATS (2 * OTHER_ROWS)

static_assert(4 * OWN_ROWS * PITCH + 8 * TILE + BY_KEYS * 8 * STATS == SHARED_BYTES,
              "flash_attention_tiles.txt");

struct Buffers {
    Element *own[2];
    // Two tiles of each: one is copied while the other is multiplied.
    Element *other;
    float *stats;
};

DEVICE Buffers buffers() {
    Buffers b;
    b.own[0] = (Element *)shared_memory;
    b.own[1] = b.own[0] + OWN_ROWS * PITCH;
    b.other = b.own[1] + OWN_ROWS * PITCH;
    b.stats = (float *)(b.other + 4 * TILE);
    return b;
}

// The statistics of the other kind's rows, where these are queries.
DEVICE void copy_stats(float *to, const Operands &t, int first) {
    const int i = threadIdx.x % OTHER_ROWS, which = threadIdx.x / OTHER_ROWS;
    if (which >= 2) return;
    const bool there = first + i < t.other_end;
    const float *from = which == 0 ? t.lse : t.delta;
    cp_async_4(to + which * OTHER_ROWS + i, there ? from + first + i : from, there ? 4 : 0);
}

DEVICE void copy_other(const Buffers &b, const Operands &t, int first, int place) {
    copy_tile<OTHER_ROWS>(b.other + 2 * place * TILE, t.other[0], first, t.other_end);
    copy_tile<OTHER_ROWS>(b.other + (2 * place + 1) * TILE, t.other[1], first, t.other_end);
    if (BY_KEYS) copy_stats(b.stats + place * STATS, t, first);
    cp_async_commit();
}

// Two statistics of the queries that a thread has elements of.
struct RowStats {
    float lse[M_TILES][2], delta[M_TILES][2];
};

DEVICE RowStats row_stats(const Operands &t, int first, int end) {
    RowStats stats;
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first + fragment_row(m, 2 * half);
            const bool there = !BY_KEYS && row < end;
            stats.lse[m][half] = there ? t.lse[row] : 0.0f;
            stats.delta[m][half] = there ? t.delta[row] : 0.0f;
        }
    return stats;
}

DEVICE void to_probabilities(Scores &scores, const RowStats &rows, const float *columns,
                             float exponents) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < OTHER_ROWS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float lse = BY_KEYS ? columns[fragment_column(n, e)] : rows.lse[m][e / 2];
                scores[m][n][e] = probability(scores[m][n][e], exponents, lse);
            }
}

DEVICE void to_d_scores(Scores &d_weights, const Scores &weights, const RowStats &rows,
                        const float *columns, const Problem &p) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < OTHER_ROWS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float delta = BY_KEYS ? columns[OTHER_ROWS + fragment_column(n, e)]
                                            : rows.delta[m][e / 2];
                d_weights[m][n][e] = d_score(p, weights[m][n][e], d_weights[m][n][e], delta);
            }
}

DEVICE void differentiate(const Problem &p, const Work &work, const Operands &t, Range seen) {
    const Buffers b = buffers();
    const int warp_row = (int)threadIdx.x / 32 * WARP_ROWS, first = work.first + warp_row;
    Element *own[2] = {b.own[0] + warp_row * PITCH, b.own[1] + warp_row * PITCH};
    const RowStats rows = row_stats(t, first, work.end);
    Sums sums;
    clear(sums);
#if BY_KEYS
    Sums value_sums;
    clear(value_sums);
#endif

    copy_tile<OWN_ROWS>(b.own[0], t.own[0], work.first, work.end);
    copy_tile<OWN_ROWS>(b.own[1], t.own[1], work.first, work.end);
    copy_other(b, t, seen.first, 0);
    int place = 0;
    for (int at = seen.first; at < seen.end; at += OTHER_ROWS, place ^= 1) {
        if (at + OTHER_ROWS < seen.end) {
            copy_other(b, t, at + OTHER_ROWS, place ^ 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const Element *other = b.other + 2 * place * TILE;
        const float *columns = b.stats + place * STATS;
        Scores weights, d_weights;
        multiply_transposed(weights, own[0], other);
        to_probabilities(weights, rows, columns, p.scale * LOG2E);
        if (needs_mask(p, first, WARP_ROWS, at)) hide(weights, p, first, at, 0.0f);
#if BY_KEYS
        multiply_add(value_sums, weights, other + TILE);
#endif
        multiply_transposed(d_weights, own[1], other + TILE);
        to_d_scores(d_weights, weights, rows, columns, p);
        multiply_add(sums, d_weights, other);
        // The next round copies into this tile.
        __syncthreads();
    }
    // Without a row to see the own tiles may still be on their way.
    cp_async_wait<0>();
    __syncthreads();
    store_rows(t.gradients[0], first, work.end, sums, own[0]);
#if BY_KEYS
    store_rows(t.gradients[1], first, work.end, value_sums, own[1]);
#endif
}

#else

static_assert(8 * (OWN_ROWS + OTHER_ROWS) * PITCH + 4 * OWN_ROWS * WEIGHTS_PITCH +
                      BY_KEYS * 8 * OTHER_ROWS == SHARED_BYTES,
              "flash_attention_tiles.txt");

struct Buffers {
    float *own[2], *other[2], *scratch, *stats;
};

DEVICE Buffers buffers() {
    Buffers b;
    b.own[0] = (float *)shared_memory;
    b.own[1] = b.own[0] + OWN_ROWS * PITCH;
    b.other[0] = b.own[1] + OWN_ROWS * PITCH;
    b.other[1] = b.other[0] + OTHER_ROWS * PITCH;
    b.scratch = b.other[1] + OTHER_ROWS * PITCH;
    b.stats = b.scratch + OWN_ROWS * WEIGHTS_PITCH;
    return b;
}

DEVICE void copy_other(const Buffers &b, const Operands &t, int first) {
    copy_tile<OTHER_ROWS>(b.other[0], t.other[0], first, t.other_end);
    copy_tile<OTHER_ROWS>(b.other[1], t.other[1], first, t.other_end);
    const int i = threadIdx.x;
    if (!BY_KEYS || i >= OTHER_ROWS) return;
    const bool there = first + i < t.other_end;
    b.stats[i] = there ? t.lse[first + i] : 0.0f;
    b.stats[OTHER_ROWS + i] = there ? t.delta[first + i] : 0.0f;
}

struct RowStats {
    float lse[THREAD_ROWS], delta[THREAD_ROWS];
};

DEVICE RowStats row_stats(const Operands &t, int first, int end) {
    RowStats stats;
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
        const int row = first + tile_row(i);
        const bool there = !BY_KEYS && row < end;
        stats.lse[i] = there ? t.lse[row] : 0.0f;
        stats.delta[i] = there ? t.delta[row] : 0.0f;
    }
    return stats;
}

DEVICE void to_probabilities(Scores &scores, const RowStats &rows, const float *columns,
                             float exponents) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) {
            const float lse = BY_KEYS ? columns[tile_column(j)] : rows.lse[i];
            scores[i][j] = probability(scores[i][j], exponents, lse);
        }
}

DEVICE void to_d_scores(Scores &d_weights, const Scores &weights, const RowStats &rows,
                        const float *columns, const Problem &p) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) {
            const float delta = BY_KEYS ? columns[OTHER_ROWS + tile_column(j)] : rows.delta[i];
            d_weights[i][j] = d_score(p, weights[i][j], d_weights[i][j], delta);
        }
}

DEVICE void differentiate(const Problem &p, const Work &work, const Operands &t, Range seen) {
    const Buffers b = buffers();
    const RowStats rows = row_stats(t, work.first, work.end);
    Sums sums;
    clear(sums);
#if BY_KEYS
    Sums value_sums;
    clear(value_sums);
#endif

    copy_tile<OWN_ROWS>(b.own[0], t.own[0], work.first, work.end);
    copy_tile<OWN_ROWS>(b.own[1], t.own[1], work.first, work.end);
    for (int at = seen.first; at < seen.end; at += OTHER_ROWS) {
        __syncthreads();
        copy_other(b, t, at);
        __syncthreads();
        Scores weights, d_weights;
        multiply_transposed(weights, b.own[0], b.other[0]);
        to_probabilities(weights, rows, b.stats, p.scale * LOG2E);
        if (needs_mask(p, work.first, OWN_ROWS, at)) hide(weights, p, work.first, at, 0.0f);
        multiply_transposed(d_weights, b.own[1], b.other[1]);
        to_d_scores(d_weights, weights, rows, b.stats, p);
#if BY_KEYS
        share_weights(b.scratch, weights);
        multiply_add(value_sums, b.scratch, b.other[1]);
#endif
        share_weights(b.scratch, d_weights);
        multiply_add(sums, b.scratch, b.other[0]);
    }
    store_rows(t.gradients[0], work.first, work.end, sums);
#if BY_KEYS
    store_rows(t.gradients[1], work.first, work.end, value_sums);
#endif
}

#endif

DEVICE Operands operands(const Problem &p, const Work &work, const void *q, const void *k,
                         const void *v, const void *d_out, const float *stats) {
    Operands t;
    const Rows queries[2] = {rows_of(q, Q, p, work), rows_of(d_out, D_OUT, p, work)};
    const Rows keys[2] = {rows_of(k, K, p, work), rows_of(v, V, p, work)};
    for (int i = 0; i < 2; ++i) {
        t.own[i] = BY_KEYS ? keys[i] : queries[i];
        t.other[i] = BY_KEYS ? queries[i] : keys[i];
    }
    t.other_end = BY_KEYS ? p.seq_q : p.seq_kv;
    t.lse = stats + stats_row(p, work);
    t.delta = t.lse + (long long)p.batch * p.heads * p.seq_q;
    return t;
}

#if BY_KEYS

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
flash_attention_backward_keys(const void *q, const void *k, const void *v, const void *d_out,
                              const float *stats, void *dk, void *dv, const unsigned *info) {
    const Problem p = problem_from(info);
    const long long items = work_items(p, p.seq_kv);
    for (long long item = blockIdx.x; item < items; item += gridDim.x) {
        const Work work = work_at(p, item, p.seq_kv, false);
        Operands t = operands(p, work, q, k, v, d_out, stats);
        t.gradients[0] = rows_of(dk, DK, p, work);
        t.gradients[1] = rows_of(dv, DV, p, work);
        // The piece before may still be at work in shared memory.
        __syncthreads();
        differentiate(p, work, t, queries_seeing(p, work.first, work.end));
    }
}

#else

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
flash_attention_backward_queries(const void *q, const void *k, const void *v, const void *d_out,
                                 const float *stats, void *dq, const unsigned *info) {
    const Problem p = problem_from(info);
    const long long items = work_items(p, p.seq_q);
    for (long long item = blockIdx.x; item < items; item += gridDim.x) {
        const Work work = work_at(p, item, p.seq_q, p.nearest == 0);
        Operands t = operands(p, work, q, k, v, d_out, stats);
        t.gradients[0] = rows_of(dq, DQ, p, work);
        // The piece before may still be at work in shared memory.
        __syncthreads();
        differentiate(p, work, t, keys_seen_by(p, work.first, work.end));
    }
}

#endif

#endif
