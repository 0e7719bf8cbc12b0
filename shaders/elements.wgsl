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
