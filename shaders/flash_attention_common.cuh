// What the attention kernels share. crates/tensor/src/gpu/flash_cuda.rs puts in front of this text what varies:
//   HEAD_DIM      any multiple of 8 up to 256
//   ELEMENT       0 f32, 1 f16, 2 bf16
//   TENSOR_CORES  1 only for f16 and bf16, from sm_80 on
//   RANGES        1 if each query comes with the range of keys that it sees, instead of causality
//   ENTRY         which of the entry points below is compiled
//   OWN_ROWS, OTHER_ROWS, THREADS, MIN_BLOCKS, SHARED_BYTES   see flash_attention_tiles.txt
//
// The algorithm is FlashAttention-2's (Dao, 2023): a thread block owns a tile of rows, of queries or
// of keys, goes through the tiles of the other kind that can be seen, and recomputes the scores in
// the backward pass from their log-sum-exp. Nothing is added up by two blocks, so that a result
// depends on neither the number of blocks nor their order.
//
// With fewer heads of keys than of queries, a `group` of query heads shares each of them.
//
// No headers are included: NVRTC comes without them.

#define FORWARD 0
#define DELTA 1
#define BACKWARD_QUERIES 2
#define BACKWARD_KEYS 3

#define LOG2E 1.44269504088896341f
#define LN2 0.693147180559945309f
#define INT_LARGEST 0x7fffffff

#if ELEMENT == 0
typedef float Element;
#else
typedef unsigned short Element;
#endif

#define DEVICE __device__ __forceinline__

// tests/cuda_emulator/ has its own of what only a GPU can do.
#ifndef CUDA_EMULATOR

DEVICE float minus_infinity() { return __int_as_float(0xff800000); }

// Without exp2f's care for subnormal results, which are 0 beside a row's largest term.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float f16_to_float(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

