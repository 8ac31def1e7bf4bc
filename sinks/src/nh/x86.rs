//! NH in registers of 16, 32 and 64 bytes: the one module of this crate with `unsafe`.
//!
//! All memory here is the caller's own: private rows, a key, sums. What is unsafe is to call what the processor might
//! not have, and to take bytes for a register.
#![allow(unsafe_code, reason = "the one module of this crate that may")]

use core::arch::x86_64::*;
use core::mem::transmute;

use super::{Add, PAIRS, ROW, RowKey, STRIPE, STRIPES, Sums};

/// What this processor has, the widest first.
pub(super) fn all() -> impl Iterator<Item = Add> {
    let wide: [(bool, Add); 2] =
        [(std::is_x86_feature_detected!("avx512f"), of_64), (std::is_x86_feature_detected!("avx2"), of_32)];
    wide.into_iter().filter(|(has, _)| *has).map(|(_, add)| add).chain([of_16 as Add])
}

fn of_64(sums: &mut [Sums], key: &RowKey, row: &[[u8; ROW]]) {
    // SAFETY: `all` gives this function only where the processor has AVX-512.
    unsafe { in_64(sums, key, row) }
}

fn of_32(sums: &mut [Sums], key: &RowKey, row: &[[u8; ROW]]) {
    // SAFETY: `all` gives this function only where the processor has AVX2.
    unsafe { in_32(sums, key, row) }
}

fn of_16(sums: &mut [Sums], key: &RowKey, row: &[[u8; ROW]]) {
    // SAFETY: every x86-64 processor has SSE2.
    unsafe { in_16(sums, key, row) }
}

/// Takes bytes or parts of a sum for a register, or a register for them.
macro_rules! register {
    ($to:ty, $from:ty, $value:expr) => {{
        let value: $from = $value;
        // SAFETY: both are as long, and every pattern of bits is a value of either.
        unsafe { transmute::<$from, $to>(value) }
    }};
}

/// Adds a row of tiles in registers of `$bytes` bytes: the columns of a stripe that fit one, from stripe to stripe.
macro_rules! add_in {
    ($name:ident, $feature:literal, $register:ty, $bytes:literal, $add_32:ident, $add_64:ident, $multiply:ident,
     $shift:ident) => {
        #[target_feature(enable = $feature)]
        fn $name(sums: &mut [Sums], key: &RowKey, row: &[[u8; ROW]]) {
            const COLUMNS: usize = STRIPE / $bytes;
            type Bytes = [u8; $bytes];
            type Parts = [u64; $bytes / 8];

            let key: &[Bytes; (STRIPES + 1) * COLUMNS] = key.as_flattened().as_chunks().0.as_array().expect("a key");
            for (sums, tile) in sums.iter_mut().zip(row) {
                let tile: &[Bytes; STRIPES * COLUMNS] = tile.as_chunks().0.as_array().expect("a row");
                let sums: &mut [Parts; 2 * COLUMNS] =
                    sums.as_flattened_mut().as_chunks_mut().0.as_mut_array().expect("two sums");
                for column in 0..COLUMNS {
                    let mut first = register!($register, Parts, sums[column]);
                    let mut second = register!($register, Parts, sums[COLUMNS + column]);
                    for stripe in 0..STRIPES {
                        let words = register!($register, Bytes, tile[stripe * COLUMNS + column]);
                        let added = $add_32(words, register!($register, Bytes, key[stripe * COLUMNS + column]));
                        first = $add_64(first, $multiply(added, $shift::<32>(added)));
                        let added = $add_32(words, register!($register, Bytes, key[(stripe + 1) * COLUMNS + column]));
                        second = $add_64(second, $multiply(added, $shift::<32>(added)));
                    }
                    sums[column] = register!(Parts, $register, first);
                    sums[COLUMNS + column] = register!(Parts, $register, second);
                }
            }
        }
    };
}

add_in!(in_64, "avx512f", __m512i, 64, _mm512_add_epi32, _mm512_add_epi64, _mm512_mul_epu32, _mm512_srli_epi64);
add_in!(in_32, "avx2", __m256i, 32, _mm256_add_epi32, _mm256_add_epi64, _mm256_mul_epu32, _mm256_srli_epi64);
add_in!(in_16, "sse2", __m128i, 16, _mm_add_epi32, _mm_add_epi64, _mm_mul_epu32, _mm_srli_epi64);

const _: () = assert!(PAIRS * 8 == STRIPE && STRIPE.is_multiple_of(64));
