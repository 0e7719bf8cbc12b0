// y = (x - mean) r (weight + offset) + bias of each row, with r = 1 / sqrt(mean((x - mean)^2) + eps): RMSNorm, whose mean is left
// at 0, or LayerNorm (Ba et al., "Layer Normalization", 2016). A workgroup takes whole rows.

@group(0) @binding(1) var<storage, read_write> weight: array<Piece>;
@group(0) @binding(2) var<storage, read_write> bias: array<Piece>;
@group(0) @binding(3) var<storage, read_write> y: array<Packed>;
// Rows, elements of a row, eps, offset, the kind of norm.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn scaled_norm(
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
        for (var i = thread; i < pieces; i += THREADS) {
            let own = Piece(x[start + i]) - mean;
            squares += total(own * own);
        }
        let r = 1.0 / sqrt(summed(thread, squares) / f32(width) + eps);
        for (var i = thread; i < pieces; i += THREADS) {
            var own = (Piece(x[start + i]) - mean) * r;
            if (kind & WEIGHTED) != 0u {
                own *= weight[i] + offset;
            }
            if (kind & BIASED) != 0u {
                own += bias[i];
            }
            y[start + i] = Packed(own);
        }
    }
}
