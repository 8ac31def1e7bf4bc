//! The hash of a frame's tiles: NH, twice.
//!
//! A tile is a row of 32-bit words, in pairs. To each word a word of the key is added, the two sums of a pair are
//! multiplied, and the products are added up to 64 bits. That is NH; two tiles of equal length that differ have one sum
//! by a chance of 2^-32 at most, whatever they hold, as long as whoever chose them does not know the key. The second
//! sum takes the key a stripe further on, and both are equal by a chance of 2^-64 at most: of the last pair that
//! differs, what the second sum takes of the key is in no product of the first that differs. (Black, Halevi, Krawczyk,
//! Krovetz, Rogaway: "UMAC: Fast and Secure Message Authentication", CRYPTO 1999; RFC 4418, 5.2.) Their key is drawn
//! at random, this one spread from 64 bits.
//!
//! Nothing waits for the product before it, and registers of any width do the same.

mod tiles;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;

use core::fmt;
use core::hint::black_box;
use core::time::Duration;
use std::sync::OnceLock;
use std::time::Instant;

pub(crate) use tiles::Tiles;

use crate::TILE;

/// Bytes of a tile's row.
const ROW: usize = TILE as usize * 4;
/// Bytes that lie between what the two sums take of the key.
const STRIPE: usize = 64;
const STRIPES: usize = ROW / STRIPE;
/// Pairs of words of a stripe.
const PAIRS: usize = STRIPE / 8;

/// The key of a tile's row: a stripe more than the row has.
type RowKey = [[u8; STRIPE]; STRIPES + 1];
/// Both sums, each in parts.
type Sums = [[u64; PAIRS]; 2];

/// A key, as long as a tile.
struct Key {
    rows: Box<[RowKey]>,
    add: Add,
}

/// Without the key: it is long, and whoever knows it can make tiles that are equal.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// What adds a row of tiles, whole parts of it, to their sums.
type Add = fn(&mut [Sums], &RowKey, &[[u8; ROW]]);

impl Key {
    fn new(key: u64) -> Self {
        let mut state = key;
        let mut stripe = || {
            let mut bytes = [0; STRIPE];
            for word in bytes.as_chunks_mut::<8>().0 {
                *word = crate::hash::spread(&mut state).to_le_bytes();
            }
            bytes
        };
        let mut last = stripe();
        let rows = (0..TILE).map(|_| {
            let mut row = [last; STRIPES + 1];
            row.iter_mut().skip(1).for_each(|part| *part = stripe());
            last = row[STRIPES];
            row
        });
        Self { rows: rows.collect(), add: fastest() }
    }

    /// Adds row `y` of a frame to the sums of its tiles. The last tile may be narrower: zeros follow.
    fn add(&self, sums: &mut [Sums], y: u32, row: &[u8]) {
        let Some(key) = self.rows.get((y % TILE) as usize) else { return };
        let (whole, rest) = row.as_chunks::<ROW>();
        (self.add)(sums, key, whole);
        if let Some(sums) = sums.get_mut(whole.len()..).filter(|_| !rest.is_empty()) {
            let mut last = [[0; ROW]];
            last.as_flattened_mut().iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            (self.add)(sums, key, &last);
        }
    }
}

/// Both sums of a tile.
fn total(sums: &Sums) -> [u64; 2] {
    sums.map(|parts| parts.into_iter().fold(0, u64::wrapping_add))
}

/// The way that is fastest on this processor: measured once, in some microseconds. Wider registers are mostly faster,
/// but there are processors that slow down for them.
fn fastest() -> Add {
    static FASTEST: OnceLock<Add> = OnceLock::new();
    *FASTEST.get_or_init(|| {
        let (mut sums, key, row) = ([[[0; PAIRS]; 2]; 16], [[1; STRIPE]; STRIPES + 1], [[2; ROW]; 16]);
        let mut ways = all().map(|add| (add, Duration::MAX)).collect::<Vec<_>>();
        for _ in 0..ROUNDS {
            for (add, least) in &mut ways {
                let begun = Instant::now();
                for _ in 0..4 {
                    add(black_box(&mut sums), &key, black_box(&row));
                }
                *least = begun.elapsed().min(*least);
            }
        }
        ways.into_iter().min_by_key(|(_, least)| *least).map_or(portable, |(add, _)| add)
    })
}

/// How often each way is measured: what disturbs one does not disturb all.
const ROUNDS: usize = 8;