DEVICE unsigned short float_to_f16(float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

#if TENSOR_CORES || ELEMENT == 2
DEVICE unsigned floats_to_f16x2(float low, float high) {
    unsigned y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

DEVICE unsigned floats_to_bf16x2(float low, float high) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
#else
DEVICE unsigned floats_to_f16x2(float low, float high) {
    return float_to_f16(low) | (unsigned)float_to_f16(high) << 16;
}
#endif

#if TENSOR_CORES
DEVICE unsigned shared_address(const void *pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

DEVICE void ldmatrix_x4(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

DEVICE void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

#if ELEMENT == 1
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#endif
DEVICE void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm(MMA "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// `bytes` are read; what is missing to 16 becomes 0.
DEVICE void cp_async_16(void *to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

DEVICE void cp_async_4(void *to, const void *from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}

DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

#endif

#if ELEMENT == 1
DEVICE unsigned packed(float low, float high) { return floats_to_f16x2(low, high); }
DEVICE float widened(Element x) { return f16_to_float(x); }
#elif ELEMENT == 2
DEVICE unsigned packed(float low, float high) { return floats_to_bf16x2(low, high); }
DEVICE float widened(Element x) { return __uint_as_float((unsigned)x << 16); }
#endif

// Elements of a 16-byte access.
#define VECTOR (16 / (int)sizeof(Element))

DEVICE void widen(float (&x)[VECTOR], uint4 word) {
    const unsigned words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#if ELEMENT == 0
        x[i] = __uint_as_float(words[i]);
#else
        x[2 * i] = widened((Element)(words[i] & 0xffffu));
        x[2 * i + 1] = widened((Element)(words[i] >> 16));
#endif
    }
}

// One head's rows of one tensor.
struct Rows {
    Element *data;
    unsigned head_stride;
    int row_stride;
};

DEVICE Element *row_of(const Rows &rows, int i) {
    return rows.data + (long long)i * rows.row_stride;
}

// The rows of a later head.
DEVICE Rows later_head(Rows rows, int heads) {
    rows.data += (unsigned long long)heads * rows.head_stride;
    return rows;
}

enum Operand { Q, K, V, OUT, D_OUT, DQ, DK, DV };

struct Problem {
    const unsigned *info;
};

// Numbers are read where they are used: kept in registers all the while they would make kernels spill.
DEVICE int batch_of(const Problem &p) { return p.info[0]; }
DEVICE int heads_of(const Problem &p) { return p.info[1]; }
DEVICE int kv_heads_of(const Problem &p) { return p.info[2]; }
// Query heads that share a head of keys.
DEVICE int group_of(const Problem &p) { return heads_of(p) / kv_heads_of(p); }
DEVICE int seq_q_of(const Problem &p) { return p.info[3]; }
DEVICE int seq_kv_of(const Problem &p) { return p.info[4]; }
// Position of the first query.
DEVICE int shift_of(const Problem &p) { return seq_kv_of(p) - seq_q_of(p); }
DEVICE bool is_causal(const Problem &p) { return p.info[5]; }
// A query sees only keys less than so many positions before it.
DEVICE int window_of(const Problem &p) {
    return p.info[6] - 1u < (unsigned)INT_LARGEST ? p.info[6] : INT_LARGEST;
}
// Positive: a row's largest score is looked for before it is scaled.
DEVICE float scale_of(const Problem &p) { return __uint_as_float(p.info[7]); }

// Rows [first, end).
struct Range {
    int first, end;
};

DEVICE bool contains(const Range &range, int i) { return i >= range.first && i < range.end; }

// Where a sequence's queries have the ranges of keys that they see, one number a query each. Neither
// falls from a query to the next.
struct Ranges {
#if RANGES
    const int *first, *end;
#endif
};

// Whether a block owns keys and goes through queries, instead of the other way round.
#define BY_KEYS (ENTRY == BACKWARD_KEYS)

// The keys that a query sees; none for a query that is not there.
DEVICE Range keys_of(const Problem &p, const Ranges &ranges, int query) {
    const int at = query + shift_of(p);
    Range keys = {0, 0};
    if (query >= seq_q_of(p)) return keys;
    keys.first = max(0, at - window_of(p) + 1);
#if RANGES
    // Whatever was given, no further than the keys that there are.
    keys.first = max(keys.first, ranges.first[query]);
    keys.end = min(ranges.end[query], seq_kv_of(p));
#else
    keys.end = is_causal(p) ? min(seq_kv_of(p), at + 1) : seq_kv_of(p);
#endif
    return keys;
}

#if RANGES
// The first query whose number in `bound` is larger; `count` without one.
DEVICE int first_beyond(const int *bound, int count, int number) {
    int first = 0;
    while (count > 0) {
        const int half = count / 2;
        const bool beyond = bound[first + half] > number;
        first += beyond ? 0 : half + 1;
        count = beyond ? half : count - half - 1;
    }
    return first;
}
#endif

// The queries that see a key; none for a key that is not there. The ranges have to be within the
// window.
DEVICE Range queries_of(const Problem &p, const Ranges &ranges, int key) {
    Range queries = {0, 0};
    if (key >= seq_kv_of(p)) return queries;
#if RANGES
    queries.first = first_beyond(ranges.end, seq_q_of(p), key);
    queries.end = first_beyond(ranges.first, seq_q_of(p), key);
#else
    queries.first = is_causal(p) ? max(0, key - shift_of(p)) : 0;
    // In 64 bits: a window may be as large as an int.
    queries.end = (int)min((long long)seq_q_of(p), (long long)window_of(p) + key - shift_of(p));
#endif
    return queries;
}

// The others that an own row sees, or is seen by.
DEVICE Range others_of(const Problem &p, const Ranges &ranges, int own) {
    return BY_KEYS ? queries_of(p, ranges, own) : keys_of(p, ranges, own);
}

// Of some own rows: the others that any of them sees, or is seen by, lie in `any`; those in `all` all
// of them do.
struct Seen {
    Range any, all;
};

DEVICE bool partly_hidden(const Seen &seen, int other) {
    return other < seen.all.first || other + OTHER_ROWS > seen.all.end;
}

// A block's piece of work: rows [first, end) of a head. Where it owns keys, `head` is the first of
// those that share the keys.
struct Work {
    int batch, head, kv_head, first, end;
};

// Heads of the rows that blocks own, in one sequence.
DEVICE int own_heads(const Problem &p) { return BY_KEYS ? kv_heads_of(p) : heads_of(p); }

// Fewer than there are rows, which an int can count: a tensor has fewer than 2^32 elements.
DEVICE int work_items(const Problem &p, int seq) {
    return batch_of(p) * own_heads(p) * ((seq + OWN_ROWS - 1) / OWN_ROWS);
}

// Of the work a launch may have a part.
DEVICE int first_item(const Problem &p) { return p.info[41]; }
DEVICE int end_item(const Problem &p, int seq) { return min((unsigned)work_items(p, seq), p.info[42]); }

// `last_first` where later rows have more to do: long pieces must not come at the end.
DEVICE Work work_at(const Problem &p, int index, int seq, bool last_first) {
    const int tiles = (seq + OWN_ROWS - 1) / OWN_ROWS, heads = own_heads(p);
    const int head = index / tiles, place = index % tiles;
    Work work;
    work.batch = head / heads;
    work.head = BY_KEYS ? head % heads * group_of(p) : head % heads;
    work.kv_head = BY_KEYS ? head % heads : head % heads / group_of(p);
    work.first = (last_first ? tiles - 1 - place : place) * OWN_ROWS;
    work.end = min(seq, work.first + OWN_ROWS);
    return work;
}

DEVICE long long stats_row(const Problem &p, const Work &work) {
    return ((long long)work.batch * heads_of(p) + work.head) * seq_q_of(p);
}

// Those of the work's sequence, of numbers `[batch, seq_q]`.
DEVICE Ranges ranges_of(const int *first, const int *end, const Problem &p, const Work &work) {
    Ranges ranges;
#if RANGES
    ranges.first = first + (long long)work.batch * seq_q_of(p);
    ranges.end = end + (long long)work.batch * seq_q_of(p);
#endif
    return ranges;
}

// `data` is const where the kernel only reads it.
DEVICE Rows rows_of(const void *data, Operand which, const Problem &p, const Work &work) {
    const unsigned *layout = p.info + 9 + 4 * which;
    const bool of_keys = which == K || which == V || which == DK || which == DV;
    const unsigned long long head = of_keys ? work.kv_head : work.head;
    Rows rows;
    rows.data = (Element *)data + layout[0] + (unsigned long long)work.batch * layout[1] +
                head * layout[2];
    rows.head_stride = layout[2];
    rows.row_stride = layout[3];
    return rows;
}

#if TENSOR_CORES

// The product runs over steps of 16 columns.
#define DIM ((HEAD_DIM + 15) / 16 * 16)
// 16 bytes more than a row: so the 8 rows that ldmatrix reads at a time lie in different banks.
#define PITCH (DIM + 8)
#define ROW_LENGTH DIM
typedef Element Shared;
#define WARP_ROWS (OWN_ROWS / (THREADS / 32))
// Tiles of 16 rows that share each fragment of the other side: shared memory is what limits.
#define M_TILES (WARP_ROWS / 16)

#elif ENTRY != DELTA

// Without tensor cores a thread has 4 rows of scores, in the columns that leave the same remainder by
// 8, and of sums, in every eighth 4 columns; the 8 threads of a row are neighbours.
#define LANES 8
#define THREAD_ROWS 4
#define THREAD_COLUMNS (OTHER_ROWS / LANES)
#define CHUNKS ((HEAD_DIM + 4 * LANES - 1) / (4 * LANES))
// A multiple of 32 and 4: so rows that threads read together lie in different banks.
#define PITCH (CHUNKS * 4 * LANES + 4)
#define ROW_LENGTH (CHUNKS * 4 * LANES)
typedef float Shared;
#define WEIGHTS_PITCH (OTHER_ROWS + 4)

#endif

#if TENSOR_CORES || ENTRY != DELTA

// The others that an own row sees, or is seen by, wait in shared memory where its pitch leaves room.
DEVICE Range *sight_of(const Shared *own, int row) {
    return (Range *)(own + row * PITCH + ROW_LENGTH);
}

// Keep them there, and sum them up: `any` of all of the block's rows, `all` of this warp's, `mine`.
// Later rows' others neither begin nor end before earlier ones'.
DEVICE Seen keep_sights(const Shared *own, const Problem &p, const Ranges &ranges, const Range &rows,
                        Range mine) {
    for (int i = threadIdx.x; i < OWN_ROWS; i += THREADS)
        *sight_of(own, i) = others_of(p, ranges, rows.first + i);
    mine.first = min(mine.first, rows.end - 1);
    mine.end = min(mine.end, rows.end);
    Seen seen;
#if RANGES && BY_KEYS
    // Not to be looked for again.
    __syncthreads();
    own -= (long long)rows.first * PITCH;
    seen.any.first = sight_of(own, rows.first)->first;
    seen.any.end = sight_of(own, rows.end - 1)->end;
    seen.all.first = sight_of(own, mine.end - 1)->first;
    seen.all.end = sight_of(own, mine.first)->end;
#else
    seen.any.first = others_of(p, ranges, rows.first).first;
    seen.any.end = others_of(p, ranges, rows.end - 1).end;
    seen.all.first = others_of(p, ranges, mine.end - 1).first;
    seen.all.end = others_of(p, ranges, mine.first).end;
#endif
    return seen;
}

#endif

#if TENSOR_CORES

typedef float Scores[M_TILES][OTHER_ROWS / 8][4];
typedef float Sums[M_TILES][DIM / 8][4];

// Start copying rows [first, first + ROWS); what is not in [0, end) and the columns that pad
// HEAD_DIM become 0, since even a probability of 0 must not meet a NaN there.
template <int ROWS>
DEVICE void copy_tile(Element *to, const Rows &from, int first, int end) {
    const int chunks = DIM / 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
        const int row = i / chunks, column = i % chunks * 8;
        const bool there = first + row < end && column < HEAD_DIM;
        const Element *source = there ? row_of(from, first + row) + column : from.data;
        cp_async_16(to + row * PITCH + column, source, there ? 16 : 0);
    }
}

template <int TILES>
DEVICE void clear(float (&x)[M_TILES][TILES][4]) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) x[m][n][e] = 0.0f;
}

// Where element (m, n, e) of an accumulator lies in its warp's tile.
DEVICE int fragment_row(int m, int e) { return m * 16 + threadIdx.x % 32 / 4 + e / 2 * 8; }
DEVICE int fragment_column(int n, int e) { return n * 8 + threadIdx.x % 4 * 2 + e % 2; }

// Scores of what is not seen become `hidden`. `own` are the warp's rows; the tile begins at `other`.
DEVICE void hide(Scores &scores, const Element *own, int other, float hidden) {
    other += fragment_column(0, 0);
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const Range seen = *sight_of(own, fragment_row(m, 2 * half));
#pragma unroll
            for (int n = 0; n < OTHER_ROWS / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (!contains(seen, other + 8 * n + i)) scores[m][n][2 * half + i] = hidden;
        }
}

// `scores` of the warp's own rows with the other tile's.
DEVICE void multiply_transposed(Scores &scores, const Element *own, const Element *other) {
    const int lane = threadIdx.x % 32;
    own += lane % 16 * PITCH + lane / 16 * 8;
    other += (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
    clear(scores);
#pragma unroll
    for (int k = 0; k < DIM; k += 16) {
        unsigned a[M_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) ldmatrix_x4(a[m], own + m * 16 * PITCH + k);
#pragma unroll
        for (int n = 0; n < OTHER_ROWS / 16; ++n) {
            unsigned b[4];
            ldmatrix_x4(b, other + n * 16 * PITCH + k);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                mma_m16n8k16(scores[m][2 * n], a[m], b[0], b[1]);
                mma_m16n8k16(scores[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// An accumulator holds its elements where the left operand of the next product has them, so that the
// weights never leave the registers, of which they take half as many as operands.
typedef unsigned Weights[OTHER_ROWS / 16][M_TILES][4];

DEVICE void pack(Weights &operands, const Scores &weights) {
#pragma unroll
    for (int k = 0; k < OTHER_ROWS / 16; ++k)
#pragma unroll
        for (int m = 0; m < M_TILES; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&w)[4] = weights[m][2 * k + i / 2];
                operands[k][m][i] = packed(w[i % 2 * 2], w[i % 2 * 2 + 1]);
            }
}

// `sums` grow by `weights` times the other tile.
DEVICE void multiply_add(Sums &sums, const Weights &weights, const Element *other) {
    const int lane = threadIdx.x % 32;
    other += lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < OTHER_ROWS / 16; ++k) {
#pragma unroll
        for (int n = 0; n < DIM / 16; ++n) {
            unsigned b[4];
            ldmatrix_x4_trans(b, other + k * 16 * PITCH + n * 16);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                mma_m16n8k16(sums[m][2 * n], weights[k][m], b[0], b[1]);
                mma_m16n8k16(sums[m][2 * n + 1], weights[k][m], b[2], b[3]);
            }
        }
    }
}

DEVICE void multiply_add(Sums &sums, const Scores &weights, const Element *other) {
    Weights operands;
    pack(operands, weights);
    multiply_add(sums, operands, other);
}

// Write a warp's rows, from row `first` of the tensor on, by way of `own`: the warp's rows of a tile
// in shared memory that only this warp reads, and has read. So global memory sees whole lines.
DEVICE void store_rows(const Rows &to, int first, int end, const Sums &sums, Element *own) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M_TILES; ++m)
#pragma unroll
        for (int n = 0; n < DIM / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; e += 2)
                *(unsigned *)(own + fragment_row(m, e) * PITCH + fragment_column(n, e)) =
                    packed(sums[m][n][e], sums[m][n][e + 1]);
    __syncwarp();
    const int chunks = HEAD_DIM / 8;
    for (int i = lane; i < WARP_ROWS * chunks; i += 32) {
        const int row = i / chunks, column = i % chunks * 8;
        if (first + row < end)
            *(uint4 *)(row_of(to, first + row) + column) = *(const uint4 *)(own + row * PITCH + column);
    }
}

#elif ENTRY != DELTA

typedef float Scores[THREAD_ROWS][THREAD_COLUMNS];
typedef float Sums[THREAD_ROWS][CHUNKS][4];

DEVICE int lane_of_row() { return threadIdx.x % LANES; }
// Row `i` of the thread, in the block's tile.
DEVICE int tile_row(int i) {
    return threadIdx.x / 32 * 16 + i * 4 + threadIdx.x % 32 / LANES;
}
DEVICE int tile_column(int j) { return j * LANES + lane_of_row(); }

// Scores of what is not seen become `hidden`. `own` are the block's rows; the tile begins at `other`.
DEVICE void hide(Scores &scores, const float *own, int other, float hidden) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i) {
        const Range seen = *sight_of(own, tile_row(i));
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j)
            if (!contains(seen, other + tile_column(j))) scores[i][j] = hidden;
    }
}

