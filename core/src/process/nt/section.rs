//! From a descriptor to the prototypes of the section that it maps.
//!
//! A page that a process shares and never touched, or that was trimmed from it, is known to the section only. The way
//! there is: descriptor → subsection → array of prototypes. Where their fields lie differs from build to build. No
//! version is asked: every known placement is tried, and the one is taken whose chain closes (subsection → control area
//! → segment → control area) around prototypes that the descriptor names too.

use super::memory::{pointer, word};
use super::shared_data::{high, low};
use super::vad::{Descriptor, DescriptorShape};
use crate::addr::Gva;
use crate::paging::{NotPresentResolver, PageWalker, WalkError};
use crate::phys::PhysRead;

/// Subsections of one section that are followed.
const SUBSECTIONS: u32 = 256;

/// How a descriptor names its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// The subsection lies in the descriptor at this offset.
    Subsection(u64),
    /// The control area lies in the descriptor at the first offset; its first subsection follows it after the second.
    ControlArea(u64, u64),
}

/// Where the fields lie in one family of builds: `MMVAD` first, then `SUBSECTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placement {
    names: Names,
    first_prototype: u64,
    last_prototype: u64,
    base: u64,
    next: u64,
    /// A `u32`.
    count: u64,
}

/// Vista to 8.1.
const OLD: Placement = Placement {
    names: Names::Subsection(0x48),
    first_prototype: 0x50,
    last_prototype: 0x58,
    base: 8,
    next: 0x10,
    count: 0x18,
};
/// Windows 10 and 11.
const NEW: Placement = Placement { count: 0x2c, ..OLD };
/// Windows 11 26H1, whose descriptors grew by a word.
const GROWN: Placement =
    Placement { names: Names::Subsection(0x50), first_prototype: 0x58, last_prototype: 0x60, ..NEW };
/// Server 2003.
const SERVER_2003: Placement = Placement {
    names: Names::ControlArea(0x30, 0x48),
    first_prototype: 0x38,
    last_prototype: 0x40,
    base: 0x18,
    next: 0x28,
    count: 0x24,
};

impl DescriptorShape {
    const fn placements(self) -> &'static [Placement] {
        match self {
            Self::Windows7 => &[OLD, SERVER_2003],
            Self::Windows8 => &[OLD],
            Self::Windows81 => &[NEW, OLD, GROWN],
        }
    }
}

/// The section that a descriptor maps, as far as it was followed: found once, and asked for many pages in ascending
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) descriptor: Descriptor,
    place: Placement,
    control_area: Gva,
    /// The number in the section of the descriptor's first page.
    offset: u64,
    at: Subsection,
    /// The number in the section of this subsection's first page.
    start: u64,
    left: u32,
}

/// One piece of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subsection {
    at: Gva,
    base: Gva,
    count: u64,
}

