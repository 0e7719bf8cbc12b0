// The step of adamw_step.wgsl for four parameters in one launch.

@group(0) @binding(0) var<storage, read_write> gradient_a: array<Piece>;
@group(0) @binding(1) var<storage, read_write> parameter_a: array<Piece>;
@group(0) @binding(2) var<storage, read_write> mean_a: array<Piece>;
@group(0) @binding(3) var<storage, read_write> square_a: array<Piece>;
@group(0) @binding(4) var<storage, read_write> gradient_b: array<Piece>;
@group(0) @binding(5) var<storage, read_write> parameter_b: array<Piece>;
@group(0) @binding(6) var<storage, read_write> mean_b: array<Piece>;
@group(0) @binding(7) var<storage, read_write> square_b: array<Piece>;
@group(0) @binding(8) var<storage, read_write> gradient_c: array<Piece>;
@group(0) @binding(9) var<storage, read_write> parameter_c: array<Piece>;
@group(0) @binding(10) var<storage, read_write> mean_c: array<Piece>;
@group(0) @binding(11) var<storage, read_write> square_c: array<Piece>;
@group(0) @binding(12) var<storage, read_write> gradient_d: array<Piece>;
@group(0) @binding(13) var<storage, read_write> parameter_d: array<Piece>;
@group(0) @binding(14) var<storage, read_write> mean_d: array<Piece>;
@group(0) @binding(15) var<storage, read_write> square_d: array<Piece>;
// Elements of each, and what is kept of each; then the other numbers of adamw.wgsl in their order.
@group(0) @binding(16) var<storage, read_write> info: array<u32>;

fn told(i: u32) -> f32 {
    return bitcast<f32>(info[i]);
}

@compute @workgroup_size(THREADS, 1, 1)
fn adamw_of_four(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let stride = groups.x * THREADS;
    let own = group.x * THREADS + thread;
    var first = 0u;
    for (var tensor = 0u; tensor < 4u; tensor++) {
        let pieces = info[tensor] / LANES;
        let step = Step(told(8u), told(9u), told(10u), told(4u + tensor), told(11u), told(12u), told(13u));
        // Whose turn a piece is goes on from one tensor to the next: small ones are taken by different workgroups.
        for (var i = (own + stride - first) % stride; i < pieces; i += stride) {
            switch tensor {
                case 0u: {
                    let after = updated(Numbers(parameter_a[i], mean_a[i], square_a[i]), gradient_a[i], step);
                    parameter_a[i] = after.parameter;
                    mean_a[i] = after.mean;
                    square_a[i] = after.square;
                }
                case 1u: {
                    let after = updated(Numbers(parameter_b[i], mean_b[i], square_b[i]), gradient_b[i], step);
                    parameter_b[i] = after.parameter;
                    mean_b[i] = after.mean;
                    square_b[i] = after.square;
                }
                case 2u: {
                    let after = updated(Numbers(parameter_c[i], mean_c[i], square_c[i]), gradient_c[i], step);
                    parameter_c[i] = after.parameter;
                    mean_c[i] = after.mean;
                    square_c[i] = after.square;
                }
                default: {
                    let after = updated(Numbers(parameter_d[i], mean_d[i], square_d[i]), gradient_d[i], step);
                    parameter_d[i] = after.parameter;
                    mean_d[i] = after.mean;
                    square_d[i] = after.square;
                }
            }
        }
        first = (first + pieces) % stride;
    }
}
