// What kernels over rows of elements share. crates/tensor/src/gpu/elements.rs says what the constants are:
//   HALF     1 f16, 0 f32
//   QUADS    1 if elements come four at a time: rows and their parts are multiples of four then
//   THREADS  of a workgroup
//
// All arithmetic is in f32. Buffers are read-write even where only read: parts of one buffer may be bound more than once, and a
// buffer has to be bound for one use only.
#if HALF
enable f16;
#endif
#constants

#if QUADS
const LANES: u32 = 4u;
alias Piece = vec4<f32>;
#if HALF
alias Packed = vec4<f16>;
#else
alias Packed = vec4<f32>;
#endif

fn total(x: Piece) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
#else
const LANES: u32 = 1u;
alias Piece = f32;
#if HALF
alias Packed = f16;
#else
alias Packed = f32;
#endif

fn total(x: Piece) -> f32 {
    return x;
}
#endif

// What the bits of an f16 stand for, where a device may have no such numbers, and without arithmetic on subnormals, which it may
// take for zero.
fn f16_value(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fffu) << 13u;
    var value = magnitude + (112u << 23u);
    if (bits & 0x7c00u) == 0u {
        // 2^-14 is the smallest normal f16.
        value = bitcast<u32>(bitcast<f32>(magnitude + (113u << 23u)) - bitcast<f32>(113u << 23u));
    } else if (bits & 0x7c00u) == 0x7c00u {
        value = magnitude | 0x7f800000u;
    }
    return bitcast<f32>(value | ((bits & 0x8000u) << 16u));
}
