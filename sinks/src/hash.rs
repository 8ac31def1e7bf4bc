//! A fast hash with a key: four lanes, each of which takes 16 bytes by one multiplication.
//!
//! Equal bytes under an equal key have equal hashes. Other bytes have the same one by a chance of about 2^-64, as long
//! as whoever chose them does not know the key. It is no cryptographic hash.

use core::fmt;

/// What was hashed so far.
#[derive(Clone, Copy)]
pub(crate) struct State([u64; 4]);

/// A key, spread over the lanes.
#[derive(Clone, Copy)]
pub(crate) struct Key([u64; 4]);

/// Without its numbers, from which the key follows.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    pub(crate) fn new(key: u64) -> Self {
        let mut state = key;
        Self(core::array::from_fn(|_| spread(&mut state)))
    }

    /// Not the key itself: the two halves of the first pair could then be exchanged.
    pub(crate) fn begin(self) -> State {
        State(self.0.map(|word| word.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15))
    }
}

impl State {
    /// Takes in bytes. Where they are no multiple of 64, zeros follow, so that it matters how bytes are cut.
    #[inline]
    pub(crate) fn add(&mut self, key: Key, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<64>();
        for block in blocks {
            self.block(key, block);
        }
        if !rest.is_empty() {
            let mut block = [0; 64];
            for (to, from) in block.iter_mut().zip(rest) {
                *to = *from;
            }
            self.block(key, &block);
        }
    }

    #[inline(always)]
    fn block(&mut self, key: Key, block: &[u8; 64]) {
        let (pairs, _) = block.as_chunks::<16>();
        for ((lane, key), pair) in self.0.iter_mut().zip(key.0).zip(pairs) {
            let both = u128::from_le_bytes(*pair);
            let (low, high) = (both as u64, (both >> 64) as u64);
            // Added again, so that a product of nothing does not forget what came before.
            *lane = fold(*lane ^ low, high ^ key).wrapping_add(lane.rotate_left(23));
        }
    }

    pub(crate) fn end(self, key: Key) -> u64 {
        let [a, b, c, d] = self.0;
        let [p, q, ..] = key.0;
        fold(fold(a ^ p, b ^ q).wrapping_add(c), fold(c ^ q, d ^ p).wrapping_add(a))
            ^ a.rotate_left(11)
            ^ b.rotate_left(29)
            ^ c.rotate_left(43)
            ^ d
    }
}

/// The next word of a key that is spread from a number: SplitMix64.
pub(crate) fn spread(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Both halves of a product.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hash(key: u64, bytes: &[u8]) -> u64 {
        let key = Key::new(key);
        let mut state = key.begin();
        state.add(key, bytes);
        state.end(key)
    }

    #[test]
    fn every_single_bit_gives_another_hash() {
        let mut bytes = vec![0_u8; 300];
        let mut seen = BTreeSet::from([hash(1, &bytes), hash(2, &bytes)]);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(hash(1, &bytes)), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(seen.contains(&hash(1, &bytes)));
    }

    #[test]
    fn the_order_of_blocks_matters() {
        let (mut bytes, mut seen) = (vec![0_u8; 64 * 16], BTreeSet::new());
        for place in 0..16 {
            bytes.fill(0);
            bytes[place * 64..][..64].fill(0xff);
            assert!(seen.insert(hash(1, &bytes)), "block {place}");
        }
    }
}
