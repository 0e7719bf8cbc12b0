// Attention's backward pass. Probabilities come from the forward pass's log-sum-exp:
//
//   P = exp(scale Q K^T - lse)           dV = P^T dO
//   dS = scale P (dO V^T - delta)        dQ = dS K        dK = dS^T Q
//
// One kernel makes dQ, another dK and dV, each computing the scores for itself: so each row has one
// writer, and nothing is added up in an order that varies. They are one text. The block owns rows of
// one kind (queries: Q and dO; keys: K and V) and goes through the other kind's, its first tensor
// paired with the other kind's first, its second with the second. Keys go through the queries of all
// heads that share them, head by head.
//
// `stats` is the log-sum-exps, `[batch, heads, seq_q]`, then the deltas; with RANGES then the first
// key that each query sees, `[batch, seq_q]`, and the end of its keys, as integers and within the
// window.

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
flash_attention_delta(const void *out, const void *d_out, const float *lse,
#if RANGES
                      const int *first, const int *end,
#endif
                      float *stats, const unsigned *info) {
    const Problem p = {info};
    const long long plane = (long long)batch_of(p) * heads_of(p) * seq_q_of(p);
    for (int item = first_item(p) + blockIdx.x; item < end_item(p, seq_q_of(p)); item += gridDim.x) {
        const Work work = work_at(p, item, seq_q_of(p), false);
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
#if RANGES
        // Once for all heads.
        if (threadIdx.x % LANES == 0 && row < work.end && work.head == 0) {
            const long long queries = (long long)batch_of(p) * seq_q_of(p);
            const Range keys = keys_of(p, ranges_of(first, end, p, work), row);
            int *const to = (int *)(stats + 2 * plane) + (long long)work.batch * seq_q_of(p) + row;
            to[0] = keys.first;
            to[queries] = keys.end;
        }
#endif
    }
}

#else

// The tensors of one piece of work.
struct Operands {
    Rows own[2], other[2], gradients[2];
    const float *lse, *delta;
    // Heads of the other kind, one after the other.
    int heads;
    // Where each head's statistics lie after the one before.
    int stats_stride;
    // Where the other kind's rows end.
    int other_end;
};

// A tile of the other kind's rows, of a head that is so many after the first.
struct Step {
    int head, first;
};

DEVICE Step after(Step step, const Range &other) {
    step.first += OTHER_ROWS;
    if (BY_KEYS && step.first >= other.end) {
        step.first = other.first;
        ++step.head;
    }
    return step;
}

DEVICE bool there_is(const Step &step, const Operands &t, const Range &other) {
    return step.first < other.end && (!BY_KEYS || step.head < t.heads);
}

// Statistic `i` of a tile, as shared memory has them, of queries from the step's first on.
DEVICE const float *stats_from(const Operands &t, const Step &step, int i) {
    const int which = i / OTHER_ROWS, row = step.first + i % OTHER_ROWS;
    return (which == 0 ? t.lse : t.delta) + (long long)step.head * t.stats_stride + row;
}

// What a masked tile holds where nothing is seen must be 0 even beside infinities.
DEVICE float d_score(float scale, float weight, float d_weight, float delta) {
    return weight == 0.0f ? 0.0f : weight * (d_weight - delta) * scale;
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
DEVICE void copy_stats(float *to, const Operands &t, const Step &step) {
    for (int i = threadIdx.x; i < STATS; i += THREADS) {
        const bool there = step.first + i % OTHER_ROWS < t.other_end;
        cp_async_4(to + i, there ? stats_from(t, step, i) : t.lse, there ? 4 : 0);
    }
}

DEVICE void copy_other(const Buffers &b, const Operands &t, const Step &step, int place) {
    Element *to = b.other + 2 * place * TILE;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const Rows rows = BY_KEYS ? later_head(t.other[i], step.head) : t.other[i];
        copy_tile<OTHER_ROWS>(to + i * TILE, rows, step.first, t.other_end);
    }
    if (BY_KEYS) copy_stats(b.stats + place * STATS, t, step);
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
                        const float *columns, float scale) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < OTHER_ROWS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float delta = BY_KEYS ? columns[OTHER_ROWS + fragment_column(n, e)]
                                            : rows.delta[m][e / 2];
                d_weights[m][n][e] = d_score(scale, weights[m][n][e], d_weights[m][n][e], delta);
            }
}

