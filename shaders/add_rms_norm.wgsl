// y = (x + a) * scale, where scale = 1 / sqrt(mean((x + a)^2) + eps) of each row (Zhang and Sennrich, "Root Mean Square Layer
// Normalization", 2019). A workgroup takes whole rows.
//
// y may be x or a: an invocation writes what it alone has read.

@group(0) @binding(0) var<storage, read_write> x: array<Packed>;
@group(0) @binding(1) var<storage, read_write> a: array<Packed>;
@group(0) @binding(2) var<storage, read_write> y: array<Packed>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
// Rows, elements of a row, eps.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn add_rms_norm(
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
    let eps = bitcast<f32>(info[2]);
    let pieces = width / LANES;
    for (var row = group.x; row < rows; row += groups.x) {
        var squares = 0.0;
        for (var i = thread; i < pieces; i += THREADS) {
            let sum = Piece(x[row * pieces + i]) + Piece(a[row * pieces + i]);
            squares += total(sum * sum);
        }
        let r = 1.0 / sqrt(summed(thread, squares) / f32(width) + eps);
        for (var i = thread; i < pieces; i += THREADS) {
            let sum = Piece(x[row * pieces + i]) + Piece(a[row * pieces + i]);
            y[row * pieces + i] = Packed(sum * r);
        }
        if thread == 0u {
            scale[row] = r;
        }
    }
}
