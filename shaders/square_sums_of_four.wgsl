// square_sums of four tensors in one launch: the parts of each behind those of the one before.

@group(0) @binding(0) var<storage, read_write> first: array<Packed>;
@group(0) @binding(1) var<storage, read_write> second: array<Packed>;
@group(0) @binding(2) var<storage, read_write> third: array<Packed>;
@group(0) @binding(3) var<storage, read_write> fourth: array<Packed>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>;
// Place of the first part, elements of each tensor.
@group(0) @binding(5) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn square_sums_of_four(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var part = group.x; part < 4u * PARTS; part += groups.x) {
        let tensor = part / PARTS;
        let pieces = info[1u + tensor] / LANES;
        var squares = 0.0;
        for (var i = part % PARTS * THREADS + thread; i < pieces; i += PARTS * THREADS) {
            var x: Piece;
            switch tensor {
                case 0u: { x = Piece(first[i]); }
                case 1u: { x = Piece(second[i]); }
                case 2u: { x = Piece(third[i]); }
                default: { x = Piece(fourth[i]); }
            }
            squares += total(x * x);
        }
        let sum = summed(thread, squares);
        if thread == 0u {
            parts[info[0] + part] = sum;
        }
    }
}
