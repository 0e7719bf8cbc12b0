// Gradients of q (for KEYS = 0), or of k and v (for KEYS = 1). Two passes over the scores instead of
// one with atomic additions: the result is the same in each run.
//
// A workgroup owns a tile of queries and goes through the keys they see, or the other way round, so
// that the sums stay in registers. `own` and `other` are q and k, or k and q; the `_d` beside them
// are what the gradients of the weights are products of, d_out and v, or v and d_out. Keys go through
// the queries of all heads that share them, head by head.
//
// `stats` is the log-sum-exps, `[batch, heads, seq_q]`, then the deltas; with RANGES then the first
// key that each query sees, `[batch, seq_q]`, and the end of its keys, within the window.

@group(0) @binding(0) var<storage, read_write> q: array<Quad>;
@group(0) @binding(1) var<storage, read_write> k: array<Quad>;
@group(0) @binding(2) var<storage, read_write> v: array<Quad>;
@group(0) @binding(3) var<storage, read_write> d_out: array<Quad>;
#if RANGES
@group(0) @binding(4) var<storage, read_write> stats: array<u32>;
#else
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
#endif
#if KEYS
@group(0) @binding(5) var<storage, read_write> dk: array<Quad>;
@group(0) @binding(6) var<storage, read_write> dv: array<Quad>;
@group(0) @binding(7) var<storage, read_write> info: array<u32>;
#else
@group(0) @binding(5) var<storage, read_write> dq: array<Quad>;
@group(0) @binding(6) var<storage, read_write> info: array<u32>;
#endif

#if STAGED
var<workgroup> own: array<Quad, ROWS * STRIDE>;
var<workgroup> own_d: array<Quad, ROWS * STRIDE>;
#endif
var<workgroup> other: array<Quad, COLUMNS * STRIDE>;
var<workgroup> other_d: array<Quad, COLUMNS * STRIDE>;
var<workgroup> score_gradients: array<f32, ROWS * COLUMNS>;
#if KEYS
var<workgroup> weights: array<f32, ROWS * COLUMNS>;
#endif

struct Pair {
    x: Quad,
    d: Quad,
}

fn query_quad(x: Rows, d: Rows, query: u32, c: u32) -> Pair {
    var pair = Pair(Quad(), Quad());
    if query < x.len && c < HEAD_QUADS {
        pair = Pair(q[x.start + query * x.stride + c], d_out[d.start + query * d.stride + c]);
    }
    return pair;
}

fn key_quad(x: Rows, d: Rows, key: u32, c: u32) -> Pair {
    var pair = Pair(Quad(), Quad());
    if key < x.len && c < HEAD_QUADS {
        pair = Pair(k[x.start + key * x.stride + c], v[d.start + key * d.stride + c]);
    }
    return pair;
}

fn stat(i: u32) -> f32 {
#if RANGES
    return bitcast<f32>(stats[i]);
#else
    return stats[i];
#endif
}

#if RANGES

#if KEYS

// The first of a sequence's queries whose number in one of the bounds, which begin at `bound`, is
// larger; their count without one.
fn first_beyond(p: Problem, bound: u32, number: u32) -> u32 {
    var first = 0u;
    var count = p.seq_q;
    while count > 0u {
        let half = count / 2u;
        if stats[bound + first + half] > number {
            count = half;
        } else {
            first += half + 1u;
            count -= half + 1u;
        }
    }
    return first;
}

#endif

// What an own row of a sequence sees, or is seen by; nothing for a row that is not there.
fn others_of(p: Problem, sequence: u32, row: u32) -> Range {
    let firsts = (2u * p.heads * p.batch + sequence) * p.seq_q;
    let ends = firsts + p.batch * p.seq_q;
#if KEYS
    if row >= p.seq_kv {
        return Range(0u, 0u);
    }
    return Range(first_beyond(p, ends, row), first_beyond(p, firsts, row));
#else
    if row >= p.seq_q {
        return Range(0u, 0u);
    }
    return Range(stats[firsts + row], stats[ends + row]);
#endif
}

#endif

