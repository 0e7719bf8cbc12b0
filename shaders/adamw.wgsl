// The step of adamw_step.wgsl for a parameter, in place.

@group(0) @binding(0) var<storage, read_write> gradient: array<Piece>;
@group(0) @binding(1) var<storage, read_write> parameter: array<Piece>;
@group(0) @binding(2) var<storage, read_write> mean: array<Piece>;
@group(0) @binding(3) var<storage, read_write> square: array<Piece>;
// Elements, then in f32 the gradient's factor, decay of both moments, what is kept of the parameter, rate, factor of the root,
// eps.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;

fn told(i: u32) -> f32 {
    return bitcast<f32>(info[i]);
}

@compute @workgroup_size(THREADS, 1, 1)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pieces = info[0] / LANES;
    let step = Step(told(1u), told(2u), told(3u), told(4u), told(5u), told(6u), told(7u));
    for (var i = group.x * THREADS + thread; i < pieces; i += groups.x * THREADS) {
        let after = updated(Numbers(parameter[i], mean[i], square[i]), gradient[i], step);
        parameter[i] = after.parameter;
        mean[i] = after.mean;
        square[i] = after.square;
    }
}
