// What adamw.wgsl and adamw_of_four.wgsl share: one AdamW step (Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
// 2019) with moments in f32. The numbers are those of crates/kernels/src/adamw.rs.

struct Numbers {
    parameter: Piece,
    mean: Piece,
    square: Piece,
}

struct Step {
    gradient_scale: f32,
    beta1: f32,
    beta2: f32,
    // Of the parameter.
    keep: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

fn updated(before: Numbers, gradient: Piece, step: Step) -> Numbers {
    let g = gradient * step.gradient_scale;
    let m = before.mean * step.beta1 + g * (1.0 - step.beta1);
    let v = before.square * step.beta2 + g * g * (1.0 - step.beta2);
    return Numbers(before.parameter * step.keep - m / (sqrt(v) * step.root + step.eps) * step.rate, m, v);
}