// With FIRST the gradient of the own first tensor, with SECOND that of the second.
template <bool FIRST, bool SECOND>
DEVICE void differentiate(const Problem &p, const Work &work, const Operands &t,
                          const Seen &seen) {
    const Buffers b = buffers();
    const int warp_row = (int)threadIdx.x / 32 * WARP_ROWS, first = work.first + warp_row;
    Element *own[2] = {b.own[0] + warp_row * PITCH, b.own[1] + warp_row * PITCH};
    const RowStats rows = row_stats(t, first, work.end);
    Sums sums, second_sums;
    if (FIRST) clear(sums);
    if (SECOND) clear(second_sums);
    const float scale = scale_of(p);

    copy_tile<OWN_ROWS>(b.own[0], t.own[0], work.first, work.end);
    if (FIRST) copy_tile<OWN_ROWS>(b.own[1], t.own[1], work.first, work.end);
    Step step = {0, seen.any.first};
    copy_other(b, t, step, 0);
    int place = 0;
    while (there_is(step, t, seen.any)) {
        const Step next = after(step, seen.any);
        if (there_is(next, t, seen.any)) {
            copy_other(b, t, next, place ^ 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const Element *other = b.other + 2 * place * TILE;
        const float *columns = b.stats + place * STATS;
        Scores weights;
        multiply_transposed(weights, own[0], other);
        to_probabilities(weights, rows, columns, scale * LOG2E);
        if (partly_hidden(seen, step.first)) hide(weights, own[0], step.first, 0.0f);
        if (SECOND) multiply_add(second_sums, weights, other + TILE);
        if (FIRST) {
            Scores d_weights;
            multiply_transposed(d_weights, own[1], other + TILE);
            to_d_scores(d_weights, weights, rows, columns, scale);
            multiply_add(sums, d_weights, other);
        }
        // The next round copies into this tile.
        __syncthreads();
        step = next;
        place ^= 1;
    }
    // Without a row to see the own tiles may still be on their way.
    cp_async_wait<0>();
    __syncthreads();
    if (FIRST) store_rows(t.gradients[0], first, work.end, sums, own[0]);
    if (SECOND) store_rows(t.gradients[1], first, work.end, second_sums, own[1]);
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

DEVICE void copy_other(const Buffers &b, const Operands &t, const Step &step) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const Rows rows = BY_KEYS ? later_head(t.other[i], step.head) : t.other[i];
        copy_tile<OTHER_ROWS>(b.other[i], rows, step.first, t.other_end);
    }
#if BY_KEYS
    for (int i = threadIdx.x; i < 2 * OTHER_ROWS; i += THREADS)
        b.stats[i] = step.first + i % OTHER_ROWS < t.other_end ? *stats_from(t, step, i) : 0.0f;
#endif
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
                        const float *columns, float scale) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) {
            const float delta = BY_KEYS ? columns[OTHER_ROWS + tile_column(j)] : rows.delta[i];
            d_weights[i][j] = d_score(scale, weights[i][j], d_weights[i][j], delta);
        }
}

