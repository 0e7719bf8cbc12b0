// What adamw.cu and adamw_of_four.cu share: one AdamW step (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019)
// with moments in f32, in place, of each piece from this one on. The numbers are those of crates/kernels/src/adamw.rs.

DEVICE void update(const Element *__restrict__ gradient, Element *__restrict__ parameter, Element *__restrict__ mean,
                   Element *__restrict__ square, unsigned from, unsigned pieces, float gradient_scale, float beta1, float beta2,
                   float keep, float rate, float root, float eps) {
    for (unsigned i = from; i < pieces; i += gridDim.x * THREADS) {
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
