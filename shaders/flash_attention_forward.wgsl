@group(0) @binding(0) var<storage, read_write> q: array<Quad>;
@group(0) @binding(1) var<storage, read_write> k: array<Quad>;
@group(0) @binding(2) var<storage, read_write> v: array<Quad>;
#if RANGES
// The keys that each query sees, `[batch, seq_q]`.
@group(0) @binding(3) var<storage, read_write> range_first: array<i32>;
@group(0) @binding(4) var<storage, read_write> range_end: array<i32>;
@group(0) @binding(5) var<storage, read_write> out: array<Quad>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<storage, read_write> info: array<u32>;
#else
@group(0) @binding(3) var<storage, read_write> out: array<Quad>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> info: array<u32>;
#endif

#if STAGED
var<workgroup> queries: array<Quad, ROWS * STRIDE>;
#endif
var<workgroup> keys: array<Quad, COLUMNS * STRIDE>;
var<workgroup> values: array<Quad, COLUMNS * STRIDE>;
var<workgroup> weights: array<f32, ROWS * COLUMNS>;
#if !SUBGROUPS
var<workgroup> lanes: array<f32, ROWS * LANES>;
#endif

fn query_quad(rows: Rows, query: u32, c: u32) -> Quad {
    var x = Quad();
    if query < rows.len && c < HEAD_QUADS {
        x = q[rows.start + query * rows.stride + c];
    }
    return x;
}

// The largest of each row's values over the lanes that share the row.
fn row_maxima(found: array<f32, ROWS_PER_THREAD>, at: Place) -> array<f32, ROWS_PER_THREAD> {
    var row = found;
#if SUBGROUPS
    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
        row[i] = max(row[i], subgroupShuffleXor(row[i], 1u));
        row[i] = max(row[i], subgroupShuffleXor(row[i], 2u));
        row[i] = max(row[i], subgroupShuffleXor(row[i], 4u));
    }
#else
    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
        lanes[(at.group + GROUPS * i) * LANES + at.lane] = row[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
        for (var lane = 0u; lane < LANES; lane++) {
            row[i] = max(row[i], lanes[(at.group + GROUPS * i) * LANES + lane]);
        }
    }
#endif
    return row;
}

// The sum of each row's values over the lanes that share the row, in the same order for all of them.
fn row_sums(found: array<f32, ROWS_PER_THREAD>, at: Place) -> array<f32, ROWS_PER_THREAD> {
    var row = found;
#if SUBGROUPS
    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
        row[i] += subgroupShuffleXor(row[i], 1u);
        row[i] += subgroupShuffleXor(row[i], 2u);
        row[i] += subgroupShuffleXor(row[i], 4u);
    }
#else
    workgroupBarrier();
    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
        lanes[(at.group + GROUPS * i) * LANES + at.lane] = row[i];
    }
    workgroupBarrier();
    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
        row[i] = 0.0;
        for (var lane = 0u; lane < LANES; lane++) {
            row[i] += lanes[(at.group + GROUPS * i) * LANES + lane];
        }
    }
#endif
    return row;
}

