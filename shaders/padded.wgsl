// Numbers in f32 in another format, with zeros behind them. An invocation takes pieces of the result.

@group(0) @binding(0) var<storage, read_write> numbers: array<Piece>;
@group(0) @binding(1) var<storage, read_write> result: array<Packed>;
// Elements, and those of the result.
@group(0) @binding(2) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn padded(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let there = info[0] / LANES;
    let all = info[1] / LANES;
    for (var i = group.x * THREADS + thread; i < all; i += groups.x * THREADS) {
        if i < there {
            result[i] = Packed(numbers[i]);
        } else {
            result[i] = Packed(Piece(0.0));
        }
    }
}
