// The gradient of scaled_norm: with g = dy (weight + offset), n = (x - mean) r and the means of g n and, where the mean of x is taken
// off, of g over each row, dx = (g - mean(g) - n mean(g n)) r. A workgroup takes whole rows.

@group(0) @binding(1) var<storage, read_write> dy: array<Packed>;
@group(0) @binding(2) var<storage, read_write> weight: array<Piece>;
@group(0) @binding(3) var<storage, read_write> dx: array<Packed>;
// Mean and r of each row.
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2<f32>>;
// Rows, elements of a row, eps, offset, the kind of norm.
@group(0) @binding(5) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn scaled_norm_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if thread == 0u {
        shared_rows = info[0];
        shared_kind = info[4];
    }
    // The loop below holds barriers: its bounds and conditions have to be provably the same for the whole workgroup.
    let rows = workgroupUniformLoad(&shared_rows);
    let kind = workgroupUniformLoad(&shared_kind);
    let width = info[1];
    let eps = bitcast<f32>(info[2]);
    let offset = bitcast<f32>(info[3]);
    let pieces = width / LANES;
    for (var row = group.x; row < rows; row += groups.x) {
        let start = row * pieces;
        var mean = 0.0;
        if (kind & CENTERED) != 0u {
            mean = level_of_row(thread, start, pieces) / f32(width);
        }
        var squares = 0.0;
        var products = 0.0;
        var level = 0.0;
        for (var i = thread; i < pieces; i += THREADS) {
            let own = Piece(x[start + i]) - mean;
            var g = Piece(dy[start + i]);
            if (kind & WEIGHTED) != 0u {
                g *= weight[i] + offset;
            }
            squares += total(own * own);
            products += total(g * own);
            level += total(g);
        }
        let r = 1.0 / sqrt(summed(thread, squares) / f32(width) + eps);
        let along = summed(thread, products) * r / f32(width);
        var level_of_all = 0.0;
        if (kind & CENTERED) != 0u {
            level_of_all = summed(thread, level) / f32(width);
        }
        for (var i = thread; i < pieces; i += THREADS) {
            let own = (Piece(x[start + i]) - mean) * r;
            var g = Piece(dy[start + i]);
            if (kind & WEIGHTED) != 0u {
                g *= weight[i] + offset;
            }
            dx[start + i] = Packed((g - level_of_all - own * along) * r);
        }
        if thread == 0u {
            statistics[row] = vec2<f32>(mean, r);
        }
    }
}