// With FIRST the gradient of the own first tensor, with SECOND that of the second.
template <bool FIRST, bool SECOND>
DEVICE void differentiate(const Problem &p, const Work &work, const Operands &t,
                          const Seen &seen) {
    const Buffers b = buffers();
    const RowStats rows = row_stats(t, work.first, work.end);
    Sums sums, second_sums;
    if (FIRST) clear(sums);
    if (SECOND) clear(second_sums);
    const float scale = scale_of(p);

    copy_tile<OWN_ROWS>(b.own[0], t.own[0], work.first, work.end);
    if (FIRST) copy_tile<OWN_ROWS>(b.own[1], t.own[1], work.first, work.end);
    for (Step step = {0, seen.any.first}; there_is(step, t, seen.any);
         step = after(step, seen.any)) {
        __syncthreads();
        copy_other(b, t, step);
        __syncthreads();
        Scores weights;
        multiply_transposed(weights, b.own[0], b.other[0]);
        to_probabilities(weights, rows, b.stats, scale * LOG2E);
        if (partly_hidden(seen, step.first)) hide(weights, b.own[0], step.first, 0.0f);
        Scores d_weights;
        if (FIRST) {
            multiply_transposed(d_weights, b.own[1], b.other[1]);
            to_d_scores(d_weights, weights, rows, b.stats, scale);
        }
        if (SECOND) {
            share_weights(b.scratch, weights);
            multiply_add(second_sums, b.scratch, b.other[1]);
        }
        if (FIRST) {
            share_weights(b.scratch, d_weights);
            multiply_add(sums, b.scratch, b.other[0]);
        }
    }
    if (FIRST) store_rows(t.gradients[0], work.first, work.end, sums);
    if (SECOND) store_rows(t.gradients[1], work.first, work.end, second_sums);
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
    t.other_end = BY_KEYS ? seq_q_of(p) : seq_kv_of(p);
    t.lse = stats + stats_row(p, work);
    const long long plane = (long long)batch_of(p) * heads_of(p) * seq_q_of(p);
    t.delta = t.lse + plane;
    t.heads = BY_KEYS ? group_of(p) : 1;
    t.stats_stride = seq_q_of(p);
    return t;
}

// The ranges of keys behind the other statistics.
DEVICE Ranges ranges_in(const float *stats, const Problem &p, const Work &work) {
    const long long queries = (long long)batch_of(p) * seq_q_of(p);
    const int *const ranges = (const int *)(stats + 2 * heads_of(p) * queries);
    return ranges_of(ranges, ranges + queries, p, work);
}

DEVICE void differentiate_all(const Problem &p, const Work &work, const Operands &t,
                              const Ranges &ranges) {
    const Range rows = {work.first, work.end};
#if TENSOR_CORES
    const int warp_row = work.first + (int)threadIdx.x / 32 * WARP_ROWS;
    const Range mine = {warp_row, warp_row + WARP_ROWS};
#else
    const Range mine = rows;
#endif
    // The piece before may still be at work in shared memory.
    __syncthreads();
    const Seen seen = keep_sights(buffers().own[0], p, ranges, rows, mine);
#if BY_KEYS && HEAD_DIM > 128
    // The sums of both would not fit into the registers.
    differentiate<true, false>(p, work, t, seen);
    __syncthreads();
    differentiate<false, true>(p, work, t, seen);
#else
    differentiate<true, BY_KEYS>(p, work, t, seen);
#endif
}

#if BY_KEYS

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
flash_attention_backward_keys(const void *q, const void *k, const void *v, const void *d_out,
                              const float *stats, void *dk, void *dv, const unsigned *info) {
    const Problem p = {info};
    for (int item = first_item(p) + blockIdx.x; item < end_item(p, seq_kv_of(p)); item += gridDim.x) {
        const Work work = work_at(p, item, seq_kv_of(p), false);
        Operands t = operands(p, work, q, k, v, d_out, stats);
        t.gradients[0] = rows_of(dk, DK, p, work);
        t.gradients[1] = rows_of(dv, DV, p, work);
        differentiate_all(p, work, t, ranges_in(stats, p, work));
    }
}

#else

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
flash_attention_backward_queries(const void *q, const void *k, const void *v, const void *d_out,
                                 const float *stats, void *dq, const unsigned *info) {
    const Problem p = {info};
    for (int item = first_item(p) + blockIdx.x; item < end_item(p, seq_q_of(p)); item += gridDim.x) {
        const Work work = work_at(p, item, seq_q_of(p), RANGES || is_causal(p));
        Operands t = operands(p, work, q, k, v, d_out, stats);
        t.gradients[0] = rows_of(dq, DQ, p, work);
        differentiate_all(p, work, t, ranges_in(stats, p, work));
    }
}

#endif

#endif