template <int ROWS>
DEVICE void copy_tile(float *to, const Rows &from, int first, int end) {
    const int chunks = HEAD_DIM / VECTOR;
    for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
        const int row = i / chunks, column = i % chunks * VECTOR;
        float x[VECTOR] = {};
        if (first + row < end) widen(x, *(const uint4 *)(row_of(from, first + row) + column));
#pragma unroll
        for (int c = 0; c < VECTOR; c += 4)
            *(float4 *)(to + row * PITCH + column + c) =
                make_float4(x[c], x[c + 1], x[c + 2], x[c + 3]);
    }
}

DEVICE float dot(float sum, const float4 &x, const float4 &y) {
    return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
}

DEVICE void multiply_transposed(Scores &scores, const float *own, const float *other) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) scores[i][j] = 0.0f;
#pragma unroll 4
    for (int c = 0; c < HEAD_DIM; c += 4) {
        float4 x[THREAD_ROWS];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; ++i) x[i] = *(const float4 *)(own + tile_row(i) * PITCH + c);
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j) {
            const float4 y = *(const float4 *)(other + tile_column(j) * PITCH + c);
#pragma unroll
            for (int i = 0; i < THREAD_ROWS; ++i) scores[i][j] = dot(scores[i][j], x[i], y);
        }
    }
}

