// What scaled_norm and its gradient share: the kind of norm, as crates/tensor/src/gpu/scaled_norm.rs tells it, and the rows that both read.

const CENTERED: u32 = 1u;
const WEIGHTED: u32 = 2u;
const BIASED: u32 = 4u;

@group(0) @binding(0) var<storage, read_write> x: array<Packed>;

var<workgroup> shared_kind: u32;

// The sum of a row of x.
fn level_of_row(thread: u32, start: u32, pieces: u32) -> f32 {
    var level = 0.0;
    for (var i = thread; i < pieces; i += THREADS) {
        level += total(Piece(x[start + i]));
    }
    return summed(thread, level);
}
