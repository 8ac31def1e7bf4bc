//! The tree of virtual address descriptors of a process, and the prototypes that it leads to.
//!
//! A page that a process shares and never touched, or that was trimmed from it, is known to the section only. The way there is:
//! descriptor → subsection → array of prototypes. Offsets are those of public structure listings (`_MMVAD`, `_SUBSECTION`,
//! `_CONTROL_AREA`, `_SEGMENT`); each step is checked against the next.

use super::memory::{pointer, word};
use super::shared_data::{high, low};
use crate::addr::{Gva, PAGE_SHIFT};
use crate::paging::{NotPresentResolver, PageWalker, WalkError};
use crate::phys::PhysRead;

/// How the nodes of the tree look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DescriptorShape {
    /// Windows 7: a table embedded in the process object, parent first, 64-bit page numbers.
    Windows7,
    /// Windows 8: a table embedded in the process object, parent first, 32-bit page numbers.
    Windows8,
    /// Windows 8.1 and later: a pointer to the root, children first, 40-bit page numbers in two parts.
    Windows81,
}

impl DescriptorShape {
    pub(super) const ALL: [Self; 3] = [Self::Windows7, Self::Windows8, Self::Windows81];

    const fn left(self) -> u64 {
        match self {
            Self::Windows7 | Self::Windows8 => 8,
            Self::Windows81 => 0,
        }
    }

    const fn right(self) -> u64 {
        self.left().wrapping_add(8)
    }

    const fn parent(self) -> u64 {
        match self {
            Self::Windows7 | Self::Windows8 => 0,
            Self::Windows81 => 0x10,
        }
    }

    /// `SUBSECTION.PtesInSubsection`.
    const fn prototypes_in_subsection(self) -> u64 {
        match self {
            Self::Windows7 | Self::Windows8 => 0x18,
            Self::Windows81 => 0x2c,
        }
    }
}

/// Nodes on one way down: a balanced tree of 2^40 nodes is no deeper than 58.
const DEPTH: u32 = 64;
/// Subsections of one section that are followed.
const SUBSECTIONS: u32 = 256;
/// Low bits of a parent pointer that hold the balance.
const BALANCE: u64 = 7;

/// `MMVAD.Subsection`, `.FirstPrototypePte`, `.LastContiguousPte`.
const SUBSECTION: u64 = 0x48;
const FIRST_PROTOTYPE: u64 = 0x50;
const LAST_PROTOTYPE: u64 = 0x58;
/// `SUBSECTION.ControlArea`, `.SubsectionBase`, `.NextSubsection`.
const CONTROL_AREA: u64 = 0;
const SUBSECTION_BASE: u64 = 8;
const NEXT_SUBSECTION: u64 = 0x10;

/// A descriptor that covers an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) node: Gva,
    pub(super) first_page: u64,
}

/// The tree whose root field lies at `field`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    pub(super) field: Gva,
    pub(super) shape: DescriptorShape,
}

