// What scaled_norm and its gradient share: the kind of norm, as crates/tensor/src/gpu/scaled_norm.rs tells it, and the level of a row.

#define CENTERED 1u
#define WEIGHTED 2u
#define BIASED 4u

// The sum of a row.
DEVICE float level_of_row(const Element *from, unsigned pieces) {
    float level = 0;
    for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
        const Piece p = load(from, i);
        for (int lane = 0; lane < LANES; ++lane) level += p.at[lane];
    }
    return summed(level);
}