impl Section {
    /// The section of a descriptor; `None` where its memory is private, or what should lead there contradicts itself.
    ///
    /// # Bound
    /// Three placements of seven words.
    pub(super) fn of<M: PhysRead, R: NotPresentResolver>(
        walker: &PageWalker<M, R>,
        descriptor: Descriptor,
        shape: DescriptorShape,
    ) -> Result<Option<Self>, WalkError> {
        let (mut found, mut gone) = (None, None);
        for place in shape.placements() {
            let one = match Self::placed(walker, descriptor, *place) {
                Ok(Some(one)) => one,
                Ok(None) => continue,
                Err(error) => {
                    gone = gone.or(Some(error));
                    continue;
                }
            };
            if found.is_some() {
                // Both chains close: nothing says which is meant.
                return Ok(None);
            }
            found = Some(one);
        }
        match (found, gone) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    fn placed<M: PhysRead, R: NotPresentResolver>(
        walker: &PageWalker<M, R>,
        descriptor: Descriptor,
        place: Placement,
    ) -> Result<Option<Self>, WalkError> {
        let mode = walker.space().mode;
        let at = |offset: u64| word(walker, descriptor.node.wrapping_add(offset));
        let field = |offset: u64| at(offset).map(|value| pointer(mode, value));
        let (subsection, control_area) = match place.names {
            Names::Subsection(offset) => {
                let Some(subsection) = field(offset)? else { return Ok(None) };
                let Some(control_area) = pointer(mode, word(walker, subsection)?) else { return Ok(None) };
                (subsection, control_area)
            }
            Names::ControlArea(offset, size) => {
                let Some(control_area) = field(offset)? else { return Ok(None) };
                (control_area.wrapping_add(size), control_area)
            }
        };
        if word(walker, subsection)? != control_area.get() {
            return Ok(None);
        }
        // A descriptor of private memory is shorter: what lies in these places is then somebody else's. A section's
        // segment names the control area that names it.
        let Some(segment) = pointer(mode, word(walker, control_area)?) else { return Ok(None) };
        if word(walker, segment)? != control_area.get() {
            return Ok(None);
        }
        let Some(piece) = Subsection::read(walker, subsection, place)? else { return Ok(None) };
        let Some(first) = field(place.first_prototype)? else { return Ok(None) };
        let inside = |pointer: u64| {
            let skip = pointer.checked_sub(piece.base.get())?;
            (skip / 8 < piece.count).then_some(skip / 8)
        };
        let Some(offset) = inside(first.get()) else { return Ok(None) };
        // The last prototype of the first stretch cannot lie behind the subsection that it is in.
        let last = at(place.last_prototype)?;
        if last < first.get() || inside(last).is_none() {
            return Ok(None);
        }
        Ok(Some(Self { descriptor, place, control_area, offset, at: piece, start: 0, left: SUBSECTIONS }))
    }

    /// Whether a page is one that this was found for, and not before the place that was reached.
    pub(super) fn serves(&self, page: u64) -> bool {
        self.descriptor.first_page <= page
            && page <= self.descriptor.last_page
            && self.index(page).is_some_and(|index| index >= self.start)
    }

    /// How many pages from `page` on have prototypes that lie one after the other, and belong to the same descriptor.
    pub(super) fn pages_left(&self, page: u64) -> u64 {
        let inside = self.index(page).unwrap_or_default().wrapping_sub(self.start);
        let in_view = self.descriptor.last_page.wrapping_sub(page).wrapping_add(1);
        self.at.count.saturating_sub(inside).min(in_view).max(1)
    }

    fn index(&self, page: u64) -> Option<u64> {
        page.checked_sub(self.descriptor.first_page)?.checked_add(self.offset)
    }

    /// Where the prototype of a page lies; `None` where the section has none for it.
    ///
    /// # Bound
    /// In all calls together 256 subsections of four words.
    pub(super) fn prototype<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<M, R>,
        page: u64,
    ) -> Result<Option<Gva>, WalkError> {
        let Some(index) = self.index(page) else { return Ok(None) };
        loop {
            let Some(inside) = index.checked_sub(self.start) else { return Ok(None) };
            if inside < self.at.count {
                return Ok(Some(self.at.base.wrapping_add(inside.wrapping_mul(8))));
            }
            let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
            let next = word(walker, self.at.at.wrapping_add(self.place.next))?;
            let Some(next) = pointer(walker.space().mode, next) else { return Ok(None) };
            if word(walker, next)? != self.control_area.get() {
                return Ok(None);
            }
            let Some(piece) = Subsection::read(walker, next, self.place)? else { return Ok(None) };
            let Some(start) = self.start.checked_add(self.at.count) else { return Ok(None) };
            (self.at, self.start, self.left) = (piece, start, left);
        }
    }
}

impl Subsection {
    /// The array of a subsection and its length.
    fn read<M: PhysRead, R: NotPresentResolver>(
        walker: &PageWalker<M, R>,
        at: Gva,
        place: Placement,
    ) -> Result<Option<Self>, WalkError> {
        let base = pointer(walker.space().mode, word(walker, at.wrapping_add(place.base))?);
        // Four bytes, in one half of an aligned word.
        let both = word(walker, at.wrapping_add(place.count & !7))?;
        let count = if place.count & 4 == 0 { low(both) } else { high(both) };
        Ok(base.filter(|_| count > 0).map(|base| Self { at, base, count: u64::from(count) }))
    }
}
