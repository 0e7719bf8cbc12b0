// Rotary position embedding (Su et al., "RoFormer", 2021), rotate-half: of each head of queries and keys in rows of queries, keys
// and values the numbers i and i + half turn by an angle of the row's position. A thread takes pieces of the first half of a
// head together with those of its second, and of what does not turn.
//
// `turned` may be `qkv`: a thread writes what it alone has read.

DEVICE Piece angles(const float *__restrict__ table, unsigned i) {
    Piece piece;
    for (int lane = 0; lane < LANES; ++lane) piece.at[lane] = table[i * LANES + lane];
    return piece;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rope(const Element *qkv,
     // Rows of positions.
     const float *__restrict__ cosines, const float *__restrict__ sines, Element *turned,
     // Rows, positions of a sequence, elements of a row, heads that turn, elements of a head, half of those that turn, whether
     // angles are negative, whether what does not turn is where it should be.
     INFO) {
    const unsigned rows = TOLD(0), seq = TOLD(1), width = TOLD(2) / LANES, heads = TOLD(3);
    const unsigned head = TOLD(4) / LANES, half = TOLD(5) / LANES;
    const float sign = TOLD(6) ? -1 : 1;
    // What turns comes first, then what is only copied: the rest of each head, and the values.
    const unsigned turning = heads * half, rest = head - 2 * half;
    const unsigned work = turning + (TOLD(7) ? 0 : width - 2 * turning);
    const unsigned all = rows * work;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < all; i += gridDim.x * THREADS) {
        const unsigned row = i / work, place = i % work, start = row * width;
        if (place < turning) {
            const unsigned at = start + place / half * head + place % half;
            const unsigned angle = row % seq * half + place % half;
            const Piece c = angles(cosines, angle), s = angles(sines, angle);
            Piece first = load(qkv, at), second = load(qkv, at + half);
            for (int lane = 0; lane < LANES; ++lane) {
                const float x = first.at[lane], y = second.at[lane], sine = s.at[lane] * sign;
                first.at[lane] = x * c.at[lane] - y * sine;
                second.at[lane] = y * c.at[lane] + x * sine;
            }
            store(turned, at, first);
            store(turned, at + half, second);
        } else {
            const unsigned own = place - turning;
            unsigned at = start + 2 * turning + own;
            if (own < heads * rest) at = start + own / rest * head + 2 * half + own % rest;
            store(turned, at, load(qkv, at));
        }
    }
}