/// All ways that this processor has, the widest registers first.
fn all() -> impl Iterator<Item = Add> {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        x86::all()
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    core::iter::once(portable as Add)
}

/// What it is, in plain words; others do the same faster.
fn portable(sums: &mut [Sums], key: &RowKey, row: &[[u8; ROW]]) {
    for (sums, tile) in sums.iter_mut().zip(row) {
        for (stripe, keys) in tile.as_chunks::<STRIPE>().0.iter().zip(key.windows(2)) {
            for (sums, key) in sums.iter_mut().zip(keys) {
                let pairs = stripe.as_chunks::<8>().0.iter().zip(key.as_chunks::<8>().0);
                for (sum, (pair, key)) in sums.iter_mut().zip(pairs) {
                    let ([low, high], [low_key, high_key]) = (halves(*pair), halves(*key));
                    let product = u64::from(low.wrapping_add(low_key)) * u64::from(high.wrapping_add(high_key));
                    *sum = sum.wrapping_add(product);
                }
            }
        }
    }
}

fn halves(pair: [u8; 8]) -> [u32; 2] {
    let pair = u64::from_le_bytes(pair);
    [pair as u32, (pair >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Bytes that look like chance.
    fn bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        (0..len).map(|_| crate::hash::spread(&mut state) as u8).collect()
    }

    fn sums(add: Add, key: &Key, row: &[u8], tiles: usize) -> Vec<Sums> {
        let key = Key { rows: key.rows.clone(), add };
        let mut sums = vec![[[7; PAIRS], [9; PAIRS]]; tiles];
        for y in 0..TILE + 3 {
            let cut = row.len() - (y as usize % 5) * 4;
            key.add(&mut sums, y, &row[..cut.max(1)]);
        }
        sums
    }

    #[test]
    fn all_registers_give_the_same_sums() {
        for (nth, add) in all().enumerate() {
            let key = Key::new(nth as u64);
            for tiles in [1_usize, 2, 3, 30] {
                for len in [20, 252, 256, 260, 256 * tiles - 4, 256 * tiles] {
                    let row = bytes(len.min(256 * tiles), nth as u64);
                    assert_eq!(sums(add, &key, &row, tiles), sums(portable, &key, &row, tiles), "{nth} {tiles} {len}");
                }
            }
        }
    }

    #[test]
    fn the_largest_words_wrap_as_they_should() {
        let key = Key { rows: vec![[[0xff; STRIPE]; STRIPES + 1]; 64].into(), add: portable };
        let mut expected = [[[0; PAIRS]; 2]];
        key.add(&mut expected, 0, &[0xff; ROW]);
        let product = 0xffff_fffe_u64 * 0xffff_fffe;
        assert_eq!(expected, [[[product.wrapping_mul(4); PAIRS]; 2]]);
        for add in all() {
            let mut wide = [[[0; PAIRS]; 2]];
            add(&mut wide, &key.rows[0], &[[0xff; ROW]]);
            assert_eq!(wide, expected);
        }
    }

    /// One bit, and one stripe in another's place: the same sum of words, the same words.
    #[test]
    fn what_differs_has_other_sums() {
        let key = Key::new(1);
        let hash = |rows: &[u8]| {
            let mut sums = [[[0; PAIRS]; 2]];
            rows.chunks(ROW).zip(0..).for_each(|(row, y)| key.add(&mut sums, y, row));
            total(&sums[0])
        };
        let mut tile = bytes(2 * ROW, 3);
        let mut seen = BTreeSet::from([hash(&tile)]);
        for bit in 0..tile.len() * 8 {
            tile[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(&tile)), "bit {bit}");
            tile[bit / 8] ^= 1 << (bit % 8);
        }
        for place in 0..2 * STRIPES {
            let mut tile = vec![0; 2 * ROW];
            tile[place * STRIPE..][..STRIPE].fill(0xff);
            assert!(seen.insert(hash(&tile)), "stripe {place}");
        }
        assert!(seen.contains(&hash(&tile)));
    }

    /// The second sum has a stripe of key that the first has not, from end to end of a tile.
    #[test]
    fn each_stripe_of_the_key_is_another() {
        let key = Key::new(5);
        let all: Vec<_> = key.rows.iter().flat_map(|row| &row[..STRIPES]).chain([&key.rows[63][STRIPES]]).collect();
        assert_eq!(all.len(), 257);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 257);
        assert!(key.rows.windows(2).all(|rows| rows[0][STRIPES] == rows[1][0]));
    }
}
