//! A model of the instructions of AVX-VNNI, for tests on CPUs without them.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, instructions
//! `VPDPBUSD` and `VPDPWSSD`: neither saturates.

use std::arch::x86_64::__m256i;

/// `vpdpbusd`: four bytes of `a`, unsigned, times four of `b`, signed, per lane.
pub(super) fn dpbusd(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
    let (a, b): ([[u8; 4]; 8], [[i8; 4]; 8]) = (from_register(a), from_register(b));
    add_dot_products(sums, |lane, i| i32::from(a[lane][i]) * i32::from(b[lane][i]), 4)
}

/// `vpdpwssd`: two 16-bit integers of `a` times two of `b` per lane.
pub(super) fn dpwssd(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
    let (a, b): ([[i16; 2]; 8], [[i16; 2]; 8]) = (from_register(a), from_register(b));
    add_dot_products(sums, |lane, i| i32::from(a[lane][i]) * i32::from(b[lane][i]), 2)
}

fn add_dot_products(
    sums: __m256i,
    product: impl Fn(usize, usize) -> i32,
    products: usize,
) -> __m256i {
    let mut sums: [i32; 8] = from_register(sums);
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum = (0..products).fold(*sum, |sum, i| sum.wrapping_add(product(lane, i)));
    }
    // SAFETY: both are 32 bytes, and every bit pattern is valid.
    unsafe { std::mem::transmute(sums) }
}

/// The bytes of a register as numbers.
fn from_register<T: bytemuck::Pod>(register: __m256i) -> T {
    // SAFETY: both are 32 bytes, and every bit pattern is valid.
    let bytes: [u8; 32] = unsafe { std::mem::transmute(register) };
    bytemuck::pod_read_unaligned(&bytes)
}

#[cfg(test)]
mod tests {
    use std::arch::x86_64::*;

    use super::*;
    use crate::skipped;

    /// Sums, `a`, `b`, and the sums that the instruction makes of them, in each lane.
    type Case = (i32, [u8; 4], [u8; 4], i32);

    /// Bytes of `a` are unsigned, those of `b` signed; sums wrap around.
    const DPBUSD: [Case; 4] = [
        (5, [1, 2, 3, 4], [10, 20, 30, 0xff], 5 + 10 + 40 + 90 - 4),
        (0, [255; 4], [0x80; 4], -4 * 255 * 128),
        (0, [255; 4], [127; 4], 4 * 255 * 127),
        (i32::MAX, [1, 0, 0, 0], [1, 0, 0, 0], i32::MIN),
    ];

    /// Pairs of little-endian 16-bit integers, both signed.
    const DPWSSD: [Case; 4] = [
        (7, [2, 0, 3, 0], [100, 0, 0xff, 0xff], 7 + 200 - 3),
        (0, [0, 0x80, 0, 0x80], [0, 0x80, 0, 0], 1 << 30),
        (0, [0, 0x80, 0, 0x80], [0, 0x80, 0, 0x80], i32::MIN),
        (i32::MIN, [1, 0, 0, 0], [0xff, 0xff, 0, 0], i32::MAX),
    ];

    /// # Safety
    /// The CPU has AVX2, and AVX-VNNI unless it is emulated.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn check<const EMULATED: bool>() {
        let broadcast = |bytes: [u8; 4]| _mm256_set1_epi32(i32::from_le_bytes(bytes));
        for (sums, a, b, expected) in DPBUSD {
            // SAFETY: as the caller promises.
            let sums = unsafe {
                super::super::dpbusd::<EMULATED>(
                    _mm256_set1_epi32(sums),
                    broadcast(a),
                    broadcast(b),
                )
            };
            assert_eq!(from_register::<[i32; 8]>(sums), [expected; 8], "{a:?} {b:?}");
        }
        for (sums, a, b, expected) in DPWSSD {
            // SAFETY: as the caller promises.
            let sums = unsafe {
                super::super::dpwssd::<EMULATED>(
                    _mm256_set1_epi32(sums),
                    broadcast(a),
                    broadcast(b),
                )
            };
            assert_eq!(from_register::<[i32; 8]>(sums), [expected; 8], "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_model_and_the_instructions_have_known_values() {
        if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("f16c") {
            return skipped("AVX-VNNI: this CPU has no AVX2");
        }
        // SAFETY: just detected; AVX-VNNI is emulated.
        unsafe { check::<true>() };
        if !is_x86_feature_detected!("avxvnni") {
            return skipped("the instructions of AVX-VNNI: this CPU has none; their model ran");
        }
        // SAFETY: just detected.
        unsafe { check::<false>() };
    }
}