impl Descriptors {
    /// The root node. Where the field is a table, the table is its own parent and has the tree on its right; in either form
    /// the root names its parent, so that another node is not taken for it.
    pub(super) fn root<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
    ) -> Result<Option<Gva>, WalkError> {
        let mode = walker.space().mode;
        let (value, parent) = match self.shape {
            DescriptorShape::Windows81 => (word(walker, self.field)?, 0),
            DescriptorShape::Windows7 | DescriptorShape::Windows8 => {
                if word(walker, self.field)? & !BALANCE != self.field.get() {
                    return Ok(None);
                }
                (word(walker, self.field.wrapping_add(self.shape.right()))?, self.field.get())
            }
        };
        let Some(root) = pointer(mode, value) else { return Ok(None) };
        let named = word(walker, root.wrapping_add(self.shape.parent()))? & !BALANCE;
        Ok((named == parent).then_some(root))
    }

    /// The descriptor that covers `gva`.
    ///
    /// # Bound
    /// 64 nodes of five words.
    pub(super) fn find<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        gva: Gva,
    ) -> Result<Option<Descriptor>, WalkError> {
        let Some(mut node) = self.root(walker)? else { return Ok(None) };
        let page = gva.get() >> PAGE_SHIFT;
        for _ in 0..DEPTH {
            let (first_page, last_page) = self.pages(walker, node)?;
            if first_page > last_page {
                return Ok(None);
            }
            let child = if page < first_page {
                self.shape.left()
            } else if page > last_page {
                self.shape.right()
            } else {
                return Ok(Some(Descriptor { node, first_page }));
            };
            let Some(next) = pointer(walker.space().mode, word(walker, node.wrapping_add(child))?) else {
                return Ok(None);
            };
            // A node names its parent: what does not is no node, or the tree is being changed.
            if word(walker, next.wrapping_add(self.shape.parent()))? & !BALANCE != node.get() {
                return Ok(None);
            }
            node = next;
        }
        Ok(None)
    }

    /// The first and last page of a node.
    fn pages<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        node: Gva,
    ) -> Result<(u64, u64), WalkError> {
        let both = word(walker, node.wrapping_add(0x18))?;
        Ok(match self.shape {
            DescriptorShape::Windows7 => (both, word(walker, node.wrapping_add(0x20))?),
            DescriptorShape::Windows8 => (low(both).into(), high(both).into()),
            DescriptorShape::Windows81 => {
                let [first, last, ..] = word(walker, node.wrapping_add(0x20))?.to_le_bytes();
                (u64::from(low(both)) | u64::from(first) << 32, u64::from(high(both)) | u64::from(last) << 32)
            }
        })
    }

    /// Where the prototype of the page that holds `gva` lies; `None` where the page is private, or what should lead there
    /// contradicts itself.
    ///
    /// # Bound
    /// That of [`find`](Self::find), and 256 subsections of three words.
    pub(super) fn prototype<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        gva: Gva,
    ) -> Result<Option<Gva>, WalkError> {
        let mode = walker.space().mode;
        let Some(found) = self.find(walker, gva)? else { return Ok(None) };
        let at = |offset: u64| word(walker, found.node.wrapping_add(offset));
        let field = |offset: u64| at(offset).map(|value| pointer(mode, value));
        let (Some(mut subsection), Some(first)) = (field(SUBSECTION)?, field(FIRST_PROTOTYPE)?) else {
            return Ok(None);
        };
        let Some(control_area) = pointer(mode, word(walker, subsection.wrapping_add(CONTROL_AREA))?) else {
            return Ok(None);
        };
        // A descriptor of private memory is shorter: what lies in these places is then somebody else's. A section's
        // segment names the control area that names it.
        let Some(segment) = pointer(mode, word(walker, control_area)?) else { return Ok(None) };
        if word(walker, segment)? != control_area.get() {
            return Ok(None);
        }
        let page = (gva.get() >> PAGE_SHIFT).wrapping_sub(found.first_page);
        let Some((base, count)) = self.subsection(walker, subsection)? else { return Ok(None) };
        let Some(skip) = first.get().checked_sub(base.get()).filter(|skip| skip / 8 < count) else { return Ok(None) };
        let Some(mut index) = (skip / 8).checked_add(page) else { return Ok(None) };
        // The last prototype of the first stretch cannot lie behind the subsection that it is in.
        let last = at(LAST_PROTOTYPE)?;
        if last < first.get() || last.wrapping_sub(base.get()) / 8 >= count {
            return Ok(None);
        }
        let (mut base, mut count) = (base, count);
        for _ in 0..SUBSECTIONS {
            if index < count {
                return Ok(Some(base.wrapping_add(index.wrapping_mul(8))));
            }
            index = index.wrapping_sub(count);
            let next = pointer(mode, word(walker, subsection.wrapping_add(NEXT_SUBSECTION))?);
            subsection = match next {
                Some(next) if word(walker, next.wrapping_add(CONTROL_AREA))? == control_area.get() => next,
                _ => return Ok(None),
            };
            (base, count) = match self.subsection(walker, subsection)? {
                Some(found) => found,
                None => return Ok(None),
            };
        }
        Ok(None)
    }

    /// The array of a subsection and its length.
    fn subsection<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        subsection: Gva,
    ) -> Result<Option<(Gva, u64)>, WalkError> {
        let base = pointer(walker.space().mode, word(walker, subsection.wrapping_add(SUBSECTION_BASE))?);
        let place = self.shape.prototypes_in_subsection();
        // Four bytes, in one half of an aligned word.
        let both = word(walker, subsection.wrapping_add(place & !7))?;
        let count = if place & 4 == 0 { low(both) } else { high(both) };
        Ok(base.filter(|_| count > 0).map(|base| (base, u64::from(count))))
    }
}
