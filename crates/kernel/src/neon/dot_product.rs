//! The instructions of Arm that multiply bytes: all that its tiers differ in.

use std::arch::aarch64::*;
use std::arch::asm;

use super::I32Line;

/// Four columns of the sixteen lanes of a panel, in bytes.
pub(super) type I8Line = [int8x16_t; 4];

/// Dot products of bytes, summed in 32 bits.
pub(super) trait DotProduct {
    /// Adds to each 32-bit lane the dot product of its four bytes of `weights` with four of `x`,
    /// which are never -128.
    ///
    /// # Safety
    /// The CPU has the instruction.
    unsafe fn dot(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t;

    /// Adds to `sums[row]` the dot products of groups of four columns, of which `weights` loads
    /// one, with the activations `x[row]`.
    ///
    /// # Safety
    /// The CPU has the instruction.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_dot_products<const ROWS: usize, const GROUPS: usize>(
        weights: impl Fn(usize) -> I8Line,
        x: [&[[i8; 4]; GROUPS]; ROWS],
        sums: &mut [I32Line; ROWS],
    ) {
        for group in 0..GROUPS {
            let weights = weights(group);
            for row in 0..ROWS {
                let x = broadcast_i8x4(&x[row][group]);
                for i in 0..4 {
                    // SAFETY: as the caller promises.
                    sums[row][i] = unsafe { Self::dot(sums[row][i], weights[i], x) };
                }
            }
        }
    }
}

/// Four 8-bit activations in every 32-bit lane (`ld1r`).
#[inline]
#[target_feature(enable = "neon")]
fn broadcast_i8x4(x: &[i8; 4]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(|x| x as u8))))
}

/// `smull`, `addp` and `sadalp`, which every 64-bit Arm CPU has. The sum of two products is at most
/// 2 x 128 x 127 and fits in an i16.
pub(super) struct Smull;

impl DotProduct for Smull {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
        let high = vmull_high_s8(weights, x);
        vpadalq_s16(sums, vpaddq_s16(low, high))
    }
}

/// `sdot` (FEAT_DotProd).
pub(super) struct Sdot;

impl DotProduct for Sdot {
    // Inline assembly, since the intrinsic is unstable.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(mut sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the instruction accesses registers only, and the CPU has it, as the caller
        // promises.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.16b",
                sums = inlateout(vreg) sums,
                weights = in(vreg) weights,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// `smmla` (FEAT_I8MM): eight columns of two rows of activations times those of two lanes. Twice
/// the products of `sdot`, less the interleaving of two groups of four columns. One row alone takes
/// `sdot`.
pub(super) struct Smmla;

impl DotProduct for Smmla {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: a CPU with FEAT_I8MM has FEAT_DotProd.
        unsafe { Sdot::dot(sums, weights, x) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add_dot_products<const ROWS: usize, const GROUPS: usize>(
        weights: impl Fn(usize) -> I8Line,
        x: [&[[i8; 4]; GROUPS]; ROWS],
        sums: &mut [I32Line; ROWS],
    ) {
        /// Pairs of rows, of which the kernels have at most six.
        const PAIRS: usize = 3;
        const { assert!(ROWS <= 2 * PAIRS && GROUPS.is_multiple_of(2)) };
        if ROWS == 1 {
            // SAFETY: as in `dot`.
            return unsafe { Sdot::add_dot_products(weights, x, sums) };
        }
        // An odd row is multiplied twice.
        let row_pair = |pair: usize| [2 * pair, (2 * pair + 1).min(ROWS - 1)];
        // Of two lanes: the dot products of the first row, then of the second.
        let mut products = [[vdupq_n_s32(0); 8]; PAIRS];
        for group in (0..GROUPS).step_by(2) {
            let (even, odd) = (weights(group), weights(group + 1));
            let mut pairs = [vdupq_n_s8(0); PAIRS];
            for pair in 0..ROWS.div_ceil(2) {
                let [a, b] =
                    row_pair(pair).map(|row| load_i8x8(&x[row][group], &x[row][group + 1]));
                pairs[pair] = vcombine_s8(a, b);
            }
            for i in 0..4 {
                let [even, odd] = [even[i], odd[i]].map(|four| vreinterpretq_s32_s8(four));
                for (lanes, weights) in
                    [vzip1q_s32(even, odd), vzip2q_s32(even, odd)].into_iter().enumerate()
                {
                    let weights = vreinterpretq_s8_s32(weights);
                    for pair in 0..ROWS.div_ceil(2) {
                        let products = &mut products[pair][2 * i + lanes];
                        // SAFETY: as the caller promises.
                        *products = unsafe { smmla(*products, pairs[pair], weights) };
                    }
                }
            }
        }
        for (pair, products) in products.iter().enumerate().take(ROWS.div_ceil(2)) {
            for (i, products) in products.as_chunks::<2>().0.iter().enumerate() {
                let [a, b] = products.map(|products| vreinterpretq_s64_s32(products));
                let by_row = [vzip1q_s64(a, b), vzip2q_s64(a, b)];
                let rows = ROWS.min(2 * pair + 2) - 2 * pair;
                for (row, products) in by_row.into_iter().enumerate().take(rows) {
                    let sums = &mut sums[2 * pair + row][i];
                    *sums = vaddq_s32(*sums, vreinterpretq_s32_s64(products));
                }
            }
        }
    }
}

/// Eight activations: two groups that follow each other.
#[inline]
#[target_feature(enable = "neon")]
fn load_i8x8(a: &[i8; 4], b: &[i8; 4]) -> int8x8_t {
    let bytes = [a, b].map(|four| u64::from(u32::from_le_bytes(four.map(|x| x as u8))));
    vcreate_s8(bytes[0] | bytes[1] << 32)
}

/// `smmla`: `sums[2i + j] += a[i] · b[j]`, of rows of eight bytes.
///
/// # Safety
/// The CPU has FEAT_I8MM.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn smmla(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction accesses registers only, and the CPU has it, as the caller promises.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inlateout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::isa::Tier;
    use crate::packed::PANEL_ROWS;

