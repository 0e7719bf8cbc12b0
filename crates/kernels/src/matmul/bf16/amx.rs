//! Tiles of Intel's Advanced Matrix Extensions.
//!
//! Rust's intrinsics for them are not stable, so the instructions are written out. A tile register holds 16 rows of 64 bytes;
//! `tdpbf16ps` adds to a tile of sums the products of 16 rows of 32 numbers and 16 pairs of rows of 16.

use super::{BLOCK, SIDE, Sums, TILE};
use std::arch::asm;

/// Whether there are such tiles, and this process may use them.
pub fn is_here() -> bool {
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    // amx-bf16 and amx-tile.
    let has = leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0;
    has && std::arch::x86_64::__cpuid(0).eax >= 0x1d && permitted()
}

/// Linux keeps a kilobyte for each tile of each thread only for those who ask. Other systems were not tried.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: asks for a permission, and touches no memory of ours.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// How large the tiles are, for `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        row_bytes[tile] = 64;
        rows[tile] = 16;
        tile += 1;
    }
    Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes,
        rows,
    }
};

/// While it lives, this thread's tiles are whole ones.
pub struct Tiles(());

impl Tiles {
    /// Only where [`is_here`].
    pub fn configure() -> Self {
        // SAFETY: a valid configuration of palette 1, on a processor that has it. No code of ours keeps anything in tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: gives the tiles back, so that a switch of threads need not save them.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Sums of `sides` tiles of rows and columns, over so many tiles of summands.
///
/// # Safety
/// This thread's tiles are configured; the left factor holds `sides[0] * tiles` tiles, the panel `sides[1] * tiles`, and there
/// is at least one.
pub unsafe fn sums(
    sums: &mut Sums,
    left: *const u16,
    panel: *const u16,
    tiles: usize,
    sides: [usize; 2],
) {
    let next = tiles * TILE;
    let start = sums.0.as_mut_ptr().cast::<f32>();
    if tiles == 0 {
        *sums = Sums([[0.0; BLOCK]; BLOCK]);
        return;
    }
    // Where one is not there, the other is taken twice: the cost is that of a whole block, of which there is but one
    // at an edge.
    let second = |from: *const u16, side: usize| from.wrapping_add(if side > 1 { next } else { 0 });
    // SAFETY: all tiles read are there; the sums have room for four tiles, in rows of `BLOCK` numbers.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{b0} + {line}]",
            "tileloadd tmm4, [{a0} + {line}]",
            "tileloadd tmm7, [{b1} + {line}]",
            "tileloadd tmm5, [{a1} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + 64], tmm1",
            "tilestored [{below} + {row}], tmm2",
            "tilestored [{below} + {row} + 64], tmm3",
            a0 = inout(reg) left => _,
            a1 = inout(reg) second(left, sides[0]) => _,
            b0 = inout(reg) panel => _,
            b1 = inout(reg) second(panel, sides[1]) => _,
            n = inout(reg) tiles => _,
            line = in(reg) 64_usize,
            c = in(reg) start,
            below = in(reg) start.add(SIDE * BLOCK),
            row = in(reg) BLOCK * size_of::<f32>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// So many rounds of multiplications of tiles that are not read from anywhere; operations of a round.
///
/// # Safety
/// This thread's tiles are configured.
pub unsafe fn spin(rounds: usize) -> usize {
    // SAFETY: as the caller vouches; nothing but tiles is written.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            "tilezero tmm5",
            "tilezero tmm6",
            "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem),
        );
    }
    4 * 2 * SIDE * SIDE * super::DEEP
}