// `scratch` carries the weights to the other threads of their row, which are of the same warp.
DEVICE void share_weights(float *scratch, const Scores &weights) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int j = 0; j < THREAD_COLUMNS; ++j)
            scratch[tile_row(i) * WEIGHTS_PITCH + tile_column(j)] = weights[i][j];
    __syncwarp();
}

DEVICE void add_row(float (&sum)[4], float weight, const float4 &y) {
    sum[0] = fmaf(weight, y.x, sum[0]);
    sum[1] = fmaf(weight, y.y, sum[1]);
    sum[2] = fmaf(weight, y.z, sum[2]);
    sum[3] = fmaf(weight, y.w, sum[3]);
}

DEVICE void multiply_add(Sums &sums, const float *scratch, const float *other) {
    other += lane_of_row() * 4;
#pragma unroll 2
    for (int j = 0; j < OTHER_ROWS; j += 4) {
        float weights[THREAD_ROWS][4];
#pragma unroll
        for (int i = 0; i < THREAD_ROWS; ++i) {
            const float4 w = *(const float4 *)(scratch + tile_row(i) * WEIGHTS_PITCH + j);
            weights[i][0] = w.x;
            weights[i][1] = w.y;
            weights[i][2] = w.z;
            weights[i][3] = w.w;
        }
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const float4 y = *(const float4 *)(other + (j + k) * PITCH + c * 4 * LANES);
#pragma unroll
                for (int i = 0; i < THREAD_ROWS; ++i) add_row(sums[i][c], weights[i][k], y);
            }
    }
}

DEVICE void clear(Sums &sums) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[i][c][e] = 0.0f;
}

DEVICE void store_4(Element *to, const float (&x)[4]) {
#if ELEMENT == 0
    *(float4 *)to = make_float4(x[0], x[1], x[2], x[3]);
#else
    *(uint2 *)to = make_uint2(packed(x[0], x[1]), packed(x[2], x[3]));
#endif
}

DEVICE void store_rows(const Rows &to, int first, int end, const Sums &sums) {
#pragma unroll
    for (int i = 0; i < THREAD_ROWS; ++i)
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c) {
            const int row = first + tile_row(i), column = (c * LANES + lane_of_row()) * 4;
            if (row < end && column < HEAD_DIM) store_4(row_of(to, row) + column, sums[i][c]);
        }
}

#endif

