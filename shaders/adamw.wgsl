// One AdamW step (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) with moments in f32, in place. The
// numbers are those of crates/kernels/src/adamw.rs.

@group(0) @binding(0) var<storage, read_write> gradient: array<Piece>;
@group(0) @binding(1) var<storage, read_write> parameter: array<Piece>;
@group(0) @binding(2) var<storage, read_write> mean: array<Piece>;
@group(0) @binding(3) var<storage, read_write> square: array<Piece>;
// Elements, then in f32 the gradient's factor, decay of both moments, what is kept of the parameter, rate, factor of the root,
// eps.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

@compute @workgroup_size(THREADS, 1, 1)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pieces = info[0] / LANES;
    let gradient_scale = bitcast<f32>(info[1]);
    let beta1 = bitcast<f32>(info[2]);
    let beta2 = bitcast<f32>(info[3]);
    let keep = bitcast<f32>(info[4]);
    let rate = bitcast<f32>(info[5]);
    let root = bitcast<f32>(info[6]);
    let eps = bitcast<f32>(info[7]);
    for (var i = group.x * THREADS + thread; i < pieces; i += groups.x * THREADS) {
        let g = gradient[i] * gradient_scale;
        let m = mean[i] * beta1 + g * (1.0 - beta1);
        let v = square[i] * beta2 + g * g * (1.0 - beta2);
        mean[i] = m;
        square[i] = v;
        parameter[i] = parameter[i] * keep - m / (sqrt(v) * root + eps) * rate;
    }
}
