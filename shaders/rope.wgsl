// Rotary position embedding (Su et al., "RoFormer", 2021), rotate-half: of each head of queries and keys in rows of queries, keys
// and values the numbers i and i + half turn by an angle of the row's position. An invocation takes pieces of the first half
// of a head together with those of its second, and of what does not turn.
//
// `turned` may be `qkv`: an invocation writes what it alone has read.

@group(0) @binding(0) var<storage, read_write> qkv: array<Packed>;
// Rows of positions.
@group(0) @binding(1) var<storage, read_write> cosines: array<Piece>;
@group(0) @binding(2) var<storage, read_write> sines: array<Piece>;
@group(0) @binding(3) var<storage, read_write> turned: array<Packed>;
// Rows, positions of a sequence, elements of a row, heads that turn, elements of a head, half of those that turn, whether
// angles are negative, whether what does not turn is where it should be.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn rope(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let rows = info[0];
    let seq = info[1];
    let width = info[2] / LANES;
    let heads = info[3];
    let head = info[4] / LANES;
    let half = info[5] / LANES;
    let sign = select(1.0, -1.0, info[6] != 0u);
    let in_place = info[7] != 0u;
    // What turns comes first, then what is only copied: the rest of each head, and the values.
    let turning = heads * half;
    let rest = head - 2u * half;
    let copied = select(width - 2u * turning, 0u, in_place);
    let work = turning + copied;
    let all = rows * work;
    for (var i = group.x * THREADS + thread; i < all; i += groups.x * THREADS) {
        let row = i / work;
        let place = i % work;
        let start = row * width;
        if place < turning {
            let at = start + place / half * head + place % half;
            let angle = row % seq * half + place % half;
            let c = cosines[angle];
            let s = sines[angle] * sign;
            let first = Piece(qkv[at]);
            let second = Piece(qkv[at + half]);
            turned[at] = Packed(first * c - second * s);
            turned[at + half] = Packed(second * c + first * s);
        } else {
            let own = place - turning;
            var at = start + 2u * turning + own;
            if own < heads * rest {
                at = start + own / rest * head + 2u * half + own % rest;
            }
            turned[at] = qkv[at];
        }
    }
}
