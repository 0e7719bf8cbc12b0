// FlashAttention (Dao, "FlashAttention-2", 2023): exact attention that never holds all scores.
//
// A workgroup owns a tile of ROWS rows and goes through the other sequence in tiles of COLUMNS.
// LANES invocations share a row: each has ROWS_PER_THREAD x COLUMNS_PER_THREAD of the tile's
// scores, and every LANES-th quad (four elements) of the rows it sums up. All sums are in f32.
// Rows beyond the sequence and quads beyond the head are zeros in workgroup memory. Without STAGED
// the own rows stay where they are: heads are too large for both sides' rows.
//
// With fewer heads of keys than of queries, a `group` of query heads shares each of them. With RANGES
// each query comes with the range of keys that it sees, instead of causality; neither bound falls from a
// query to the next.
//
// Buffers are read-write even where only read: parts of one buffer may be bound more than once,
// and a buffer has to be bound for one use only. Nothing checks bounds but the conditions below.
#if HALF
enable f16;
#endif
#constants
#if HALF
alias Quad = vec4<f16>;
#else
alias Quad = vec4<f32>;
#endif

const LANES: u32 = 8u;
const GROUPS: u32 = THREADS / LANES;
const ROWS: u32 = GROUPS * ROWS_PER_THREAD;
const COLUMNS: u32 = LANES * COLUMNS_PER_THREAD;
const HEAD_QUADS: u32 = HEAD_DIM / 4u;
const QUADS_PER_LANE: u32 = (HEAD_QUADS + LANES - 1u) / LANES;
const WIDTH: u32 = QUADS_PER_LANE * LANES;
// One more quad a row, so that the lanes' rows start in different banks.
const STRIDE: u32 = WIDTH + 1u;

const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
// Stands for -inf, with which some drivers do not compute.
const LOWEST: f32 = -3.4e38;

// Places of the tensors' offsets and strides in `info`.
const Q: u32 = 9u;
const K: u32 = 13u;
const V: u32 = 17u;
const OUT: u32 = 21u;
const D_OUT: u32 = 25u;
const DQ: u32 = 29u;
const DK: u32 = 33u;
const DV: u32 = 37u;
// Place of the first item of the work that this launch does, and of the one after its last.
const WORK: u32 = 41u;

struct Problem {
    batch: u32,
    heads: u32,
    kv_heads: u32,
    group: u32,
    seq_q: u32,
    seq_kv: u32,
    causal: u32,
    window: u32,
    scale: f32,
    // For powers of two instead of e.
    scale2: f32,
    negative_infinity: f32,
    first_item: u32,
    end_item: u32,
}

struct Place {
    group: u32,
    lane: u32,
}

// In workgroup memory: loops with barriers need bounds that are provably the same for everybody.
var<workgroup> problem: Problem;

fn read_problem(thread: u32) {
    if thread == 0u {
        let group = info[1] / info[2];
        let scale = bitcast<f32>(info[7]);
        let infinity = bitcast<f32>(info[8]);
        problem = Problem(
            info[0], info[1], info[2], group, info[3], info[4], info[5], info[6],
            scale, scale * LOG2_E, infinity, info[WORK], info[WORK + 1u],
        );
    }
}

// Where the rows of a head, given as batch * heads + head, are in a tensor with so many heads: in quads.
struct Rows {
    start: u32,
    stride: u32,
    len: u32,
}

fn rows_of(tensor: u32, head: u32, heads: u32, len: u32) -> Rows {
    let start = info[tensor] + head / heads * info[tensor + 1u] + head % heads * info[tensor + 2u];
    return Rows(start / 4u, info[tensor + 3u] / 4u, len);
}

// Queries are the last positions of the keys' sequence.
fn position(p: Problem, query: u32) -> u32 {
    return query + p.seq_kv - p.seq_q;
}

// Positions [first, end).
struct Range {
    first: u32,
    end: u32,
}

#if RANGES

// Of the first and of the last row of a tile: what they see, or are seen by.
var<workgroup> first_sight: Range;
var<workgroup> last_sight: Range;

// Whatever was given, no further than the window and the keys that there are.
fn within(p: Problem, query: u32, first: i32, end: i32) -> Range {
    let after = position(p, query) + 1u;
    let start = select(0u, after - p.window, p.window != 0u && after > p.window);
    return Range(max(u32(max(first, 0)), start), min(u32(max(end, 0)), p.seq_kv));
}

fn contains(range: Range, i: u32) -> bool {
    return i >= range.first && i < range.end;
}

#else

fn seen(p: Problem, query: u32, key: u32) -> bool {
    let at = position(p, query);
    let future = p.causal != 0u && key > at;
    let past = p.window != 0u && key < at && at - key >= p.window;
    return key < p.seq_kv && !future && !past;
}

// The first key that a query sees.
fn keys_start(p: Problem, query: u32) -> u32 {
    let end = position(p, query) + 1u;
    return select(0u, end - p.window, p.window != 0u && end > p.window);
}

// The key after the last that a query sees.
fn keys_end(p: Problem, query: u32) -> u32 {
    return select(p.seq_kv, position(p, query) + 1u, p.causal != 0u);
}

// The first query that sees a key.
fn queries_start(p: Problem, key: u32) -> u32 {
    let before = p.seq_kv - p.seq_q;
    return select(0u, key - before, p.causal != 0u && key > before);
}

// The query after the last that sees a key.
fn queries_end(p: Problem, key: u32) -> u32 {
    let end = key + p.window + p.seq_q;
    // Such a query may lie before the first one, or after the last.
    return select(p.seq_q, min(max(end, p.seq_kv) - p.seq_kv, p.seq_q), p.window != 0u);
}

// Whether all of these queries see all of these keys.
fn all_seen(p: Problem, first_query: u32, last_query: u32, first_key: u32, last_key: u32) -> bool {
    let past = p.causal == 0u || last_key <= position(p, first_query);
    return past && (p.window == 0u || position(p, last_query) < first_key + p.window);
}

#endif
