// The gradients of scaled_norm's weight and bias, as sums of some rows each: of dy (x - mean) r, and of dy. An invocation takes a
// column, or four, of a part of the rows, and adds up in their order.

@group(0) @binding(0) var<storage, read_write> x: array<Packed>;
@group(0) @binding(1) var<storage, read_write> dy: array<Packed>;
// Mean and r of each row.
@group(0) @binding(2) var<storage, read_write> statistics: array<vec2<f32>>;
// A row for each part: the sums of the weight, and those of the bias if there is one.
@group(0) @binding(3) var<storage, read_write> sums: array<Piece>;
// Rows, elements of a row, rows of a part, sums of an element (1 or 2).
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn scaled_norm_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let rows = info[0];
    let pieces = info[1] / LANES;
    let some = info[2];
    let each = info[3];
    let parts = (rows + some - 1u) / some;
    for (var work = group.x * THREADS + thread; work < parts * pieces; work += groups.x * THREADS) {
        let part = work / pieces;
        let column = work % pieces;
        var scaled = Piece(0.0);
        var plain = Piece(0.0);
        for (var row = part * some; row < min(rows, (part + 1u) * some); row++) {
            let d = Piece(dy[row * pieces + column]);
            let of_row = statistics[row];
            scaled += d * ((Piece(x[row * pieces + column]) - of_row.x) * of_row.y);
            plain += d;
        }
        let to = part * each * pieces + column;
        sums[to] = scaled;
        if each == 2u {
            sums[to + pieces] = plain;
        }
    }
}
