//! `ImageFileName`: what the process is called.

use super::super::eprocess::Object;
use super::super::layout::Field;
use super::WITNESSES;

pub(super) const RULE: &str = "reads \"System\" in the System process, and a name in the others";

/// `"System"`, filled up with zeros.
const SYSTEM_NAME: &[u8; 16] = b"System\0\0\0\0\0\0\0\0\0\0";
/// Places in the System process's object that read like that.
const PLACES: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u16,
    /// Processes in which a name can be read there.
    good: u16,
    /// Processes that are not called "System" there.
    all: u16,
}

/// Where the System process says "System" and the others something readable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    places: [Place; PLACES],
    count: usize,
    too_many: bool,
}

impl Names {
    pub(super) fn new(system: &Object) -> Self {
        let mut names = Self { places: [Place { offset: 0, good: 0, all: 0 }; PLACES], count: 0, too_many: false };
        for (offset, _) in system.words() {
            if system.name(offset).is_some_and(|name| name == *SYSTEM_NAME) {
                match names.places.get_mut(names.count) {
                    Some(place) => *place = Place { offset, good: 1, all: 1 },
                    None => names.too_many = true,
                }
                names.count = names.count.wrapping_add(1).min(PLACES);
            }
        }
        names
    }

    #[inline(never)]
    pub(super) fn see(&mut self, object: &Object) {
        for place in self.places.iter_mut().take(self.count) {
            let Some(name) = object.name(place.offset) else { continue };
            // The same in every process would be no name.
            if name == *SYSTEM_NAME {
                continue;
            }
            let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let reads = !text.is_empty() && text.iter().all(|byte| (0x20..0x7f).contains(byte));
            place.good = place.good.saturating_add(u16::from(reads));
            place.all = place.all.saturating_add(1);
        }
    }

    pub(super) fn field(&self) -> Option<Field> {
        // Anybody may name a program in letters that do not fit.
        let readable = |place: &&Place| {
            place.good > WITNESSES && u32::from(place.good).saturating_mul(4) >= u32::from(place.all).saturating_mul(3)
        };
        let mut readable = self.places.iter().take(self.count).filter(readable);
        match (readable.next(), readable.next()) {
            (Some(place), None) if !self.too_many => Some(Field { offset: place.offset, witnesses: place.good }),
            _ => None,
        }
    }
}
