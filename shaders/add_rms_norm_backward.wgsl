// dx = (dy - y * mean(y * dy)) * scale of each row: the gradient of add_rms_norm. With TWO the gradient of the result is in two
// parts. A workgroup takes whole rows.
//
// dx may be dy, or its other part: an invocation writes what it alone has read.

@group(0) @binding(0) var<storage, read_write> y: array<Packed>;
@group(0) @binding(1) var<storage, read_write> dy: array<Packed>;
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;
#if TWO
@group(0) @binding(3) var<storage, read_write> more: array<Packed>;
@group(0) @binding(4) var<storage, read_write> dx: array<Packed>;
// Rows, elements of a row.
@group(0) @binding(5) var<storage, read_write> info: array<u32>;
#else
@group(0) @binding(3) var<storage, read_write> dx: array<Packed>;
// Rows, elements of a row.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;
#endif

fn given(i: u32) -> Piece {
#if TWO
    return Piece(dy[i]) + Piece(more[i]);
#else
    return Piece(dy[i]);
#endif
}

@compute @workgroup_size(THREADS, 1, 1)
#if TWO
fn add_rms_norm_backward_of_two(
#else
fn add_rms_norm_backward(
#endif
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if thread == 0u {
        shared_rows = info[0];
    }
    // The loop below holds barriers: its bounds have to be provably the same for the whole workgroup.
    let rows = workgroupUniformLoad(&shared_rows);
    let width = info[1];
    let pieces = width / LANES;
    for (var row = group.x; row < rows; row += groups.x) {
        var along = 0.0;
        for (var i = thread; i < pieces; i += THREADS) {
            along += total(Piece(y[row * pieces + i]) * given(row * pieces + i));
        }
        let mean = summed(thread, along) / f32(width);
        let r = scale[row];
        for (var i = thread; i < pieces; i += THREADS) {
            let own = given(row * pieces + i) - Piece(y[row * pieces + i]) * mean;
            dx[row * pieces + i] = Packed(own * r);
        }
    }
}
