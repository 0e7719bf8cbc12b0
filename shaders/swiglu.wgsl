// silu(gate) * up (Shazeer, "GLU Variants Improve Transformer", 2020): rows of gate, then up, to rows half as long; with BACKWARD
// the gradient of gate and up, given that of the result, and the result again. An invocation takes pieces of the result.

@group(0) @binding(0) var<storage, read_write> gate_up: array<Packed>;
#if BACKWARD
@group(0) @binding(1) var<storage, read_write> dy: array<Packed>;
@group(0) @binding(2) var<storage, read_write> d_gate_up: array<Packed>;
@group(0) @binding(3) var<storage, read_write> y: array<Packed>;
// Rows, elements of a row of the result.
@group(0) @binding(4) var<storage, read_write> info: array<u32>;
#else
@group(0) @binding(1) var<storage, read_write> y: array<Packed>;
// Rows, elements of a row of the result.
@group(0) @binding(2) var<storage, read_write> info: array<u32>;
#endif

fn sigmoid(x: Piece) -> Piece {
    return Piece(1.0) / (Piece(1.0) + exp(-x));
}

@compute @workgroup_size(THREADS, 1, 1)
#if BACKWARD
fn swiglu_backward(
#else
fn swiglu(
#endif
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pieces = info[1] / LANES;
    let all = info[0] * pieces;
    for (var i = group.x * THREADS + thread; i < all; i += groups.x * THREADS) {
        let at = i / pieces * 2u * pieces + i % pieces;
        let gate = Piece(gate_up[at]);
        let up = Piece(gate_up[at + pieces]);
        let s = sigmoid(gate);
#if BACKWARD
        let d = Piece(dy[i]);
        // All before any is written: d_gate_up may be gate_up, and y may be dy.
        let d_gate = d * up * (s * (gate * (Piece(1.0) - s) + Piece(1.0)));
        let d_up = d * gate * s;
        d_gate_up[at] = Packed(d_gate);
        d_gate_up[at + pieces] = Packed(d_up);
#endif
        y[i] = Packed(gate * s * up);
    }
}
