//! The tree of virtual address descriptors of a process. Offsets are those of public structure listings (`_MMVAD`).

use super::memory::{pointer, word};
use super::shared_data::{high, low};
use crate::addr::{Gva, PAGE_SHIFT};
use crate::paging::{NotPresentResolver, PageWalker, WalkError};
use crate::phys::PhysRead;

/// How the nodes of the tree look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DescriptorShape {
    /// Server 2003 to Windows 7: a table embedded in the process object, parent first, 64-bit page numbers.
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
}

/// Nodes on one way down: a balanced tree of 2^40 nodes is no deeper than 58.
const DEPTH: u32 = 64;
/// Low bits of a parent pointer that hold the balance.
const BALANCE: u64 = 7;

/// A descriptor that covers an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) node: Gva,
    pub(super) first_page: u64,
    pub(super) last_page: u64,
}

/// What the tree has at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Covered {
    By(Descriptor),
    /// Nothing, up to this page.
    Nothing {
        until: u64,
    },
    /// The tree contradicts itself, or is being changed.
    Unclear,
}

/// The tree whose root field lies at `field`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    pub(super) field: Gva,
    pub(super) shape: DescriptorShape,
}

impl Descriptors {
    /// The root node. Where the field is a table, the table is its own parent and has the tree on its right; in either
    /// form the root names its parent, so that another node is not taken for it.
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
        Ok(match self.look_up(walker, gva)? {
            Covered::By(found) => Some(found),
            Covered::Nothing { .. } | Covered::Unclear => None,
        })
    }

    /// What the tree has at `gva`; where that is nothing, how far it goes.
    ///
    /// # Bound
    /// That of [`find`](Self::find).
    pub(super) fn look_up<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        gva: Gva,
    ) -> Result<Covered, WalkError> {
        let Some(mut node) = self.root(walker)? else { return Ok(Covered::Unclear) };
        let page = gva.get() >> PAGE_SHIFT;
        // The first page of the nearest node that lies higher.
        let mut until = walker.space().mode.user_end().get() >> PAGE_SHIFT;
        for _ in 0..DEPTH {
            let (first_page, last_page) = self.pages(walker, node)?;
            if first_page > last_page {
                return Ok(Covered::Unclear);
            }
            let child = if page < first_page {
                until = until.min(first_page);
                self.shape.left()
            } else if page > last_page {
                self.shape.right()
            } else {
                return Ok(Covered::By(Descriptor { node, first_page, last_page }));
            };
            let value = word(walker, node.wrapping_add(child))?;
            let Some(next) = pointer(walker.space().mode, value) else {
                return Ok(if value == 0 { Covered::Nothing { until } } else { Covered::Unclear });
            };
            // A node names its parent: what does not is no node, or the tree is being changed.
            if word(walker, next.wrapping_add(self.shape.parent()))? & !BALANCE != node.get() {
                return Ok(Covered::Unclear);
            }
            node = next;
        }
        Ok(Covered::Unclear)
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
}
