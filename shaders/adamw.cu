// One AdamW step (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019) with moments in f32, in place. The
// numbers are those of crates/kernels/src/adamw.rs.

extern "C" __global__ void __launch_bounds__(THREADS)
adamw(const Element *__restrict__ gradient, Element *__restrict__ parameter, Element *__restrict__ mean,
      Element *__restrict__ square,
      // Elements, then in f32 the gradient's factor, decay of both moments, what is kept of the parameter, rate, factor of the
      // root, eps.
      INFO) {
    const unsigned pieces = TOLD(0) / LANES;
    const float gradient_scale = TOLD_FLOAT(1), beta1 = TOLD_FLOAT(2), beta2 = TOLD_FLOAT(3), keep = TOLD_FLOAT(4);
    const float rate = TOLD_FLOAT(5), root = TOLD_FLOAT(6), eps = TOLD_FLOAT(7);
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < pieces; i += gridDim.x * THREADS) {
        const Piece gradients = load(gradient, i);
        Piece m = load(mean, i), v = load(square, i), p = load(parameter, i);
        for (int lane = 0; lane < LANES; ++lane) {
            const float g = gradients.at[lane] * gradient_scale;
            m.at[lane] = m.at[lane] * beta1 + g * (1 - beta1);
            v.at[lane] = v.at[lane] * beta2 + g * g * (1 - beta2);
            p.at[lane] = p.at[lane] * keep - m.at[lane] / (sqrtf(v.at[lane]) * root + eps) * rate;
        }
        store(mean, i, m);
        store(square, i, v);
        store(parameter, i, p);
    }
}
