// Sums of squares of PARTS parts of the values, behind those of others. A workgroup takes whole parts: every PARTS-th row of
// THREADS pieces.

@group(0) @binding(0) var<storage, read_write> values: array<Packed>;
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
// Elements, place of the first part.
@group(0) @binding(2) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn square_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pieces = info[0] / LANES;
    for (var part = group.x; part < PARTS; part += groups.x) {
        var squares = 0.0;
        for (var i = part * THREADS + thread; i < pieces; i += PARTS * THREADS) {
            let x = Piece(values[i]);
            squares += total(x * x);
        }
        let sum = summed(thread, squares);
        if thread == 0u {
            parts[info[1] + part] = sum;
        }
    }
}
