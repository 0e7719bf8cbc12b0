// silu(gate) * up (Shazeer, "GLU Variants Improve Transformer", 2020): rows of gate, then up, to rows half as long; with BACKWARD
// the gradient of gate and up, given that of the result, and the result again. A thread takes pieces of the result.

DEVICE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

extern "C" __global__ void __launch_bounds__(THREADS)
#if BACKWARD
// d_gate_up may be gate_up, and y may be dy.
swiglu_backward(const Element *gate_up, const Element *dy, Element *d_gate_up, Element *y,
#else
swiglu(const Element *__restrict__ gate_up, Element *__restrict__ y,
#endif
       // Rows, elements of a row of the result.
       INFO) {
    const unsigned pieces = TOLD(1) / LANES;
    const unsigned all = TOLD(0) * pieces;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        const unsigned at = i / pieces * 2 * pieces + i % pieces;
        Piece gate = load(gate_up, at), up = load(gate_up, at + pieces);
#if BACKWARD
        Piece d = load(dy, i);
#endif
        for (int lane = 0; lane < LANES; ++lane) {
            const float g = gate.at[lane], u = up.at[lane], s = sigmoid(g);
#if BACKWARD
            gate.at[lane] = d.at[lane] * u * (s * (g * (1 - s) + 1));
            up.at[lane] = d.at[lane] * g * s;
            d.at[lane] = g * s * u;
#else
            up.at[lane] = g * s * u;
#endif
        }
#if BACKWARD
        store(d_gate_up, at, gate);
        store(d_gate_up, at + pieces, up);
        store(y, i, d);
#else
        store(y, i, up);
#endif
    }
}
