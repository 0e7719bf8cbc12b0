// What kernels over rows of elements share. crates/tensor/src/gpu/elements.rs puts in front of this text what varies:
//   ELEMENT     0 f32, 1 f16, 2 bf16
//   QUADS       1 if elements come four at a time: rows and their parts are multiples of four then, and so aligned
//   INFO_WORDS  numbers that the kernel is told
//   THREADS     of a thread block
//
// All arithmetic is in f32. No headers are included: NVRTC comes without them.

#define DEVICE __device__ __forceinline__

#if ELEMENT == 0
typedef float Element;
#else
typedef unsigned short Element;
#endif

// Numbers come as an argument of the kernel; on devices without __grid_constant__ in a buffer.
#ifdef INFO_BY_POINTER
#define INFO const unsigned *__restrict__ info
#define TOLD(i) info[i]
#else
struct Info {
    unsigned words[INFO_WORDS];
};
#define INFO const Info info
#define TOLD(i) info.words[i]
#endif
#define TOLD_FLOAT(i) __uint_as_float(TOLD(i))

// tests/cuda_emulator/ has its own of what only a GPU can do.
#ifndef CUDA_EMULATOR
DEVICE float f16_to_float(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

DEVICE unsigned short float_to_f16(float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

// In integers: the instruction for it is there from sm_80 on.
DEVICE unsigned short float_to_bf16(float x) {
    const unsigned bits = __float_as_uint(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif

#if ELEMENT == 0
DEVICE float widened(Element x) { return x; }
DEVICE Element narrowed(float x) { return x; }
#elif ELEMENT == 1
DEVICE float widened(Element x) { return f16_to_float(x); }
DEVICE Element narrowed(float x) { return float_to_f16(x); }
#else
DEVICE float widened(Element x) { return __uint_as_float((unsigned)x << 16); }
DEVICE Element narrowed(float x) { return float_to_bf16(x); }
#endif

#if QUADS
#define LANES 4
#else
#define LANES 1
#endif

// Elements that a thread takes at a time, in f32.
struct Piece {
    float at[LANES];
};

#if QUADS && ELEMENT == 0
typedef uint4 Packed;
#elif QUADS
typedef uint2 Packed;
#endif

// Piece number i of what begins at `from`.
DEVICE Piece load(const Element *from, unsigned i) {
    Piece piece;
#if QUADS && ELEMENT == 0
    const Packed packed = ((const Packed *)from)[i];
    piece.at[0] = __uint_as_float(packed.x);
    piece.at[1] = __uint_as_float(packed.y);
    piece.at[2] = __uint_as_float(packed.z);
    piece.at[3] = __uint_as_float(packed.w);
#elif QUADS
    const Packed packed = ((const Packed *)from)[i];
    piece.at[0] = widened((Element)(packed.x & 0xffffu));
    piece.at[1] = widened((Element)(packed.x >> 16));
    piece.at[2] = widened((Element)(packed.y & 0xffffu));
    piece.at[3] = widened((Element)(packed.y >> 16));
#else
    piece.at[0] = widened(from[i]);
#endif
    return piece;
}

DEVICE void store(Element *to, unsigned i, const Piece &piece) {
#if QUADS && ELEMENT == 0
    Packed packed;
    packed.x = __float_as_uint(piece.at[0]);
    packed.y = __float_as_uint(piece.at[1]);
    packed.z = __float_as_uint(piece.at[2]);
    packed.w = __float_as_uint(piece.at[3]);
    ((Packed *)to)[i] = packed;
#elif QUADS
    Packed packed;
    packed.x = narrowed(piece.at[0]) | (unsigned)narrowed(piece.at[1]) << 16;
    packed.y = narrowed(piece.at[2]) | (unsigned)narrowed(piece.at[3]) << 16;
    ((Packed *)to)[i] = packed;
#else
    to[i] = narrowed(piece.at[0]);
#endif
}
