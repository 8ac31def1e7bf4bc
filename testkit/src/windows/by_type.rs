//! Fills an object by the types of its fields: what a field is like is the same in every process, what it holds is not.

use crate::rng::Rng;

use super::eprocess::{Fields, STILL_ACTIVE, Surroundings};
use super::lists::{Holds, Listed};

/// Fills what is not written by itself.
pub(super) fn fill(out: &mut [u8], listed: &[Listed], around: &Surroundings, fields: &Fields) {
    let mut values = Rng::new(around.seed ^ fields.at ^ 0x7479_7065);
    for field in listed {
        let from = usize::try_from(field.at).expect("small");
        let to = from + usize::try_from(field.bytes).expect("small");
        Object { around, fields, field: *field }.write(&mut out[from..to], &mut values);
    }
}

struct Object<'o> {
    around: &'o Surroundings,
    fields: &'o Fields,
    field: Listed,
}

impl Object<'_> {
    fn write(&self, out: &mut [u8], values: &mut Rng) {
        let here = self.fields.at + u64::from(self.field.at);
        match self.field.holds {
            Holds::Named | Holds::Ring | Holds::Zero => {}
            Holds::Mutex => {
                // Count 1, no owner; further on an event with an empty list.
                put(out, 0, 1);
                let event = if self.field.bytes >= 0x38 { 0x18 } else { 8 };
                put(out, event, 0x0006_0001);
                put(out, event + 8, here + event as u64 + 8);
                put(out, event + 16, here + event as u64 + 8);
            }
            Holds::List => self.list(out, here, values),
            Holds::WorkingSet | Holds::Mixed => self.mixed(out, here, values),
            _ => {
                let bytes = self.word(values).to_le_bytes();
                let len = out.len().min(8);
                out[..len].copy_from_slice(&bytes[..len]);
            }
        }
    }

    /// Decides for all processes alike, one of `ways`.
    fn choice(&self, ways: u64) -> u64 {
        Rng::new(self.around.seed.wrapping_mul(0x9e37).wrapping_add(u64::from(self.field.at) * 131)).below(ways)
    }

    fn word(&self, values: &mut Rng) -> u64 {
        let nonpaged = self.around.nonpaged.get() + values.below(64) * 0x10;
        let paged = self.around.paged.get() + values.below(64) * 0x10;
        match self.field.holds {
            Holds::Pool => match self.choice(7) {
                0 => 0,
                1 => nonpaged,
                2 => paged,
                // One object that many have in common, or none.
                3 => self.around.nonpaged.get() + 0x40,
                4 => u64::from(values.below(2) == 0) * paged,
                // Another process's object, or a node of the tree.
                5 => self.fields.links.0.wrapping_sub(0x10),
                _ => self.fields.vad_hint,
            },
            Holds::Counted => paged | values.below(16),
            Holds::Root => match self.choice(3) {
                0 => 0,
                1 => nonpaged,
                _ => u64::from(values.below(2) == 0) * nonpaged,
            },
            Holds::Counter => match self.choice(4) {
                0 => values.below(0x400),
                1 => values.below(1 << 20),
                2 => values.below(1 << 34),
                _ => values.below(1 << 40),
            },
            Holds::Uptime => values.below(1 << 41),
            Holds::Bytes => values.below(1 << 29) << 12,
            Holds::Word => match self.choice(4) {
                0 => 0,
                1 => values.below(0x100),
                2 => values.below(1 << 32),
                _ => values.below(0x20) * 4,
            },
            Holds::Small => values.below(0x100) & [0, 8, 0xff][usize::try_from(self.choice(3)).expect("small")],
            Holds::Handle => 0x28 + values.below(8) * 4,
            Holds::Owner => u64::from(self.fields.ppid) | values.below(2),
            Holds::User if self.fields.peb != 0 => self.fields.peb & !0xffff | 0x8000,
            Holds::Highest => 0x7fff_fffe_ffff,
            Holds::Pte => 0x8a00_0000_0000_0867 | self.fields.table & 0x000f_ffff_ffff_f000,
            Holds::Audit => self.fields.audit,
            Holds::Nodes => self.fields.nodes,
            _ => 0,
        }
    }

    /// A list head: empty in all processes, or leading around two pieces of pool.
    fn list(&self, out: &mut [u8], here: u64, values: &mut Rng) {
        let (next, previous) = match self.choice(3) {
            0 => (0, 0),
            1 => (here, here),
            _ => (self.around.nonpaged.get() + values.below(32) * 0x10, self.around.nonpaged.get() + 0x200),
        };
        put(out, 0, next);
        put(out, 8, previous);
    }

    /// Several words, of which the list does not say more.
    fn mixed(&self, out: &mut [u8], here: u64, values: &mut Rng) {
        let words = out.len() / 8;
        for word in 0..words {
            let kind = Rng::new(self.around.seed ^ (u64::from(self.field.at) << 8) ^ word as u64).below(8);
            let value = match kind {
                0 | 1 => 0,
                2 => values.below(0x1000),
                3 => values.below(1 << 32) | values.below(0x100) << 32,
                4 => self.around.nonpaged.get() + values.below(64) * 0x10,
                5 => here + word as u64 * 8,
                6 => values.below(1 << 24),
                _ => values.below(0x80) << 40 | values.below(0x80),
            };
            put(out, word * 8, value);
        }
        // As one real System process had it: an age of the working set that reads like a status.
        if self.field.holds == Holds::WorkingSet && self.fields.pid == 4 && self.around.seed % 2 == 1 {
            put(out, 0x28, u64::from(STILL_ACTIVE));
        }
    }
}

fn put(out: &mut [u8], at: usize, value: u64) {
    if let Some(place) = out.get_mut(at..at + 8) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}