@compute @workgroup_size(THREADS, 1, 1)
#if KEYS
fn flash_attention_backward_keys(
#else
fn flash_attention_backward_queries(
#endif
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    read_problem(thread);
    let p = workgroupUniformLoad(&problem);
    let at = Place(thread / LANES, thread % LANES);
    let stat_rows = p.batch * p.heads * p.seq_q;
#if KEYS
    let own_len = p.seq_kv;
    let own_heads = p.kv_heads;
#else
    let own_len = p.seq_q;
    let own_heads = p.heads;
#endif
    let tiles = (own_len + ROWS - 1u) / ROWS;
    let work = min(p.batch * own_heads * tiles, p.end_item);

    for (var item = p.first_item + workgroup.x; item < work; item += workgroups.x) {
        let own_head = item % (p.batch * own_heads);
        let sequence = own_head / own_heads;
        // With a causal mask the last queries see, and the first keys are seen by, the most: they
        // go first.
#if KEYS
        let kv_head = own_head;
        let first_own = item / (p.batch * own_heads) * ROWS;
#else
        let head = own_head;
        let kv_head = head / p.group;
        let first_own = (tiles - 1u - item / (p.batch * own_heads)) * ROWS;
        let q_rows = rows_of(Q, head, p.heads, p.seq_q);
        let d_out_rows = rows_of(D_OUT, head, p.heads, p.seq_q);
#endif
        let k_rows = rows_of(K, kv_head, p.kv_heads, p.seq_kv);
        let v_rows = rows_of(V, kv_head, p.kv_heads, p.seq_kv);
        let last_own = min(first_own + ROWS, own_len) - 1u;
#if RANGES
        var ranges = array<Range, ROWS_PER_THREAD>();
        for (var i = 0u; i < ROWS_PER_THREAD; i++) {
            let row = first_own + at.group + GROUPS * i;
            ranges[i] = others_of(p, sequence, row);
            if at.lane == 0u && row == first_own {
                first_sight = ranges[i];
            }
            if at.lane == 0u && row == last_own {
                last_sight = ranges[i];
            }
        }
        let earliest = workgroupUniformLoad(&first_sight);
        let latest = workgroupUniformLoad(&last_sight);
        let start = earliest.first;
        let end = latest.end;
#else
#if KEYS
        let start = queries_start(p, first_own);
        let end = queries_end(p, last_own);
#else
        let start = keys_start(p, first_own);
        let end = keys_end(p, last_own);
#endif
#endif
#if STAGED
        for (var e = thread; e < ROWS * WIDTH; e += THREADS) {
            let row = e / WIDTH;
            let c = e % WIDTH;
#if KEYS
            let found = key_quad(k_rows, v_rows, first_own + row, c);
#else
            let found = query_quad(q_rows, d_out_rows, first_own + row, c);
#endif
            own[row * STRIDE + c] = found.x;
            own_d[row * STRIDE + c] = found.d;
        }
#endif
#if !KEYS
        var lse2 = array<f32, ROWS_PER_THREAD>();
        var delta = array<f32, ROWS_PER_THREAD>();
        for (var i = 0u; i < ROWS_PER_THREAD; i++) {
            let query = min(first_own + at.group + GROUPS * i, last_own);
            lse2[i] = stat(head * p.seq_q + query) * LOG2_E;
            delta[i] = stat(stat_rows + head * p.seq_q + query);
        }
#endif

        var sums = array<vec4<f32>, ROWS_PER_THREAD * QUADS_PER_LANE>();
#if KEYS
        var sums_d = array<vec4<f32>, ROWS_PER_THREAD * QUADS_PER_LANE>();
#endif
#if KEYS
        for (var head = kv_head * p.group; head < (kv_head + 1u) * p.group; head++) {
        let q_rows = rows_of(Q, head, p.heads, p.seq_q);
        let d_out_rows = rows_of(D_OUT, head, p.heads, p.seq_q);
#endif
        for (var first_other = start; first_other < end; first_other += COLUMNS) {
            // Nobody may overwrite a tile before everybody is done with it.
            workgroupBarrier();
            for (var e = thread; e < COLUMNS * WIDTH; e += THREADS) {
                let row = e / WIDTH;
                let c = e % WIDTH;
#if KEYS
                let found = query_quad(q_rows, d_out_rows, first_other + row, c);
#else
                let found = key_quad(k_rows, v_rows, first_other + row, c);
#endif
                other[row * STRIDE + c] = found.x;
                other_d[row * STRIDE + c] = found.d;
            }
            workgroupBarrier();

            var s = array<f32, ROWS_PER_THREAD * COLUMNS_PER_THREAD>();
            var ds = array<f32, ROWS_PER_THREAD * COLUMNS_PER_THREAD>();
            for (var c = 0u; c < WIDTH; c++) {
                var column = array<vec4<f32>, COLUMNS_PER_THREAD>();
                var column_d = array<vec4<f32>, COLUMNS_PER_THREAD>();
                for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                    column[j] = vec4<f32>(other[(at.lane + LANES * j) * STRIDE + c]);
                    column_d[j] = vec4<f32>(other_d[(at.lane + LANES * j) * STRIDE + c]);
                }
                for (var i = 0u; i < ROWS_PER_THREAD; i++) {
#if STAGED
                    let row = vec4<f32>(own[(at.group + GROUPS * i) * STRIDE + c]);
                    let row_d = vec4<f32>(own_d[(at.group + GROUPS * i) * STRIDE + c]);
#else
#if KEYS
                    let found = key_quad(k_rows, v_rows, first_own + at.group + GROUPS * i, c);
#else
                    let found = query_quad(q_rows, d_out_rows, first_own + at.group + GROUPS * i, c);
#endif
                    let row = vec4<f32>(found.x);
                    let row_d = vec4<f32>(found.d);
#endif
                    for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                        s[i * COLUMNS_PER_THREAD + j] += dot(row, column[j]);
                        ds[i * COLUMNS_PER_THREAD + j] += dot(row_d, column_d[j]);
                    }
                }
            }
#if KEYS
            var lse2 = array<f32, COLUMNS_PER_THREAD>();
            var delta = array<f32, COLUMNS_PER_THREAD>();
            for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                let query = min(first_other + at.lane + LANES * j, p.seq_q - 1u);
                lse2[j] = stat(head * p.seq_q + query) * LOG2_E;
                delta[j] = stat(stat_rows + head * p.seq_q + query);
            }
#if !RANGES
            let last_other = min(first_other + COLUMNS, p.seq_q) - 1u;
            let all = all_seen(p, first_other, last_other, first_own, last_own) && first_other + COLUMNS <= p.seq_q;
#endif
#else
#if !RANGES
            let last_other = first_other + COLUMNS - 1u;
            let all = last_other < p.seq_kv && all_seen(p, first_own, last_own, first_other, last_other);
#endif
#endif
#if RANGES
            let all = first_other >= latest.first && first_other + COLUMNS <= earliest.end;
#endif
            for (var i = 0u; i < ROWS_PER_THREAD; i++) {
                for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                    let e = i * COLUMNS_PER_THREAD + j;
                    let row = at.group + GROUPS * i;
                    let column = at.lane + LANES * j;
#if KEYS
                    let query = first_other + column;
                    let key = first_own + row;
                    let place = j;
#else
                    let query = first_own + row;
                    let key = first_other + column;
                    let place = i;
#endif
                    var weight = exp2(s[e] * p.scale2 - lse2[place]);
                    var gradient = weight * (ds[e] - delta[place]) * p.scale;
#if RANGES
                    let hidden = !all && !contains(ranges[i], first_other + column);
#else
                    let hidden = !all && !(query < p.seq_q && seen(p, query, key));
#endif
                    if hidden {
                        weight = 0.0;
                        gradient = 0.0;
                    }
                    score_gradients[row * COLUMNS + column] = gradient;
#if KEYS
                    weights[row * COLUMNS + column] = weight;
#endif
                }
            }
            workgroupBarrier();
            for (var j = 0u; j < COLUMNS; j++) {
                for (var n = 0u; n < QUADS_PER_LANE; n++) {
                    let x = vec4<f32>(other[j * STRIDE + at.lane + LANES * n]);
#if KEYS
                    let d = vec4<f32>(other_d[j * STRIDE + at.lane + LANES * n]);
#endif
                    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
                        let e = (at.group + GROUPS * i) * COLUMNS + j;
                        sums[i * QUADS_PER_LANE + n] += score_gradients[e] * x;
#if KEYS
                        sums_d[i * QUADS_PER_LANE + n] += weights[e] * d;
#endif
                    }
                }
            }
        }
#if KEYS
        }
#endif

#if KEYS
        let dk_rows = rows_of(DK, kv_head, p.kv_heads, own_len);
        let dv_rows = rows_of(DV, kv_head, p.kv_heads, own_len);
#else
        let dq_rows = rows_of(DQ, head, p.heads, own_len);
#endif
        for (var i = 0u; i < ROWS_PER_THREAD; i++) {
            let row = first_own + at.group + GROUPS * i;
            for (var n = 0u; n < QUADS_PER_LANE; n++) {
                let c = at.lane + LANES * n;
                if row < own_len && c < HEAD_QUADS {
                    let sum = Quad(sums[i * QUADS_PER_LANE + n]);
#if KEYS
                    dk[dk_rows.start + row * dk_rows.stride + c] = sum;
                    dv[dv_rows.start + row * dv_rows.stride + c] = Quad(sums_d[i * QUADS_PER_LANE + n]);
#else
                    dq[dq_rows.start + row * dq_rows.stride + c] = sum;
#endif
                }
            }
        }
        // The next item's rows replace this one's.
        workgroupBarrier();
    }
}
