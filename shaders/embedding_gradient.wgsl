// sum[id] += scale * (the sum of the rows that were looked up by this id), each id once: a workgroup takes a part of an id's row,
// and adds up in the order in which the rows come.

@group(0) @binding(0) var<storage, read_write> rows: array<Piece>;
// Ids that occur; where their rows begin in `order`, and where the last one's end; the rows of each.
@group(0) @binding(1) var<storage, read_write> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> sum: array<Packed>;
// How many ids occur, elements of a row, scale.
@group(0) @binding(3) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn embedding_gradient(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let distinct = info[0];
    let pieces = info[1] / LANES;
    let scale = bitcast<f32>(info[2]);
    let order = 2u * distinct + 1u;
    let parts = (pieces + THREADS - 1u) / THREADS;
    for (var work = group.x; work < distinct * parts; work += groups.x) {
        let number = work / parts;
        let column = work % parts * THREADS + thread;
        if column < pieces {
            var own = Piece(0.0);
            for (var i = ids[distinct + number]; i < ids[distinct + number + 1u]; i++) {
                own += rows[ids[order + i] * pieces + column];
            }
            let at = ids[number] * pieces + column;
            sum[at] = Packed(Piece(sum[at]) + own * scale);
        }
    }
}
