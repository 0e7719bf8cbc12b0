// One AdamW step with both moments in 8 bits. The algorithm, its format and its reasons are in
// crates/kernels/src/adamw_8bit.rs.
//
// A thread block takes whole blocks of 256 values, four to a thread: so each word of four codes has
// one writer and needs no atomics. It goes on to further blocks because copying the tables costs as
// much memory traffic as a block does.
//
// Products and sums are rounded one by one, as on the CPU: contracted ones would put a value next
// to the border of two codes on the other side of it, and the two devices' runs would part.

#define THREADS 64
#define UNSIGNED 256
#define SCALARS 1024
// A smaller absmax might have an infinite reciprocal.
#define SMALLEST 1.17549435e-38f
// Code of 0 in the signed map.
#define ZERO 127
// No bound on what a code may stand for.
#define ANY 3.40282347e+38f

struct Tables {
    float values[512];
    unsigned first_cells[512];
};

__device__ float decode(unsigned word, int lane, const float *values, float absmax) {
    return __fmul_rn(values[(word >> (8 * lane)) & 255u], absmax);
}

__device__ unsigned encode(float value, const unsigned *first_cells) {
    float place = __fadd_rn(__fmul_rn(__fadd_rn(value, 1.0f), 32767.5f), 0.5f);
    // The conversion saturates at 0, which is also where it sends NaN.
    unsigned cell = min(__float2uint_rz(place), 65535u);
    unsigned code = 0;
    for (unsigned half = 128; half > 0; half >>= 1) {
        if (first_cells[code + half] <= cell) code += half;
    }
    return code;
}

// Of the signed map: zero is zero, and no value is above its bound.
__device__ unsigned encode_mean(float value, float most, float absmax, const Tables &tables) {
    if (value == 0.0f) return ZERO;
    unsigned code = encode(value, tables.first_cells);
    while (code != ZERO && __fmul_rn(fabsf(tables.values[code]), absmax) > most) {
        code += code > ZERO ? -1 : 1;
    }
    return code;
}

__device__ float reciprocal(float absmax) {
    return absmax >= SMALLEST ? __fdiv_rn(1.0f, absmax) : 0.0f;
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_8bit(float *__restrict__ parameter, const float *__restrict__ gradient,
           unsigned *__restrict__ m_codes, float *__restrict__ m_absmax,
           unsigned *__restrict__ v_codes, float *__restrict__ v_absmax,
           // Values of the signed and the unsigned map, first cells of both, then the step's numbers.
           const unsigned *__restrict__ info) {
    __shared__ Tables tables;
    __shared__ float2 largest[THREADS];
    const unsigned thread = threadIdx.x;
    for (unsigned i = thread; i < 512; i += THREADS) {
        tables.values[i] = __uint_as_float(info[i]);
        tables.first_cells[i] = info[512 + i];
    }
    __syncthreads();

    const unsigned n = info[SCALARS];
    const float gradient_scale = __uint_as_float(info[SCALARS + 1]);
    const float beta1 = __uint_as_float(info[SCALARS + 2]);
    const float beta2 = __uint_as_float(info[SCALARS + 3]);
    const float keep = __uint_as_float(info[SCALARS + 4]);
    const float rate = __uint_as_float(info[SCALARS + 5]);
    const float root = __uint_as_float(info[SCALARS + 6]);
    const float eps = __uint_as_float(info[SCALARS + 7]);
    const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2;

    // The padding of the last block may lie beyond 2^32, hence the wider type.
    const unsigned blocks = (unsigned)((n + 255ull) / 256);
    for (unsigned block = blockIdx.x; block < blocks; block += gridDim.x) {
        const unsigned word = block * THREADS + thread;
        const unsigned m_word = m_codes[word], v_word = v_codes[word];
        const float m_scale = m_absmax[block], v_scale = v_absmax[block];
        float m[4], v[4], most[4];
        for (int lane = 0; lane < 4; ++lane) {
            const unsigned long long i = word * 4ull + lane;
            // Padding must not count for the absmax.
            m[lane] = v[lane] = 0.0f;
            most[lane] = ANY;
            if (i < n) {
                const float g = __fmul_rn(gradient[i], gradient_scale);
                const float m_old = decode(m_word, lane, tables.values, m_scale);
                const float v_old = decode(v_word, lane, tables.values + UNSIGNED, v_scale);
                const float decayed = __fmul_rn(m_old, beta1);
                m[lane] = __fadd_rn(decayed, __fmul_rn(g, rest1));
                // Where the gradient leaves no trace, rounding takes back half of the decay at the most.
                if (m[lane] == decayed) most[lane] = __fmul_rn(0.5f, __fadd_rn(fabsf(m_old), fabsf(decayed)));
                v[lane] = __fadd_rn(__fmul_rn(v_old, beta2), __fmul_rn(__fmul_rn(g, rest2), g));
                const float divisor = __fadd_rn(__fmul_rn(__fsqrt_rn(v[lane]), root), eps);
                const float change = __fdiv_rn(__fmul_rn(rate, m[lane]), divisor);
                parameter[i] = __fsub_rn(__fmul_rn(parameter[i], keep), change);
            }
        }

        float m_largest = 0.0f, v_largest = 0.0f;
        for (int lane = 0; lane < 4; ++lane) {
            m_largest = fmaxf(m_largest, fabsf(m[lane]));
            v_largest = fmaxf(v_largest, v[lane]);
        }
        largest[thread] = make_float2(m_largest, v_largest);
        __syncthreads();
        for (unsigned half = THREADS / 2; half > 0; half >>= 1) {
            if (thread < half) {
                const float2 other = largest[thread + half];
                largest[thread].x = fmaxf(largest[thread].x, other.x);
                largest[thread].y = fmaxf(largest[thread].y, other.y);
            }
            __syncthreads();
        }
        const float2 absmax = largest[0];
        // Nobody may write the next block's before everybody has read this one's.
        __syncthreads();

        const float m_kept = absmax.x >= SMALLEST ? absmax.x : 0.0f;
        const float v_kept = absmax.y >= SMALLEST ? absmax.y : 0.0f;
        const float m_inverse = reciprocal(absmax.x), v_inverse = reciprocal(absmax.y);
        unsigned m_new = 0, v_new = 0;
        for (int lane = 0; lane < 4; ++lane) {
            m_new |= encode_mean(__fmul_rn(m[lane], m_inverse), most[lane], m_kept, tables) << (8 * lane);
            v_new |= encode(__fmul_rn(v[lane], v_inverse), tables.first_cells + UNSIGNED) << (8 * lane);
        }
        m_codes[word] = m_new;
        v_codes[word] = v_new;
        if (thread == 0) {
            m_absmax[block] = m_kept;
            v_absmax[block] = v_kept;
        }
    }
}