    /// # Safety
    /// The CPU has the instruction of `Dot`.
    #[target_feature(enable = "neon")]
    unsafe fn products<Dot: DotProduct, const ROWS: usize>() -> [i32; ROWS] {
        // Columns of a lane: the largest magnitude of a weight, and all signs.
        let weights = |group: usize| -> I8Line {
            let bytes = [[-128, -128, -128, -128], [1, 2, -3, 127]][group];
            [vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(bytes.map(|x: i8| x as u8)))); 4]
        };
        let x: [[[i8; 4]; 2]; 3] =
            [[[127; 4], [10, -20, 30, 1]], [[-127; 4], [0; 4]], [[0, 1, 0, 0], [-1, -1, -1, -1]]];
        let mut sums = [[vdupq_n_s32(7); 4]; ROWS];
        // SAFETY: as the caller promises.
        unsafe { Dot::add_dot_products(weights, std::array::from_fn(|row| &x[row]), &mut sums) };
        sums.map(|sums| {
            let mut lanes = [0i32; PANEL_ROWS];
            for (lanes, sums) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                // SAFETY: four numbers are writable, and the store needs no alignment.
                unsafe { vst1q_s32(lanes.as_mut_ptr(), sums) };
            }
            assert_eq!(lanes, [lanes[0]; PANEL_ROWS]);
            lanes[0]
        })
    }

    #[test]
    fn every_instruction_has_known_values() {
        // 7 - 4 * 128 * 127 + (10 - 40 - 90 + 127), and so on.
        let known = [-65010, 65031, -248];
        for isa in Isa::for_tests() {
            // SAFETY: a value of `Isa` of this tier is only made on a CPU that has it.
            let (one, two, three) = unsafe {
                match isa.tier() {
                    Tier::Neon => {
                        (products::<Smull, 1>(), products::<Smull, 2>(), products::<Smull, 3>())
                    }
                    Tier::DotProd => {
                        (products::<Sdot, 1>(), products::<Sdot, 2>(), products::<Sdot, 3>())
                    }
                    Tier::I8mm => {
                        (products::<Smmla, 1>(), products::<Smmla, 2>(), products::<Smmla, 3>())
                    }
                    _ => continue,
                }
            };
            assert_eq!(
                (&one[..], &two[..], three),
                (&known[..1], &known[..2], known),
                "{}",
                isa.name()
            );
        }
    }
}
