//! Where RAM lies: as the caller said, or found by asking.

use core::cell::Cell;

use vgpu_perception::{Extent, Gpa, PAGE_BYTES};

/// Segments that a map can have: `VGPUX_MEM_SEGMENTS`.
pub(crate) const SEGMENTS: usize = 64;

/// How far apart the questions are.
const STEP: u64 = 2 << 20;
/// RAM is looked for from 0 to here without regard to holes.
const LOW_END: u64 = 4 << 30;
/// A hole of this size above [`LOW_END`] ends the search.
const WIDEST_HOLE: u64 = 64 << 30;
/// The most questions before edges are searched.
const QUESTIONS: u64 = 1 << 20;

/// RAM in ascending stretches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    extents: [Extent; SEGMENTS],
    len: usize,
}

impl Map {
    pub(crate) const EMPTY: Self = Self { extents: [Extent { start: Gpa::new(0), len: 0 }; SEGMENTS], len: 0 };

    /// Adds a stretch; false where the map is full.
    pub(crate) fn push(&mut self, extent: Extent) -> bool {
        match self.extents.get_mut(self.len) {
            Some(slot) => {
                *slot = extent;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        self.extents.get(..self.len).unwrap_or_default()
    }

    /// Sorts the stretches; the two that overlap, where some do.
    pub(crate) fn sort(&mut self) -> Result<(), (Extent, Extent)> {
        let extents = Cell::from_mut(self.extents.get_mut(..self.len).unwrap_or_default()).as_slice_of_cells();
        // At most 64, and the library's sort would bring panics into a build that has none.
        for _ in extents {
            for (lower, upper) in extents.iter().zip(extents.iter().skip(1)) {
                if lower.get().start > upper.get().start {
                    lower.swap(upper);
                }
            }
        }
        for (lower, upper) in extents.iter().zip(extents.iter().skip(1)) {
            let (lower, upper) = (lower.get(), upper.get());
            if upper.start.get() - lower.start.get() < lower.len {
                return Err((lower, upper));
            }
        }
        Ok(())
    }
}

/// Finds RAM by asking every [`STEP`], and its edges to the page.
pub(crate) fn find_map(answers: &impl Fn(u64) -> bool) -> Map {
    let mut map = Map::EMPTY;
    let mut run: Option<(u64, u64)> = None;
    let mut last_ram = LOW_END;
    let mut at = 0_u64;
    for _ in 0..QUESTIONS {
        if at >= LOW_END && at - last_ram >= WIDEST_HOLE {
            break;
        }
        if answers(at) {
            last_ram = last_ram.max(at);
            let start = run.map_or_else(|| edge(at, answers), |(start, _)| start);
            run = Some((start, at));
        } else if let Some(found) = run.take()
            && !push(&mut map, found, answers)
        {
            return map;
        }
        at += STEP;
    }
    if let Some(found) = run {
        push(&mut map, found, answers);
    }
    map
}

/// The first page of the RAM that `at` is in, given that the question before was refused.
fn edge(at: u64, answers: &impl Fn(u64) -> bool) -> u64 {
    let (mut refused, mut answered) = (at.saturating_sub(STEP), at);
    while answered - refused > PAGE_BYTES {
        let middle = refused + (answered - refused) / 2 / PAGE_BYTES * PAGE_BYTES;
        if answers(middle) {
            answered = middle;
        } else {
            refused = middle;
        }
    }
    answered
}

/// Adds RAM from `start` to some place behind the question at `last`.
fn push(map: &mut Map, (start, last): (u64, u64), answers: &impl Fn(u64) -> bool) -> bool {
    let (mut answered, mut refused) = (last, last + STEP);
    while refused - answered > PAGE_BYTES {
        let middle = answered + (refused - answered) / 2 / PAGE_BYTES * PAGE_BYTES;
        if answers(middle) {
            answered = middle;
        } else {
            refused = middle;
        }
    }
    map.push(Extent { start: Gpa::new(start), len: refused - start })
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    fn found(ram: &[(u64, u64)]) -> (Vec<(u64, u64)>, u64) {
        let asked = Cell::new(0);
        let map = find_map(&|at| {
            asked.set(asked.get() + 1);
            ram.iter().any(|(start, end)| at >= *start && at + 8 <= *end)
        });
        (map.extents().iter().map(|extent| (extent.start.get(), extent.end().get())).collect(), asked.get())
    }

    #[test]
    fn ram_is_found_to_the_page() {
        const GIB: u64 = 1 << 30;
        let pc: &[_] = &[(0, 3 * GIB), (4 * GIB, 9 * GIB)];
        assert_eq!(found(pc).0, pc);
        let odd: &[_] = &[(0x1000, 0x9_f000), (0x10_0000, 0x7ffd_b000), (4 * GIB, 4 * GIB + 0x3000)];
        // A hole between two questions stays inside: reading it fails, which a search survives.
        assert_eq!(found(odd).0, [(0x1000, 0x7ffd_b000), odd[2]]);
        let far: &[_] = &[(0, GIB), (60 * GIB, 61 * GIB), (120 * GIB, 121 * GIB), (300 * GIB, 301 * GIB)];
        assert_eq!(found(far).0, far[..3]);
    }

    #[test]
    fn the_search_is_bounded() {
        let (none, asked) = found(&[]);
        assert!(none.is_empty());
        assert_eq!(asked, (68 << 30) / STEP);
        let (all, asked) = found(&[(0, u64::MAX)]);
        assert_eq!(all.len(), 1);
        assert!(asked < QUESTIONS + 64, "{asked}");
    }

    #[test]
    fn a_map_is_sorted_and_must_not_overlap() {
        let extent = |start, len| Extent { start: Gpa::new(start), len };
        let mut map = Map::EMPTY;
        assert!(map.push(extent(0x5000, 0x1000)) && map.push(extent(0, 0x5000)));
        assert_eq!(map.sort(), Ok(()));
        assert_eq!(map.extents()[0].len, 0x5000);
        assert!(map.push(extent(0x4000, 0x1000)));
        assert!(map.sort().is_err());
    }
}