@compute @workgroup_size(THREADS, 1, 1)
fn flash_attention_forward(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
#if SUBGROUPS
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) invocation: u32,
#endif
) {
    read_problem(thread);
    let p = workgroupUniformLoad(&problem);
#if SUBGROUPS
    // Who shares a row exchanges registers, and is a neighbour in a subgroup; by the local index it need not be. Where a
    // driver gives another size than that of its subgroups, the numbers would not be those of THREADS members.
    let member = select(thread, subgroup * subgroup_size + invocation, subgroups * subgroup_size == THREADS);
#else
    let member = thread;
#endif
    let at = Place(member / LANES, member % LANES);
    let tiles = (p.seq_q + ROWS - 1u) / ROWS;
    let work = min(p.batch * p.heads * tiles, p.end_item);

    for (var item = p.first_item + workgroup.x; item < work; item += workgroups.x) {
        // With a causal mask the last queries see the most keys: they go first.
        let tile = tiles - 1u - item / (p.batch * p.heads);
        let head = item % (p.batch * p.heads);
        let first_query = tile * ROWS;
        let last_query = min(first_query + ROWS, p.seq_q) - 1u;
        let q_rows = rows_of(Q, head, p.heads, p.seq_q);
        let k_rows = rows_of(K, head / p.group, p.kv_heads, p.seq_kv);
        let v_rows = rows_of(V, head / p.group, p.kv_heads, p.seq_kv);
        let out_rows = rows_of(OUT, head, p.heads, p.seq_q);
#if RANGES
        var ranges = array<Range, ROWS_PER_THREAD>();
        for (var i = 0u; i < ROWS_PER_THREAD; i++) {
            let query = first_query + at.group + GROUPS * i;
            if query < p.seq_q {
                let place = head / p.heads * p.seq_q + query;
                ranges[i] = within(p, query, range_first[place], range_end[place]);
            }
            if at.lane == 0u && query == first_query {
                first_sight = ranges[i];
            }
            if at.lane == 0u && query == last_query {
                last_sight = ranges[i];
            }
        }
        let earliest = workgroupUniformLoad(&first_sight);
        let latest = workgroupUniformLoad(&last_sight);
        let start = earliest.first;
        let end = latest.end;
#else
        let start = keys_start(p, first_query);
        let end = keys_end(p, last_query);
#endif
#if STAGED
        for (var e = thread; e < ROWS * WIDTH; e += THREADS) {
            let row = e / WIDTH;
            let c = e % WIDTH;
            queries[row * STRIDE + c] = query_quad(q_rows, first_query + row, c);
        }
#endif

        var sums = array<vec4<f32>, ROWS_PER_THREAD * QUADS_PER_LANE>();
        var top = array<f32, ROWS_PER_THREAD>();
        var total = array<f32, ROWS_PER_THREAD>();
        for (var i = 0u; i < ROWS_PER_THREAD; i++) {
            top[i] = LOWEST;
            total[i] = 0.0;
        }
        for (var first_key = start; first_key < end; first_key += COLUMNS) {
            // Nobody may overwrite a tile before everybody is done with it.
            workgroupBarrier();
            for (var e = thread; e < COLUMNS * WIDTH; e += THREADS) {
                let row = e / WIDTH;
                let c = e % WIDTH;
                var x = Quad();
                var y = Quad();
                if first_key + row < p.seq_kv && c < HEAD_QUADS {
                    x = k[k_rows.start + (first_key + row) * k_rows.stride + c];
                    y = v[v_rows.start + (first_key + row) * v_rows.stride + c];
                }
                keys[row * STRIDE + c] = x;
                values[row * STRIDE + c] = y;
            }
            workgroupBarrier();

            var s = array<f32, ROWS_PER_THREAD * COLUMNS_PER_THREAD>();
            for (var c = 0u; c < WIDTH; c++) {
                var key = array<vec4<f32>, COLUMNS_PER_THREAD>();
                for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                    key[j] = vec4<f32>(keys[(at.lane + LANES * j) * STRIDE + c]);
                }
                for (var i = 0u; i < ROWS_PER_THREAD; i++) {
#if STAGED
                    let query = vec4<f32>(queries[(at.group + GROUPS * i) * STRIDE + c]);
#else
                    let query = vec4<f32>(query_quad(q_rows, first_query + at.group + GROUPS * i, c));
#endif
                    for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                        s[i * COLUMNS_PER_THREAD + j] += dot(query, key[j]);
                    }
                }
            }
            let last_key = first_key + COLUMNS - 1u;
#if RANGES
            let all = first_key >= latest.first && last_key < earliest.end;
#else
            let all = last_key < p.seq_kv && all_seen(p, first_query, last_query, first_key, last_key);
#endif
            var largest = top;
            for (var i = 0u; i < ROWS_PER_THREAD; i++) {
                for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                    let e = i * COLUMNS_PER_THREAD + j;
                    s[e] *= p.scale2;
                    let key = first_key + at.lane + LANES * j;
#if RANGES
                    let hidden = !all && !contains(ranges[i], key);
#else
                    let hidden = !all && !seen(p, first_query + at.group + GROUPS * i, key);
#endif
                    if hidden {
                        s[e] = LOWEST;
                    }
                    largest[i] = max(largest[i], s[e]);
                }
            }
            largest = row_maxima(largest, at);
            for (var i = 0u; i < ROWS_PER_THREAD; i++) {
                let shrink = exp2(top[i] - largest[i]);
                top[i] = largest[i];
                total[i] *= shrink;
                for (var j = 0u; j < COLUMNS_PER_THREAD; j++) {
                    // What is not seen must be 0 also where nothing else has been seen yet.
                    let score = s[i * COLUMNS_PER_THREAD + j];
                    let weight = select(exp2(score - largest[i]), 0.0, score == LOWEST);
                    total[i] += weight;
                    weights[(at.group + GROUPS * i) * COLUMNS + at.lane + LANES * j] = weight;
                }
                for (var n = 0u; n < QUADS_PER_LANE; n++) {
                    sums[i * QUADS_PER_LANE + n] *= shrink;
                }
            }
            workgroupBarrier();
            for (var j = 0u; j < COLUMNS; j++) {
                var weight = array<f32, ROWS_PER_THREAD>();
                for (var i = 0u; i < ROWS_PER_THREAD; i++) {
                    weight[i] = weights[(at.group + GROUPS * i) * COLUMNS + j];
                }
                for (var n = 0u; n < QUADS_PER_LANE; n++) {
                    let value = vec4<f32>(values[j * STRIDE + at.lane + LANES * n]);
                    for (var i = 0u; i < ROWS_PER_THREAD; i++) {
                        sums[i * QUADS_PER_LANE + n] += weight[i] * value;
                    }
                }
            }
        }

        total = row_sums(total, at);
        for (var i = 0u; i < ROWS_PER_THREAD; i++) {
            let query = first_query + at.group + GROUPS * i;
            if query >= p.seq_q {
                continue;
            }
            // A query without keys gives zeros, and a log-sum-exp of -inf.
            let none = total[i] == 0.0;
            let factor = select(1.0 / total[i], 0.0, none);
            for (var n = 0u; n < QUADS_PER_LANE; n++) {
                let c = at.lane + LANES * n;
                if c < HEAD_QUADS {
                    let x = sums[i * QUADS_PER_LANE + n] * factor;
                    out[out_rows.start + query * out_rows.stride + c] = Quad(x);
                }
            }
            if at.lane == 0u {
                let sum = (top[i] + log2(total[i])) * LN_2;
                lse[head * p.seq_q + query] = select(sum, p.negative_infinity, none);
            }
        }
        // The next item's queries replace this one's.
        workgroupBarrier();
    }
}
