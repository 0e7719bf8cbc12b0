// What the texts in shaders/ use of CUDA C++ and of a GPU, for a C++ compiler. Included in front of a
// text; emulator.cpp runs it.
//
// A thread is a fiber. Those of a warp run one after another up to the next operation that they do
// together, where they have to meet: so what a barrier is missing for goes wrong here, in one of the
// two orders that threads are run in. Layouts of fragments are those of the PTX ISA.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define CUDA_EMULATOR
// Numbers come in a buffer like any other.
#define INFO_BY_POINTER
#define __device__ static
#define __forceinline__ inline
#define __global__
#define __shared__
#define __restrict__
#define __launch_bounds__(...)

struct uint2 {
    unsigned x, y;
};
struct float2 {
    float x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct Place {
    unsigned x;
};

extern Place threadIdx, blockIdx, gridDim;

enum Together { SYNC, SHUFFLE, LDMATRIX, LDMATRIX_TRANS, MMA_F16 };

// What a lane brings to an operation of its warp.
struct Offer {
    union {
        float floats[12];
        unsigned words[4];
    };
};

// Meet the other 31 lanes; the offers of all of them.
const Offer *meet(Together operation, const Offer &offer);
void __syncthreads();
[[noreturn]] void broken(const char *what);
void copy_later(void *to, const void *from, int size, int bytes);
void commit_copies();
void await_copies(unsigned newest_left);

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int min(int x, int y) { return x < y ? x : y; }
static inline int max(int x, int y) { return x > y ? x : y; }
static inline long long min(long long x, long long y) { return x < y ? x : y; }
static inline unsigned min(unsigned x, unsigned y) { return x < y ? x : y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
// Towards zero, NaN to 0, and no further than what there is.
static inline unsigned __float2uint_rz(float x) {
    if (!(x > 0)) return 0;
    return x < 4294967296.0f ? (unsigned)x : 0xffffffffu;
}

static inline float __uint_as_float(unsigned x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}

static inline unsigned __float_as_uint(float x) {
    unsigned y;
    memcpy(&y, &x, 4);
    return y;
}

static inline float minus_infinity() { return __uint_as_float(0xff800000u); }
static inline float exp2_fast(float x) { return exp2f(x); }

static inline float f16_to_float(unsigned short x) {
    const unsigned sign = (unsigned)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = std::ldexp((float)fraction, -24);
    return sign ? -small : small;
}

static inline unsigned short float_to_f16(float x) {
    const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return 0x7fff;
    // From halfway to the next power of two on.
    if (rest >= 0x477ff000) return sign | 0x7c00;
    if (rest < 0x38800000) return sign | (unsigned)std::nearbyint(std::ldexp(std::fabs(x), 24));
    const unsigned rounded = rest + 0xfff + (rest >> 13 & 1);
    return sign | (rounded - 0x38000000) >> 13;
}

static inline unsigned short float_to_bf16(float x) {
    const unsigned bits = __float_as_uint(x);
    if (std::isnan(x)) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline unsigned floats_to_f16x2(float low, float high) {
    return float_to_f16(low) | (unsigned)float_to_f16(high) << 16;
}

static inline unsigned floats_to_bf16x2(float low, float high) {
    return float_to_bf16(low) | (unsigned)float_to_bf16(high) << 16;
}

static inline void __syncwarp() { meet(SYNC, Offer()); }

static inline float __shfl_xor_sync(unsigned mask, float x, int step) {
    if (mask != 0xffffffffu) broken("a shuffle without all lanes");
    Offer offer;
    offer.floats[0] = x;
    return meet(SHUFFLE, offer)[threadIdx.x % 32 ^ step].floats[0];
}

static inline int __shfl_xor_sync(unsigned mask, int x, int step) {
    float bits;
    memcpy(&bits, &x, 4);
    bits = __shfl_xor_sync(mask, bits, step);
    memcpy(&x, &bits, 4);
    return x;
}

// The row that a lane names is what it brings.
static inline Offer matrix_row(const void *row) {
    if ((uintptr_t)row % 16 != 0) broken("ldmatrix from an address that is not aligned");
    Offer offer;
    memcpy(offer.words, row, 16);
    return offer;
}

static inline void ldmatrix_x4(unsigned (&r)[4], const void *row) {
    const Offer *rows = meet(LDMATRIX, matrix_row(row));
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; ++i) r[i] = rows[8 * i + lane / 4].words[lane % 4];
}

static inline void ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
    const Offer *rows = meet(LDMATRIX_TRANS, matrix_row(row));
    const unsigned lane = threadIdx.x % 32, column = lane / 4;
    for (unsigned i = 0; i < 4; ++i) {
        const Offer *pair = rows + 8 * i + lane % 4 * 2;
        const unsigned low = pair[0].words[column / 2] >> 16 * (column % 2);
        const unsigned high = pair[1].words[column / 2] >> 16 * (column % 2);
        r[i] = (low & 0xffff) | high << 16;
    }
}

static inline float half_of(unsigned word, int which) {
    const unsigned short bits = word >> 16 * which;
#if ELEMENT == 1
    return f16_to_float(bits);
#else
    return __uint_as_float((unsigned)bits << 16);
#endif
}

static inline void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const unsigned operands[6] = {a[0], a[1], a[2], a[3], b0, b1};
    Offer offer;
    for (int i = 0; i < 12; ++i) offer.floats[i] = half_of(operands[i / 2], i % 2);
    const Offer *lanes = meet(MMA_F16, offer);
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k) {
            const int half = k / 8, place = k % 8 / 2, which = k % 2;
            const float x = lanes[row % 8 * 4 + place].floats[2 * (row / 8 + 2 * half) + which];
            const float y = lanes[column * 4 + place].floats[2 * (4 + half) + which];
            c[i] += x * y;
        }
    }
}

static inline void cp_async_16(void *to, const void *from, int bytes) {
    copy_later(to, from, 16, bytes);
}
static inline void cp_async_4(void *to, const void *from, int bytes) {
    copy_later(to, from, 4, bytes);
}
static inline void cp_async_commit() { commit_copies(); }
template <int N>
static inline void cp_async_wait() {
    await_copies(N);
}
